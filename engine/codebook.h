#ifndef ENGINE_CODEBOOK_H
#define ENGINE_CODEBOOK_H
/* From many numbers to a few that stand for them: thresholds and codebooks of KVQuant, arXiv:2401.18079. Owns the sums that a pass
 * over a text leaves behind; refuses to know where the numbers come from. Plain memory without pointers, so that it can be
 * written to a file and go on. Pure; any thread. */
#include "core/err.h"
#include <stddef.h>
#include <stdint.h>

/* ---- thresholds: exact quantiles near both ends of a stream ----
 * For each channel the `most` smallest and the `most` largest values are kept (heaps). */
typedef struct { uint32_t channels, most; } tails;
/* Memory that goes with it, zeroed at the start. */
size_t tails_bytes(tails t);
/* x [channels]: the seen-th row (0, 1, ...). */
void tails_add(tails t, void *mem, const float *x, uint64_t seen);
/* Values that are kept at each end so that quantile p of `rows` rows is exact. */
uint32_t tails_most(uint64_t rows, double p);
/* Quantiles p and 1 - p of each channel after `rows` rows, between neighbours as numpy does. Orders the heaps: the memory cannot
 * be added to afterwards. */
void tails_quantiles(tails t, void *mem, uint64_t rows, double p, float *lo, float *hi);

/* ---- codebooks: weighted k-means of numbers in [-1, 1] ---- */
enum { CODEBOOK_BINS = 4096 };
/* Bins of equal width; a bin stands for the mean of what fell into it. Plain counts beside the weights, for Q-Norm. */
typedef struct {
    double weight[CODEBOOK_BINS], sum[CODEBOOK_BINS];       /* of weight, of weight * x */
    double count[CODEBOOK_BINS], plain[CODEBOOK_BINS];      /* of 1, of x */
    double squares;                                         /* of x * x */
} codebook_sums;
/* NaN and weights that are not positive are left out; beyond [-1, 1] is its end. */
void codebook_add(codebook_sums *s, float x, double weight);
/* The `size` (2..16) ascending values with the least weighted squared distance to the bins' means: the optimum itself, by dynamic
 * programming, so no start value matters. Where there are fewer different numbers the last one is repeated; with none at all the
 * book is an even grid. ERR_NOMEM. */
err_code codebook_fit(const codebook_sums *s, uint32_t size, float *book, err *e);
/* Weighted mean squared distance of the bins' means from their nearest value of the book. */
double codebook_error(const codebook_sums *s, const float *book, uint32_t size);
/* Q-Norm, section 3.5: out {scale, offset} such that the rounded numbers, scaled and moved, have mean and deviation of the numbers. */
void codebook_norm(const codebook_sums *s, const float *book, uint32_t size, float out[2]);
#endif
