#include "kvstore/settle.h"
#include <stdlib.h>
#include <string.h>

/* Does a decision need the rows that are packed already? */
static bool wants_all(const kv_policy *p) { return p->evicts || p->merge != KV_MERGE_NONE || p->prune != KV_PRUNE_NONE; }

static bool in_view(const settlement *w, const pane *p) { return w->all || p->code == CODE_WAIT; }

/* Memory is cut from one block; the first pass, without a block, counts. */
typedef struct { unsigned char *at; size_t used; } block;

static void *cut(block *b, size_t bytes)
{
    void *p = b->at ? b->at + b->used : NULL;
    b->used += (bytes + 63) / 64 * 64;
    return p;
}

static uint32_t rows_in_view(const settlement *w, uint32_t head)
{
    const shelf *h = shelf_of(w->q, w->layer, head);
    uint32_t n = w->q->cells.committed - w->q->base;
    for (uint32_t i = 0; i < h->panes; i++)
        if (in_view(w, &h->pane[i])) n += h->pane[i].alive;
    return n;
}

static void cut_head(settlement *w, block *b, uint32_t head)
{
    const kv *s = w->q->store;
    const kv_policy *p = &w->q->lossy->policy;
    uint32_t n = rows_in_view(w, head), d = s->g.d, g = s->g.H / s->g.K, m = p->see & KV_SEE_QUERIES ? p->window_queries : 0;
    size_t floats = (size_t)(n + 1) * sizeof(float), words = (size_t)(n + 1) * sizeof(uint32_t);
    kv_head_view v = { .n = n, .d = d, .g = g, .head = head, .alpha = 1 };
    settle_head h = { 0 };
    v.k = cut(b, floats * d);
    v.v = cut(b, floats * d);
    v.k_pre = cut(b, floats * d);
    v.weight = cut(b, floats);
    v.row = cut(b, words), v.pos = cut(b, words), v.segment = cut(b, words), v.provenance = cut(b, n + 1);
    v.fixed = cut(b, n + 1), v.fresh = cut(b, n + 1);
    v.sum = cut(b, floats), v.last = cut(b, floats), v.entropy = cut(b, floats);
    v.q_pre = cut(b, (size_t)m * g * d * sizeof(float)), v.q = cut(b, (size_t)m * g * d * sizeof(float));
    v.q_row = cut(b, m * sizeof(uint32_t));
    h.from = cut(b, (n + 1) * sizeof *h.from);
    h.stays = cut(b, n + 1);
    h.keep = (kv_keep){ .keep = cut(b, words), .tier = cut(b, n + 1), .touched = cut(b, n + 1), .drop = cut(b, d) };
    if (!b->at) return;
    h.view = v;
    w->head[head] = h;
}

static err_code make_room(settlement *w, err *e)
{
    uint32_t K = w->q->store->g.K;
    for (block b = { 0 };;) {
        w->head = cut(&b, K * sizeof *w->head);
        w->view = cut(&b, K * sizeof *w->view);
        w->keep = cut(&b, K * sizeof *w->keep);
        for (uint32_t k = 0; k < K; k++) cut_head(w, &b, k);
        if (b.at) return ERR_OK;
        b = (block){ w->mem = calloc(b.used, 1), 0 };
        if (!b.at) return err_set(e, ERR_NOMEM, "out of memory for %u rows that settle", w->q->cells.committed);
    }
}

/* ---- rotations ----------------------------------------------------------------------------------------------------- */

static const rope_table *rope_of(const settlement *w)
{
    const kv *s = w->q->store;
    return s->rope_local.cos && kv_is_local(s, w->layer) ? &s->rope_local : &s->rope;
}

static void turn(const settlement *w, uint32_t pos, float *x)
{
    const kv *s = w->q->store;
    const rope_table *t = rope_of(w);
    s->vec->rope(x, t->cos + (size_t)pos * t->half, t->sin + (size_t)pos * t->half, s->g.rope.n_rot, s->g.rope.neox);
}

/* The inverse: by the opposite angle, and without the table's magnitude squared. */
static void turn_back(const settlement *w, uint32_t pos, float *x)
{
    const kv *s = w->q->store;
    const rope_table *t = rope_of(w);
    const float *c = t->cos + (size_t)pos * t->half, *sn = t->sin + (size_t)pos * t->half;
    for (uint32_t i = 0; i < t->half; i++) {
        uint32_t a = s->g.rope.neox ? i : 2 * i, b = s->g.rope.neox ? i + t->half : 2 * i + 1;
        float size = c[i] * c[i] + sn[i] * sn[i], x1 = x[a], x2 = x[b];
        x[a] = (x1 * c[i] + x2 * sn[i]) / size;
        x[b] = (x2 * c[i] - x1 * sn[i]) / size;
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* One decoded row of the tile as attention sees it: turned back by Hadamard, on all channels, after RoPE. */
static void row_plain(const settlement *w, const pane_kind *k, uint32_t head, uint32_t pos, const float *tile, float *out)
{
    const kv_lossy *y = w->q->lossy;
    uint32_t d = w->q->store->g.d;
    if (k->d == d) {
        memcpy(out, tile, d * sizeof *out);
    } else {
        const uint16_t *channel = y->channel + ((size_t)(w->layer - w->q->store->g.first) * w->q->store->g.K + head) * k->d;
        memset(out, 0, d * sizeof *out);
        for (uint32_t c = 0; c < k->d; c++) out[channel[c]] = tile[c];
    }
    if (k->pack.hadamard) pane_hadamard(out, d);
    if (k->key && k->pack.kind == KV_PACK_NUQ) turn(w, pos, out);
}

static uint32_t pos_of(const settlement *w, uint32_t ord) { return ord == ORD_EXTRA ? 0 : w->q->cells.row[ord].pos; }

static void pane_rows(settlement *w, uint32_t head, uint32_t p, uint32_t first, uint32_t *at)
{
    float tile[PANE_ROWS * KV_MAX_D];
    const kv *s = w->q->store;
    const shelf *h = shelf_of(w->q, w->layer, head);
    const pane *x = &h->pane[p];
    settle_head *to = &w->head[head];
    for (int side = 0; side < KV_SIDES; side++) {
        pane_kind k = lossy_kind(w->q, w->layer, head, side, x->code);
        uint32_t i = *at;
        pane_decode(&s->reader, &k, pane_at(w->q, x, side), 0, x->n, tile);
        for (uint32_t r = 0; r < x->n; r++) {
            uint32_t entry = first + r, ord = shelf_ord(h, entry);
            if (h->weight && h->weight[entry] <= 0) continue;
            row_plain(w, &k, head, pos_of(w, ord), tile + (size_t)r * pane_ld(k.d),
                      (side == KV_SIDE_K ? to->view.k : to->view.v) + (size_t)i * s->g.d);
            to->from[i] = (settle_row){ p, entry, ord };
            to->view.weight[i++] = h->weight ? h->weight[entry] : 1;
        }
        if (side) *at = i;
    }
}

static void raw_rows(settlement *w, uint32_t head, uint32_t *at)
{
    const kv *s = w->q->store;
    const shelf *h = shelf_of(w->q, w->layer, head);
    settle_head *to = &w->head[head];
    for (uint32_t slot = 0; slot < w->q->cells.committed - w->q->base; slot++, (*at)++) {
        for (int side = 0; side < KV_SIDES; side++) {
            float *x = (side == KV_SIDE_K ? to->view.k : to->view.v) + (size_t)*at * s->g.d;
            const void *row = kv_row_at(w->q, w->layer, side, head, slot);
            if (s->g.format == KV_F16) s->vec->from_f16(x, row, s->g.d);
            else memcpy(x, row, s->layout.row);
        }
        to->from[*at] = (settle_row){ UINT32_MAX, h->rows + slot, w->q->base + slot };
        to->view.weight[*at] = 1;
        ((uint8_t *)to->view.fresh)[*at] = 1;
    }
}

static void identities(settlement *w, settle_head *h)
{
    const kv_policy *p = &w->q->lossy->policy;
    kv_head_view *v = &h->view;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t ord = h->from[i].ord;
        bool extra = ord == ORD_EXTRA;
        kv_row r = extra ? (kv_row){ 0 } : w->q->cells.row[ord];
        ((uint32_t *)v->row)[i] = ord;
        ((uint32_t *)v->pos)[i] = r.pos;
        ((uint16_t *)v->segment)[i] = r.segment;
        ((uint8_t *)v->provenance)[i] = r.provenance;
        ((uint8_t *)v->fixed)[i] = !extra && (ord < p->sinks || r.segment == KV_SEGMENT_SYSTEM);
    }
}

/* ---- what was observed --------------------------------------------------------------------------------------------- */

static void observations(settlement *w, settle_head *h)
{
    const kv *s = w->q->store;
    const observe *o = &w->q->lossy->see;
    kv_head_view *v = &h->view;
    size_t unit = (size_t)((w->layer - s->g.first) * s->g.K + v->head) * o->stride;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t at = h->from[i].entry;
        if (o->sum) ((float *)v->sum)[i] = kv_unfixed(o->sum[unit + at]);
        if (o->last) ((float *)v->last)[i] = kv_unfixed(o->last[unit + at]);
        if (o->entropy) ((float *)v->entropy)[i] = o->entropy[unit + at];
    }
    if (!o->sum) v->sum = NULL;
    if (!o->last) v->last = NULL;
    if (!o->entropy) v->entropy = NULL;
}

static void window(settlement *w, settle_head *h)
{
    const kv *s = w->q->store;
    const kv_lossy *y = w->q->lossy;
    kv_head_view *v = &h->view;
    uint32_t n = w->q->cells.committed, most = y->policy.window_queries, gd = v->g * v->d;
    for (uint32_t ord = n > most ? n - most : 0; (y->policy.see & KV_SEE_QUERIES) && ord < n; ord++) {
        const float *x = observe_query_of(&y->see, w->layer - s->g.first, ord);
        if (!x) continue;
        float *pre = (float *)v->q_pre + (size_t)v->w * gd, *post = (float *)v->q + (size_t)v->w * gd;
        memcpy(pre, x + (size_t)v->head * gd, gd * sizeof *pre);
        memcpy(post, pre, gd * sizeof *post);
        for (uint32_t i = 0; i < v->g; i++) turn(w, w->q->cells.row[ord].pos, post + (size_t)i * v->d);
        ((uint32_t *)v->q_row)[v->w++] = ord;
    }
}

static void profile(const settlement *w, kv_head_view *v)
{
    const kv *s = w->q->store;
    const kv_tables *t = s->g.tables;
    if (!t || w->layer < t->first || w->layer >= t->last) return;
    size_t at = (size_t)(w->layer - t->first) * s->g.K + v->head;
    if (t->local) v->local = t->local[at];
    if (t->alpha) v->alpha = t->alpha[at];
}

err_code settle_view(settlement *w, err *e)
{
    const kv_policy *p = &w->q->lossy->policy;
    w->all = wants_all(p);
    err_code rc = make_room(w, e);
    bool pre = kv_needs_pre(p) || p->k.kind == KV_PACK_NUQ || p->k2.kind == KV_PACK_NUQ;
    for (uint32_t k = 0; !rc && k < w->q->store->g.K; k++) {
        settle_head *h = &w->head[k];
        const shelf *old = shelf_of(w->q, w->layer, k);
        uint32_t at = 0;
        for (uint32_t i = 0, first = 0; i < old->panes; first += old->pane[i++].n)
            if (in_view(w, &old->pane[i])) pane_rows(w, k, i, first, &at);
        raw_rows(w, k, &at);
        identities(w, h);
        observations(w, h);
        window(w, h);
        profile(w, &h->view);
        if (pre) memcpy(h->view.k_pre, h->view.k, (size_t)h->view.n * h->view.d * sizeof(float));
        for (uint32_t i = 0; pre && i < h->view.n; i++)
            if (h->from[i].ord != ORD_EXTRA) turn_back(w, h->view.pos[i], h->view.k_pre + (size_t)i * h->view.d);
        if (!pre) h->view.k_pre = NULL;
    }
    return rc;
}
