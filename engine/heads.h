#ifndef ENGINE_HEADS_H
#define ENGINE_HEADS_H
/* What the attention heads of one layer look at in one window of tokens: weights computed again, in full, from queries and keys that
 * were watched (engine/forward.h). For calibration: it is exact and slow, and refuses to be a kernel. One thread. */
#include "core/vec.h"
#include "engine/model.h"

typedef struct heads heads;
/* n_ctx: tokens of a window at most. */
err_code heads_open(heads **out, const model_shape *s, isa i, uint32_t n_ctx, err *e);
void heads_close(heads **h);
/* A layer of a window whose row i has position i: q [T][H*d], k, v [T][K*d] before RoPE; kept as copies, turned. */
void heads_load(heads *h, uint32_t layer, uint32_t T, const float *q, const float *k, const float *v);
uint32_t heads_rows(const heads *h);

/* Softmax weights of query row i of query head `head` over rows [0, i] -> a [i+1]; 0 where a local layer does not look. */
void heads_row(heads *h, uint32_t head, uint32_t i, float *a);
/* The same for row i as if of the rows before `from` only those with keep[j] != 0 were there; rows [from, i] all are. */
void heads_row_kept(heads *h, uint32_t head, uint32_t i, const uint8_t *keep, uint32_t from, float *a);
/* out [d] = sum of a[j] v[j]. */
void heads_mix(const heads *h, uint32_t head, uint32_t n, const float *a, float *out);

/* RazorAttention, arXiv:2407.15891, on a window of one token and then copies of `period` random ones: for query rows behind the first
 * copy the attention that goes to the same token in earlier copies (echo) and to the ones behind those (induction), summed over
 * copies, meant over rows. A kv head has the best of its query heads: out [K]. */
void heads_copy_scores(heads *h, uint32_t period, float *echo, float *induction);

/* Attention that row j gets from rows behind it, all query heads added up: of [T]. */
void heads_received(heads *h, double *of);

/* How much an error in row j's key and value hurts what attention gives, for kv head k:
 *   |d out_i / d v_j|^2 = a_ij^2,   |d out_i / d (q_i k_j)|^2 = a_ij^2 |v_j - out_i|^2,
 * summed over query rows and the group's query heads: added to of_v [T], of_k [T]. Stands in for the Fisher information of
 * arXiv:2401.18079 section 3.3, which needs a backward pass: it ends at the layer's attention and not at the loss. */
void heads_sensitivity(heads *h, uint32_t kv_head, double *of_k, double *of_v);
#endif
