/* core/rope.h against long double, and each scaling against its own formula. */
#include "core/rope.h"
#include "core/rope_math.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

static rope_table table_of(const rope_config *c, uint32_t n)
{
    rope_table t;
    err e = { 0 };
    cr_assert_eq(rope_table_open(&t, c, n, &e), ERR_OK, "%s", e.text);
    return t;
}

/* Largest distance of the table from cos and sin of pos * freq[i], scaled by m. */
static double distance(const rope_table *t, const long double *freq, double m)
{
    double worst = 0;
    for (uint32_t pos = 0; pos < t->n_ctx; pos += 1 + pos / 7)
        for (uint32_t i = 0; i < t->half; i++) {
            size_t at = (size_t)pos * t->half + i;
            worst = fmax(worst, fabs((double)(t->cos[at] - m * cosl(pos * freq[i]))));
            worst = fmax(worst, fabs((double)(t->sin[at] - m * sinl(pos * freq[i]))));
        }
    return worst;
}

static void plain_freqs(long double *f, const rope_config *c)
{
    for (uint32_t i = 0; i < c->n_rot / 2; i++) f[i] = powl(c->base, -2.0L * i / c->n_rot);
}

Test(rope, sine_and_logarithm_are_good_to_double_precision)
{
    double worst = 0;
    for (int i = -300000; i < 1000000; i += 7) {
        double x = i * 1.00390625, s, c;
        math_sincos((dd){ x, 0 }, &s, &c);
        worst = fmax(worst, fmax(fabs((double)(s - sinl(x))), fabs((double)(c - cosl(x)))));
    }
    cr_assert(worst < 1e-12, "sincos is off by %g", worst);
    for (double x = 1e-9; x < 1e12; x *= 1.37) {
        cr_assert(fabs(math_log(x) - log(x)) <= 1e-15 * (1 + fabs(log(x))), "log(%g)", x);
        cr_assert(fabs(math_exp(log(x)) - x) <= 1e-13 * x, "exp(log(%g))", x);
    }
    dd r = math_root(500000, 64);
    cr_assert(fabsl((long double)r.hi + r.lo - powl(500000, 1.0L / 64)) < 1e-18L);
}

Test(rope, tables_hold_the_angles_up_to_a_million)
{
    static const struct { uint32_t n_rot; float base; } cases[] = { { 8, 10000 }, { 64, 500000 }, { 2, 10000 }, { 128, 1e6f } };
    for (unsigned k = 0; k < 4; k++) {
        rope_config c = { .n_rot = cases[k].n_rot, .base = cases[k].base };
        long double f[256];
        plain_freqs(f, &c);
        rope_table t = table_of(&c, k == 0 ? 1000000 : 20000);
        cr_assert_eq(t.half, c.n_rot / 2);
        double d = distance(&t, f, 1);
        cr_assert(d < 3.1e-8, "n_rot %u: %g", c.n_rot, d);           /* half an ulp of a float below 1, and 3% */
        rope_table_close(&t);
    }
}

Test(rope, linear_scaling_and_explicit_factors_divide)
{
    rope_config c = { .n_rot = 16, .base = 10000, .scaling = ROPE_LINEAR, .factor = 3, .has_freqs = true };
    long double f[256];
    plain_freqs(f, &c);
    for (int i = 0; i < 8; i++) {
        c.freqs[i] = 1 + 0.7f * (float)i;
        f[i] /= 3.0L * c.freqs[i];
    }
    rope_table t = table_of(&c, 5000);
    cr_assert(distance(&t, f, 1) < 3.1e-8);
    rope_table_close(&t);
}

Test(rope, llama3_keeps_short_waves_and_stretches_long_ones)
{
    rope_config c = { .n_rot = 128, .base = 500000, .scaling = ROPE_LLAMA3, .factor = 8, .orig_ctx = 8192, .low_freq = 1,
                      .high_freq = 4 };
    long double f[256];
    plain_freqs(f, &c);
    int kept = 0, blended = 0;
    for (int i = 0; i < 64; i++) {
        double wave = 2 * PI / (double)f[i];
        if (wave < 8192.0 / 4) kept++;
        else if (wave > 8192) f[i] /= 8;
        else {
            double smooth = (8192 / wave - 1) / 3;
            f[i] = (1 - smooth) * f[i] / 8 + smooth * f[i];
            blended++;
        }
    }
    cr_assert(kept > 0 && blended > 0 && kept + blended < 64);
    rope_table t = table_of(&c, 20000);
    cr_assert(distance(&t, f, 1) < 3.1e-8);
    rope_table_close(&t);
    c.has_freqs = true;                              /* explicit factors are the bands, worked out: not both */
    for (int i = 0; i < 64; i++) c.freqs[i] = 1;
    plain_freqs(f, &c);
    t = table_of(&c, 5000);
    cr_assert(distance(&t, f, 1) < 3.1e-8);
    rope_table_close(&t);
}

/* As llama.cpp states it: theta = interpolated (1 - mix) + extrapolated mix. */
Test(rope, yarn_ramps_between_the_two_and_scales_the_magnitude)
{
    rope_config c = { .n_rot = 64, .base = 10000, .scaling = ROPE_YARN, .factor = 4, .orig_ctx = 2048, .ext_factor = 1,
                      .attn_factor = 1, .beta_fast = 32, .beta_slow = 1 };
    long double f[256];
    plain_freqs(f, &c);
    double low = floor(64 * log(2048 / (32 * 2 * PI)) / (2 * log(10000)));
    double high = ceil(64 * log(2048 / (2 * PI)) / (2 * log(10000)));
    cr_assert(low > 0 && high < 32 && low < high);
    for (int i = 0; i < 32; i++) {
        double mix = 1 - fmin(1, fmax(0, (i - low) / (high - low)));
        f[i] = f[i] / 4 * (1 - mix) + f[i] * mix;
    }
    double m = 1 + 0.1 * log(4);
    rope_table t = table_of(&c, 9000);
    cr_assert(fabs(t.cos[0] - m) < 1e-7);
    double d = distance(&t, f, m);
    cr_assert(d < 6.2e-8, "%g", d);                  /* values reach 1.14: the float's ulp is twice as large there */
    rope_table_close(&t);
}

Test(rope, long_contexts_take_the_other_factors)
{
    rope_config c = { .n_rot = 16, .base = 10000, .scaling = ROPE_LONG, .orig_ctx = 4000, .attn_factor = 1.19f, .has_freqs = true };
    for (uint32_t k = 0; k < 2; k++) {
        long double f[256];
        plain_freqs(f, &c);
        for (int i = 0; i < 8; i++) {
            c.freqs[i] = 1 + 0.05f * (float)i;
            c.freqs_long[i] = 1 + 4 * (float)i;
            f[i] /= k ? c.freqs_long[i] : c.freqs[i];
        }
        rope_table t = table_of(&c, 4000 + k);
        cr_assert(distance(&t, f, (double)c.attn_factor) < 6.2e-8, "context %u", 4000 + k);
        rope_table_close(&t);
    }
}

static void refuse(rope_config c, const char *word)
{
    rope_table t;
    err e = { 0 };
    cr_assert_eq(rope_table_open(&t, &c, 16, &e), ERR_MODEL, "%s", word);
    cr_assert_not_null(strstr(e.text, word), "\"%s\" does not say \"%s\"", e.text, word);
    cr_assert_null(t.cos);
}

#define TRY(change, word) (c = ok, (void)change, refuse(c, word))

Test(rope, impossible_configurations_are_refused_by_name)
{
    rope_config ok = { .n_rot = 64, .base = 10000, .factor = 2, .orig_ctx = 100, .low_freq = 1, .high_freq = 4,
                       .attn_factor = 1, .ext_factor = 1, .beta_fast = 32, .beta_slow = 1 }, c;
    TRY((c.n_rot = 7), "7");
    TRY((c.n_rot = 0), "dimensions 0");
    TRY((c.n_rot = 514), "514");
    TRY((c.base = -1), "base -1");
    TRY((c.base = NAN), "base");
    TRY((c.scaling = ROPE_LINEAR, c.factor = 0), "factor 0");
    TRY((c.scaling = ROPE_LLAMA3, c.orig_ctx = 0), "context");
    TRY((c.scaling = ROPE_LLAMA3, c.low_freq = 4), "bands");
    TRY((c.scaling = ROPE_YARN, c.base = 1), "base 1");
    TRY((c.scaling = ROPE_YARN, c.beta_slow = 0), "beta_slow 0");
    TRY((c.scaling = ROPE_LONG), "long factors");
    c = ok, c.has_freqs = true;
    refuse(c, "rope_freqs[0]");
    for (int i = 0; i < 32; i++) c.freqs[i] = 1e-30f;
    refuse(c, "frequency");
}
