#ifndef ENGINE_ROUTE_FIT_H
#define ENGINE_ROUTE_FIT_H
/* Routers from what was measured on documents: a ridge fit of the logarithm of each layer's damage on its pooled input, and a logistic
 * one of whether the layer can go; judged by folds of documents. Owns the fit; measures nothing. */
#include "core/err.h"
#include <stdint.h>

typedef struct {
    uint32_t n, L, D;
    const float *feature;        /* [n][L][D] */
    const double *damage;        /* [n][L] of whole layers, nats a token */
    uint32_t folds;
    double delta;                /* a layer can go when it costs less */
} route_data;

/* What the routers are worth on documents they were not fitted on, for a number of layers left out: mean damage of the layers that were
 * chosen (added up, as if they did not touch each other), by each way of choosing. */
typedef struct { uint32_t layers; double router, fixed, oracle, random; } route_regret;

typedef struct {
    float *w, *gate_w;           /* [L][D] */
    double *b, *gate_b;          /* [L] */
    double *auc, *gate_auc, *r2; /* [L], on held-out folds: damage below delta by either, variance of log damage explained */
    double lambda;
    route_regret regret[3];
} route_fit;

#define ROUTE_EPS 1e-3           /* nats: damages below are alike */

err_code route_fit_make(route_fit *out, const route_data *d, err *e);
void route_fit_free(route_fit *f);
#endif
