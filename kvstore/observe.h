#ifndef KVSTORE_OBSERVE_H
#define KVSTORE_OBSERVE_H
/* What attention leaves behind for the scores, and the one promise about it: only committed rows count, and nothing depends on
 * chunks, threads or stages. Column sums are therefore integers (2^32 = weight 1): integer addition has no order.
 *
 * When a row attends, what it saw goes to a lane of its own; when a commit names it, its lane is added to the sequence; when it
 * is dropped, its lane is forgotten. Prompt rows but the last of a prompt share one lane, since they are committed together.
 *
 * The driver, on a commit that reaches the prompt's end or a multiple of KV_INTERVAL rows (settle.c), a layer at a time:
 *     lanes -> sums, last, queries, entropy        (observe)
 *     rows -> kv_layer_view -> kv_decide           (score, budget, select, merge, prune: kvstore/policy/)
 *     keep lists -> panes                          (encode)
 * and at every step: kv_append; in a selecting layer kv_attend of all rows, else of the rows chosen there; lane. */
#include <stdint.h>

/* One weight as an integer; p in [0, 1]. */
static inline uint64_t kv_fixed(float p) { return (uint64_t)((double)p * 4294967296.0); }
static inline float kv_unfixed(uint64_t s) { return (float)((double)s * 0x1p-32); }
#endif
