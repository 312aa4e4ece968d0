/* The driver of a settlement: a layer at a time, so that what one layer gives back is there for the next. */
#include "kvstore/settle.h"
#include "kvstore/skip.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A budget is shared out among the layers that have rows. */
static uint32_t rank_of(const kv_seq *q, uint32_t layer)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < layer; l++) n += !q->skips || q->skips->from[l] > 0;
    return n;
}

static kv_layer_view layer_view(const settlement *w)
{
    const kv *s = w->q->store;
    const kv_tables *t = s->g.tables;
    bool local = s->rope_local.cos && kv_is_local(s, w->layer);
    uint32_t layers = s->g.n_layers ? s->g.n_layers : s->g.last;
    kv_layer_view v = { .policy = &w->q->lossy->policy, .layer = w->layer, .layers = layers, .active = w->q->skips ? w->q->skips->active : layers,
                        .rank = rank_of(w->q, w->layer),
                        .heads = s->g.K, .vec = s->vec, .head = w->view, .seen = w->q->cells.committed, .prompt_end = w->prompt_end,
                        .rope = local ? &s->rope_local : &s->rope, .neox = s->g.rope.neox,
                        .scale = s->g.look.scale > 0 ? s->g.look.scale : 1.0f / sqrtf((float)s->g.d),
                        .layer_error = 1.0f / (float)layers, .used = w->q->cells.committed, .budget = s->g.n_ctx };
    if (t && t->layer_error) v.layer_error = t->layer_error[w->layer];
    if (t && t->semantic && w->layer >= t->first && w->layer < t->last)
        v.semantic = t->semantic + 4 * (size_t)(w->layer - t->first);
    return v;
}

static void keep_all(settlement *w)
{
    for (uint32_t k = 0; k < w->q->store->g.K; k++) {
        kv_keep *to = &w->head[k].keep;
        for (to->n_keep = 0; to->n_keep < w->head[k].view.n; to->n_keep++) to->keep[to->n_keep] = to->n_keep;
    }
}

static err_code decide(settlement *w, err *e)
{
    for (uint32_t k = 0; k < w->q->store->g.K; k++) {
        w->view[k] = w->head[k].view;
        w->keep[k] = w->head[k].keep;
    }
    kv_layer_view v = layer_view(w);
    float *scratch = malloc((kv_decide_floats(&v) + 1) * sizeof *scratch);
    if (!scratch) return err_set(e, ERR_NOMEM, "out of memory for the scores of %u rows", v.seen);
    kv_decide(&v, w->keep, scratch);
    free(scratch);
    for (uint32_t k = 0; k < w->q->store->g.K; k++) w->head[k].keep = w->keep[k];
    return ERR_OK;
}

/* Channels that stay, for good: the first settlement with a decision about them. Every head drops as many. */
static err_code prune(settlement *w, err *e)
{
    kv_lossy *y = w->q->lossy;
    const kv *s = w->q->store;
    uint32_t gone = w->head[0].keep.n_drop, d = s->g.d;
    if (!gone || gone >= d) return ERR_OK;
    if (!y->channel) {
        y->channel = calloc((size_t)lossy_units(s) * (d - gone), sizeof *y->channel);
        if (!y->channel) return err_set(e, ERR_NOMEM, "out of memory for the channels of %u heads", lossy_units(s));
        y->d_pruned = d - gone;
        err_code rc = lossy_codes(w->q, e);
        if (rc) return rc;
    }
    for (uint32_t k = 0; k < s->g.K; k++) {
        uint16_t *to = y->channel + ((size_t)(w->layer - s->g.first) * s->g.K + k) * y->d_pruned;
        for (uint32_t c = 0, n = 0; c < d && n < y->d_pruned; c++)
            if (!w->head[k].keep.drop[c]) to[n++] = (uint16_t)c;
    }
    return ERR_OK;
}

static err_code settle_layer(settlement *w, err *e)
{
    err_code rc = settle_view(w, e);
    if (!rc && w->all) rc = decide(w, e);
    else if (!rc) keep_all(w);
    if (!rc && w->all) rc = prune(w, e);
    /* What a settlement gives back is what it needs: raw rows of a layer lie in the view, so their pages go first. */
    if (!rc) table_drop_layer(&w->q->table, &w->q->store->pages, w->layer - w->q->store->g.first);
    for (uint32_t k = 0; !rc && k < w->q->store->g.K; k++) rc = settle_pack(w, k, e);
    free(w->mem);
    w->mem = NULL;
    return rc;
}

static err_code scratch(settlement *w, err *e)
{
    kv *s = w->q->store;
    if (!s->work) s->work = malloc(sizeof *s->work);
    w->pack = s->work;
    w->rows = malloc((size_t)PANE_ROWS * pane_ld(s->g.d) * sizeof *w->rows);
    w->tmp = malloc(((size_t)w->q->lossy->see.stride + 1) * sizeof *w->tmp);
    return w->pack && w->rows && w->tmp ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a settlement");
}

err_code lossy_settle(kv_seq *q, bool prompt_end, err *e)
{
    settlement w = { .q = q, .prompt_end = prompt_end };
    err_code rc = scratch(&w, e);
    for (w.layer = q->store->g.first; !rc && w.layer < q->store->g.last; w.layer++)
        if (!skips_absent(q, w.layer)) rc = settle_layer(&w, e);
    free(w.rows);
    free(w.tmp);
    if (rc) return rc;
    table_empty(&q->table);
    q->base = q->cells.committed;
    observe_settled(&q->lossy->see, lossy_boundary(q->lossy, q->base));
    return ERR_OK;
}
