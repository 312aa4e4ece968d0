#ifndef ENGINE_STAND_FIT_H
#define ENGINE_STAND_FIT_H
/* Fits the low rank that stands in for an FFN (engine/stand_in.h): reduced-rank ridge regression of what the FFN adds on its normed input, by
 * sums in f64 that belong to the caller, so that a calibration can be stopped between documents. lambda is relative to the mean variance of an
 * input, chosen on rows held out. Refuses to run a model. One thread at a time in the whole process: the BLAS has state. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Doubles of the sums of one layer, all 0 to begin with. */
size_t stand_fit_doubles(uint32_t D);
/* Rows x, y [n][D]. held: they choose lambda and say the error. ERR_NOMEM. */
err_code stand_fit_add(double *sums, uint32_t D, const float *x, const float *y, uint32_t n, bool held, err *e);

typedef struct {
    double lambda;
    double error;      /* squared error on held-out rows / their variance around the mean, by a map of this rank: 0 perfect, 1 no better than the mean */
} stand_note;
/* y ~ B (A x) + bias over all rows: a [rank][D], b [D][rank] (orthonormal columns), bias [D]. ERR_INPUT: no rows, or none held out;
 * ERR_STATE: LAPACK gave up. */
err_code stand_fit_solve(const double *sums, uint32_t D, uint32_t rank, float *a, float *b, float *bias, stand_note *note, err *e);
#endif
