#ifndef ENGINE_LINFIT_H
#define ENGINE_LINFIT_H
/* Small linear models of few samples: principal components, ridge, logistic regression. All in f64 by LAPACK; matrices are row-major.
 * Refuses to know what the numbers are. Any thread. */
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>

/* The k directions in which x [n][d] varies most: mean [d], basis [k][d] so that (x - mean) basis^T has variance 1 in each (a direction
 * without variance is all zero). Solved in the smaller of n and d. ERR_NOMEM, ERR_STATE: LAPACK gave up. */
err_code linfit_components(const float *x, uint32_t n, uint32_t d, uint32_t k, double *mean, double *basis, err *e);

/* w [p], *b: min sum (y - w x - b)^2 + lambda n |w|^2. x [n][p]. */
err_code linfit_ridge(const double *x, const double *y, uint32_t n, uint32_t p, double lambda, double *w, double *b, err *e);
/* P(y = 1) = 1 / (1 + exp(-(w x + b))), the same penalty, by iteratively reweighted least squares. Labels all alike: w 0. */
err_code linfit_logistic(const double *x, const double *y, uint32_t n, uint32_t p, double lambda, double *w, double *b, err *e);
/* Chance that a sample of label 1 has a higher score than one of label 0; 0.5 when there is only one label. */
double linfit_auc(const double *score, const double *label, uint32_t n);
#endif
