#include "workers/stage/shard.h"
#include "workers/stage/kept.h"
#include <stdlib.h>
#include <string.h>

static err_code check_plan(const gguf *g, const msg_plan *p, err *e)
{
    if (strcmp(p->digest, gguf_digest(g)))
        return err_set(e, ERR_MODEL, "plan wants model %s, %s is %s", p->digest, gguf_path(g), gguf_digest(g));
    if (p->kv_format >= KV_FORMAT_COUNT) return err_set(e, ERR_CONFIG, "plan wants KV format %u", (unsigned)p->kv_format);
    if (p->prompt_path >= PATH_COUNT || p->decode_path >= PATH_COUNT)
        return err_set(e, ERR_CONFIG, "plan wants paths %u and %u, this stage has %u", (unsigned)p->prompt_path,
                       (unsigned)p->decode_path, PATH_COUNT);
    if (p->adapter) return err_set(e, ERR_CONFIG, "plan wants adapter %u, this stage has none", (unsigned)p->adapter);
    return ERR_OK;
}

static err_code open_store(shard_state *s, isa i, err *e)
{
    if (s->plan.first == s->plan.last) return ERR_OK;
    kv_geometry g = forward_kv(&s->model->shape, (uint32_t)s->plan.first, (uint32_t)s->plan.last);
    g.format = (kv_format)s->plan.kv_format;
    g.n_ctx = (uint32_t)s->plan.n_ctx;
    g.max_bytes = s->plan.kv_max_bytes;
    g.prefix_bytes = s->plan.prefix_bytes;
    g.isa = i;
    g.tables = profile_kv_tables(s->tables);
    return kv_open(&s->store, &g, e);
}

static err_code open_tables(shard_state *s, const profile *prof, err *e)
{
    const msg_plan *p = &s->plan;
    if (!p->profile[0] || p->first == p->last) return ERR_OK;
    if (!prof || strcmp(p->profile, profile_digest(prof)))
        return err_set(e, ERR_CONFIG, "plan wants profile %s, this stage has %s", p->profile, prof ? profile_digest(prof) : "none");
    return profile_kv_open(&s->tables, prof, &s->model->shape, (uint32_t)p->first, (uint32_t)p->last, e);
}

static err_code open_scratch(shard_state *s, err *e)
{
    size_t n = s->plan.max_rows;
    s->rows = malloc(n * sizeof *s->rows);
    s->kv_rows = malloc(n * sizeof *s->kv_rows);
    s->fwd = malloc(n * sizeof *s->fwd);
    s->slots = malloc(n * sizeof *s->slots);
    s->ids = malloc(n * sizeof *s->ids);
    if (!s->rows || !s->kv_rows || !s->fwd || !s->slots || !s->ids)
        return err_set(e, ERR_NOMEM, "out of memory for steps of %zu rows", n);
    return ERR_OK;
}

err_code shard_open(shard_state **out, const gguf *g, const pack_file *packed, const profile *prof, const msg_plan *plan, pool *p, isa i, err *e)
{
    *out = NULL;
    err_code rc = check_plan(g, plan, e);
    if (rc) return rc;
    shard_state *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    s->id = (uint32_t)plan->model;
    s->plan = *plan;
    s->masks = (masks){ .first = (uint32_t)plan->first, .last = (uint32_t)plan->last };
    s->pools.layers = (uint32_t)(plan->last - plan->first);
    s->early.depth = (uint32_t)plan->in_flight;
    shard part = { (uint32_t)plan->first, (uint32_t)plan->last, plan->embed, plan->head };
    rc = model_open_packed(&s->model, g, packed, part, e);
    if (!rc) rc = open_tables(s, prof, e);
    if (!rc && prof) rc = stand_ins_open(&s->stand, prof, &s->model->shape, part.first, part.last, e);
    if (!rc) s->pools.D = s->model->shape.D;
    if (!rc) rc = open_store(s, i, e);
    if (!rc) rc = runner_open(&s->runner, s->model, s->store, p, i, (uint32_t)plan->max_rows, e);
    if (!rc) runner_stand_ins(s->runner, s->stand);
    if (!rc) rc = open_scratch(s, e);
    if (!rc) rc = kept_open(&s->kept, (uint32_t)plan->in_flight, (size_t)plan->max_rows * s->model->shape.D, e);
    if (rc) shard_close(&s);
    *out = s;
    return rc;
}

void shard_close(shard_state **sp)
{
    shard_state *s = *sp;
    if (!s) return;
    runner_close(&s->runner);
    stand_ins_close(&s->stand);
    adapters_free(&s->adapters);
    masks_free(&s->masks);
    pools_free(&s->pools);
    early_free(&s->early);
    kept_close(&s->kept);
    if (s->store) kv_close(&s->store);
    profile_kv_close(&s->tables);
    model_close(&s->model);
    void *mem[] = { s->rows, s->kv_rows, s->fwd, s->slots, s->ids };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    free(s);
    *sp = NULL;
}

uint64_t shard_row_bytes(const shard_state *s)
{
    const model_shape *m = &s->model->shape;
    uint64_t elem = s->plan.kv_format == KV_F32 ? 4 : 2;
    return (s->plan.last - s->plan.first) * 2 * m->K * m->d * elem;
}
