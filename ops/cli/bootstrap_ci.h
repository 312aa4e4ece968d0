#ifndef CLI_BOOTSTRAP_CI_H
#define CLI_BOOTSTRAP_CI_H
/* A 95 % interval of a mean by drawing items again (percentile bootstrap, Efron 1979): of paired differences when x holds those.
 * A pure function of its arguments. n 0 gives zeros. ERR_NOMEM. */
#include "core/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct { double mean, lo, hi; } interval;
err_code bootstrap_mean(const double *x, size_t n, uint64_t seed, interval *out, err *e);
#endif
