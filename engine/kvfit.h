#ifndef ENGINE_KVFIT_H
#define ENGINE_KVFIT_H
/* Learns the maps of engine/kvmap.h: for every layer and side a ridge regression with bias, by normal equations in f64 that
 * are added up batch after batch, so that memory depends on the models and not on the text. lambda is relative to the mean
 * variance of an input, chosen by the error on held-out rows; the map is then solved over all rows. The bias is the last
 * input, always 1 and not penalised. Two layers with the same inputs share their Gram matrix, unless rows have weights.
 *
 * Two other objectives. L1: sum over rows of |y - W x|_2, by iteratively reweighted least squares: every row counts 1 / max(|r|, floor)
 * where r is what the map before left of it (a weight an output would want a Gram matrix an output). The text is read once more for every
 * reweighting. Rank: of the ridge solution W, what lies in the directions of the outputs in which its fit varies most, V V'W with V
 * the first eigenvectors of the covariance of W x (reduced-rank regression, Izenman 1975). It is stored as the full matrix: applying
 * it is one product as before, and costs as much.
 *
 * Owns sums and solutions; refuses to run a model or to write a file. One thread at a time in the whole process: the BLAS has state. */
#include "engine/kvmap.h"

typedef struct kvfit kvfit;

typedef struct {
    bool weighted;    /* rows are going to have weights, or to be reweighted */
    uint32_t rank;    /* of a map at most; 0, or as many as outputs: full */
} kvfit_how;

/* Bytes that fitting base layers [l0, l1) takes. */
uint64_t kvfit_bytes(const kvmap_shape *s, kvfit_how how, uint32_t l0, uint32_t l1);
/* The most layers from l0 on whose fit takes at most `bytes`; at least one. Returns one past the last. */
uint32_t kvfit_fits(const kvmap_shape *s, kvfit_how how, uint32_t l0, uint64_t bytes);

err_code kvfit_open(kvfit **out, const kvmap_shape *s, kvfit_how how, uint32_t l0, uint32_t l1, err *e);
void kvfit_close(kvfit **f);
/* Rows [from, T) of a step of both models over the same tokens, as their runners laid them down (runner_listen; max_rows: those
 * runners'). held: they choose lambda. weight [l1 - l0][max_rows]: how much each row counts in each layer, at least 0; NULL: 1. */
void kvfit_add(kvfit *f, const runner_tap *aux, const runner_tap *base, uint32_t max_rows, uint32_t from, uint32_t T, bool held, const float *weight);
/* All rows are in: what the maps of now leave of a row decides how much it counts from now on. The same rows are to be added again.
 * Errors as of kvfit_solve. */
err_code kvfit_again(kvfit *f, err *e);

typedef struct {
    double lambda;
    double error;    /* sum of squared errors on held-out rows / their variance around the mean: 0 perfect, 1 no better than the mean;
                        rows weighted as by kvfit_add; behind kvfit_again that of the first map, since rows that count less the more
                        they err say little of errors */
    uint64_t rows;   /* that the map was solved over */
} kvfit_note;
/* w [out][kvmap_width], b [out]. ERR_INPUT: no rows, or none held out; ERR_STATE: no lambda makes the equations solvable. */
err_code kvfit_solve(kvfit *f, uint32_t layer, int side, float *w, float *b, kvfit_note *note, err *e);
#endif
