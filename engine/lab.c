#include "engine/lab.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 512, THREADS_MAX = 256, OWN_SEQUENCE = 1 };

struct lab {
    lab_options o;
    model *m;
    kv *store;
    pool *team;
    runner *run;
    isa use;
    float *h;                  /* [max_rows][D] */
    forward_row *rows;         /* [max_rows] */
    kv_row *ids;
    uint32_t *slots;
};

static uint32_t threads_given(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static err_code open_model(lab *l, const gguf *g, err *e)
{
    model_shape s;
    err_code rc = model_shape_read(&s, g, e);
    if (rc) return rc;
    pack_file *p = l->o.pack.on ? pack_open(g, &l->o.pack, l->o.threads, NULL) : NULL;
    rc = model_open_packed(&l->m, g, p, (shard){ 0, s.L, true, true }, e);
    pack_close(&p);
    return rc;
}

static err_code open_store(lab *l, err *e)
{
    kv_geometry g = forward_kv(&l->m->shape, 0, l->m->shape.L);
    g.format = l->o.format;
    g.n_ctx = l->o.n_ctx;
    g.max_bytes = l->o.kv_bytes;
    g.isa = l->use;
    g.tables = l->o.tables;
    return kv_open(&l->store, &g, e);
}

static err_code open_scratch(lab *l, err *e)
{
    uint32_t n = l->o.max_rows;
    l->h = calloc((size_t)n * l->m->shape.D, sizeof *l->h);
    l->rows = calloc(n, sizeof *l->rows);
    l->ids = calloc(n, sizeof *l->ids);
    l->slots = calloc(n, sizeof *l->slots);
    return l->h && l->rows && l->ids && l->slots ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for steps of %u rows", n);
}

err_code lab_open(lab **out, const gguf *g, const lab_options *o, err *e)
{
    *out = NULL;
    lab *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "out of memory");
    l->o = *o;
    if (!l->o.threads) l->o.threads = threads_given();
    if (!l->o.max_rows) l->o.max_rows = ROWS;
    err_code rc = isa_pick(&l->use, e);
    if (!rc) rc = open_model(l, g, e);
    if (!rc && !l->o.n_ctx) l->o.n_ctx = l->m->shape.n_ctx;
    if (!rc) rc = open_store(l, e);
    if (!rc) rc = pool_open(&l->team, l->o.threads, NULL, NULL, e);
    if (!rc) rc = runner_open(&l->run, l->m, l->store, l->team, l->use, l->o.max_rows, e);
    if (!rc) rc = open_scratch(l, e);
    if (rc) {
        lab_close(&l);
        return rc;
    }
    *out = l;
    return ERR_OK;
}

void lab_close(lab **lp)
{
    lab *l = *lp;
    if (!l) return;
    runner_close(&l->run);
    pool_close(&l->team);
    kv_close(&l->store);
    model_close(&l->m);
    free(l->h);
    free(l->rows);
    free(l->ids);
    free(l->slots);
    free(l);
    *lp = NULL;
}

const model_shape *lab_shape(const lab *l) { return &l->m->shape; }
const model *lab_model(const lab *l) { return l->m; }
kv *lab_store(lab *l) { return l->store; }
runner *lab_runner(lab *l) { return l->run; }
pool *lab_pool(lab *l) { return l->team; }
isa lab_isa(const lab *l) { return l->use; }
uint32_t lab_ctx(const lab *l) { return l->o.n_ctx; }

err_code lab_fresh(lab *l, kv_seq **out, err *e)
{
    kv_seq_close(l->store, OWN_SEQUENCE);
    return kv_seq_open(l->store, OWN_SEQUENCE, out, e);
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static err_code check(const lab *l, const kv_seq *q, const uint32_t *ids, uint32_t n, err *e)
{
    uint32_t have = kv_rows(q);
    if (n > l->o.n_ctx || have > l->o.n_ctx - n)
        return err_set(e, ERR_INPUT, "%u tokens behind %u, and the context has %u", n, have, l->o.n_ctx);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= l->m->shape.V) return err_set(e, ERR_INPUT, "token id %u of a vocabulary of %u", ids[i], l->m->shape.V);
    return ERR_OK;
}

static err_code step(lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, lab_rows *fn, void *arg, err *e)
{
    uint32_t have = kv_rows(q), last = kv_last_row(q), row = last == KV_ROW_NONE ? 0 : last + 1;
    for (uint32_t i = 0; i < n; i++)
        l->ids[i] = (kv_row){ .row = row + i, .pos = have + i, .parent = i ? row + i - 1 : KV_ROW_NONE, .path = (uint8_t)l->o.path };
    err_code rc = kv_reserve(q, l->ids, n, l->slots, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n; i++) l->rows[i] = (forward_row){ .seq = q, .slot = l->slots[i], .path = l->o.path, .ends = !fn };
    runner_embed(l->run, ids, n, l->h);
    runner_layers(l->run, l->rows, n, l->h);
    if (fn) rc = fn(arg, have, n, l->h, e);
    return rc ? rc : kv_commit(q, row + n - 1, e);
}

err_code lab_feed(lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, lab_rows *fn, void *arg, err *e)
{
    err_code rc = check(l, q, ids, n, e);
    for (uint32_t at = 0, k; !rc && at < n; at += k) {
        uint32_t room = kv_boundary(q) - kv_rows(q);
        k = n - at < l->o.max_rows ? n - at : l->o.max_rows;
        if (k > room) k = room;
        if (!k) return err_set(e, ERR_STATE, "a sequence that watches its prompt takes no row behind it");
        rc = step(l, q, ids + at, k, fn, arg, e);
    }
    return rc;
}

const float *lab_logits(lab *l, const float *h, uint32_t n, row_stats *stats)
{
    uint32_t pick[RUNNER_HEAD_ROWS];
    forward_row rows[RUNNER_HEAD_ROWS];
    if (n > RUNNER_HEAD_ROWS) n = RUNNER_HEAD_ROWS;
    for (uint32_t i = 0; i < n; i++) {
        pick[i] = i;
        rows[i] = (forward_row){ .path = l->o.path };
    }
    return runner_head(l->run, h, pick, rows, n, stats);
}
