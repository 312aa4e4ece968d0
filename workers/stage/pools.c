#include "workers/stage/pools.h"
#include <inttypes.h>
#include <stdlib.h>

pool_use *pools_find(const pools *a, uint64_t session)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->use[i].session == session) return &a->use[i];
    return NULL;
}

pool_use *pools_full(const pools *a)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->use[i].seen >= a->use[i].rows) return &a->use[i];
    return NULL;
}

err_code pools_take(pools *a, uint64_t session, uint32_t rows, err *e)
{
    if (!rows) return ERR_OK;
    if (pools_find(a, session)) return err_set(e, ERR_STATE, "session %" PRIu64 " has its sums already", session);
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 16;
        pool_use *more = realloc(a->use, cap * sizeof *more);
        if (!more) return err_set(e, ERR_NOMEM, "out of memory for the sums of %u sessions", cap);
        a->use = more;
        a->cap = cap;
    }
    float *sum = calloc((size_t)a->layers * a->D + 1, sizeof *sum);
    if (!sum) return err_set(e, ERR_NOMEM, "out of memory for the layer inputs of session %" PRIu64, session);
    a->use[a->n++] = (pool_use){ session, rows, 0, sum };
    return ERR_OK;
}

bool pools_drop(pools *a, uint64_t session)
{
    pool_use *u = pools_find(a, session);
    if (!u) return false;
    free(u->sum);
    *u = a->use[--a->n];
    return true;
}

void pools_free(pools *a)
{
    for (uint32_t i = 0; i < a->n; i++) free(a->use[i].sum);
    free(a->use);
    *a = (pools){ 0 };
}
