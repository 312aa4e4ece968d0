#ifndef KVSTORE_LOOK_H
#define KVSTORE_LOOK_H
#include <stdint.h>

/* How a row looks at the others; all zero is plain causal attention. Layer l is "local" when window > 0 and l + 1 is no
 * multiple of global_every (global_every 0: every layer is). A row of a local layer sees the last `window` rows of its dense
 * order, itself included, and no others are read; reductions run over the rows seen. */
typedef struct {
    float scale;               /* on q.k; 0: 1/sqrt(d) */
    float soft_cap;            /* > 0: s = cap tanh(s / cap) after the scale, arXiv:2408.00118 section 2 */
    uint32_t window, global_every;
    float local_base;          /* > 0: local layers rotate by this base, unscaled; 0: as the others */
} kv_look;
#endif
