/* core/vec.h: the fixed order, the same bits on every ISA, and exp and half conversions against the truth. */
#include "core/rng.h"
#include "core/vec.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_N = 300, MAX_ROWS = 9, PAD = 8 };
static uint64_t seed = 424242, drawn;

static void announce(void)
{
    const char *s = getenv("TEST_SEED");
    if (s) seed = strtoull(s, NULL, 10);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
}
TestSuite(vec, .init = announce);

/* Mostly ordinary, sometimes a zero of either sign, a subnormal, a tiny or a large value. */
static float value(void)
{
    uint64_t r = rng_u64(seed, drawn++);
    float v = (float)((double)(r >> 11) * 0x1p-53 - 0.5) * 8;
    switch (r % 64) {
    case 0: return 0;
    case 1: return -0.0f;
    case 2: return v * 1e-42f;
    case 3: return v * 1e-22f;
    case 4: return v * 1e15f;
    default: return v;
    }
}

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = value();
}

static void fill_half(f16 *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = vec_f16(value());
}

static const vec_ops *wide;   /* the table that is held against the plain one */
/* The next wider table of this machine from *i on; false: no more. */
static bool next_wide(isa *i)
{
    while (*i < ISA_COUNT && !(isa_supported() >> *i & 1)) ++*i;
    if (*i < ISA_COUNT) wide = vec_for(*i);
    else if (!wide) cr_skip("no wide registers on this machine");
    return *i < ISA_COUNT;
}

#define PLAIN vec_for(ISA_PLAIN)
#define CHECK_SAME(a, b, bytes, what, n) \
    cr_assert_eq(memcmp(a, b, bytes), 0, "%s differs at n = %u, seed %llu", what, n, (unsigned long long)seed)

static float x[MAX_ROWS * (MAX_N + PAD)], a[MAX_N + PAD], b[MAX_N + PAD], q[MAX_N + PAD], w[MAX_N + PAD];
static f16 h[MAX_ROWS * (MAX_N + PAD)];

static void check_rows(uint32_t d, uint32_t n)
{
    size_t ld = d + d % 5;                                   /* rows need not be aligned or adjacent */
    fill(x, n * ld);
    fill_half(h, n * ld);
    fill(q, MAX_N);
    PLAIN->dot_rows_f32(q, x, ld * 4, n, d, a);
    wide->dot_rows_f32(q, x, ld * 4, n, d, b);
    CHECK_SAME(a, b, n * 4, "dot_rows_f32", d);
    PLAIN->dot_rows_f16(q, h, ld * 2, n, d, a);
    wide->dot_rows_f16(q, h, ld * 2, n, d, b);
    CHECK_SAME(a, b, n * 4, "dot_rows_f16", d);
    fill(a, MAX_N + PAD);
    memcpy(b, a, sizeof a);
    PLAIN->axpy_rows_f32(q, x, ld * 4, n, d, a);
    wide->axpy_rows_f32(q, x, ld * 4, n, d, b);
    CHECK_SAME(a, b, sizeof a, "axpy_rows_f32", d);
    PLAIN->axpy_rows_f16(q, h, ld * 2, n, d, a);
    wide->axpy_rows_f16(q, h, ld * 2, n, d, b);
    CHECK_SAME(a, b, sizeof a, "axpy_rows_f16", d);
}

Test(vec, products_of_rows_have_the_same_bits_on_every_isa)
{
    for (isa i = ISA_AVX2; next_wide(&i); i++)
        for (uint32_t d = 1; d <= MAX_N; d++) check_rows(d, 1 + d % MAX_ROWS);
}

static void check_reductions(uint32_t n)
{
    fill(x, n);
    float u[3] = { PLAIN->max(x, n), PLAIN->sum_sq(x, n), 0 }, v[3] = { wide->max(x, n), wide->sum_sq(x, n), 0 };
    CHECK_SAME(u, v, sizeof u, "max or sum_sq", n);
    for (uint32_t i = 0; i < n; i++) x[i] = i % 7 == 3 ? -INFINITY : fminf(fmaxf(x[i] * 20, -300), 300);
    float m = PLAIN->max(x, n), xs[2];
    u[0] = PLAIN->exp_stats(x, n, m, &xs[0]);
    v[0] = wide->exp_stats(x, n, m, &xs[1]);
    CHECK_SAME(&u[0], &v[0], 4, "exp_stats", n);
    CHECK_SAME(&xs[0], &xs[1], 4, "exp_stats xs", n);
    cr_assert(isfinite(xs[0]) || n < 8, "an -inf leaks into the sum");
    memcpy(a, x, (MAX_N + PAD) * 4);
    memcpy(b, x, (MAX_N + PAD) * 4);
    u[0] = PLAIN->exp_sum(a, n, m);
    v[0] = wide->exp_sum(b, n, m);
    CHECK_SAME(&u[0], &v[0], 4, "exp_sum", n);
    CHECK_SAME(a, b, sizeof a, "exp_sum x", n);
}

Test(vec, reductions_have_the_same_bits_on_every_isa)
{
    for (isa i = ISA_AVX2; next_wide(&i); i++)
        for (uint32_t n = 1; n <= MAX_N; n++) check_reductions(n);
}

static void check_elementwise(uint32_t n)
{
    fill(x, MAX_N + PAD);
    fill(w, MAX_N + PAD);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    PLAIN->rms_norm(a, x, w, n, 1e-5f);
    wide->rms_norm(b, x, w, n, 1e-5f);
    CHECK_SAME(a, b, sizeof a, "rms_norm", n);
    PLAIN->silu_mul(a, x, w, n);
    wide->silu_mul(b, x, w, n);
    CHECK_SAME(a, b, sizeof a, "silu_mul", n);
    PLAIN->gelu_mul(a, x, w, n);
    wide->gelu_mul(b, x, w, n);
    CHECK_SAME(a, b, sizeof a, "gelu_mul", n);
    memcpy(a, x, sizeof a);
    memcpy(b, x, sizeof a);
    PLAIN->soft_cap(a, n, 1.5f);
    wide->soft_cap(b, n, 1.5f);
    CHECK_SAME(a, b, sizeof a, "soft_cap", n);
    PLAIN->add(a, x, n);
    wide->add(b, x, n);
    PLAIN->scale(a, n, 1.7f);
    wide->scale(b, n, 1.7f);
    CHECK_SAME(a, b, sizeof a, "add or scale", n);
    f16 hb[MAX_N + PAD] = { 0 }, ha[MAX_N + PAD] = { 0 };
    PLAIN->to_f16(ha, x, n);
    wide->to_f16(hb, x, n);
    CHECK_SAME(ha, hb, sizeof ha, "to_f16", n);
    PLAIN->from_f16(a, ha, n);
    wide->from_f16(b, hb, n);
    CHECK_SAME(a, b, sizeof a, "from_f16", n);
    for (int neox = 0; neox < 2; neox++) {
        fill(q, MAX_N);
        fill(a, MAX_N);                                      /* no inf from above: the sign of a NaN is not promised */
        memcpy(b, a, sizeof a);
        PLAIN->rope(a, q, w, n / 2 * 2, neox);
        wide->rope(b, q, w, n / 2 * 2, neox);
        CHECK_SAME(a, b, sizeof a, neox ? "rope neox" : "rope", n);
    }
}

Test(vec, elementwise_work_has_the_same_bits_on_every_isa)
{
    for (isa i = ISA_AVX2; next_wide(&i); i++)
        for (uint32_t n = 1; n <= MAX_N; n++) check_elementwise(n);
}

/* The order as core/vec.h states it, written down a second time. */
Test(vec, a_dot_follows_sixteen_lanes_and_one_tree)
{
    for (uint32_t d = 1; d < 70; d++) {
        fill(q, d);
        fill(x, d);
        float lane[16] = { 0 }, got;
        for (uint32_t i = 0; i < d; i++) lane[i % 16] = fmaf(q[i], x[i], lane[i % 16]);
        for (int j = 0; j < 8; j++) lane[j] += lane[j + 8];
        for (int j = 0; j < 4; j++) lane[j] += lane[j + 4];
        for (int j = 0; j < 2; j++) lane[j] += lane[j + 2];
        float want = lane[0] + lane[1];
        for (isa i = 0; i < ISA_COUNT; i++) {
            if (!(isa_supported() >> i & 1)) continue;
            vec_for(i)->dot_rows_f32(q, x, 0, 1, d, &got);
            cr_assert_eq(memcmp(&got, &want, 4), 0, "%s, d = %u: %a, want %a", isa_name(i), d, (double)got, (double)want);
        }
    }
}

/* Steps through the bits of all floats. */
static float sweep(uint32_t i, uint32_t step)
{
    uint32_t u = i * step;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

Test(vec, exp_is_within_two_ulp_and_equal_on_every_isa)
{
    float in[64], u[64], v[64];
    double worst = 0;
    for (uint32_t i = 0; i < (1u << 21); i += 64) {
        for (uint32_t j = 0; j < 64; j++) in[j] = i < 1u << 20 ? sweep(i + j, 4093) : (float)(i + j) * 0x1.8p-14f - 240.0f;
        memcpy(u, in, sizeof u);
        PLAIN->exp_sum(u, 64, 0);
        for (isa k = ISA_AVX2; next_wide(&k); k++) {
            memcpy(v, in, sizeof v);
            wide->exp_sum(v, 64, 0);
            for (int j = 0; j < 64; j++)
                cr_assert(memcmp(&u[j], &v[j], 4) == 0 || (isnan(u[j]) && isnan(v[j])), "exp(%a)", (double)in[j]);
        }
        for (int j = 0; j < 64; j++) {
            if (isnan(in[j])) continue;
            cr_assert_eq(u[j], vec_exp(in[j]));
            if (in[j] < -87.3f) cr_assert_eq(u[j], 0);
            if (!(in[j] >= -87.3f && in[j] <= 88.7f)) continue;
            double want = exp((double)in[j]), ulp = ldexp(1, ilogb(want) - 23);
            worst = fmax(worst, fabs(u[j] - want) / ulp);
        }
    }
    fprintf(stderr, "exp: worst error %.3f ulp\n", worst);
    cr_assert(worst < 2, "exp is off by %.3f ulp", worst);
    cr_assert(isnan(vec_exp(NAN)));
    cr_assert_eq(vec_exp(-INFINITY), 0);
    cr_assert_eq(vec_exp(0), 1);
}

Test(vec, tanh_is_within_two_ulp_and_the_same_on_every_isa)
{
    double worst = 0;
    float in[8], u[8], v[8];
    for (uint32_t i = 0; i < 1u << 20; i += 8) {
        for (uint32_t j = 0; j < 8; j++) in[j] = u[j] = v[j] = ((float)(i + j) - 0x1p19f) * 0x1p-15f;   /* -16 to 16 */
        PLAIN->soft_cap(u, 8, 1);
        isa k = ISA_AVX2;
        if (next_wide(&k)) wide->soft_cap(v, 8, 1);
        else memcpy(v, u, sizeof u);
        for (uint32_t j = 0; j < 8; j++) {
            double want = tanh((double)in[j]), ulp = ldexp(1, want ? ilogb(want) - 23 : -149);
            cr_assert(u[j] == vec_tanh(in[j]) && u[j] == v[j], "%a", (double)in[j]);
            worst = fmax(worst, fabs((double)u[j] - want) / ulp);
        }
    }
    printf("tanh: max error %.3f ulp\n", worst);
    cr_assert_lt(worst, 2);
    cr_assert(vec_tanh(INFINITY) == 1 && vec_tanh(-INFINITY) == -1 && isnan(vec_tanh(NAN)));
    u[0] = v[0] = 1e9f;
    PLAIN->soft_cap(u, 1, 50);
    cr_assert_eq(u[0], 50);
}

static void check_halves(void)
{
    f16 in[8], out[8];
    float f[8];
    for (uint32_t i = 0; i < 65536; i += 8) {
        for (uint32_t j = 0; j < 8; j++) in[j] = (f16)(i + j);
        wide->from_f16(f, in, 8);
        for (uint32_t j = 0; j < 8; j++) {
            float s = vec_f32(in[j]);
            cr_assert_eq(memcmp(&s, &f[j], 4), 0, "half %04x", in[j]);
        }
    }
    for (uint32_t i = 0; i < 1u << 22; i += 8) {
        for (uint32_t j = 0; j < 8; j++) f[j] = sweep(i + j, 1021);      /* odd step: reaches every kind of tail */
        wide->to_f16(out, f, 8);
        for (uint32_t j = 0; j < 8; j++) cr_assert_eq(vec_f16(f[j]), out[j], "%a", (double)f[j]);
    }
    static const float edge[8] = { 65504, 65519.996f, 65520, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.ffcp-15f, 0x1.ffep-15f };
    wide->to_f16(out, edge, 8);
    for (uint32_t j = 0; j < 8; j++) cr_assert_eq(vec_f16(edge[j]), out[j], "%a", (double)edge[j]);
    cr_assert_eq(vec_f16(65520), 0x7c00);
    cr_assert_eq(vec_f16(0x1p-25f), 0);
}

Test(vec, halves_convert_as_the_hardware_does)
{
    for (isa i = ISA_AVX2; next_wide(&i); i++) check_halves();
}

Test(vec, norm_and_gate_compute_what_their_papers_say)
{
    for (uint32_t i = 0; i < 100; i++) {
        x[i] = (float)rng_unit(seed, i) - 0.5f;
        w[i] = (float)rng_unit(seed, i + 1000);
    }
    double ss = 0;
    for (uint32_t i = 0; i < 100; i++) ss += (double)x[i] * x[i];
    PLAIN->rms_norm(a, x, w, 100, 1e-5f);
    PLAIN->silu_mul(b, x, w, 100);
    for (uint32_t i = 0; i < 100; i++) {
        cr_assert(fabs(a[i] - x[i] / sqrt(ss / 100 + 1e-5) * w[i]) < 1e-6);
        cr_assert(fabs(b[i] - x[i] / (1 + exp(-(double)x[i])) * w[i]) < 1e-6);
    }
    for (uint32_t i = 0; i < 100; i++) x[i] = (float)(16 * rng_unit(seed, i) - 8);
    PLAIN->gelu_mul(b, x, w, 100);
    for (uint32_t i = 0; i < 100; i++) {
        double g = x[i], t = tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g));
        cr_assert(fabs(b[i] - g / 2 * (1 + t) * w[i]) < 2e-6, "gelu of %g", g);
    }
    static const float neg[3] = { -3, -2, -7 };
    cr_assert_eq(PLAIN->max(neg, 3), -2);
}

Test(vec, the_isa_is_chosen_by_name_and_bad_names_are_refused)
{
    isa i;
    err e = { 0 };
    setenv("SLUICE_ISA", "plain", 1);
    cr_assert_eq(isa_pick(&i, &e), ERR_OK);
    cr_assert_eq(i, ISA_PLAIN);
    setenv("SLUICE_ISA", "avx9", 1);
    cr_assert_eq(isa_pick(&i, &e), ERR_CONFIG);
    cr_assert_not_null(strstr(e.text, "avx9"));
    unsetenv("SLUICE_ISA");
    cr_assert_eq(isa_pick(&i, &e), ERR_OK);
    cr_assert(isa_supported() >> i & 1);
    cr_assert_eq(isa_supported() >> i >> 1, 0u, "a wider one was there");
    cr_assert_str_eq(isa_name(ISA_PLAIN), "plain");
}
