/* What the head says of a row of logits, computed the same way on every host. */
#include "engine/forward.h"

/* ln x for normal x > 0: x = m 2^k with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m-1)/(m+1)) by its series; the argument
 * is below 0.172, so 11 terms leave less than 1e-17. */
static double fixed_log(double x)
{
    union { double f; uint64_t u; } b = { .f = x };
    int k = (int)(b.u >> 52) - 1023;
    b.u = (b.u & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    if (b.f > 1.4142135623730951) b.f *= 0.5, k++;
    double z = (b.f - 1.0) / (b.f + 1.0), zz = z * z, s = 0.0;
    for (int i = 21; i >= 1; i -= 2) {
        s = s * zz;
        s = s + 1.0 / i;
    }
    double hi = (double)k * 0.6931471805599453, lo = 2.0 * z;
    lo = lo * s;
    return hi + lo;
}

row_stats row_stats_of(const vec_ops *v, const float *logits, uint32_t V)
{
    row_stats r = { .max = v->max(logits, V) };
    float xs, sum = v->exp_stats(logits, V, r.max, &xs); /* sum >= 1: the largest one gives exp(0) */
    double ln = sum > 0 && sum < 1e30f ? fixed_log((double)sum) : 0.0;
    r.lse = (float)((double)r.max + ln);
    r.entropy = (float)(ln - (double)xs / (double)sum);
    return r;
}
