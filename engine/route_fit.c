#include "engine/route_fit.h"
#include "engine/linfit.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MOST = 32 };        /* components at most: a few hundred documents say no more */
static const double lambdas[] = { 0.003, 0.03, 0.3, 3, 30 };
#define LOGISTIC_LAMBDA 0.3
enum { LAMBDAS = sizeof lambdas / sizeof *lambdas };

typedef struct {
    const route_data *d;
    uint32_t k;                  /* components */
    double *x, *y, *label;       /* [n][k], [n], [n] of one layer */
    double *mean, *basis;        /* [D], [k][D] */
    float *f;                    /* [n][D] features of one layer */
    double *xs, *ys;             /* training rows of a fold */
    double *w;
    double *guess[LAMBDAS], *gate;   /* [n] held-out predictions of one layer */
    double *all[LAMBDAS];        /* [n][L] of all layers */
} desk;

static double log_damage(double d) { return log(ROUTE_EPS + (d > 0 ? d : 0)); }

/* ---- one layer ----------------------------------------------------------------------------------------------------- */

static err_code project(desk *k, uint32_t l, err *e)
{
    const route_data *d = k->d;
    for (uint32_t i = 0; i < d->n; i++) memcpy(k->f + (size_t)i * d->D, d->feature + ((size_t)i * d->L + l) * d->D, d->D * sizeof *k->f);
    err_code rc = linfit_components(k->f, d->n, d->D, k->k, k->mean, k->basis, e);
    for (uint32_t i = 0; !rc && i < d->n; i++) {
        k->y[i] = log_damage(d->damage[(size_t)i * d->L + l]);
        k->label[i] = d->damage[(size_t)i * d->L + l] < d->delta;
        for (uint32_t c = 0; c < k->k; c++) {
            double s = 0;
            for (uint32_t j = 0; j < d->D; j++) s += (k->f[(size_t)i * d->D + j] - k->mean[j]) * k->basis[(size_t)c * d->D + j];
            k->x[(size_t)i * k->k + c] = s;
        }
    }
    return rc;
}

/* Documents stand in the order of the text: a fold is a stretch of it. */
static uint32_t fold_of(const route_data *d, uint32_t i) { return (uint32_t)((uint64_t)i * d->folds / d->n); }

static uint32_t training(desk *k, uint32_t fold, const double *y)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->d->n; i++) {
        if (fold_of(k->d, i) == fold) continue;
        memcpy(k->xs + (size_t)n * k->k, k->x + (size_t)i * k->k, k->k * sizeof *k->xs);
        k->ys[n++] = y[i];
    }
    return n;
}

static void predict(desk *k, uint32_t fold, double b, double *out)
{
    for (uint32_t i = 0; i < k->d->n; i++) {
        if (fold_of(k->d, i) != fold) continue;
        out[i] = b;
        for (uint32_t c = 0; c < k->k; c++) out[i] += k->w[c] * k->x[(size_t)i * k->k + c];
    }
}

static err_code hold_out(desk *k, err *e)
{
    double b;
    err_code rc = ERR_OK;
    for (uint32_t fold = 0; !rc && fold < k->d->folds; fold++) {
        uint32_t n = training(k, fold, k->y);
        for (int i = 0; !rc && i < LAMBDAS; i++) {
            rc = linfit_ridge(k->xs, k->ys, n, k->k, lambdas[i], k->w, &b, e);
            predict(k, fold, b, k->guess[i]);
        }
        n = training(k, fold, k->label);
        if (!rc) rc = linfit_logistic(k->xs, k->ys, n, k->k, LOGISTIC_LAMBDA, k->w, &b, e);
        predict(k, fold, b, k->gate);
    }
    return rc;
}

/* w x + b over components as w' f + b' over the feature itself. */
static void collapse(const desk *k, double b, float *w, double *out_b)
{
    *out_b = b;
    for (uint32_t j = 0; j < k->d->D; j++) {
        double s = 0;
        for (uint32_t c = 0; c < k->k; c++) s += k->w[c] * k->basis[(size_t)c * k->d->D + j];
        w[j] = (float)s;
        *out_b -= s * k->mean[j];
    }
}

static double explained(const double *got, const double *want, uint32_t n)
{
    double mean = 0, var = 0, res = 0;
    for (uint32_t i = 0; i < n; i++) mean += want[i] / n;
    for (uint32_t i = 0; i < n; i++) var += (want[i] - mean) * (want[i] - mean), res += (want[i] - got[i]) * (want[i] - got[i]);
    return var > 0 ? 1 - res / var : 0;
}

static void judge(desk *k, uint32_t l, route_fit *out, int lambda)
{
    uint32_t n = k->d->n;
    out->r2[l] = explained(k->guess[lambda], k->y, n);
    out->gate_auc[l] = linfit_auc(k->gate, k->label, n);
    for (uint32_t i = 0; i < n; i++) k->gate[i] = -k->guess[lambda][i];
    out->auc[l] = linfit_auc(k->gate, k->label, n);
}

/* ---- which layers each way of choosing would take -------------------------------------------------------------------- */

/* Sum of damage over the `count` inner layers with the least `score`. */
static double chosen(const route_data *d, uint32_t doc, const double *score, uint32_t count)
{
    bool taken[512] = { false };
    double sum = 0;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t best = 0;
        for (uint32_t l = 1; l + 1 < d->L; l++)
            if (!taken[l] && (!best || score[l] < score[best])) best = l;
        taken[best] = true;
        sum += d->damage[(size_t)doc * d->L + best];
    }
    return sum;
}

static void mean_elsewhere(const route_data *d, uint32_t fold, double *out)
{
    uint32_t n = 0;
    memset(out, 0, d->L * sizeof *out);
    for (uint32_t i = 0; i < d->n; i++) {
        if (fold_of(d, i) == fold) continue;
        for (uint32_t l = 0; l < d->L; l++) out[l] += d->damage[(size_t)i * d->L + l];
        n++;
    }
}

static void regret(const desk *k, int lambda, route_regret *out)
{
    const route_data *d = k->d;
    double fixed[512], inner = d->L - 2;
    for (uint32_t fold = 0; fold < d->folds; fold++) {
        mean_elsewhere(d, fold, fixed);
        for (uint32_t i = 0; i < d->n; i++) {
            if (fold_of(d, i) != fold) continue;
            const double *true_damage = d->damage + (size_t)i * d->L;
            out->router += chosen(d, i, k->all[lambda] + (size_t)i * d->L, out->layers) / d->n;
            out->fixed += chosen(d, i, fixed, out->layers) / d->n;
            out->oracle += chosen(d, i, true_damage, out->layers) / d->n;
            for (uint32_t l = 1; l + 1 < d->L; l++) out->random += true_damage[l] * out->layers / inner / d->n;
        }
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

static bool desk_open(desk *k, const route_data *d)
{
    uint32_t n = d->n, c = n / 8 < PARTS_MOST ? n / 8 : PARTS_MOST;
    *k = (desk){ .d = d, .k = c < 2 ? 2 : c };
    k->x = malloc((size_t)n * k->k * sizeof *k->x);
    k->xs = malloc((size_t)n * k->k * sizeof *k->xs);
    k->y = malloc(4 * (size_t)n * sizeof *k->y);
    k->w = malloc(k->k * sizeof *k->w);
    k->mean = malloc(d->D * sizeof *k->mean);
    k->basis = malloc((size_t)k->k * d->D * sizeof *k->basis);
    k->f = malloc((size_t)n * d->D * sizeof *k->f);
    k->guess[0] = malloc(LAMBDAS * (size_t)n * (1 + d->L) * sizeof *k->guess[0]);
    if (!k->x || !k->xs || !k->y || !k->w || !k->mean || !k->basis || !k->f || !k->guess[0]) return false;
    k->label = k->y + n;
    k->ys = k->label + n;
    k->gate = k->ys + n;
    for (int i = 0; i < LAMBDAS; i++) {
        k->guess[i] = k->guess[0] + (size_t)i * n;
        k->all[i] = k->guess[0] + LAMBDAS * (size_t)n + (size_t)i * n * d->L;
    }
    return true;
}

static void desk_close(desk *k)
{
    void *mem[] = { k->x, k->xs, k->y, k->w, k->mean, k->basis, k->f, k->guess[0] };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
}

/* The penalty with the best predictions, over all layers: one for all, there are few documents. */
static int best_lambda(const double error[LAMBDAS])
{
    int best = 0;
    for (int i = 1; i < LAMBDAS; i++)
        if (error[i] < error[best]) best = i;
    return best;
}

static err_code try_lambdas(desk *k, int *lambda, err *e)
{
    const route_data *d = k->d;
    double error[LAMBDAS] = { 0 };
    err_code rc = ERR_OK;
    for (uint32_t l = 0; !rc && l < d->L; l++) {
        rc = project(k, l, e);
        if (!rc) rc = hold_out(k, e);
        for (int i = 0; !rc && i < LAMBDAS; i++)
            for (uint32_t n = 0; n < d->n; n++) {
                k->all[i][(size_t)n * d->L + l] = k->guess[i][n];
                error[i] += (k->guess[i][n] - k->y[n]) * (k->guess[i][n] - k->y[n]);
            }
    }
    *lambda = best_lambda(error);
    return rc;
}

err_code route_fit_make(route_fit *out, const route_data *d, err *e)
{
    desk k;
    int lambda = 0;
    double b;
    size_t w = (size_t)d->L * d->D;
    *out = (route_fit){ .w = calloc(2 * w, sizeof *out->w), .b = calloc(5 * d->L, sizeof *out->b) };
    err_code rc = desk_open(&k, d) && out->w && out->b ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for routers of %u layers", d->L);
    out->gate_w = out->w + w;
    out->gate_b = out->b + d->L;
    out->auc = out->gate_b + d->L;
    out->gate_auc = out->auc + d->L;
    out->r2 = out->gate_auc + d->L;
    if (!rc) rc = try_lambdas(&k, &lambda, e);
    out->lambda = lambdas[lambda];
    for (uint32_t l = 0; !rc && l < d->L; l++) {
        rc = project(&k, l, e);
        if (!rc) rc = hold_out(&k, e);
        if (!rc) judge(&k, l, out, lambda);
        if (!rc) rc = linfit_ridge(k.x, k.y, d->n, k.k, out->lambda, k.w, &b, e);
        if (!rc) collapse(&k, b, out->w + (size_t)l * d->D, &out->b[l]);
        if (!rc) rc = linfit_logistic(k.x, k.label, d->n, k.k, LOGISTIC_LAMBDA, k.w, &b, e);
        if (!rc) collapse(&k, b, out->gate_w + (size_t)l * d->D, &out->gate_b[l]);
    }
    for (uint32_t i = 0; !rc && i < 3; i++) {
        out->regret[i].layers = (d->L * (i + 1) + 5) / 10;
        regret(&k, lambda, &out->regret[i]);
    }
    desk_close(&k);
    if (rc) route_fit_free(out);
    return rc;
}

void route_fit_free(route_fit *f)
{
    free(f->w);
    free(f->b);
    *f = (route_fit){ 0 };
}
