#include "workers/stage/masks.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

mask_use *masks_find(const masks *a, uint64_t session)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->use[i].session == session) return &a->use[i];
    return NULL;
}

static err_code no_memory(uint64_t session, err *e) { return err_set(e, ERR_NOMEM, "out of memory for the mask of session %" PRIu64, session); }

err_code masks_take(masks *a, uint64_t session, const layer_mask *m, err *e)
{
    if (masks_find(a, session)) return err_set(e, ERR_STATE, "session %" PRIu64 " has its mask already", session);
    if (mask_is_none(m)) return ERR_OK;
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 16;
        mask_use *more = realloc(a->use, cap * sizeof *more);
        if (!more) return no_memory(session, e);
        a->use = more;
        a->cap = cap;
    }
    layer_mask *own = malloc(sizeof *own);
    if (!own) return no_memory(session, e);
    *own = *m;
    a->use[a->n++] = (mask_use){ session, own, mask_idle(own, a->first, a->last), 0 };
    return ERR_OK;
}

err_code masks_fork(masks *a, uint64_t parent, uint64_t child, err *e)
{
    const mask_use *u = masks_find(a, parent);
    if (!u) return ERR_OK;
    uint32_t rows = u->rows;
    err_code rc = masks_take(a, child, u->mask, e);
    if (!rc) a->use[a->n - 1].rows = rows;
    return rc;
}

err_code masks_change(masks *a, uint64_t session, const layer_mask *m, err *e)
{
    mask_use *u = masks_find(a, session);
    if (!u) return masks_take(a, session, m, e); /* whoever has rows here already says which: kv_skip looks at them too */
    err_code rc = mask_change(u->mask, m, u->rows, e);
    if (rc) return rc;
    *u->mask = *m;
    u->idle = mask_idle(m, a->first, a->last);
    return ERR_OK;
}

bool masks_drop(masks *a, uint64_t session)
{
    mask_use *u = masks_find(a, session);
    if (!u) return false;
    free(u->mask);
    *u = a->use[--a->n];
    return true;
}

void masks_free(masks *a)
{
    for (uint32_t i = 0; i < a->n; i++) free(a->use[i].mask);
    free(a->use);
    *a = (masks){ 0 };
}
