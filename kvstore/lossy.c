#include "kvstore/lossy.h"
#include "kvstore/choice.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- boundaries ---------------------------------------------------------------------------------------------------- */

uint32_t kv_policy_boundary(const kv_policy *p, uint32_t n_prompt, uint32_t committed)
{
    if (!p->lossy) return UINT32_MAX;
    if (committed < n_prompt) return n_prompt;
    return committed / KV_INTERVAL * KV_INTERVAL + KV_INTERVAL;
}

uint32_t lossy_boundary(const kv_lossy *y, uint32_t committed)
{
    return y->watch ? y->n_prompt : kv_policy_boundary(&y->policy, y->n_prompt, committed);
}

/* ---- how things are packed ----------------------------------------------------------------------------------------- */

static uint32_t level_of(uint8_t code) { return code >= CODE_LEVEL ? code - CODE_LEVEL + 1u : 0; }

static kv_pack pack_of(const kv_policy *p, int side, uint8_t code)
{
    kv_pack pack = side == KV_SIDE_K ? p->k : p->v;
    if (code == CODE_WAIT || code == CODE_RAW) return (kv_pack){ 0 };
    if (code == CODE_TIER && (p->k2.kind || p->v2.kind)) return side == KV_SIDE_K ? p->k2 : p->v2;
    if (level_of(code)) pack.bits = p->levels[level_of(code)];
    return pack;
}

/* Exact rows for ever are few. Pruned keys: the newest ones and exact ones keep all channels. */
static void shape_kind(const kv_lossy *y, uint8_t code, pane_kind *k)
{
    if (code == CODE_RAW) k->rows = PANE_FEW;
    if (!k->key || code < CODE_PACK || y->d_pruned == k->d) return;
    k->d = y->d_pruned;
    k->turned = k->pack.kind == KV_PACK_CHANNEL;
}

pane_kind lossy_kind(const kv_seq *q, uint32_t layer, uint32_t head, int side, uint8_t code)
{
    const kv *s = q->store;
    const kv_lossy *y = q->lossy;
    const kv_tables *t = s->g.tables;
    pane_kind k = { .pack = y->code[side][code].pack, .key = side == KV_SIDE_K, .exact = s->g.format, .d = s->g.d };
    shape_kind(y, code, &k);
    if (k.pack.kind != KV_PACK_NUQ) return k;
    size_t l = layer - t->first, bits = k.pack.bits;
    k.book = (k.key ? t->lut_k : t->lut_v)[bits] + (l << bits);
    k.lo = k.key ? t->k_lo + (l * s->g.K + head) * s->g.d : NULL;
    k.hi = k.key ? t->k_hi + (l * s->g.K + head) * s->g.d : NULL;
    k.out_book = s->books + ((size_t)(layer - s->g.first) * KV_SIDES + (size_t)side) * KV_BOOKS + KV_BOOK * bits;
    return k;
}

/* The pages of this size; a new one when there is none. */
static pages *class_for(kv *s, size_t bytes)
{
    for (uint32_t i = 0; i < s->classes; i++)
        if (s->class[i].page == bytes) return &s->class[i];
    if (s->classes == KV_CLASSES) return NULL;
    pages_open(&s->class[s->classes], &s->arena, bytes);
    return &s->class[s->classes++];
}

static uint32_t count_levels(const kv_policy *p)
{
    uint32_t n = 0;
    while (n < KV_LEVELS && p->levels[n]) n++;
    return n;
}

err_code lossy_codes(kv_seq *q, err *e)
{
    kv_lossy *y = q->lossy;
    y->levels = count_levels(&y->policy);
    for (int side = 0; side < KV_SIDES; side++)
        for (uint8_t c = 0; c < CODES; c++) {
            if (level_of(c) && level_of(c) >= y->levels) continue;
            y->code[side][c].pack = pack_of(&y->policy, side, c);
            pane_kind k = { .pack = y->code[side][c].pack, .key = side == KV_SIDE_K, .exact = q->store->g.format,
                            .d = q->store->g.d };
            shape_kind(y, c, &k);
            y->code[side][c].class = class_for(q->store, pane_bytes(&k));
            if (!y->code[side][c].class)
                return err_set(e, ERR_FULL, "KV policy %s: more than %d page sizes at once", y->policy.name, KV_CLASSES);
        }
    return ERR_OK;
}

/* ---- what a policy needs of the profile ---------------------------------------------------------------------------- */

static err_code tables_check(const kv *s, const kv_policy *p, err *e)
{
    const char *lack = kv_tables_lack(s->g.tables, s->g.first, s->g.last, p);
    return lack ? err_set(e, ERR_CONFIG, "KV policy %s needs %s, and the profile has none", p->name, lack) : ERR_OK;
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

err_code lossy_open(kv_seq *q, const kv_policy *p, uint32_t n_prompt, err *e)
{
    kv *s = q->store;
    err_code rc = tables_check(s, p, e);
    if (rc) return rc;
    kv_lossy *y = calloc(1, sizeof *y);
    if (!y || !(y->shelf = calloc(lossy_units(s), sizeof *y->shelf))) {
        free(y);
        return err_set(e, ERR_NOMEM, "out of memory for a sequence under KV policy %s", p->name);
    }
    y->policy = *p;
    y->n_prompt = n_prompt;
    y->d_pruned = s->g.d;
    q->lossy = y;
    observe_open(&y->see, p->see, p->window_queries, kv_layers(s), s->g.K, s->g.H * s->g.d, n_prompt);
    rc = lossy_codes(q, e);
    if (!rc && p->retrieve != KV_RETRIEVE_NONE) rc = choices_open(&y->choices, p, e);
    if (rc) lossy_close(q);
    return rc;
}

static void pane_drop(kv_seq *q, const pane *p)
{
    for (int side = 0; side < KV_SIDES; side++) pages_drop(q->lossy->code[side][p->code].class, p->page[side]);
}

void shelf_free(kv_seq *q, shelf *h)
{
    for (uint32_t i = 0; i < h->panes; i++) pane_drop(q, &h->pane[i]);
    free(h->pane);
    free(h->ord);
    free(h->weight);
    free(h->bias);
    *h = (shelf){ 0 };
}

static void shelves_free(kv_seq *q)
{
    for (uint32_t u = 0; u < lossy_units(q->store); u++) shelf_free(q, &q->lossy->shelf[u]);
}

void lossy_close(kv_seq *q)
{
    kv_lossy *y = q->lossy;
    if (!y) return;
    shelves_free(q);
    observe_close(&y->see);
    choices_close(&y->choices);
    free(y->shelf);
    free(y->channel);
    free(y);
    q->lossy = NULL;
}

void lossy_clear(kv_seq *q, uint32_t n_prompt)
{
    kv_lossy *y = q->lossy;
    shelves_free(q);
    free(y->channel);
    y->channel = NULL;
    y->d_pruned = q->store->g.d;
    y->n_prompt = n_prompt;
    y->arriving = false;
    q->base = 0;
    observe_clear(&y->see, n_prompt);
    err quiet;
    if (lossy_codes(q, &quiet)) y->broken = true; /* the page sizes were there a moment ago: only a mistake of ours */
}

static bool copy_of(void **to, const void *from, size_t bytes)
{
    if (!from) return true;
    *to = malloc(bytes + 1);
    if (*to) memcpy(*to, from, bytes);
    return *to != NULL;
}

static bool shelf_fork(kv_seq *child, shelf *to, const shelf *h)
{
    *to = (shelf){ .panes = h->panes, .cap = h->panes, .rows = h->rows, .cap_rows = h->rows, .dead = h->dead };
    bool ok = copy_of((void **)&to->ord, h->ord, h->rows * sizeof *h->ord)
              && copy_of((void **)&to->weight, h->weight, h->rows * sizeof *h->weight)
              && copy_of((void **)&to->bias, h->bias, h->rows * sizeof *h->bias);
    uint32_t n = h->panes;
    to->panes = 0;
    if (!ok || !copy_of((void **)&to->pane, h->pane, n * sizeof *h->pane)) return false;
    to->panes = n;
    for (uint32_t i = 0; i < n; i++)
        for (int side = 0; side < KV_SIDES; side++)
            pages_hold(child->lossy->code[side][h->pane[i].code].class, h->pane[i].page[side]);
    return true;
}

err_code lossy_fork(kv_seq *child, const kv_seq *q, err *e)
{
    const kv_lossy *y = q->lossy;
    if (y->broken) return err_set(e, ERR_STATE, "the sequence lost rows when it settled, and can only be closed");
    err_code rc = lossy_open(child, &y->policy, y->n_prompt, e);
    if (rc) return rc;
    kv_lossy *c = child->lossy;
    size_t units = lossy_units(q->store);
    memcpy(c->code, y->code, sizeof c->code);
    child->base = q->base;
    c->watch = y->watch;
    c->d_pruned = y->d_pruned;
    bool ok = copy_of((void **)&c->channel, y->channel, units * y->d_pruned * sizeof *y->channel);
    for (uint32_t u = 0; ok && u < units; u++) ok = shelf_fork(child, &c->shelf[u], &y->shelf[u]);
    if (!ok) rc = err_set(e, ERR_NOMEM, "out of memory for a fork under KV policy %s", y->policy.name);
    if (!rc) rc = observe_fork(&c->see, &y->see, e);
    if (rc) lossy_close(child);
    return rc;
}

err_code lossy_adopt(kv_seq *child, const kv_seq *q, const kv_policy *p, err *e)
{
    const kv_lossy *y = q->lossy;
    if ((p->see & ~y->policy.see) || ((p->see & KV_SEE_QUERIES) && p->window_queries > y->policy.window_queries))
        return err_set(e, ERR_CONFIG, "KV policy %s needs more than the sequence watches", p->name);
    err_code rc = lossy_open(child, p, y->n_prompt, e);
    if (!rc) rc = observe_take(&child->lossy->see, &y->see, y->n_prompt, e);
    if (rc) lossy_close(child);
    return rc;
}

uint64_t lossy_data(const kv_seq *q)
{
    uint64_t n = 0;
    for (uint32_t u = 0; u < lossy_units(q->store); u++)
        for (uint32_t i = 0; i < q->lossy->shelf[u].panes; i++)
            for (int side = 0; side < KV_SIDES; side++) n += q->lossy->code[side][q->lossy->shelf[u].pane[i].code].class->page;
    return n;
}

void lossy_by_kind(const kv_seq *q, double by_kind[KV_PACK_COUNT])
{
    for (uint32_t u = 0; u < lossy_units(q->store); u++)
        for (uint32_t i = 0; i < q->lossy->shelf[u].panes; i++) {
            const pane *p = &q->lossy->shelf[u].pane[i];
            for (int side = 0; side < KV_SIDES; side++) {
                const side_code *c = &q->lossy->code[side][p->code];
                by_kind[c->pack.kind] += (double)c->class->page / pages_refs(c->class, p->page[side]);
            }
        }
}

uint64_t lossy_meta(const kv_seq *q)
{
    const kv_lossy *y = q->lossy;
    uint64_t n = choices_bytes(y->choices) + sizeof *y + lossy_units(q->store) * (sizeof *y->shelf + (y->channel ? y->d_pruned * sizeof *y->channel : 0));
    for (uint32_t u = 0; u < lossy_units(q->store); u++) {
        const shelf *h = &y->shelf[u];
        n += h->cap * sizeof *h->pane;
        n += (uint64_t)h->cap_rows * ((h->ord ? sizeof *h->ord : 0) + (h->weight ? 2 * sizeof *h->weight : 0));
    }
    return n;
}

/* ---- around the calls of kv.c -------------------------------------------------------------------------------------- */

err_code lossy_check_rows(const kv_seq *q, uint32_t staged, err *e)
{
    const cells *c = &q->cells;
    uint32_t boundary = lossy_boundary(q->lossy, c->committed);
    if (q->lossy->broken) return err_set(e, ERR_STATE, "the sequence lost rows when it settled, and can only be closed");
    for (uint32_t i = 0; i < staged; i++) {
        uint32_t slot = c->used + i;
        if (c->link[slot - c->committed].seen > boundary)
            return err_set(e, ERR_STATE, "row %u comes after %u rows, where KV policy %s settles: commit them first",
                           c->row[slot].row, boundary, q->lossy->policy.name);
    }
    return ERR_OK;
}

static uint32_t longest_shelf(const kv_seq *q)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < lossy_units(q->store); u++)
        if (q->lossy->shelf[u].rows > n) n = q->lossy->shelf[u].rows;
    return n;
}

err_code lossy_reserve(kv_seq *q, err *e)
{
    const cells *c = &q->cells;
    kv_lossy *y = q->lossy;
    uint32_t entries = longest_shelf(q) + c->used - q->base + 1;    /* one more: a compensation row, when they settle */
    err_code rc = observe_reserve(&y->see, c->committed, c->used, entries, lossy_boundary(y, c->committed), e);
    uint32_t free_rows = c->committed > y->n_prompt ? c->committed : y->n_prompt;   /* the first that is not the prompt's */
    if (!rc && y->choices) rc = choices_reserve(y->choices, free_rows, c->used, e);
    if (rc) y->broken = true; /* half of its arrays have grown */
    return rc;
}

/* Slots of the chain that ends in `slot`, newest first, go to fn. */
static void chain_each(const kv_seq *q, uint32_t slot, void (*fn)(kv_seq *, uint32_t, bool))
{
    const cells *c = &q->cells;
    bool last = true;
    while (slot != CELL_NONE && slot >= c->committed) {
        cell_run r = cells_run(c, slot);
        for (uint32_t i = slot + 1; i-- > r.first && i >= c->committed; last = false) fn((kv_seq *)q, i, last);
        slot = r.prev;
    }
}

static void commit_lane(kv_seq *q, uint32_t slot, bool last) { observe_commit(&q->lossy->see, slot, last); }

err_code lossy_before_commit(kv_seq *q, uint32_t row, err *e)
{
    kv_lossy *y = q->lossy;
    const cells *c = &q->cells;
    if (y->broken) return err_set(e, ERR_STATE, "the sequence lost rows when it settled, and can only be closed");
    uint32_t slot = cells_find(c, row), shared = y->see.shared < c->used ? y->see.shared : c->used;
    if (slot == CELL_NONE || !y->policy.see) return ERR_OK;
    bool some = shared > c->committed;
    if (some && slot >= c->committed && slot + 1 < shared)
        return err_set(e, ERR_STATE, "row %u: the prompt rows of a step are committed together under KV policy %s", row,
                       y->policy.name);
    if (some && slot >= c->committed) observe_commit_shared(&y->see);
    else observe_forget_shared(&y->see);
    if (slot >= c->committed) chain_each(q, slot, commit_lane);
    return ERR_OK;
}

void lossy_move(kv_seq *q, uint32_t from, uint32_t to)
{
    kv_lossy *y = q->lossy;
    observe_move(&y->see, from, to);
    for (uint32_t u = 0; u < lossy_units(q->store); u++)
        observe_move_entry(&y->see, u, y->shelf[u].rows + from - q->base, y->shelf[u].rows + to - q->base);
}

err_code lossy_after_commit(kv_seq *q, err *e)
{
    kv_lossy *y = q->lossy;
    uint32_t n = q->cells.committed;
    if (y->watch || n == q->base || (n != y->n_prompt && (n < y->n_prompt || n % KV_INTERVAL))) return ERR_OK;
    err_code rc = lossy_settle(q, n == y->n_prompt, e);
    if (rc) y->broken = true;
    return rc;
}

err_code lossy_truncate(kv_seq *q, uint32_t row, err *e)
{
    kv_lossy *y = q->lossy;
    uint32_t last = cells_last(&q->cells);
    if (row == 0 || y->arriving) {
        cells_truncate(&q->cells, 0);
        table_shrink(&q->table, &q->store->pages, 0);
        lossy_clear(q, y->n_prompt);
        return ERR_OK;
    }
    bool drops = last != KV_ROW_NONE && row <= last;
    uint32_t edge = q->base ? q->cells.row[q->base - 1].row : 0;
    if (drops && (y->policy.see || (q->base && row <= edge)))
        return err_set(e, ERR_STATE, "rows from %u on cannot be dropped: KV policy %s has counted them, up to row %u", row,
                       y->policy.name, last);
    observe_forget_shared(&y->see);
    return ERR_OK;
}

static err_code ensure_both(kv_seq *q, uint8_t code, uint32_t panes, err *e)
{
    err_code rc = ERR_OK;
    for (int side = 0; rc == ERR_OK && side < KV_SIDES; side++) {
        pages *p = q->lossy->code[side][code].class;
        rc = pages_ensure(p, p == q->lossy->code[!side][code].class ? 2 * (uint64_t)panes : panes, e);
    }
    return rc;
}

/* Making room may take what one side was just promised, so both are asked again; but a budget that holds a slab of either side and
 * not of both would have them take it from each other for ever. Beyond two rounds only a shared block that goes is progress. */
err_code lossy_ensure(kv_seq *q, uint8_t code, uint32_t panes, err *e)
{
    uint64_t rounds = 2 + 2 * (uint64_t)q->store->prefixes.blocks;
    err_code rc;
    do rc = ensure_both(q, code, panes, e);
    while (rc == ERR_FULL && rounds-- && kv_make_room(q->store));
    return rc;
}
