#include "ops/cli/samples.h"
#include <math.h>
#include <stdlib.h>

/* Owns lists of measured numbers. It measures nothing and prints nothing. */

bool samples_add(samples *s, double x)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        double *more = realloc(s->at, cap * sizeof *more);
        if (!more) return false;
        s->at = more;
        s->cap = cap;
    }
    s->at[s->n++] = x;
    s->sorted = false;
    return true;
}

void samples_free(samples *s)
{
    free(s->at);
    *s = (samples){ 0 };
}

double samples_mean(const samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += s->at[i];
    return s->n ? sum / (double)s->n : 0;
}

double samples_sd(const samples *s)
{
    double mean = samples_mean(s), sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += (s->at[i] - mean) * (s->at[i] - mean);
    return s->n > 1 ? sqrt(sum / (double)(s->n - 1)) : 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double samples_quantile(samples *s, double q)
{
    if (!s->n) return 0;
    if (!s->sorted) qsort(s->at, s->n, sizeof *s->at, ascending);
    s->sorted = true;
    double place = q * (double)(s->n - 1);
    size_t lo = (size_t)place, hi = lo + 1 < s->n ? lo + 1 : lo;
    return s->at[lo] + (place - (double)lo) * (s->at[hi] - s->at[lo]);
}
