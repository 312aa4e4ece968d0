#ifndef WORKERS_STAGE_MASKS_H
#define WORKERS_STAGE_MASKS_H
/* Which layers the sessions of a shard leave out. Sessions that leave out none are not here. Refuses a change that would have
 * concerned rows which are computed already. Knows no weights and no KV. The stage's thread only. */
#include "core/mask.h"

typedef struct {
    uint64_t session;
    layer_mask *mask;             /* owned */
    uint32_t idle;                /* first row that runs nothing in this shard, MASK_NEVER: every row does */
    uint32_t rows;                /* one past the last row seen */
} mask_use;
typedef struct masks {            /* {0} and the shard's layers to start */
    mask_use *use;                /* [n] */
    uint32_t n, cap, first, last;
} masks;

/* ERR_STATE: the session has one already. m is copied; one that leaves out nothing is not kept. */
err_code masks_take(masks *a, uint64_t session, const layer_mask *m, err *e);
/* NULL: it leaves out nothing. Valid until the next take, fork or drop. */
mask_use *masks_find(const masks *a, uint64_t session);
err_code masks_fork(masks *a, uint64_t parent, uint64_t child, err *e);
/* From now on `m`. ERR_STATE when rows that were computed would not follow it. */
err_code masks_change(masks *a, uint64_t session, const layer_mask *m, err *e);
bool masks_drop(masks *a, uint64_t session);
void masks_free(masks *a);
#endif
