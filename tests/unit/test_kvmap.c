/* The maps of KV prediction: which layer follows which, what the fit finds, and that a prediction is the affine function that it
 * says, on every ISA and with any number of threads. */
#include "engine/kvfit.h"
#include "engine/quantize.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 96 };
static const kvfit_how plain;

static kvmap_shape small(kvmap_inputs inputs)
{
    kvmap_shape s = { .L = 5, .out = 48, .A = 3, .kv = 32, .D = 40, .inputs = inputs };
    kvmap_sources(&s, NULL);
    return s;
}

/* Anything: rows of an auxiliary, or of a base. */
static runner_tap made_tap(uint32_t layers, uint32_t kv_width, uint32_t D, uint64_t seed)
{
    size_t n = (size_t)layers * ROWS;
    runner_tap t = { malloc(n * kv_width * 4), malloc(n * kv_width * 4), malloc(n * D * 4) };
    cr_assert(t.k && t.v && t.h);
    support_fill(t.k, n * kv_width, seed, -2, 3);
    support_fill(t.v, n * kv_width, seed + 1, -1, 1);
    support_fill(t.h, n * D, seed + 2, -1, 1);
    return t;
}

static void tap_free(runner_tap *t)
{
    free(t->k);
    free(t->v);
    free(t->h);
}

static pool *threads(uint32_t n)
{
    pool *p;
    cr_assert_eq(pool_open(&p, n, NULL, NULL, NULL), ERR_OK);
    return p;
}

Test(kvmap, layers_follow_the_paper)
{
    /* arXiv:2410.08391 appendix: 1.1B from 450M, 3B from 270M */
    static const uint32_t want[2][36] = {
        { 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 },
        { 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15 },
    };
    kvmap_shape s[2] = { { .L = 28, .A = 20 }, { .L = 36, .A = 16 } };
    for (int i = 0; i < 2; i++) {
        kvmap_sources(&s[i], NULL);
        for (uint32_t l = 0; l < s[i].L; l++) cr_assert_eq(s[i].source[l], want[i][l], "layer %u follows %u", l, s[i].source[l]);
    }
}

Test(kvmap, layers_of_the_base_follow_the_last_one_kept)
{
    static const uint32_t kept[] = { 0, 1, 2, 4, 5, 6 }, want[] = { 0, 1, 2, 2, 3, 4, 5, 5 };
    kvmap_shape s = { .L = 8, .A = 6 };
    kvmap_sources(&s, kept);
    for (uint32_t l = 0; l < s.L; l++) cr_assert_eq(s.source[l], want[l], "layer %u follows %u", l, s.source[l]);
}

Test(kvmap, inputs_reach_as_far_as_their_name_says)
{
    for (kvmap_inputs i = KVMAP_OWN; i < KVMAP_INPUTS_COUNT; i++) {
        kvmap_shape s = small(i);
        uint32_t near = i < KVMAP_NEAR ? 1 : 2, each = i == KVMAP_OWN ? 32 : i == KVMAP_WIDE ? 104 : 64;
        cr_assert_eq(kvmap_width(&s, 0), near * each, "%s: %u", kvmap_inputs_name(i), kvmap_width(&s, 0));
    }
}

/* ---- the fit ------------------------------------------------------------------------------------------------------------- */

/* base = W x + b + noise, W a function of (layer, side); in f64, rounded once. */
static void plant(const kvmap_shape *s, const runner_tap *aux, runner_tap *base, uint64_t seed, double noise)
{
    float x[512], w[512], b[2];
    for (uint32_t l = 0; l < s->L; l++)
        for (int side = 0; side < KVMAP_SIDES; side++)
            for (uint32_t o = 0; o < s->out; o++) {
                uint64_t at = seed + ((uint64_t)l * 2 + (uint64_t)side) * 1000 + o;
                support_fill(w, kvmap_width(s, l), at, -1, 1);
                support_fill(b, 1, at + 7777777, -3, 3);
                for (uint32_t t = 0; t < ROWS; t++) {
                    double sum = (double)b[0];
                    kvmap_gather(s, l, side, aux, ROWS, t, x);
                    for (uint32_t i = 0; i < kvmap_width(s, l); i++) sum += (double)w[i] * (double)x[i];
                    float *to = (side ? base->v : base->k) + ((size_t)l * ROWS + t) * s->out + o;
                    support_fill(b + 1, 1, at + 99 * t + 5555, -1, 1);
                    *to = (float)(sum + noise * (double)b[1]);
                }
            }
}

static void check_planted(const kvmap_shape *s, kvfit *f, uint32_t l, int side, uint64_t seed)
{
    float w[512 * 48], b[48], want[512], bias;
    kvfit_note note;
    err e = { 0 };
    cr_assert_eq(kvfit_solve(f, l, side, w, b, &note, &e), ERR_OK, "%s", e.text);
    cr_assert_lt(note.error, 1e-12, "layer %u: held-out error %g", l, note.error);
    for (uint32_t o = 0; o < s->out; o++) {
        uint64_t at = seed + ((uint64_t)l * 2 + (uint64_t)side) * 1000 + o;
        uint32_t n = kvmap_width(s, l);
        support_fill(want, n, at, -1, 1);
        support_fill(&bias, 1, at + 7777777, -3, 3);
        cr_assert(support_near(w + o * n, want, n, 3e-6, 0, "weights"));
        cr_assert(support_near(b + o, &bias, 1, 3e-6, 0, "bias"));
    }
}

Test(kvmap, a_planted_linear_relation_is_recovered_to_rounding)
{
    kvmap_shape s = small(KVMAP_OWN);
    uint64_t seed = support_seed();
    runner_tap aux = made_tap(s.A, s.kv, s.D, seed), base = made_tap(s.L, s.out, 1, seed + 10);
    kvfit *f;
    plant(&s, &aux, &base, seed, 0);
    cr_assert_eq(kvfit_open(&f, &s, plain, 1, 4, NULL), ERR_OK);
    kvfit_add(f, &aux, &base, ROWS, 0, 70, false, NULL);
    kvfit_add(f, &aux, &base, ROWS, 70, ROWS, true, NULL);
    for (uint32_t l = 1; l < 4; l++)
        for (int side = 0; side < KVMAP_SIDES; side++) check_planted(&s, f, l, side, seed);
    kvfit_close(&f);
    tap_free(&aux);
    tap_free(&base);
}

/* The same lambda, centred data, Gaussian elimination in long double: another way to the ridge solution. */
static void reference(const kvmap_shape *s, uint32_t l, int side, const runner_tap *aux, const runner_tap *base, double lambda, uint32_t o,
                      double *w, double *b)
{
    enum { MOST = 64 };
    static long double a[MOST][MOST + 1], mean[MOST + 1];
    static float x[ROWS][MOST];
    uint32_t n = kvmap_width(s, l);
    const float *y = (side ? base->v : base->k) + (size_t)l * ROWS * s->out + o;
    memset(a, 0, sizeof a);
    memset(mean, 0, sizeof mean);
    for (uint32_t t = 0; t < ROWS; t++) {
        kvmap_gather(s, l, side, aux, ROWS, t, x[t]);
        for (uint32_t i = 0; i < n; i++) mean[i] += (long double)x[t][i] / ROWS;
        mean[n] += (long double)y[t * s->out] / ROWS;
    }
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t j = 0; j < n; j++) a[i][j] += ((long double)x[t][i] - mean[i]) * ((long double)x[t][j] - mean[j]);
            a[i][n] += ((long double)x[t][i] - mean[i]) * ((long double)y[t * s->out] - mean[n]);
        }
    long double trace = 0;
    for (uint32_t i = 0; i < n; i++) trace += a[i][i];
    for (uint32_t i = 0; i < n; i++) a[i][i] += lambda * trace / n;
    for (uint32_t i = 0; i < n; i++) /* positive definite: no pivots needed */
        for (uint32_t j = 0; j < n; j++) {
            if (j == i) continue;
            long double m = a[j][i] / a[i][i];
            for (uint32_t k = i; k <= n; k++) a[j][k] -= m * a[i][k];
        }
    *b = (double)mean[n];
    for (uint32_t i = 0; i < n; i++) {
        w[i] = (double)(a[i][n] / a[i][i]);
        *b -= w[i] * (double)mean[i];
    }
}

Test(kvmap, the_fit_is_the_ridge_solution_and_noise_makes_lambda_larger)
{
    kvmap_shape s = small(KVMAP_BOTH);
    uint64_t seed = support_seed();
    runner_tap aux = made_tap(s.A, s.kv, s.D, seed), base = made_tap(s.L, s.out, 1, seed + 10);
    kvfit *f;
    kvfit_note note;
    float w[64 * 48], b[48];
    plant(&s, &aux, &base, seed, 8);
    cr_assert_eq(kvfit_open(&f, &s, plain, 0, s.L, NULL), ERR_OK);
    kvfit_add(f, &aux, &base, ROWS, 0, 66, false, NULL);
    kvfit_add(f, &aux, &base, ROWS, 66, ROWS, true, NULL);
    for (int side = 0; side < KVMAP_SIDES; side++) {
        cr_assert_eq(kvfit_solve(f, 2, side, w, b, &note, NULL), ERR_OK);
        cr_assert(note.lambda >= 1e-3 && note.error > 1e-3 && note.rows == ROWS, "lambda %g, error %g", note.lambda, note.error);
        for (uint32_t o = 0; o < s.out; o += 7) {
            double want[64], bias;
            reference(&s, 2, side, &aux, &base, note.lambda, o, want, &bias);
            for (uint32_t i = 0; i < 64; i++)
                cr_assert(fabs((double)w[o * 64 + i] - want[i]) < 1e-6, "%g for %g", (double)w[o * 64 + i], want[i]);
            cr_assert(fabs((double)b[o] - bias) < 1e-5, "%g for %g", (double)b[o], bias);
        }
    }
    kvfit_close(&f);
    tap_free(&aux);
    tap_free(&base);
}

Test(kvmap, a_fit_without_held_out_rows_is_refused)
{
    kvmap_shape s = small(KVMAP_OWN);
    runner_tap aux = made_tap(s.A, s.kv, s.D, 1), base = made_tap(s.L, s.out, 1, 2);
    kvfit *f;
    kvfit_note note;
    err e = { 0 };
    float w[32 * 48], b[48];
    cr_assert_eq(kvfit_open(&f, &s, plain, 0, 1, NULL), ERR_OK);
    kvfit_add(f, &aux, &base, ROWS, 0, ROWS, false, NULL);
    cr_assert_eq(kvfit_solve(f, 0, KVMAP_K, w, b, &note, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "0 held out"), "%s", e.text);
    kvfit_close(&f);
    tap_free(&aux);
    tap_free(&base);
}

Test(kvmap, layers_are_fitted_in_as_many_goes_as_memory_wants)
{
    kvmap_shape s = small(KVMAP_WIDE);
    cr_assert_eq(kvfit_fits(&s, plain, 0, UINT64_MAX), s.L);
    cr_assert_eq(kvfit_fits(&s, plain, 2, 0), 3, "one layer always fits");
    uint32_t end = kvfit_fits(&s, plain, 0, kvfit_bytes(&s, plain, 0, 3));
    cr_assert_eq(end, 3, "%u", end);
}

/* ---- the product ----------------------------------------------------------------------------------------------------------- */

typedef struct { const kvmap_run *run; uint32_t layer; float *key, *val; } applying;

static void apply(void *arg, uint32_t tid, uint32_t n)
{
    const applying *a = arg;
    kvmap_apply(a->run, a->layer, a->key, a->val, tid, n);
}

static void run_map(const kvmap *m, path_id path, const runner_tap *aux, isa i, uint32_t n_threads, uint32_t T, float *key, float *val)
{
    kvmap_work *work;
    pool *p = threads(n_threads);
    cr_assert_eq(kvmap_work_open(&work, &m->shape, ROWS, NULL), ERR_OK);
    kvmap_run run = { m, kernels_for(i), path, p, work, aux, ROWS, T };
    for (uint32_t l = 0; l < m->shape.L; l++) {
        size_t at = (size_t)l * ROWS * m->shape.out;
        applying a = { &run, l, key + at, val + at };
        pool_run(p, apply, &a);
    }
    kvmap_work_close(&work);
    pool_close(&p);
}

/* A map of numbers that are what their type can hold. */
static void made_map(kvmap *m, kvmap_inputs inputs, wtype type, uint8_t **mem, float **bias, uint64_t seed)
{
    float row[512];
    size_t at = 0;
    m->shape = small(inputs);
    *mem = malloc(1 << 20);
    *bias = malloc((size_t)m->shape.L * 2 * m->shape.out * sizeof **bias);
    support_fill(*bias, (size_t)m->shape.L * 2 * m->shape.out, seed + 1, -1, 1);
    for (uint32_t l = 0; l < m->shape.L; l++)
        for (int side = 0; side < KVMAP_SIDES; side++) {
            uint32_t n = kvmap_width(&m->shape, l);
            mat *w = &m->layer[l].w[side];
            *w = (mat){ .type = type, .n_out = m->shape.out, .n_in = n, .row_bytes = wtype_row_bytes(type, n), .data = *mem + at };
            for (uint32_t o = 0; o < m->shape.out; o++, at += w->row_bytes) {
                support_fill(row, n, seed + at, -1, 1);
                cr_assert(quantize_row(type, row, n, *mem + at));
            }
            m->layer[l].b[side] = *bias + ((size_t)l * 2 + (size_t)side) * m->shape.out;
        }
    cr_assert_leq(at, 1u << 20);
}

/* x as path i8b32 sees it: the rounding that engine/kernels.h writes down, naively. */
static void round_blocks(float *x, uint32_t n)
{
    for (uint32_t k = 0; k < n; k += 32) {
        float most = 0;
        for (uint32_t i = k; i < k + 32; i++) most = fmaxf(most, fabsf(x[i]));
        float d = most / 127;
        for (uint32_t i = k; i < k + 32; i++) x[i] = d >= 0x1p-126f ? rintf(x[i] * (1 / d)) * d : 0;
    }
}

static void check_oracle(const kvmap *m, path_id path, const runner_tap *aux, const float *got, int side)
{
    float x[512], w[512];
    for (uint32_t l = 0; l < m->shape.L; l++)
        for (uint32_t t = 0; t < ROWS; t += 5) {
            kvmap_gather(&m->shape, l, side, aux, ROWS, t, x);
            const mat *a = &m->layer[l].w[side];
            if (kernels_wants_q(path, a->type)) round_blocks(x, a->n_in);
            for (uint32_t o = 0; o < m->shape.out; o++) {
                double sum = (double)m->layer[l].b[side][o], size = fabs(sum);
                wtype_to_f32(a->type, a->data + o * a->row_bytes, a->n_in, w);
                for (uint32_t i = 0; i < a->n_in; i++) sum += (double)w[i] * (double)x[i], size += fabs((double)w[i] * (double)x[i]);
                double is = (double)got[((size_t)l * ROWS + t) * m->shape.out + o];
                cr_assert(fabs(is - sum) < size * 1e-6, "layer %u row %u output %u: %.9g, want %.9g", l, t, o, is, sum);
            }
        }
}

static void check_product(kvmap_inputs in, wtype type, path_id path, uint64_t seed)
{
    kvmap m;
    uint8_t *mem;
    float *bias;
    made_map(&m, in, type, &mem, &bias, seed);
    runner_tap aux = made_tap(m.shape.A, m.shape.kv, m.shape.D, seed + 9);
    size_t n = (size_t)m.shape.L * ROWS * m.shape.out;
    float *one = calloc(2 * n, sizeof *one), *other = calloc(2 * n, sizeof *other);
    run_map(&m, path, &aux, ISA_PLAIN, 1, ROWS, one, one + n);
    check_oracle(&m, path, &aux, one, KVMAP_K);
    check_oracle(&m, path, &aux, one + n, KVMAP_V);
    for (uint32_t j = 0; j < ISA_COUNT; j++) {
        if (!(isa_supported() >> j & 1)) continue;
        run_map(&m, path, &aux, (isa)j, 1 + j, ROWS, other, other + n);
        cr_assert(support_same(other, one, 2 * n, isa_name((isa)j)));
    }
    free(one);
    free(other);
    free(mem);
    free(bias);
    tap_free(&aux);
}

Test(kvmap, a_prediction_is_the_map_in_f64_and_the_same_bits_everywhere)
{
    static const struct { wtype type; path_id path; } as[] = { { WTYPE_F32, PATH_F32 }, { WTYPE_F16, PATH_I8B32 }, { WTYPE_Q8_0, PATH_F32 },
                                                               { WTYPE_Q8_0, PATH_I8B32 } };
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < 4; i++)
        for (kvmap_inputs in = KVMAP_OWN; in <= KVMAP_NEAR; in++) /* wide: its inputs are no whole blocks here */
            check_product(in, as[i].type, as[i].path, seed);
}
