/* What heads look at: weights against f64, planted heads of every kind found, sensitivity against differences. */
#include "core/rng.h"
#include "engine/heads.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H = 8, K = 4, D = 16, G = H / K };

static model_shape shape(void)
{
    model_shape s = { .L = 2, .D = H * D, .H = H, .K = K, .d = D, .n_ctx = 512 };
    s.rope = (rope_config){ .n_rot = D, .base = 10000, .factor = 1 };
    return s;
}

typedef struct { heads *h; float *q, *k, *v; uint32_t T; } world;

static world open_world(const model_shape *s, uint32_t T)
{
    world w = { .T = T };
    err e;
    cr_assert_eq(heads_open(&w.h, s, isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN, T, &e), ERR_OK);
    w.q = calloc((size_t)T * H * D, sizeof *w.q);
    w.k = calloc((size_t)T * K * D, sizeof *w.k);
    w.v = calloc((size_t)T * K * D, sizeof *w.v);
    cr_assert(w.q && w.k && w.v);
    return w;
}

static void close_world(world *w)
{
    heads_close(&w->h);
    free(w->q);
    free(w->k);
    free(w->v);
}

static void randomly(world *w, uint64_t seed)
{
    support_fill(w->q, (size_t)w->T * H * D, seed, -1, 1);
    support_fill(w->k, (size_t)w->T * K * D, seed + 1, -1, 1);
    support_fill(w->v, (size_t)w->T * K * D, seed + 2, -1, 1);
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

/* x [d] at position p, pairs (2i, 2i+1), in f64. */
static void turned(const float *x, uint32_t p, double *y)
{
    for (uint32_t i = 0; i < D / 2; i++) {
        double a = (double)p * pow(10000, -2.0 * i / D), c = cos(a), s = sin(a);
        y[2 * i] = (double)x[2 * i] * c - (double)x[2 * i + 1] * s;
        y[2 * i + 1] = (double)x[2 * i] * s + (double)x[2 * i + 1] * c;
    }
}

/* Weights of row i over [first, i] by the definition; where keep is 0 (rows before `from`): none. */
static void oracle(const world *w, uint32_t head, uint32_t i, uint32_t first, const uint8_t *keep, uint32_t from, double *a)
{
    double q[D], k[D], sum = 0;
    turned(w->q + ((size_t)i * H + head) * D, i, q);
    for (uint32_t j = 0; j <= i; j++) {
        a[j] = 0;
        if (j < first || (keep && j < from && !keep[j])) continue;
        double dot = 0;
        turned(w->k + ((size_t)j * K + head / G) * D, j, k);
        for (uint32_t c = 0; c < D; c++) dot += q[c] * k[c];
        sum += a[j] = exp(dot / sqrt(D));
    }
    for (uint32_t j = 0; j <= i; j++) a[j] /= sum;
}

static void same_weights(const float *a, const double *want, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) cr_assert_float_eq(a[j], want[j], 2e-6, "row %u: %g, want %g", j, (double)a[j], want[j]);
}

Test(heads, weights_are_the_softmax_of_turned_queries_and_keys)
{
    model_shape s = shape();
    world w = open_world(&s, 40);
    float a[40];
    double want[40];
    uint8_t keep[40];
    randomly(&w, support_seed());
    heads_load(w.h, 1, w.T, w.q, w.k, w.v);
    for (uint32_t j = 0; j < 40; j++) keep[j] = j % 3 == 0;
    for (uint32_t head = 0; head < H; head++)
        for (uint32_t i = 0; i < w.T; i += 13) {
            heads_row(w.h, head, i, a);
            oracle(&w, head, i, 0, NULL, 0, want);
            same_weights(a, want, i + 1);
            heads_row_kept(w.h, head, i, keep, 20, a);
            oracle(&w, head, i, 0, keep, 20, want);
            same_weights(a, want, i + 1);
        }
    close_world(&w);
}

Test(heads, what_a_row_receives_is_what_later_ones_give_it)
{
    model_shape s = shape();
    world w = open_world(&s, 40);
    double a[40], want[40] = { 0 }, got[40];
    randomly(&w, support_seed());
    heads_load(w.h, 1, w.T, w.q, w.k, w.v);
    heads_received(w.h, got);
    for (uint32_t head = 0; head < H; head++)
        for (uint32_t i = 0; i < w.T; i++) {
            oracle(&w, head, i, 0, NULL, 0, a);
            for (uint32_t j = 0; j < i; j++) want[j] += a[j];
        }
    for (uint32_t j = 0; j < 40; j++) cr_assert_float_eq(got[j], want[j], 1e-4, "row %u: %g, want %g", j, got[j], want[j]);
    cr_assert(got[0] > 1 && got[39] == 0);
    close_world(&w);
}

Test(heads, a_local_layer_looks_at_its_window)
{
    model_shape s = shape();
    s.look.window = 8;
    s.look.global_every = 2;             /* layer 1 is global, layer 0 is not */
    world w = open_world(&s, 30);
    float a[30];
    double want[30];
    randomly(&w, support_seed());
    for (uint32_t layer = 0; layer < 2; layer++) {
        heads_load(w.h, layer, w.T, w.q, w.k, w.v);
        heads_row(w.h, 3, 29, a);
        oracle(&w, 3, 29, layer ? 0 : 22, NULL, 0, want);
        same_weights(a, want, 30);
    }
    close_world(&w);
}

/* ---- planted heads ------------------------------------------------------------------------------------------------- */

enum { PERIOD = 40, COPIES = 4, ROWS = 1 + PERIOD * COPIES };

/* A code for a token: far from all others. */
static void code(uint32_t token, float size, float *x)
{
    for (uint32_t c = 0; c < D; c++) x[c] = size * (rng_u64(77 + token, c) & 1 ? 1.0f : -1.0f);
}

static uint32_t token_at(uint32_t i) { return i ? (i - 1) % PERIOD : 1000; }

Test(heads, planted_retrieval_heads_have_the_best_scores)
{
    model_shape s = shape();
    s.rope.n_rot = 2;                    /* nearly none, so that a code stays what it is */
    s.rope.base = 1;
    world w = open_world(&s, ROWS);
    float echo[K], induction[K];
    randomly(&w, support_seed());
    for (uint32_t i = 0; i < ROWS; i++) {
        /* kv head 1, its second query head: looks for its own token; kv head 2, first: for the one behind its own token */
        float *k1 = w.k + ((size_t)i * K + 1) * D, *k2 = w.k + ((size_t)i * K + 2) * D;
        code(token_at(i), 1, k1);
        code(i ? token_at(i - 1) : 2000, 1, k2);
        code(token_at(i), 3, w.q + ((size_t)i * H + G + 1) * D);
        code(token_at(i), 3, w.q + ((size_t)i * H + 2 * G) * D);
        k1[0] = k1[1] = k2[0] = k2[1] = 0;
    }
    heads_load(w.h, 0, ROWS, w.q, w.k, w.v);
    heads_copy_scores(w.h, PERIOD, echo, induction);
    printf("# echo %.3f %.3f %.3f %.3f, induction %.3f %.3f %.3f %.3f\n", (double)echo[0], (double)echo[1], (double)echo[2],
           (double)echo[3], (double)induction[0], (double)induction[1], (double)induction[2], (double)induction[3]);
    for (uint32_t k = 0; k < K; k++) {
        if (k != 1) cr_assert_lt(echo[k], 0.2f * echo[1]);
        if (k != 2) cr_assert_lt(induction[k], 0.2f * induction[2]);
    }
    cr_assert_gt(echo[1], 0.4f, "its own row takes a share, too");
    cr_assert_gt(induction[2], 0.8f);
    close_world(&w);
}

/* ---- sensitivity --------------------------------------------------------------------------------------------------- */

/* What attention gives row i of a head when logit j has dz added and v_j has dv. */
static void output(const world *w, uint32_t head, uint32_t i, uint32_t j, double dz, const double *dv, double *out)
{
    double a[64], sum = 0;
    oracle(w, head, i, 0, NULL, 0, a);
    a[j] *= exp(dz);
    for (uint32_t r = 0; r <= i; r++) sum += a[r];
    memset(out, 0, D * sizeof *out);
    for (uint32_t r = 0; r <= i; r++)
        for (uint32_t c = 0; c < D; c++)
            out[c] += a[r] / sum * ((double)w->v[((size_t)r * K + head / G) * D + c] + (r == j && dv ? dv[c] : 0));
}

Test(heads, sensitivity_is_what_small_changes_do_to_the_output)
{
    enum { T = 24 };
    model_shape s = shape();
    world w = open_world(&s, T);
    double of_k[T] = { 0 }, of_v[T] = { 0 }, step = 1e-5;
    randomly(&w, support_seed());
    heads_load(w.h, 0, T, w.q, w.k, w.v);
    heads_sensitivity(w.h, 2, of_k, of_v);
    for (uint32_t j = 0; j < T; j += 5) {
        double want_k = 0, want_v = 0, dv[D] = { step };
        for (uint32_t head = 2 * G; head < 3 * G; head++)
            for (uint32_t i = j; i < T; i++) {
                double at[D], moved[D], v[D];
                output(&w, head, i, j, 0, NULL, at);
                output(&w, head, i, j, step, NULL, moved);
                output(&w, head, i, j, 0, dv, v);
                for (uint32_t c = 0; c < D; c++) {
                    want_k += (moved[c] - at[c]) / step * ((moved[c] - at[c]) / step);
                    want_v += (v[c] - at[c]) / step * ((v[c] - at[c]) / step);
                }
            }
        cr_assert_float_eq(of_k[j], want_k, 1e-3 * want_k + 1e-6, "key %u: %g, want %g", j, of_k[j], want_k);
        cr_assert_float_eq(of_v[j], want_v, 1e-3 * want_v + 1e-6, "value %u: %g, want %g", j, of_v[j], want_v);
    }
    close_world(&w);
}
