/* Other objectives of the fit of KV prediction than least squares over all rows alike: weights, L1 by reweighting, reduced rank; each against
 * the definition in long double, and where something was planted. */
#include "engine/kvfit.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 160, HELD = 110, IN = 16, OUT = 12, L = 2 };

typedef struct { kvmap_shape s; runner_tap aux, base; float w[L][2][OUT][IN], b[L][2][OUT]; uint64_t seed; } world;

static float *floats(size_t n)
{
    float *x = calloc(n, sizeof *x);
    cr_assert(x);
    return x;
}

/* An auxiliary of random rows with a mean; base = W x + b + noise. rank: of W, 0: full. */
static world *planted(uint32_t rank, double noise)
{
    world *w = calloc(1, sizeof *w);
    cr_assert(w);
    w->s = (kvmap_shape){ .L = L, .out = OUT, .A = L, .kv = IN, .D = 1, .inputs = KVMAP_OWN };
    kvmap_sources(&w->s, NULL);
    w->seed = support_seed();
    w->aux = (runner_tap){ floats(L * ROWS * IN), floats(L * ROWS * IN), NULL };
    w->base = (runner_tap){ floats(L * ROWS * OUT), floats(L * ROWS * OUT), NULL };
    support_fill(w->aux.k, L * ROWS * IN, w->seed, -2, 3);
    support_fill(w->aux.v, L * ROWS * IN, w->seed + 1, -1, 1);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t side = 0; side < 2; side++) {
            float u[OUT][IN], v[IN][IN], off[ROWS][OUT];
            uint64_t at = w->seed + 100 * (2 * l + side + 1);
            support_fill(&w->w[l][side][0][0], OUT * IN, at, -1, 1);
            support_fill(w->b[l][side], OUT, at + 1, -3, 3);
            support_fill(&u[0][0], OUT * IN, at + 2, -1, 1);
            support_fill(&v[0][0], IN * IN, at + 3, -1, 1);
            support_fill(&off[0][0], ROWS * OUT, at + 4, -1, 1);
            for (uint32_t o = 0; rank && o < OUT; o++)
                for (uint32_t i = 0; i < IN; i++) {
                    w->w[l][side][o][i] = 0;
                    for (uint32_t k = 0; k < rank; k++) w->w[l][side][o][i] += u[o][k] * v[k][i];
                }
            const float *x = (side ? w->aux.v : w->aux.k) + (size_t)l * ROWS * IN;
            float *y = (side ? w->base.v : w->base.k) + (size_t)l * ROWS * OUT;
            for (uint32_t t = 0; t < ROWS; t++)
                for (uint32_t o = 0; o < OUT; o++) {
                    double sum = (double)w->b[l][side][o] + noise * (double)off[t][o];
                    for (uint32_t i = 0; i < IN; i++) sum += (double)w->w[l][side][o][i] * (double)x[t * IN + i];
                    y[t * OUT + o] = (float)sum;
                }
        }
    return w;
}

static void end(world *w)
{
    free(w->aux.k);
    free(w->aux.v);
    free(w->base.k);
    free(w->base.v);
    free(w);
}

static const float *x_of(const world *w, uint32_t l, uint32_t side, uint32_t t) { return (side ? w->aux.v : w->aux.k) + ((size_t)l * ROWS + t) * IN; }
static const float *y_of(const world *w, uint32_t l, uint32_t side, uint32_t t) { return (side ? w->base.v : w->base.k) + ((size_t)l * ROWS + t) * OUT; }

/* Every fifth row of base is far off: what an outlier does to squares. */
static void spoil(world *w)
{
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t t = 0; t < ROWS; t += 5) {
            support_fill(w->base.k + ((size_t)l * ROWS + t) * OUT, OUT, w->seed + 7000 + l * ROWS + t, 20, 60);
            support_fill(w->base.v + ((size_t)l * ROWS + t) * OUT, OUT, w->seed + 9000 + l * ROWS + t, -60, -20);
        }
}

typedef struct { float w[OUT][IN], b[OUT]; kvfit_note note; } found;

/* reweight: so many times. */
static void fit(const world *w, kvfit_how how, const float *weight, uint32_t reweight, found out[L][2])
{
    kvfit *f;
    err e = { 0 };
    cr_assert_eq(kvfit_open(&f, &w->s, how, 0, L, &e), ERR_OK, "%s", e.text);
    for (uint32_t k = 0; k <= reweight; k++) {
        if (k) cr_assert_eq(kvfit_again(f, &e), ERR_OK, "%s", e.text);
        kvfit_add(f, &w->aux, &w->base, ROWS, 0, HELD, false, weight);
        kvfit_add(f, &w->aux, &w->base, ROWS, HELD, ROWS, true, weight);
    }
    for (uint32_t l = 0; l < L; l++)
        for (int side = 0; side < 2; side++) {
            found *o = &out[l][side];
            cr_assert_eq(kvfit_solve(f, l, side, &o->w[0][0], o->b, &o->note, &e), ERR_OK, "%s", e.text);
            cr_assert_eq(o->note.rows, ROWS);
        }
    kvfit_close(&f);
}

static double distance(const world *w, const found out[L][2])
{
    double off = 0, all = 0;
    for (uint32_t l = 0; l < L; l++)
        for (int side = 0; side < 2; side++)
            for (uint32_t o = 0; o < OUT; o++)
                for (uint32_t i = 0; i < IN; i++) {
                    double want = (double)w->w[l][side][o][i], is = (double)out[l][side].w[o][i];
                    off += (is - want) * (is - want), all += want * want;
                }
    return sqrt(off / all);
}

/* ---- by the definition ------------------------------------------------------------------------------------------------------ */

typedef struct { long double w[OUT][IN], b[OUT]; } truth;

/* Weighted ridge over rows [0, n) of centred data; lambda relative to the mean variance of an input. */
static void ridge(const world *w, uint32_t l, uint32_t side, const long double *weight, uint32_t n, long double lambda, truth *r)
{
    long double a[IN][IN + OUT] = { { 0 } }, mx[IN] = { 0 }, my[OUT] = { 0 }, sum = 0, trace = 0;
    for (uint32_t t = 0; t < n; t++) {
        sum += weight[t];
        for (uint32_t i = 0; i < IN; i++) mx[i] += weight[t] * (long double)x_of(w, l, side, t)[i];
        for (uint32_t o = 0; o < OUT; o++) my[o] += weight[t] * (long double)y_of(w, l, side, t)[o];
    }
    for (uint32_t i = 0; i < IN; i++) mx[i] /= sum;
    for (uint32_t o = 0; o < OUT; o++) my[o] /= sum;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < IN; i++) {
            long double x = weight[t] * ((long double)x_of(w, l, side, t)[i] - mx[i]);
            for (uint32_t k = 0; k < IN; k++) a[i][k] += x * ((long double)x_of(w, l, side, t)[k] - mx[k]);
            for (uint32_t o = 0; o < OUT; o++) a[i][IN + o] += x * ((long double)y_of(w, l, side, t)[o] - my[o]);
        }
    for (uint32_t i = 0; i < IN; i++) trace += a[i][i];
    for (uint32_t i = 0; i < IN; i++) a[i][i] += lambda * trace / IN;
    for (uint32_t i = 0; i < IN; i++)
        for (uint32_t k = 0; k < IN; k++) {
            if (k == i) continue;
            long double m = a[k][i] / a[i][i];
            for (uint32_t c = i; c < IN + OUT; c++) a[k][c] -= m * a[i][c];
        }
    for (uint32_t o = 0; o < OUT; o++) {
        r->b[o] = my[o];
        for (uint32_t i = 0; i < IN; i++) {
            r->w[o][i] = a[i][IN + o] / a[i][i];
            r->b[o] -= r->w[o][i] * mx[i];
        }
    }
}

static long double left(const world *w, uint32_t l, uint32_t side, const truth *r, uint32_t t)
{
    long double sum = 0;
    for (uint32_t o = 0; o < OUT; o++) {
        long double off = (long double)y_of(w, l, side, t)[o] - r->b[o];
        for (uint32_t i = 0; i < IN; i++) off -= r->w[o][i] * (long double)x_of(w, l, side, t)[i];
        sum += off * off;
    }
    return sqrtl(sum);
}

/* lambda by held-out rows, then over all. Returns the usual length of a held-out row's error. */
static long double whole(const world *w, uint32_t l, uint32_t side, const long double *weight, truth *r, double *lambda)
{
    static const double lambdas[] = { 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1 };
    long double best = 0;
    for (uint32_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        long double is = 0;
        ridge(w, l, side, weight, HELD, lambdas[i], r);
        for (uint32_t t = HELD; t < ROWS; t++) is += weight[t] * left(w, l, side, r, t) * left(w, l, side, r, t);
        if (i && is >= best) continue;
        best = is;
        *lambda = lambdas[i];
    }
    ridge(w, l, side, weight, ROWS, *lambda, r);
    long double sum = 0, off = 0;
    for (uint32_t t = HELD; t < ROWS; t++) sum += weight[t], off += weight[t] * left(w, l, side, r, t) * left(w, l, side, r, t);
    return sqrtl(off / sum);
}

static void expect_truth(const found *is, const truth *want, const char *what)
{
    for (uint32_t o = 0; o < OUT; o++) {
        cr_assert(fabsl((long double)is->b[o] - want->b[o]) < 1e-5L, "%s: bias %u is %g, want %g", what, o, (double)is->b[o], (double)want->b[o]);
        for (uint32_t i = 0; i < IN; i++)
            cr_assert(fabsl((long double)is->w[o][i] - want->w[o][i]) < 2e-6L, "%s: %u, %u is %g, want %g", what, o, i, (double)is->w[o][i], (double)want->w[o][i]);
    }
}

static void made_weights(const world *w, float *weight, long double out[L][ROWS])
{
    support_fill(weight, L * ROWS, w->seed + 5, 0, 4);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t t = 0; t < ROWS; t++) out[l][t] = (long double)weight[l * ROWS + t];
}

/* ---- weights ------------------------------------------------------------------------------------------------------------------ */

Test(kvfit, weighted_rows_give_the_weighted_ridge_solution)
{
    world *w = planted(0, 6);
    found is[L][2];
    truth want;
    double lambda;
    float weight[L * ROWS];
    long double by[L][ROWS];
    made_weights(w, weight, by);
    fit(w, (kvfit_how){ .weighted = true }, weight, 0, is);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t side = 0; side < 2; side++) {
            whole(w, l, side, by[l], &want, &lambda);
            cr_assert_float_eq(is[l][side].note.lambda, lambda, 1e-15);
            expect_truth(&is[l][side], &want, "weighted");
        }
    end(w);
}

Test(kvfit, rows_that_count_nothing_change_nothing)
{
    world *w = planted(0, 0);
    found is[L][2];
    float weight[L * ROWS];
    spoil(w);
    for (uint32_t i = 0; i < L * ROWS; i++) weight[i] = i % ROWS % 5 ? 1 + (float)(i % 3) : 0;
    fit(w, (kvfit_how){ .weighted = true }, weight, 0, is);
    cr_assert_lt(distance(w, is), 1e-6, "%g", distance(w, is));
    fit(w, (kvfit_how){ .weighted = true }, NULL, 0, is);
    cr_assert_gt(distance(w, is), 0.1, "without weights the rows that are off do harm: %g", distance(w, is));
    end(w);
}

Test(kvfit, rows_that_count_alike_give_the_bits_of_no_weights)
{
    world *w = planted(0, 2);
    found is[L][2], plain[L][2];
    fit(w, (kvfit_how){ .weighted = true }, NULL, 0, is);
    fit(w, (kvfit_how){ .weighted = false }, NULL, 0, plain);
    cr_assert(support_same(&is[0][0].w[0][0], &plain[0][0].w[0][0], OUT * IN, "layer 0"));
    cr_assert(support_same(&is[1][1].w[0][0], &plain[1][1].w[0][0], OUT * IN, "layer 1"));
    end(w);
}

/* ---- L1 ------------------------------------------------------------------------------------------------------------------------ */

Test(kvfit, reweighting_is_what_it_is_by_definition)
{
    enum { TIMES = 3 };
    world *w = planted(0, 0.3); /* most rows end below the floor */
    found is[L][2], first[L][2];
    truth r;
    double lambda;
    spoil(w);
    fit(w, (kvfit_how){ .weighted = true }, NULL, 0, first);
    fit(w, (kvfit_how){ .weighted = true }, NULL, TIMES, is);
    for (uint32_t i = 0; i < 2 * L; i++) cr_assert(is[i / 2][i % 2].note.error == first[i / 2][i % 2].note.error, "the error is the first map's");
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t side = 0; side < 2; side++) {
            long double weight[ROWS], floor = 0;
            for (uint32_t t = 0; t < ROWS; t++) weight[t] = 1;
            for (uint32_t k = 0; k <= TIMES; k++) {
                long double usual = whole(w, l, side, weight, &r, &lambda);
                if (!k) floor = 0.01L * usual;
                for (uint32_t t = 0; t < ROWS; t++) weight[t] = 1 / fmaxl(left(w, l, side, &r, t), floor);
            }
            cr_assert_float_eq(is[l][side].note.lambda, lambda, 1e-15);
            expect_truth(&is[l][side], &r, "reweighted");
        }
    end(w);
}

Test(kvfit, what_is_far_off_hardly_moves_the_sum_of_errors)
{
    world *w = planted(0, 0);
    found squares[L][2], sums[L][2];
    spoil(w);
    fit(w, (kvfit_how){ .weighted = true }, NULL, 0, squares);
    fit(w, (kvfit_how){ .weighted = true }, NULL, 8, sums);
    printf("# a fifth of the rows far off: map off by %.3g with squares, %.3g with sums\n", distance(w, squares), distance(w, sums));
    cr_assert_gt(distance(w, squares), 0.1);
    cr_assert_lt(distance(w, sums), 0.05 * distance(w, squares));
    end(w);
}

/* ---- rank ----------------------------------------------------------------------------------------------------------------------- */

/* The projection of outputs on the `rank` first eigenvectors of the covariance of what r gives, by orthogonal iteration. */
static void reduced(const world *w, uint32_t l, uint32_t side, uint32_t rank, truth *r)
{
    long double fitted[ROWS][OUT], mean[OUT] = { 0 }, c[OUT][OUT] = { { 0 } }, v[OUT][OUT], next[OUT][OUT], mx[IN] = { 0 };
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t o = 0; o < OUT; o++) {
            fitted[t][o] = r->b[o];
            for (uint32_t i = 0; i < IN; i++) fitted[t][o] += r->w[o][i] * (long double)x_of(w, l, side, t)[i];
            mean[o] += fitted[t][o] / ROWS;
        }
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t i = 0; i < IN; i++) mx[i] += (long double)x_of(w, l, side, t)[i] / ROWS;
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t o = 0; o < OUT; o++)
            for (uint32_t p = 0; p < OUT; p++) c[o][p] += (fitted[t][o] - mean[o]) * (fitted[t][p] - mean[p]);
    for (uint32_t k = 0; k < rank; k++)
        for (uint32_t o = 0; o < OUT; o++) v[k][o] = k == o ? 1 : 0.1L * (long double)((k * 7 + o * 3) % 5);
    for (int round = 0; round < 3000; round++)
        for (uint32_t k = 0; k < rank; k++) {
            long double len = 0;
            for (uint32_t o = 0; o < OUT; o++) {
                next[k][o] = 0;
                for (uint32_t p = 0; p < OUT; p++) next[k][o] += c[o][p] * v[k][p];
            }
            for (uint32_t j = 0; j < k; j++) {
                long double dot = 0;
                for (uint32_t o = 0; o < OUT; o++) dot += next[k][o] * v[j][o];
                for (uint32_t o = 0; o < OUT; o++) next[k][o] -= dot * v[j][o];
            }
            for (uint32_t o = 0; o < OUT; o++) len += next[k][o] * next[k][o];
            for (uint32_t o = 0; o < OUT; o++) v[k][o] = next[k][o] / sqrtl(len);
        }
    truth whole_one = *r;
    for (uint32_t o = 0; o < OUT; o++) {
        r->b[o] = mean[o];
        for (uint32_t i = 0; i < IN; i++) {
            r->w[o][i] = 0;
            for (uint32_t k = 0; k < rank; k++)
                for (uint32_t p = 0; p < OUT; p++) r->w[o][i] += v[k][o] * v[k][p] * whole_one.w[p][i];
            r->b[o] -= r->w[o][i] * mx[i];
        }
    }
}

Test(kvfit, a_map_of_less_rank_is_the_fit_in_its_strongest_directions)
{
    world *w = planted(0, 3);
    found is[L][2];
    truth want;
    long double alike[ROWS];
    for (uint32_t t = 0; t < ROWS; t++) alike[t] = 1;
    fit(w, (kvfit_how){ .rank = 4 }, NULL, 0, is);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t side = 0; side < 2; side++) {
            ridge(w, l, side, alike, ROWS, is[l][side].note.lambda, &want);
            reduced(w, l, side, 4, &want);
            expect_truth(&is[l][side], &want, "rank 4");
        }
    end(w);
}

Test(kvfit, a_planted_relation_of_small_rank_is_found_better_by_a_map_of_its_rank)
{
    found is[L][2], full[L][2];
    world *w = planted(3, 0);
    fit(w, (kvfit_how){ .rank = 3 }, NULL, 0, is);
    cr_assert_lt(distance(w, is), 1e-5, "without noise: %g", distance(w, is));
    fit(w, (kvfit_how){ .rank = 2 }, NULL, 0, is);
    cr_assert_gt(distance(w, is), 0.05, "two directions are too few: %g", distance(w, is));
    end(w);
    w = planted(3, 2);
    fit(w, (kvfit_how){ .rank = 3 }, NULL, 0, is);
    fit(w, (kvfit_how){ .rank = 0 }, NULL, 0, full);
    printf("# planted rank 3 under noise: map off by %.3g with all directions, %.3g with three\n", distance(w, full), distance(w, is));
    cr_assert_lt(distance(w, is), 0.9 * distance(w, full));
    end(w);
}

Test(kvfit, as_many_directions_as_outputs_are_all)
{
    world *w = planted(0, 2);
    found is[L][2], full[L][2];
    fit(w, (kvfit_how){ .rank = OUT }, NULL, 0, is);
    fit(w, (kvfit_how){ .rank = 0 }, NULL, 0, full);
    cr_assert(support_same(&is[1][0].w[0][0], &full[1][0].w[0][0], OUT * IN, "rank of all outputs"));
    end(w);
}
