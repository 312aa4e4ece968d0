/* Keep lists to panes. Panes that keep all their rows stay as they are, shared with forks; the others give their rows to new
 * ones, or, where a row cannot leave (a channel's scale belongs to all 32), keep evicted rows as dead ones until half are. */
#include "core/rope_math.h"
#include "kvstore/settle.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The shelf that is being made. */
typedef struct {
    settlement *w;
    settle_head *h;
    uint32_t head;
    const shelf *old;
    shelf to;
    uint32_t *entry;           /* [rows] where an observation was, UINT32_MAX: nowhere */
    uint32_t *loose;           /* view indices of rows to be packed, ascending */
    uint32_t n_loose;
    uint8_t *taken;            /* [old panes] 1: the page went to the new shelf */
    bool weights;              /* some row has a weight that is not 1 */
} packing;

static kv_lossy *lossy_of(const packing *p) { return p->w->q->lossy; }

/* ---- room ---------------------------------------------------------------------------------------------------------- */

/* At most one pane more than there were for each code, and one row more. */
static err_code shelf_room(packing *p, err *e)
{
    uint32_t rows = p->old->rows + p->h->view.n + 1, panes = p->old->panes + p->h->view.n / PANE_FEW + 2 * CODES + 1;
    bool ords = lossy_of(p)->policy.evicts || p->old->ord;
    p->to.pane = calloc(panes, sizeof *p->to.pane);
    if (ords) p->to.ord = malloc(rows * sizeof *p->to.ord);
    p->to.weight = malloc(rows * sizeof *p->to.weight);
    p->to.bias = malloc(rows * sizeof *p->to.bias);
    p->entry = malloc(rows * sizeof *p->entry);
    p->loose = malloc(rows * sizeof *p->loose);
    p->taken = calloc(p->old->panes + 1, 1);
    if (!p->to.pane || (ords && !p->to.ord) || !p->to.weight || !p->to.bias || !p->entry || !p->loose || !p->taken)
        return err_set(e, ERR_NOMEM, "out of memory for %u packed rows", rows);
    p->to.cap = panes;
    p->to.cap_rows = rows;
    return ERR_OK;
}

/* What is not needed goes back: positions and weights are honest bytes. */
static void shelf_fit(packing *p)
{
    shelf *t = &p->to;
    if (!p->weights) {
        free(t->weight);
        free(t->bias);
        t->weight = t->bias = NULL;
    }
    void *q;
    if ((q = realloc(t->pane, (t->panes + 1) * sizeof *t->pane))) t->pane = q;
    if (t->ord && (q = realloc(t->ord, (t->rows + 1) * sizeof *t->ord))) t->ord = q;
    if (t->weight && (q = realloc(t->weight, (t->rows + 1) * sizeof *t->weight))) t->weight = q;
    if (t->bias && (q = realloc(t->bias, (t->rows + 1) * sizeof *t->bias))) t->bias = q;
    t->cap = t->panes;
    t->cap_rows = t->rows;
}

static void add_row(packing *p, uint32_t ord, float weight, uint32_t entry)
{
    shelf *t = &p->to;
    if (t->ord) t->ord[t->rows] = ord;
    t->weight[t->rows] = weight;
    t->bias[t->rows] = weight > 0 ? weight == 1 ? 0 : (float)math_log((double)weight) : -INFINITY;
    p->entry[t->rows++] = entry;
    p->weights = p->weights || weight < 1 || weight > 1;
    t->dead += weight <= 0;
}

/* ---- panes that stay ----------------------------------------------------------------------------------------------- */

static bool row_alone(const packing *p, uint8_t code)
{
    pane_kind k = lossy_kind(p->w->q, p->w->layer, p->head, KV_SIDE_K, code);
    pane_kind v = lossy_kind(p->w->q, p->w->layer, p->head, KV_SIDE_V, code);
    return pane_row_alone(&k) && pane_row_alone(&v);
}

static void pane_stays(packing *p, uint32_t i, uint32_t first, const uint8_t *alive)
{
    pane x = p->old->pane[i];
    x.alive = 0;
    for (uint32_t r = 0; r < x.n; r++) {
        float weight = p->old->weight ? p->old->weight[first + r] : 1;
        if (alive && !alive[r]) weight = 0;
        add_row(p, shelf_ord(p->old, first + r), weight, first + r);
        x.alive = (uint8_t)(x.alive + (weight > 0));
    }
    p->to.pane[p->to.panes++] = x;
    p->taken[i] = 1;
}

/* Which rows of old pane i are kept, by place in it; *n of them, *touched: some were changed. index: the view's, from *at on. */
static void pane_kept(const packing *p, uint32_t i, uint32_t first, uint32_t *at, uint8_t *alive, uint32_t *n, bool *touched)
{
    *n = 0;
    *touched = false;
    memset(alive, 0, PANE_ROWS);
    for (; *at < p->h->view.n && p->h->from[*at].pane == i; (*at)++) {
        if (!p->h->stays[*at]) continue;
        alive[p->h->from[*at].entry - first] = 1;
        *touched = *touched || p->h->keep.touched[*at];
        ++*n;
    }
}

/* The old panes in order: as they are, with dead rows, or their rows become loose. */
static void old_panes(packing *p)
{
    uint32_t at = 0;
    for (uint32_t i = 0, first = 0; i < p->old->panes; first += p->old->pane[i++].n) {
        const pane *x = &p->old->pane[i];
        uint8_t alive[PANE_ROWS];
        uint32_t n, from = at;
        bool touched;
        if (!p->w->all && x->code != CODE_WAIT) {
            pane_stays(p, i, first, NULL);
            continue;
        }
        pane_kept(p, i, first, &at, alive, &n, &touched);
        bool whole = n == x->n, part = n > PANE_ROWS / 2 && !row_alone(p, x->code);
        if (x->code != CODE_WAIT && !touched && (whole || part)) pane_stays(p, i, first, alive);
        else
            for (uint32_t j = from; j < at; j++)
                if (p->h->stays[j]) p->loose[p->n_loose++] = j;
    }
    for (; at <= p->h->view.n; at++)
        if (p->h->stays[at]) p->loose[p->n_loose++] = at;
}

/* ---- new panes ----------------------------------------------------------------------------------------------------- */

/* Row i of the view as a pane of this kind takes it. */
static void row_for(const packing *p, const pane_kind *k, uint32_t i, float *out)
{
    const kv_head_view *v = &p->h->view;
    const float *x = (!k->key ? v->v : k->pack.kind == KV_PACK_NUQ ? v->k_pre : v->k) + (size_t)i * v->d;
    const uint16_t *channel = k->d == v->d ? NULL : lossy_of(p)->channel
                              + ((size_t)(p->w->layer - p->w->q->store->g.first) * p->w->q->store->g.K + p->head) * k->d;
    for (uint32_t c = 0; c < k->d; c++) out[c] = x[channel ? channel[c] : c];
}

/* Ordinary rows below n_ctx have an ord; the extra one stands for rows. */
static uint32_t ord_of(const packing *p, uint32_t i) { return i == p->h->view.n ? ORD_EXTRA : p->h->from[i].ord; }

/* view[0..n) of the loose rows become one pane. */
static err_code pane_new(packing *p, uint8_t code, const uint32_t *view, uint32_t n, err *e)
{
    float *rows = p->w->rows;
    err_code rc = lossy_ensure(p->w->q, code, 1, e);
    if (rc) return rc;
    pane x = { .code = code, .n = (uint8_t)n, .alive = (uint8_t)n };
    for (int side = 0; side < KV_SIDES; side++) {
        pane_kind k = lossy_kind(p->w->q, p->w->layer, p->head, side, code);
        for (uint32_t i = 0; i < n; i++) row_for(p, &k, view[i], rows + (size_t)i * k.d);
        x.page[side] = pages_take(lossy_of(p)->code[side][code].class);
        pane_encode(&k, rows, n, pane_at(p->w->q, &x, side), p->w->pack);
    }
    for (uint32_t i = 0; i < n; i++) {
        bool extra = view[i] == p->h->view.n;
        add_row(p, ord_of(p, view[i]), p->h->view.weight[view[i]], extra ? UINT32_MAX : p->h->from[view[i]].entry);
    }
    p->to.pane[p->to.panes++] = x;
    return ERR_OK;
}

/* A staircase's step by the age of a pane's newest row, in settlements. */
static uint8_t code_by_age(const packing *p, uint32_t ord)
{
    const kv_lossy *y = lossy_of(p);
    uint32_t age = (p->w->q->cells.committed - 1 - ord) / KV_INTERVAL;
    if (!y->levels || !age) return CODE_PACK;
    return (uint8_t)(CODE_LEVEL + (age < y->levels ? age : y->levels - 1) - 1);
}

/* Rows of one tier: whole panes oldest first; `wait` of the newest and what does not fill a pane stay raw for now. */
static err_code tier_panes(packing *p, uint8_t code, const uint32_t *view, uint32_t n, uint32_t *wait, uint32_t *n_wait, err *e)
{
    err_code rc = ERR_OK;
    uint32_t at = 0;
    for (; !rc && n - at >= PANE_ROWS; at += PANE_ROWS)
        rc = pane_new(p, code == CODE_PACK ? code_by_age(p, ord_of(p, view[at + PANE_ROWS - 1])) : code, view + at, PANE_ROWS, e);
    for (; at < n; at++) wait[(*n_wait)++] = view[at];
    return rc;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static err_code new_panes(packing *p, err *e)
{
    const kv_policy *pol = &lossy_of(p)->policy;
    uint32_t total = p->n_loose, *tier = malloc(((size_t)total + 1) * 2 * sizeof *tier), n, n_wait = 0;
    if (!tier) return err_set(e, ERR_NOMEM, "out of memory for %u loose rows", total);
    uint32_t *wait = tier + total, newest = total > pol->residual ? total - pol->residual : 0;
    err_code rc = ERR_OK;
    for (uint32_t t = 3; !rc && t-- > 0;) {         /* raw for ever first, then the packed ones */
        uint8_t code = t == 2 ? CODE_RAW : t == 1 ? CODE_TIER : CODE_PACK;
        n = 0;
        for (uint32_t i = 0; i < total; i++) {
            uint32_t at = p->loose[i];
            if (p->h->keep.tier[at] != t) continue;
            if (t != 2 && i >= newest) wait[n_wait++] = at;
            else tier[n++] = at;
        }
        for (uint32_t i = 0; t == 2 && !rc && i < n; i += PANE_FEW)
            rc = pane_new(p, code, tier + i, n - i < PANE_FEW ? n - i : PANE_FEW, e);
        if (t != 2) rc = tier_panes(p, code, tier, n, wait, &n_wait, e);
    }
    qsort(wait, n_wait, sizeof *wait, by_number);
    for (uint32_t i = 0; !rc && i < n_wait; i += PANE_ROWS)
        rc = pane_new(p, CODE_WAIT, wait + i, n_wait - i < PANE_ROWS ? n_wait - i : PANE_ROWS, e);
    free(tier);
    return rc;
}

/* ---- a staircase's old panes --------------------------------------------------------------------------------------- */

static err_code level_down(packing *p, pane *x, uint32_t first, err *e)
{
    kv_seq *q = p->w->q;
    uint8_t code = code_by_age(p, shelf_ord(&p->to, first + x->n - 1u));
    if (x->code < CODE_PACK || x->code == CODE_TIER || code == x->code || (x->code >= CODE_LEVEL && code <= x->code)) return ERR_OK;
    err_code rc = lossy_ensure(q, code, 1, e);
    if (rc) return rc;
    pane y = *x;
    y.code = code;
    for (int side = 0; side < KV_SIDES; side++) {
        pane_kind from = lossy_kind(q, p->w->layer, p->head, side, x->code), to = lossy_kind(q, p->w->layer, p->head, side, code);
        uint32_t ld = pane_ld(from.d);
        pane_decode(&q->store->reader, &from, pane_at(q, x, side), 0, x->n, p->w->rows);
        for (uint32_t r = 1; r < x->n && ld != from.d; r++)
            memmove(p->w->rows + (size_t)r * from.d, p->w->rows + (size_t)r * ld, from.d * sizeof(float));
        y.page[side] = pages_take(q->lossy->code[side][code].class);
        pane_encode(&to, p->w->rows, x->n, pane_at(q, &y, side), p->w->pack);
        pages_drop(q->lossy->code[side][x->code].class, x->page[side]);
    }
    *x = y;
    return ERR_OK;
}

static err_code levels_down(packing *p, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0, first = 0; !rc && lossy_of(p)->levels && i < p->to.panes; first += p->to.pane[i++].n)
        rc = level_down(p, &p->to.pane[i], first, e);
    return rc;
}

/* ---- one head ------------------------------------------------------------------------------------------------------ */

/* The decision as flags; what must stay does, whatever was decided. */
static void flags(packing *p)
{
    settle_head *h = p->h;
    const kv_policy *pol = &lossy_of(p)->policy;
    bool sinks_raw = pol->k.kind == KV_PACK_NUQ || pol->v.kind == KV_PACK_NUQ;   /* KVQuant keeps them exact */
    for (uint32_t i = 0; i < h->keep.n_keep; i++) h->stays[h->keep.keep[i]] = 1;
    for (uint32_t i = 0; i < h->view.n; i++) {
        if (h->view.fixed[i]) h->stays[i] = 1;
        if (sinks_raw && h->from[i].ord < pol->sinks) h->keep.tier[i] = 2;
        if (h->from[i].ord == ORD_EXTRA) h->keep.tier[i] = 2;
        if (h->keep.tier[i] > 2) h->keep.tier[i] = 0;
    }
    h->stays[h->view.n] = h->stays[h->view.n] && h->keep.extra;
}

static void count_evicted(const packing *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->h->view.n; i++) n += !p->h->stays[i];
    p->w->q->store->evicted += n;
    p->w->q->lossy->evicted += n;
}

static void release_old(packing *p)
{
    kv_seq *q = p->w->q;
    for (uint32_t i = 0; i < p->old->panes; i++)
        for (int side = 0; !p->taken[i] && side < KV_SIDES; side++)
            pages_drop(q->lossy->code[side][p->old->pane[i].code].class, p->old->pane[i].page[side]);
    free(p->old->pane);
    free(p->old->ord);
    free(p->old->weight);
    free(p->old->bias);
}

/* Pages that were made go; those that were only taken over are the old shelf's still. */
static void undo(packing *p, uint32_t kept)
{
    kv_seq *q = p->w->q;
    for (uint32_t i = kept; i < p->to.panes; i++)
        for (int side = 0; side < KV_SIDES; side++)
            pages_drop(q->lossy->code[side][p->to.pane[i].code].class, p->to.pane[i].page[side]);
    free(p->to.pane);
    free(p->to.ord);
    free(p->to.weight);
    free(p->to.bias);
}

err_code settle_pack(settlement *w, uint32_t head, err *e)
{
    kv_seq *q = w->q;
    shelf *at = shelf_of(q, w->layer, head);
    packing p = { .w = w, .h = &w->head[head], .head = head, .old = at };
    err_code rc = shelf_room(&p, e);
    uint32_t kept = 0;
    if (!rc) {
        flags(&p);
        old_panes(&p);
        kept = p.to.panes;
        rc = new_panes(&p, e);
    }
    if (rc) {
        undo(&p, kept);
    } else {
        count_evicted(&p);
        observe_remap(&q->lossy->see, (w->layer - q->store->g.first) * q->store->g.K + head, p.entry, p.to.rows, w->tmp);
        release_old(&p);
        shelf_fit(&p);
        *at = p.to;
        p.to = (shelf){ 0 };
        packing after = { .w = w, .head = head, .to = *at };
        rc = levels_down(&after, e);
    }
    free(p.entry);
    free(p.loose);
    free(p.taken);
    return rc;
}
