/* K blocks: scales (and minima) of sub-blocks by weighted least squares from several starts, then rounded to the integers
 * that the block has room for, trying their neighbours. It refuses to look at other rows or at activations. */
#include "engine/quantize_impl.h"
#include <math.h>

enum {
    BLOCK = 256,
    STARTS = 10, /* on either side, a tenth of a level apart: where the error's dips lie */
    REFITS = 4,  /* levels and line in turn; nothing moves after a few */
};

/* v between lo and hi (below 2^22 in size), to the nearest integer. */
static float level(float v, float lo, float hi)
{
    const float magic = 0x1.8p23f; /* adding it rounds; rintf would be a call on plain x86-64 */
    v = v > lo ? v : lo;
    v = v < hi ? v : hi;
    return (v + magic) - magic;
}

/* ---- Q4_K and Q5_K: x ~ scale q - min, q in 0..top, min >= 0, sub-blocks of 32 ---- */

enum { SUB = 32, SUBS = BLOCK / SUB, SCALE_TOP = 63 };

typedef struct {
    const float *x;
    float w[SUB], top;
} sub; /* w: what an error at x[i] costs */
typedef struct {
    float scale, min;
    double error;
} line;

/* Large weights matter more, small ones not nothing. */
static void sub_set(sub *s, const float *x, float top)
{
    double sum = 0;
    for (int i = 0; i < SUB; i++) sum += (double)x[i] * x[i];
    float rms = (float)sqrt(sum / SUB);
    *s = (sub){ .x = x, .top = top };
    for (int i = 0; i < SUB; i++) s->w[i] = rms + fabsf(x[i]);
}

/* The levels nearest to x on a line; returns their weighted square error. */
static double levels(const sub *s, float scale, float min, float q[SUB])
{
    float inv = scale >= QUANTIZE_TINY ? 1.0f / scale : 0.0f;
    double error = 0;
    for (int i = 0; i < SUB; i++) {
        q[i] = level((s->x[i] + min) * inv, 0, s->top);
        float off = scale * q[i] - min - s->x[i];
        error += (double)(s->w[i] * off * off);
    }
    return error;
}

/* The line of least weighted error through (q, x); with min held at 0 where it would be negative. */
static bool least_squares(const sub *s, const float q[SUB], line *out)
{
    double w = 0, x = 0, l = 0, ll = 0, lx = 0;
    for (int i = 0; i < SUB; i++) {
        double wi = s->w[i], li = q[i], xi = s->x[i];
        w += wi;
        x += wi * xi;
        l += wi * li;
        ll += wi * li * li;
        lx += wi * li * xi;
    }
    double det = w * ll - l * l, scale = 0, min = 0;
    if (det > 0) {
        scale = (w * lx - x * l) / det;
        min = (l * lx - ll * x) / det;
    }
    if (!(det > 0) || min < 0) {
        scale = ll > 0 ? lx / ll : 0;
        min = 0;
    }
    out->scale = (float)scale;
    out->min = (float)min;
    return scale > 0 && isfinite(out->scale) && isfinite(out->min);
}

/* Levels on `from`, the best line through them, its levels: up to n times, as long as *best gets better. */
static void descend(const sub *s, line from, int n, line *best)
{
    float q[SUB];
    line next;
    (void)levels(s, from.scale, from.min, q);
    while (n-- > 0 && least_squares(s, q, &next)) {
        next.error = levels(s, next.scale, next.min, q);
        if (next.error >= best->error) return;
        *best = next;
    }
}

static line fit_line(const sub *s)
{
    float lo = 0, hi = 0, q[SUB];
    for (int i = 0; i < SUB; i++) {
        lo = s->x[i] < lo ? s->x[i] : lo;
        hi = s->x[i] > hi ? s->x[i] : hi;
    }
    line best = { 0, -lo, levels(s, 0, -lo, q) };
    if (hi - lo < QUANTIZE_TINY) return best;
    for (int n = -STARTS; n <= STARTS; n++)
        descend(s, (line){ .scale = (hi - lo) / (s->top + 0.1f * (float)n), .min = -lo }, 1, &best);
    descend(s, best, REFITS, &best);
    return best;
}

typedef struct {
    float d, dmin;
    int scale[SUBS], min[SUBS];
    uint8_t q[BLOCK];
} k_block;

/* Scale and minimum of sub-block j as integers: the nearest, or a neighbour that fits better together with the other. */
static void round_line(k_block *b, int j, const sub *s, line fit)
{
    float q[SUB];
    double best = INFINITY;
    int sc0 = (int)level(b->d > 0 ? fit.scale / b->d : 0, 0, SCALE_TOP);
    int m0 = (int)level(b->dmin > 0 ? fit.min / b->dmin : 0, 0, SCALE_TOP);
    for (int sc = sc0 > 0 ? sc0 - 1 : 0; sc <= sc0 + 1 && sc <= SCALE_TOP; sc++)
        for (int m = m0 > 0 ? m0 - 1 : 0; m <= m0 + 1 && m <= SCALE_TOP; m++) {
            double error = levels(s, b->d * (float)sc, b->dmin * (float)m, q);
            if (error >= best) continue;
            best = error;
            b->scale[j] = sc;
            b->min[j] = m;
            for (int i = 0; i < SUB; i++) b->q[SUB * j + i] = (uint8_t)q[i];
        }
}

/* All of a block but its packing; d and dmin go to out as halves. */
static void k_levels(const float *x, int top, k_block *b, uint8_t *out)
{
    sub s[SUBS];
    line fit[SUBS];
    float scale = 0, min = 0;
    for (int j = 0; j < SUBS; j++) {
        sub_set(&s[j], x + SUB * j, (float)top);
        fit[j] = fit_line(&s[j]);
        scale = fit[j].scale > scale ? fit[j].scale : scale;
        min = fit[j].min > min ? fit[j].min : min;
    }
    b->d = quantize_put_half(out, scale / SCALE_TOP);
    b->dmin = quantize_put_half(out + 2, min / SCALE_TOP);
    for (int j = 0; j < SUBS; j++) round_line(b, j, &s[j], fit[j]);
}

/* Eight 6-bit scales and minima to 12 bytes (the way back of wtype_q4_k_scale). */
static void pack_scales(const k_block *b, uint8_t *s)
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(b->scale[j] | (b->scale[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(b->min[j] | (b->min[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((b->scale[j + 4] & 15) | (b->min[j + 4] & 15) << 4);
    }
}

static void pack_nibbles(const uint8_t *q, uint8_t *out)
{
    for (int i = 0; i < BLOCK / 2; i++) {
        const uint8_t *lo = q + i / 32 * 64 + i % 32;
        out[i] = (uint8_t)((lo[0] & 15) | (lo[32] & 15) << 4);
    }
}

void quantize_q4_k_block(const float *x, uint8_t *out)
{
    k_block b;
    k_levels(x, 15, &b, out);
    pack_scales(&b, out + 4);
    pack_nibbles(b.q, out + 16);
}

void quantize_q5_k_block(const float *x, uint8_t *out)
{
    k_block b;
    k_levels(x, 31, &b, out);
    pack_scales(&b, out + 4);
    pack_nibbles(b.q, out + 48);
    memset(out + 16, 0, 32);
    for (int i = 0; i < BLOCK; i++) out[16 + i % 32] = (uint8_t)(out[16 + i % 32] | (b.q[i] >> 4) << (i / 32));
}

/* ---- Q6_K: x ~ scale q, q in -32..31, sub-blocks of 16, signed 8-bit scales ---- */

enum { SIX = 16, SIXES = BLOCK / SIX };

/* Levels on a scale; returns the error, in which every value counts by its square. */
static double six_levels(const float *x, float scale, float q[SIX])
{
    float inv = fabsf(scale) >= QUANTIZE_TINY ? 1.0f / scale : 0.0f;
    double error = 0;
    for (int i = 0; i < SIX; i++) {
        q[i] = level(x[i] * inv, -32, 31);
        double off = (double)(scale * q[i] - x[i]) * x[i];
        error += off * off;
    }
    return error;
}

static float six_least_squares(const float *x, const float q[SIX])
{
    double lx = 0, ll = 0;
    for (int i = 0; i < SIX; i++) {
        double w = (double)x[i] * x[i];
        lx += w * q[i] * x[i];
        ll += w * q[i] * q[i];
    }
    return ll > 0 ? (float)(lx / ll) : 0;
}

/* The extreme value gets about the lowest level, which has no positive twin. */
static float fit_six(const float *x)
{
    float top = 0, scale = 0, q[SIX];
    for (int i = 0; i < SIX; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    if (fabsf(top) < QUANTIZE_TINY) return 0;
    double best = INFINITY;
    for (int n = -STARTS; n <= STARTS; n++) {
        (void)six_levels(x, top / -(32 + 0.1f * (float)n), q);
        float next = six_least_squares(x, q);
        double error = six_levels(x, next, q);
        if (error >= best) continue;
        best = error;
        scale = next;
    }
    return scale;
}

static void round_six(const float *x, float d, float fit, int8_t *scale, uint8_t *levels_out)
{
    float q[SIX];
    double best = INFINITY;
    int nearest = d != 0 ? (int)level(fit / d, -128, 127) : 0;
    for (int sc = nearest > -128 ? nearest - 1 : -128; sc <= nearest + 1 && sc <= 127; sc++) {
        double error = six_levels(x, d * (float)sc, q);
        if (error >= best) continue;
        best = error;
        *scale = (int8_t)sc;
        for (int i = 0; i < SIX; i++) levels_out[i] = (uint8_t)((int)q[i] + 32);
    }
}

/* Run i of 32 of each half block of 128: nibble i/2 of ql[32 (i%2)..], bits 2i of qh. */
static void pack_six(const uint8_t *q, uint8_t *ql, uint8_t *qh)
{
    memset(ql, 0, 128);
    memset(qh, 0, 64);
    for (int n = 0; n < BLOCK; n++) {
        int half = n / 128, i = n % 128 / 32, l = n % 32, lo = 64 * half + i % 2 * 32 + l, hi = 32 * half + l;
        ql[lo] = (uint8_t)(ql[lo] | (q[n] & 15) << (i / 2 * 4));
        qh[hi] = (uint8_t)(qh[hi] | (q[n] >> 4) << (2 * i));
    }
}

void quantize_q6_k_block(const float *x, uint8_t *out)
{
    float fit[SIXES], top = 0;
    uint8_t q[BLOCK];
    for (int j = 0; j < SIXES; j++) {
        fit[j] = fit_six(x + SIX * j);
        top = fabsf(fit[j]) > fabsf(top) ? fit[j] : top;
    }
    float d = quantize_put_half(out + 208, top / -128);
    for (int j = 0; j < SIXES; j++) round_six(x + SIX * j, d, fit[j], (int8_t *)out + 192 + j, q + SIX * j);
    pack_six(q, out, out + 128);
}
