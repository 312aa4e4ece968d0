#ifndef CLI_SAMPLES_H
#define CLI_SAMPLES_H
/* Measured numbers and what is said of them. Start with {0}. One thread. */
#include <stdbool.h>
#include <stddef.h>

typedef struct { double *at; size_t n, cap; bool sorted; } samples;

/* false: out of memory. */
bool samples_add(samples *s, double x);
void samples_free(samples *s);
/* All are 0 when there are no samples. sd: of the sample, n - 1 in the denominator (0 for one). */
double samples_mean(const samples *s);
double samples_sd(const samples *s);
/* q in [0, 1], between neighbours linear (type 7 of Hyndman and Fan 1996); sorts them. 0.5 is the median. */
double samples_quantile(samples *s, double q);
#endif
