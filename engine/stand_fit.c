/* Reduced-rank ridge: W of full rank by Cholesky, then the directions of the output in which W x varies most. Matrices are row-major; a
 * symmetric one has its upper triangle. The last of P = D + 1 inputs is always 1. */
#include "engine/stand_fit.h"
#include "engine/ridge.h"
#include <cblas.h>
#include <lapacke.h>
#include <stdlib.h>
#include <string.h>

enum { FIT, HELD, PARTS };
/* As in kvfit.c: from "nothing but rounding" to "hardly follows the inputs". */
static const double lambdas[] = { 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1 };

/* Sums of one part: xx [P][P] upper, xy [P][D], and y'y. */
typedef struct { const double *xx, *xy; double yy; } sums_of;

static size_t part_doubles(uint32_t D) { return (size_t)(D + 1) * (D + 1) + (size_t)(D + 1) * D + 1; }
size_t stand_fit_doubles(uint32_t D) { return PARTS * part_doubles(D); }

static sums_of part(const double *sums, uint32_t D, int which)
{
    const double *at = sums + (size_t)which * part_doubles(D);
    return (sums_of){ at, at + (size_t)(D + 1) * (D + 1), at[part_doubles(D) - 1] };
}

err_code stand_fit_add(double *sums, uint32_t D, const float *x, const float *y, uint32_t n, bool held, err *e)
{
    uint32_t P = D + 1;
    double *to = sums + (held ? HELD : FIT) * part_doubles(D), *dx = malloc(((size_t)n * P + (size_t)n * D) * sizeof *dx), *dy = dx + (size_t)n * P;
    if (!dx) return err_set(e, ERR_NOMEM, "out of memory for %u rows", n);
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t i = 0; i < D; i++) dx[(size_t)t * P + i] = (double)x[(size_t)t * D + i];
        dx[(size_t)t * P + D] = 1;
    }
    for (size_t i = 0; i < (size_t)n * D; i++) dy[i] = (double)y[i], to[part_doubles(D) - 1] += dy[i] * dy[i];
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)P, (int)n, 1, dx, (int)P, 1, to, (int)P);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)P, (int)D, (int)n, 1, dx, (int)P, dy, (int)D, 1, to + (size_t)P * P, (int)D);
    free(dx);
    return ERR_OK;
}

/* ---- the solution -------------------------------------------------------------------------------------------------- */

/* All [P][..] scratch of a solution. w: the full map [P][D]; v: [D][D] directions of the output, by columns, most last; m: the map of the rank. */
typedef struct { uint32_t D, P, rank; double *a, *w, *v, *m, *t, *ev, *all; } desk;

static bool desk_open(desk *d)
{
    size_t P = d->P, D = d->D;
    double *mem = calloc(P * P + 3 * P * D + D * D + D, sizeof *mem);
    d->all = d->a = mem;
    d->w = mem ? d->a + P * P : NULL;
    d->m = mem ? d->w + P * D : NULL;
    d->t = mem ? d->m + P * D : NULL;
    d->v = mem ? d->t + P * D : NULL;
    d->ev = mem ? d->v + D * D : NULL;
    return mem != NULL;
}

/* d->w of (xx + lambda I) w = xy; the constant is not penalised. */
static bool ridge(const desk *d, const sums_of *s, double lambda)
{
    double add = lambda * ridge_unit(s->xx, d->P);
    memcpy(d->a, s->xx, (size_t)d->P * d->P * sizeof *d->a);
    memcpy(d->w, s->xy, (size_t)d->P * d->D * sizeof *d->w);
    for (uint32_t i = 0; i + 1 < d->P; i++) d->a[(size_t)i * d->P + i] += add;
    return !LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', (lapack_int)d->P, (lapack_int)d->D, d->a, (lapack_int)d->P, d->w, (lapack_int)d->D);
}

/* d->v: eigenvectors of the covariance of w x, whose mean over the rows is taken off. */
static bool directions(const desk *d, const sums_of *s)
{
    int P = (int)d->P, D = (int)d->D;
    double n = s->xx[(size_t)P * P - 1];
    cblas_dsymm(CblasRowMajor, CblasLeft, CblasUpper, P, D, 1, s->xx, P, d->w, D, 0, d->t, D);        /* xx w */
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, D, D, P, 1, d->w, D, d->t, D, 0, d->v, D);
    const double *sum = d->t + (size_t)(P - 1) * D;                                                   /* of w x over the rows */
    cblas_dger(CblasRowMajor, D, D, -1 / n, sum, 1, sum, 1, d->v, D);
    return !LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', D, d->v, D, d->ev);
}

/* d->m = w V V' of the `rank` last directions; for the constant, what brings the mean back. */
static void reduce(const desk *d, const sums_of *s)
{
    int P = (int)d->P, D = (int)d->D, r = (int)d->rank;
    const double *v = d->v + (D - r), *x = s->xx + (P - 1);      /* column of sums of inputs */
    double n = s->xx[(size_t)P * P - 1], *bias = d->m + (size_t)(P - 1) * D;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, P - 1, r, D, 1, d->w, D, v, D, 0, d->t, r);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, P - 1, D, r, 1, d->t, r, v, D, 0, d->m, D);
    for (int o = 0; o < D; o++) bias[o] = s->xy[(size_t)(P - 1) * D + o] / n;
    for (int i = 0; i + 1 < P; i++)
        for (int o = 0; o < D; o++) bias[o] -= x[(size_t)i * P] / n * d->m[(size_t)i * D + o];
}

static double error_on(const desk *d, const sums_of *s)
{
    int P = (int)d->P, D = (int)d->D;
    double miss = s->yy, var = s->yy, n = s->xx[(size_t)P * P - 1];
    cblas_dsymm(CblasRowMajor, CblasLeft, CblasUpper, P, D, 1, s->xx, P, d->m, D, 0, d->t, D);
    for (size_t i = 0; i < (size_t)P * D; i++) miss += d->m[i] * (d->t[i] - 2 * s->xy[i]);
    for (int o = 0; o < D; o++) var -= s->xy[(size_t)(P - 1) * D + o] * s->xy[(size_t)(P - 1) * D + o] / n;
    return var > 0 && miss > 0 ? miss / var : 0;
}

static bool solve(const desk *d, const sums_of *s, double lambda)
{
    if (!ridge(d, s, lambda) || !directions(d, s)) return false;
    reduce(d, s);
    return true;
}

static bool choose(const desk *d, const sums_of *fit, const sums_of *held, stand_note *note)
{
    bool found = false;
    for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        if (!solve(d, fit, lambdas[i])) continue;
        double is = error_on(d, held);
        if (found && is >= note->error) continue;
        *note = (stand_note){ lambdas[i], is };
        found = true;
    }
    return found;
}

static void take(const desk *d, float *a, float *b, float *bias)
{
    uint32_t D = d->D, r = d->rank;
    for (uint32_t o = 0; o < D; o++)
        for (uint32_t k = 0; k < r; k++) b[(size_t)o * r + k] = (float)d->v[(size_t)o * D + (D - 1 - k)];     /* what varies most comes first */
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)D, (int)r, (int)D, 1, d->w, (int)D, d->v + (D - r), (int)D, 0, d->t, (int)r);
    for (uint32_t k = 0; k < r; k++)
        for (uint32_t i = 0; i < D; i++) a[(size_t)k * D + i] = (float)d->t[(size_t)i * r + (r - 1 - k)];
    for (uint32_t o = 0; o < D; o++) bias[o] = (float)d->m[(size_t)D * D + o];
}

err_code stand_fit_solve(const double *sums, uint32_t D, uint32_t rank, float *a, float *b, float *bias, stand_note *note, err *e)
{
    desk d = { .D = D, .P = D + 1, .rank = rank };
    size_t n = part_doubles(D);
    sums_of fit = part(sums, D, FIT), held = part(sums, D, HELD);
    double rows = fit.xx[(size_t)d.P * d.P - 1], out = held.xx[(size_t)d.P * d.P - 1];
    if (rows < 1 || out < 1) return err_set(e, ERR_INPUT, "%.0f rows to fit and %.0f held out: both are needed", rows, out);
    double *both = malloc(n * sizeof *both);
    err_code rc = desk_open(&d) && both ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for an FFN's stand-in");
    for (size_t i = 0; !rc && i < n; i++) both[i] = sums[i] + sums[n + i];
    sums_of all = rc ? fit : part(both, D, FIT);
    if (!rc && !(choose(&d, &fit, &held, note) && solve(&d, &all, note->lambda)))
        rc = err_set(e, ERR_STATE, "no stand-in of rank %u solves its equations over %.0f rows", rank, rows + out);
    if (!rc) take(&d, a, b, bias);
    free(both);
    free(d.all);
    return rc;
}
