#include "ops/cli/calibrate_calm.h"
#include <math.h>

enum { HALVINGS = 10 };           /* of the exponent: to 0.012, finer than documents differ */

typedef struct { route_probe *p; const documents *docs; uint32_t n; layer_mask mask; } bench;

static err_code share_at(bench *b, double theta, double *share, err *e)
{
    uint64_t out = 0, of = 0;
    err_code rc = ERR_OK;
    b->mask.calm.theta = (float)theta;
    for (uint32_t i = 0; !rc && i < b->n; i++) {
        const document *d = &b->docs->doc[(size_t)i * b->docs->n / b->n];
        rc = route_probe_calm(b->p, b->docs->tokens.id + d->at, d->n, d->prompt, &b->mask, &out, &of, e);
    }
    *share = of ? (double)out / (double)of : 0;
    return rc;
}

/* The share falls as theta rises. Bisection in -log(1 - theta): most cosines are near 1. */
static err_code find(bench *b, double want, double *theta, err *e)
{
    double lo = 0, hi = 12, share;
    err_code rc = ERR_OK;
    for (int i = 0; !rc && i < HALVINGS; i++) {
        double mid = (lo + hi) / 2;
        rc = share_at(b, 1 - exp(-mid), &share, e);
        *(share > want ? &lo : &hi) = mid;
    }
    *theta = 1 - exp(-(lo + hi) / 2);
    return rc;
}

err_code calibrate_calm(route_probe *p, uint32_t L, uint32_t count, const documents *docs, uint32_t n, double *theta, err *e)
{
    bench b = { .p = p, .docs = docs, .n = n, .mask = mask_none(L) };
    err_code rc = ERR_OK;
    b.mask.calm = mask_calm_inner(L);
    b.mask.calm.from = MASK_AFTER;
    b.mask.calm.count = count;
    for (uint32_t i = 0; !rc && i < ROUTER_CALM; i++) rc = find(&b, (i + 1) * ROUTER_CALM_STEP, &theta[i], e);
    return rc;
}
