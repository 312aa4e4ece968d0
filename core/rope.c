/* Rotary tables of core/rope.h: one double-double frequency a pair, then an angle a position. Keeps no global cache. */
#include "core/rope.h"
#include "core/rope_math.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HALF = 256, MAX_FREQ = 1024 };
static const double PI = 3.14159265358979323846;

/* Exact factor on a frequency, 1/factor for the bands that llama3 and yarn stretch fully, a blend between. */
typedef struct {
    const rope_config *c;
    const float *freqs;          /* the factors in force, NULL: none */
    double low, high;            /* yarn: the pair indices between which the ramp runs */
} bands;

/* Pair index at which a wave turns `turns` times in the trained context (arXiv:2309.00071 section 3.2, eq. 17-18). */
static double yarn_pair(const rope_config *c, double turns)
{
    return c->n_rot * math_log(c->orig_ctx / (turns * 2 * PI)) / (2 * math_log(c->base));
}

static bands bands_of(const rope_config *c, uint32_t n_ctx)
{
    bands b = { .c = c };
    if (c->has_freqs) b.freqs = c->scaling == ROPE_LONG && n_ctx > c->orig_ctx ? c->freqs_long : c->freqs;
    if (c->scaling != ROPE_YARN) return b;
    b.low = floor(yarn_pair(c, c->beta_fast));
    b.high = ceil(yarn_pair(c, c->beta_slow));
    if (b.low < 0) b.low = 0;
    if (b.high > c->n_rot - 1) b.high = c->n_rot - 1;
    return b;
}

/* How much of the frequency stays as trained: 1 keeps it, 0 divides it by the factor. */
static double kept(const bands *b, uint32_t i, double freq)
{
    const rope_config *c = b->c;
    if (c->scaling == ROPE_YARN) {
        double width = b->high - b->low;                         /* 0.001: llama.cpp's guard against an empty ramp */
        double y = (i - b->low) / (width > 0.001 ? width : 0.001);
        return (1 - (y < 0 ? 0 : y > 1 ? 1 : y)) * c->ext_factor;
    }
    double turns = c->orig_ctx * freq / (2 * PI);                /* llama3: waves in the trained context */
    if (turns > c->high_freq) return 1;
    if (turns < c->low_freq) return 0;
    return (turns - c->low_freq) / ((double)c->high_freq - c->low_freq);
}

/* Explicit factors (rope_freqs.weight) are llama3's bands worked out by the converter, so the two never add up. */
static dd scaled(const bands *b, uint32_t i, dd f)
{
    const rope_config *c = b->c;
    if (b->freqs) f = dd_div(f, b->freqs[i]);
    if (c->scaling == ROPE_NONE || c->scaling == ROPE_LONG || (c->scaling == ROPE_LLAMA3 && c->has_freqs)) return f;
    dd slow = dd_div(f, c->factor);
    if (c->scaling == ROPE_LINEAR) return slow;
    double k = kept(b, i, f.hi);
    if (k == 1) return f;
    if (k == 0) return slow;
    return (dd){ f.hi * k + slow.hi * (1 - k), 0 };
}

static void frequencies(const rope_config *c, uint32_t n_ctx, dd *out)
{
    bands b = bands_of(c, n_ctx);
    dd root = math_root(c->base, c->n_rot / 2), f = { 1, 0 };    /* base^(2/n_rot) */
    dd step = dd_div((dd){ 1, 0 }, root.hi);
    step = dd_mul(step, (dd){ 1, -root.lo / root.hi });          /* 1/root to double-double */
    for (uint32_t i = 0; i < c->n_rot / 2; i++, f = dd_mul(f, step)) out[i] = scaled(&b, i, f);
}

/* Yarn also sharpens attention: sqrt(1/t) = 0.1 ln(factor) + 1 on both q and k (arXiv:2309.00071 eq. 22). Files with long
 * factors state theirs, and it holds for short contexts too. */
static double magnitude(const rope_config *c)
{
    if (c->scaling == ROPE_LONG) return c->attn_factor;
    if (c->scaling != ROPE_YARN) return 1;
    return c->attn_factor * (c->ext_factor != 0 ? 1 + 0.1 * math_log(c->factor) : 1);
}

static bool positive(double x)
{
    return x > 0 && x < INFINITY;
}

static err_code check_long(const rope_config *c, err *e)
{
    if (!c->has_freqs || !c->orig_ctx)
        return err_set(e, ERR_MODEL, "rope with long factors needs them and the context the model was trained at");
    if (!positive(c->attn_factor)) return err_set(e, ERR_MODEL, "rope attn_factor %g: must be positive", (double)c->attn_factor);
    for (uint32_t i = 0; i < c->n_rot / 2; i++)
        if (!positive(c->freqs_long[i]))
            return err_set(e, ERR_MODEL, "long rope factor %u is %g: must be positive", i, (double)c->freqs_long[i]);
    return ERR_OK;
}

static err_code check_scaling(const rope_config *c, err *e)
{
    if (c->scaling == ROPE_NONE) return ERR_OK;
    if (c->scaling == ROPE_LONG) return check_long(c, e);
    bool explicit_bands = c->scaling == ROPE_LLAMA3 && c->has_freqs;
    if (!explicit_bands && !(c->factor >= 1 && c->factor < INFINITY))
        return err_set(e, ERR_MODEL, "rope scaling factor %g: must be 1 or more", (double)c->factor);
    if (c->scaling == ROPE_LINEAR || explicit_bands) return ERR_OK;
    if (!c->orig_ctx) return err_set(e, ERR_MODEL, "rope scaling needs the context the model was trained at");
    if (c->scaling == ROPE_LLAMA3) {
        if (positive(c->low_freq) && c->high_freq > c->low_freq && positive(c->high_freq)) return ERR_OK;
        return err_set(e, ERR_MODEL, "rope frequency bands %g to %g are empty", (double)c->low_freq, (double)c->high_freq);
    }
    if (!(c->base > 1)) return err_set(e, ERR_MODEL, "rope base %g: yarn needs more than 1", (double)c->base);
    if (!positive(c->beta_fast) || !positive(c->beta_slow) || !positive(c->attn_factor) ||
        !(c->ext_factor >= 0 && c->ext_factor <= 1))
        return err_set(e, ERR_MODEL, "rope yarn values out of range: beta_fast %g, beta_slow %g, attn_factor %g, ext_factor %g",
                       (double)c->beta_fast, (double)c->beta_slow, (double)c->attn_factor, (double)c->ext_factor);
    return ERR_OK;
}

static err_code check(const rope_config *c, err *e)
{
    if (c->n_rot == 0 || c->n_rot % 2 || c->n_rot / 2 > MAX_HALF)
        return err_set(e, ERR_MODEL, "rope dimensions %u: must be even, 2 to %d", c->n_rot, 2 * MAX_HALF);
    if (!positive(c->base)) return err_set(e, ERR_MODEL, "rope base %g: must be positive", (double)c->base);
    for (uint32_t i = 0; c->has_freqs && i < c->n_rot / 2; i++)
        if (!positive(c->freqs[i])) return err_set(e, ERR_MODEL, "rope_freqs[%u] is %g: must be positive", i, (double)c->freqs[i]);
    return check_scaling(c, e);
}

/* A file may hold any factors; angles must stay where math_sincos is exact. Real frequencies are 1 or less. */
static err_code check_frequencies(const dd *freq, uint32_t half, err *e)
{
    for (uint32_t i = 0; i < half; i++)
        if (!(freq[i].hi <= MAX_FREQ))
            return err_set(e, ERR_MODEL, "rope frequency %u is %g: must be %d or less", i, freq[i].hi, MAX_FREQ);
    return ERR_OK;
}

static void fill(rope_table *t, const dd *freq, double m)
{
    double sn, cs;
    for (uint32_t pos = 0; pos < t->n_ctx; pos++) {
        for (uint32_t i = 0; i < t->half; i++) {
            size_t at = (size_t)pos * t->half + i;
            math_sincos(dd_mul(freq[i], (dd){ pos, 0 }), &sn, &cs);
            t->cos[at] = (float)(cs * m);
            t->sin[at] = (float)(sn * m);
        }
    }
}

err_code rope_table_open(rope_table *out, const rope_config *c, uint32_t n_ctx, err *e)
{
    *out = (rope_table){ 0 };
    dd freq[MAX_HALF];
    err_code code = check(c, e);
    if (code) return code;
    frequencies(c, n_ctx, freq);
    code = check_frequencies(freq, c->n_rot / 2, e);
    if (code) return code;
    rope_table t = { .n_ctx = n_ctx, .half = c->n_rot / 2 };
    size_t n = (size_t)(n_ctx ? n_ctx : 1) * t.half;             /* < 2^40: cannot overflow 64 bits */
    t.cos = malloc(n * sizeof *t.cos);
    t.sin = malloc(n * sizeof *t.sin);
    if (!t.cos || !t.sin) {
        rope_table_close(&t);
        return err_set(e, ERR_NOMEM, "no memory for rope tables of %u positions", n_ctx);
    }
    fill(&t, freq, magnitude(c));
    *out = t;
    return ERR_OK;
}

void rope_table_close(rope_table *t)
{
    free(t->cos);
    free(t->sin);
    *t = (rope_table){ 0 };
}
