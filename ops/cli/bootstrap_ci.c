#include "ops/cli/bootstrap_ci.h"
#include "core/rng.h"
#include "ops/cli/samples.h"

/* Owns the interval. It does not know what was measured. */

enum { DRAWS = 1000 };   /* the ends of a 95 % interval then rest on 25 draws each */

static double mean_of_drawn(const double *x, size_t n, uint64_t seed, uint64_t draw)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[rng_u64(seed, draw * n + i) % n];
    return sum / (double)n;
}

err_code bootstrap_mean(const double *x, size_t n, uint64_t seed, interval *out, err *e)
{
    samples s = { 0 };
    bool ok = true;
    *out = (interval){ 0 };
    for (size_t i = 0; i < n; i++) out->mean += x[i] / (double)n;
    for (uint64_t d = 0; ok && n && d < DRAWS; d++) ok = samples_add(&s, mean_of_drawn(x, n, seed, d));
    if (ok && n) {
        out->lo = samples_quantile(&s, 0.025);
        out->hi = samples_quantile(&s, 0.975);
    }
    samples_free(&s);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %zu draws", (size_t)DRAWS);
}
