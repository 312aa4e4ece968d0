#ifndef TESTS_SUPPORT_KL_H
#define TESTS_SUPPORT_KL_H
/* How far rows of logits are from the truth, for the tests that hold Sluice against a peer's logits. It opens no file. */
#include <math.h>
#include <stdint.h>

static inline double support_log_sum(const float *x, uint32_t V)
{
    double m = x[0], s = 0;
    for (uint32_t i = 1; i < V; i++) m = x[i] > m ? x[i] : m;
    for (uint32_t i = 0; i < V; i++) s += exp(x[i] - m);
    return m + log(s);
}

/* Mean KL(p || q) in nats of n rows of logits. p, q [n][V]. */
static inline double support_mean_kl(const float *p, const float *q, uint32_t n, uint32_t V)
{
    double sum = 0;
    for (uint32_t r = 0; r < n; r++, p += V, q += V) {
        double lp = support_log_sum(p, V), lq = support_log_sum(q, V);
        for (uint32_t i = 0; i < V; i++) sum += exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
    }
    return sum / n;
}

/* What is allowed to us, given the peer's own distance from the truth. */
static inline double support_kl_limit(double own)
{
    return fmax(1.5 * own, 1e-4);
}
#endif
