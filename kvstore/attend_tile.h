#ifndef KVSTORE_ATTEND_TILE_H
#define KVSTORE_ATTEND_TILE_H
/* Attention of rows that follow each other in one line, over raw pages: every page of K and V is turned to f32 once for all
 * heads of a group and all rows. Two passes over a page, and the scores between them: max, exponential and their sum keep the
 * fixed order of core/vec.h, which a running maximum would not. Behind kv_attend only. */
#include "kvstore/store.h"

enum {
    TILE_SCORES = 128 << 10,   /* floats of scores of a tile: they wait in the second-level cache */
    TILE_ROWS = 16,            /* rows of a tile at most: enough to forget the cost of turning a page to f32 */
};

/* Rows [slot, slot + n) of a sequence without a policy, whose rows up to slot + n - 1 are a line; query and out are those of
 * row `slot`, ldq and ldo floats from a row to the next; one kv head. */
void attend_tile(const kv_seq *q, uint32_t layer, uint32_t head, uint32_t slot, uint32_t n, const float *query, size_t ldq,
                 float *out, size_t ldo, float *scratch);
size_t attend_tile_floats(const kv *s);
/* Is what row `slot` sees the slots 0..slot? Then so it is for all before it. */
bool attend_is_line(const kv_seq *q, uint32_t slot);
/* Turn a vector by the position of its row; layer as in the model. */
void attend_rotate(const kv_seq *q, uint32_t layer, uint32_t slot, float *x);
#endif
