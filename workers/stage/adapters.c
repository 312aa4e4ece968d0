/* Which session uses which adapter, and the files behind them. Refuses to read a file that is not what the job was given. */
#include "workers/stage/adapters.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static adapter_use *find(const adapters *a, uint64_t session)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->use[i].session == session) return &a->use[i];
    return NULL;
}

static err_code add_use(adapters *a, const adapter_use *u, err *e)
{
    if (find(a, u->session)) return err_set(e, ERR_STATE, "session %" PRIu64 " has its adapter already", u->session);
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 16;
        adapter_use *more = realloc(a->use, cap * sizeof *more);
        if (!more) return err_set(e, ERR_NOMEM, "out of memory for the adapters of %u sessions", a->n);
        a->use = more;
        a->cap = cap;
    }
    a->use[a->n++] = *u;
    a->slot[u->slot].users++;
    return ERR_OK;
}

/* ---- from the file ------------------------------------------------------------------------------------------------ */

static err_code check_digest(const gguf *g, const char *want, err *e)
{
    char got[33];
    err_code rc = lora_digest(g, got, e);
    if (rc || !strcmp(got, want)) return rc;
    return err_set(e, ERR_MODEL, "%s: the job's adapter has digest %s, the file here %s", gguf_path(g), want, got);
}

static err_code load(adapters *a, uint32_t i, const model *m, const adapter_want *w, err *e)
{
    gguf *g;
    err_code rc = gguf_open(&g, w->path, e);
    if (rc) return rc;
    rc = check_digest(g, w->digest, e);
    if (!rc) rc = lora_open(&a->slot[i].lora, g, &m->shape, m->part, e);
    gguf_close(&g);
    if (rc) return rc;
    snprintf(a->slot[i].digest, sizeof a->slot[i].digest, "%s", w->digest);
    LOG(LOG_INFO, "ADAPTER-LOADED", "digest=%s bytes=%" PRIu64 " file=\"%s\"", w->digest, lora_bytes(a->slot[i].lora), w->path);
    return ERR_OK;
}

static void free_slot(adapters *a, uint32_t i)
{
    if (a->slot[i].users) return;
    LOG(LOG_INFO, "ADAPTER-GONE", "digest=%s", a->slot[i].digest);
    lora_close(&a->slot[i].lora);
}

err_code adapters_take(adapters *a, const model *m, const adapter_want *w, err *e)
{
    uint32_t at = ADAPTERS_MAX, room = ADAPTERS_MAX;
    for (uint32_t i = ADAPTERS_MAX; i-- > 0;) {
        if (!a->slot[i].lora) room = i;
        else if (!strcmp(a->slot[i].digest, w->digest)) at = i;
    }
    if (at == ADAPTERS_MAX && room == ADAPTERS_MAX)
        return err_set(e, ERR_STATE, "%s: %u other adapters are in use", w->path, ADAPTERS_MAX);
    err_code rc = at == ADAPTERS_MAX ? load(a, at = room, m, w, e) : ERR_OK;
    if (rc) return rc;
    rc = add_use(a, &(adapter_use){ w->session, at, w->scale }, e);
    if (rc) free_slot(a, at);
    return rc;
}

/* ---- in use ------------------------------------------------------------------------------------------------------- */

err_code adapters_fork(adapters *a, uint64_t parent, uint64_t child, err *e)
{
    const adapter_use *u = find(a, parent);
    return u ? add_use(a, &(adapter_use){ child, u->slot, u->scale }, e) : ERR_OK;
}

const lora *adapters_of(const adapters *a, uint64_t session, float *scale)
{
    const adapter_use *u = find(a, session);
    *scale = u ? u->scale : 0;
    return u ? a->slot[u->slot].lora : NULL;
}

bool adapters_drop(adapters *a, uint64_t session)
{
    adapter_use *u = find(a, session);
    if (!u) return false;
    uint32_t i = u->slot;
    *u = a->use[--a->n];
    a->slot[i].users--;
    free_slot(a, i);
    return true;
}

uint64_t adapters_bytes(const adapters *a)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < ADAPTERS_MAX; i++)
        if (a->slot[i].lora) n += lora_bytes(a->slot[i].lora);
    return n;
}

void adapters_free(adapters *a)
{
    for (uint32_t i = 0; i < ADAPTERS_MAX; i++) lora_close(&a->slot[i].lora);
    free(a->use);
    *a = (adapters){ 0 };
}
