#ifndef KVSTORE_TILE_H
#define KVSTORE_TILE_H
/* The two products of attention for a tile: several queries (heads of a group, rows of a prompt) and rows of one page, which
 * were turned to f32 once for all of them. The order is core/vec.h's: a dot goes to 16 virtual lanes and one tree, a weighted
 * sum is a chain of FMAs over rows ascending, so the bits are those of one query alone. Refuses to know pages and sequences.
 * Any thread; no state. */
#include "core/vec.h"

enum { TILE_FOUR = 4 };        /* queries of a call: as many as share loads in registers */

typedef struct tile_ops {
    /* score[i * stride + j] = q[i] . k[j] for i < nq <= 4; q [4][d], k [n][d]. Both nq and n may be rounded up to 4: all of q
     * and k is there, and the scores behind are written too. */
    void (*dots)(const vec_ops *v, const float *q, uint32_t nq, const float *k, uint32_t n, uint32_t d, float *score,
                 size_t stride);
    /* acc[i][.] = fma(p[i * stride + j], v[j][.], acc[i][.]) for j < n ascending, v [n][d]; nq as above. */
    void (*sums)(const vec_ops *v, const float *p, size_t stride, uint32_t nq, const float *rows, uint32_t n, uint32_t d,
                 float *const acc[4]);
} tile_ops;

extern const tile_ops tile_any, tile_avx512vnni;    /* the last one: x86-64 only, and d a multiple of 16 */
const tile_ops *tile_for(isa i, uint32_t d);
#endif
