#ifndef WORKERS_STAGE_POOLS_H
#define WORKERS_STAGE_POOLS_H
/* Layer inputs of prompts, added up row by row, for sessions whose layers are chosen by what their prompt looks like. Sums only; the
 * runner adds. The stage's thread, and the runner's while a step is under way. */
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t session;
    uint32_t rows, seen;          /* the first so many rows are added up; one past the last that was */
    float *sum;                   /* [layers][D] */
} pool_use;
typedef struct pools {            /* {0} and the shard's shape to start */
    pool_use *use;                /* [n] */
    uint32_t n, cap, layers, D;
} pools;

/* ERR_STATE: the session is here already. rows 0: nothing happens. */
err_code pools_take(pools *a, uint64_t session, uint32_t rows, err *e);
pool_use *pools_find(const pools *a, uint64_t session);
/* One whose rows have all been seen; NULL: none. */
pool_use *pools_full(const pools *a);
bool pools_drop(pools *a, uint64_t session);
void pools_free(pools *a);
#endif
