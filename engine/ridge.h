#ifndef ENGINE_RIDGE_H
#define ENGINE_RIDGE_H
/* What the ridge regressions of engine/kvfit.c and engine/stand_fit.c measure lambda in. Any thread. */
#include <stddef.h>
#include <stdint.h>

/* Sum of squares of an input about its mean, mean over the inputs; xx [P][P]: X'X, of which the last of P inputs is always 1. */
static inline double ridge_unit(const double *xx, uint32_t P)
{
    double n = xx[(size_t)P * P - 1], sum = 0;
    for (uint32_t i = 0; i + 1 < P; i++) {
        double mean = xx[(size_t)i * P + P - 1] / n;
        sum += xx[(size_t)i * P + i] / n - mean * mean;
    }
    return P > 1 ? sum * n / (P - 1) : 0;
}
#endif
