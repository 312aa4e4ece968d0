/* The door: stores and sequences, and every change of which rows there are. Decisions are cells.c's, memory is pages.c's;
 * this file only carries the one out in the other. It computes nothing. */
#include "kvstore/lossy.h"
#include "kvstore/skip.h"
#include "kvstore/tile.h"
#include "core/rng.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Bounds that keep every product of sizes far from 2^64; no model comes near them. The last one is of a full sequence. */
#define MAX_HEADS  (1u << 16)
#define MAX_LAYERS (1u << 16)
#define MAX_CTX    (1u << 30)
#define MAX_SEQ_BYTES ((uint64_t)1 << 48)

static err_code geometry_check(const kv_geometry *g, err *e)
{
    if (g->first >= g->last || g->last > MAX_LAYERS)
        return err_set(e, ERR_MODEL, "KV store of layers [%u,%u): empty or above %u", g->first, g->last, MAX_LAYERS);
    if (!g->K || !g->H || g->H > MAX_HEADS || g->H % g->K)
        return err_set(e, ERR_MODEL, "%u query heads do not divide among %u KV heads", g->H, g->K);
    if (!g->d || g->d > KV_MAX_D) return err_set(e, ERR_MODEL, "head size %u is not in 1..%u", g->d, (unsigned)KV_MAX_D);
    if (g->rope.n_rot > g->d) return err_set(e, ERR_MODEL, "%u rotated dimensions in a head of %u", g->rope.n_rot, g->d);
    if (!(g->look.scale >= 0 && g->look.soft_cap >= 0 && g->look.local_base >= 0))
        return err_set(e, ERR_MODEL, "attention scale %g, soft cap %g, local rope base %g: must not be negative",
                       (double)g->look.scale, (double)g->look.soft_cap, (double)g->look.local_base);
    if (!g->n_ctx || g->n_ctx > MAX_CTX) return err_set(e, ERR_MODEL, "context of %u rows is not in 1..%u", g->n_ctx, MAX_CTX);
    if ((unsigned)g->format >= KV_FORMAT_COUNT) return err_set(e, ERR_CONFIG, "unknown KV format %d", (int)g->format);
    uint64_t row = (uint64_t)(g->last - g->first) * KV_SIDES * kv_layout_of(g->K, g->d, g->format).row * g->K;
    if (row > MAX_SEQ_BYTES / g->n_ctx)
        return err_set(e, ERR_MODEL, "a sequence of %u rows of %llu bytes is above 2^48 bytes", g->n_ctx, (unsigned long long)row);
    if ((unsigned)g->isa >= ISA_COUNT || !(isa_supported() >> g->isa & 1))
        return err_set(e, ERR_CONFIG, "ISA %d is not supported on this machine", (int)g->isa);
    return ERR_OK;
}

/* Position 1 shows every frequency and the scaling of magnitudes, and does not depend on n_ctx. */
static uint64_t rope_print(const rope_table *t, uint64_t h)
{
    size_t row = t->n_ctx > 1 ? t->half : 0;
    h = XXH3_64bits_withSeed(t->cos + row, t->half * sizeof *t->cos, h);
    return XXH3_64bits_withSeed(t->sin + row, t->half * sizeof *t->sin, h);
}

static err_code ropes_open(kv *s, const kv_geometry *g, err *e)
{
    err_code rc = rope_table_open(&s->rope, &g->rope, g->n_ctx, e);
    if (rc != ERR_OK) return rc;
    s->rope_print = rope_print(&s->rope, (uint64_t)g->rope.n_rot << 1 | g->rope.neox);
    if (!(g->look.window && g->look.local_base > 0)) return ERR_OK;
    rope_config local = { .n_rot = g->rope.n_rot, .neox = g->rope.neox, .base = g->look.local_base };
    rc = rope_table_open(&s->rope_local, &local, g->n_ctx, e);
    if (rc == ERR_OK) s->rope_print = rope_print(&s->rope_local, s->rope_print);
    else rope_table_close(&s->rope);
    return rc;
}

/* Codebooks as decoding takes them: Q-Norm applied, arXiv:2401.18079 section 3.5, and 16 values whatever the bits. */
static void book_fill(float *to, const float *book, const float *norm, uint32_t bits)
{
    for (uint32_t i = 0; i < 1u << bits; i++) to[i] = norm ? fmaf(book[i], norm[0], norm[1]) : book[i];
}

static err_code books_open(kv *s, err *e)
{
    const kv_tables *t = s->g.tables;
    if (!t || t->first > s->g.first || t->last < s->g.last) return ERR_OK;
    s->books = calloc((size_t)kv_layers(s) * KV_SIDES * KV_BOOKS, sizeof *s->books);
    if (!s->books) return err_set(e, ERR_NOMEM, "out of memory for codebooks");
    for (uint32_t l = s->g.first; l < s->g.last; l++)
        for (uint32_t i = 0; i < KV_SIDES * 3; i++) {
            uint32_t side = i % KV_SIDES, bits = 2 + i / KV_SIDES, at = l - t->first;
            const float *book = (side ? t->lut_v : t->lut_k)[bits], *norm = (side ? t->qnorm_v : t->qnorm_k)[bits];
            float *to = s->books + ((size_t)(l - s->g.first) * KV_SIDES + side) * KV_BOOKS + KV_BOOK * bits;
            if (book) book_fill(to, book + ((size_t)at << bits), norm ? norm + 2 * (size_t)at : NULL, bits);
        }
    return ERR_OK;
}

err_code kv_open(kv **out, const kv_geometry *g, err *e)
{
    *out = NULL;
    err_code rc = geometry_check(g, e);
    if (rc != ERR_OK) return rc;
    kv *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory for a KV store");
    rc = ropes_open(s, g, e);
    if (rc != ERR_OK) {
        free(s);
        return rc;
    }
    s->g = *g;
    s->layout = kv_layout_of(g->K, g->d, g->format);
    s->arena.max_bytes = g->max_bytes;
    pages_open(&s->pages, &s->arena, s->layout.page);
    s->vec = vec_for(g->isa);
    s->tile = tile_for(g->isa, g->d);
    s->reader = (pane_reader){ s->vec, pane_decoder_for(g->isa) };
    rc = books_open(s, e);
    if (rc != ERR_OK) {
        kv_close(&s);
        return rc;
    }
    s->prefixes.max_blocks = g->prefix_bytes / ((uint64_t)KV_BLOCK_PAGES * kv_layers(s) * s->layout.page);
    *out = s;
    return ERR_OK;
}

/* ---- sequences by id ---- */

static kv_seq **seq_link(kv *s, uint64_t id)
{
    kv_seq **p = &s->bucket[rng_u64(0, id) % KV_BUCKETS];
    while (*p && (*p)->id != id) p = &(*p)->next;
    return p;
}

static void seq_free(kv_seq *q)
{
    lossy_close(q);
    skips_close(q);
    table_close(&q->table, &q->store->pages);
    cells_close(&q->cells);
    free(q->have);
    free(q);
}

/* An empty sequence that is not in the table yet. */
static kv_seq *seq_new(kv *s, uint64_t id)
{
    kv_seq *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    q->have = calloc(kv_layers(s), 1);
    if (!q->have) {
        free(q);
        return NULL;
    }
    q->store = s;
    q->id = id;
    cells_open(&q->cells, s->g.n_ctx);
    table_open(&q->table, kv_layers(s));
    return q;
}

static void seq_add(kv *s, kv_seq *q)
{
    *seq_link(s, q->id) = q;
    s->sequences++;
}

static err_code seq_make(kv *s, uint64_t id, kv_seq **out, err *e)
{
    if (*seq_link(s, id)) return err_set(e, ERR_STATE, "sequence %llu is open already", (unsigned long long)id);
    *out = seq_new(s, id);
    return *out ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for sequence %llu", (unsigned long long)id);
}

/* Room for one page in each layer that has any. */
static err_code first_pages(kv *s, const uint32_t *from, err *e)
{
    uint32_t n = 0;
    for (uint32_t l = s->g.first; l < s->g.last; l++) n += !from || from[l];
    err_code rc;
    do rc = pages_ensure(&s->pages, n, e);
    while (rc == ERR_FULL && kv_make_room(s));
    return rc;
}

err_code kv_seq_open_skipping(kv *s, uint64_t id, const kv_policy *p, uint32_t n_prompt, const uint32_t *from, kv_seq **out, err *e)
{
    *out = NULL;
    kv_seq *q = NULL;
    err_code rc = first_pages(s, from, e);
    if (rc == ERR_OK) rc = seq_make(s, id, &q, e);
    if (rc == ERR_OK && from && p->retrieve != KV_RETRIEVE_NONE)
        rc = err_set(e, ERR_CONFIG, "KV policy %s: layers choose rows for others, and a session that leaves out layers has not all of them", p->name);
    if (rc == ERR_OK && from) rc = skips_open(q, from, e);
    if (rc == ERR_OK && p->lossy) rc = lossy_open(q, p, n_prompt, e);
    if (rc != ERR_OK) {
        if (q) seq_free(q);
        return rc;
    }
    seq_add(s, q);
    *out = q;
    return ERR_OK;
}

err_code kv_seq_open_policy(kv *s, uint64_t id, const kv_policy *p, uint32_t n_prompt, kv_seq **out, err *e)
{
    return kv_seq_open_skipping(s, id, p, n_prompt, NULL, out, e);
}

err_code kv_seq_open(kv *s, uint64_t id, kv_seq **out, err *e)
{
    kv_policy identity = kv_policy_identity();
    return kv_seq_open_skipping(s, id, &identity, 0, NULL, out, e);
}

err_code kv_seq_open_watch(kv *s, uint64_t id, uint32_t see, uint32_t window, uint32_t n_prompt, kv_seq **out, err *e)
{
    kv_policy p = kv_policy_identity();
    snprintf(p.name, sizeof p.name, "watch");
    p.see = see;
    p.window_queries = window;
    p.lossy = p.asks = true;
    err_code rc = kv_seq_open_policy(s, id, &p, n_prompt, out, e);
    if (!rc) (*out)->lossy->watch = true;
    return rc;
}

bool kv_scores_attention(const kv_seq *q) { return q->lossy && q->lossy->policy.see; }

uint32_t kv_boundary(const kv_seq *q)
{
    return q->lossy ? lossy_boundary(q->lossy, q->cells.committed) : UINT32_MAX;
}

err_code kv_seq_prompt(kv_seq *q, uint32_t n_prompt, err *e)
{
    bool longer = q->lossy && q->lossy->watch && !kv_rows_tentative(q) && n_prompt > q->cells.committed;
    if (longer) {
        q->lossy->n_prompt = n_prompt;
        q->lossy->see.shared = n_prompt - 1;
        return ERR_OK;
    }
    if (q->cells.used || q->cells.pending)
        return err_set(e, ERR_STATE, "sequence %llu holds %u rows: too late for another prompt", (unsigned long long)q->id,
                       q->cells.used);
    if (q->lossy) lossy_clear(q, n_prompt);
    return ERR_OK;
}

kv_seq *kv_seq_find(kv *s, uint64_t id)
{
    return *seq_link(s, id);
}

uint64_t kv_seq_id(const kv_seq *q) { return q->id; }

void kv_seq_close(kv *s, uint64_t id)
{
    kv_seq **p = seq_link(s, id), *q = *p;
    if (!q) return;
    *p = q->next;
    s->sequences--;
    seq_free(q);
}

void kv_close(kv **s)
{
    if (!*s) return;
    for (int b = 0; b < KV_BUCKETS; b++)
        for (kv_seq *q = (*s)->bucket[b], *next; q; q = next) {
            next = q->next;
            seq_free(q);
        }
    prefixes_close(*s);
    pages_close(&(*s)->pages);
    for (uint32_t i = 0; i < (*s)->classes; i++) pages_close(&(*s)->class[i]);
    free((*s)->work);
    free((*s)->books);
    rope_table_close(&(*s)->rope);
    rope_table_close(&(*s)->rope_local);
    free(*s);
    *s = NULL;
}

/* ---- which rows there are ---- */

static void trim(kv *s)
{
    pages_trim(&s->pages);
    for (uint32_t i = 0; i < s->classes; i++) pages_trim(&s->class[i]);
}

/* Blocks go four at a time: one frees little, and sessions that wait for room are many. */
bool kv_make_room(kv *s)
{
    uint64_t was = s->arena.bytes;
    uint32_t blocks = 0;
    trim(s);
    if (s->arena.bytes < was) return true;
    while (blocks < 4 && prefixes_drop_one(s)) blocks++;
    trim(s);
    return blocks > 0;
}

/* Slots of the table count from the sequence's base. */
err_code kv_grow(kv_seq *q, uint32_t from, uint32_t to, uint32_t row, err *e)
{
    const uint8_t *off = skips_off(q, row);
    for (;;) {
        err_code rc = table_grow(&q->table, &q->store->pages, from - q->base, to - q->base, off, e);
        if (rc != ERR_FULL || !kv_make_room(q->store)) return rc;
    }
}

err_code kv_reserve(kv_seq *q, const kv_row *rows, uint32_t n, uint32_t *slots, err *e)
{
    err_code rc = cells_stage(&q->cells, rows, n, e);
    if (rc == ERR_OK && q->lossy) rc = lossy_check_rows(q, n, e);
    if (rc == ERR_OK && n) skips_release(q, rows[0].row);
    if (rc == ERR_OK) rc = kv_grow(q, q->cells.used, q->cells.used + n, n ? rows[0].row : 0, e);
    if (rc != ERR_OK) return rc;
    cells_add(&q->cells, slots);
    return q->lossy ? lossy_reserve(q, e) : ERR_OK;
}

/* One row's data to a lower slot, in every layer that has it. */
static void row_move(kv_seq *q, uint32_t from, uint32_t to)
{
    const kv *s = q->store;
    for (uint32_t l = s->g.first; l < s->g.last; l++)
        for (int side = 0; side < KV_SIDES && kv_has_row(q, l, from - q->base); side++)
            for (uint32_t k = 0; k < s->g.K; k++)
                memcpy(kv_row_at(q, l, side, k, to - q->base), kv_row_at(q, l, side, k, from - q->base), s->layout.row);
    if (q->lossy) lossy_move(q, from, to);
}

err_code kv_commit(kv_seq *q, uint32_t row, err *e)
{
    const cell_move *m;
    uint32_t n;
    err_code rc = q->lossy ? lossy_before_commit(q, row, e) : ERR_OK;
    if (rc == ERR_OK) rc = cells_commit(&q->cells, row, &m, &n, e);
    if (rc != ERR_OK) return rc;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < m[i].n; j++) row_move(q, m[i].from + j, m[i].to + j);
    table_shrink(&q->table, &q->store->pages, q->cells.used - q->base);
    return q->lossy ? lossy_after_commit(q, e) : ERR_OK;
}

err_code kv_truncate(kv_seq *q, uint32_t row, err *e)
{
    uint32_t had = q->cells.committed;
    err_code rc = skips_truncate(q, row, e);
    if (rc == ERR_OK && q->lossy) rc = lossy_truncate(q, row, e);
    if (rc != ERR_OK) return rc;
    cells_truncate(&q->cells, row);
    if (q->cells.committed < had) q->tail = 0; /* what it keeps from here on would not hang on that block */
    memset(q->have, 0, kv_layers(q->store));
    table_shrink(&q->table, &q->store->pages, q->cells.used - q->base);
    return ERR_OK;
}

err_code kv_fork(kv_seq *q, uint64_t child, err *e)
{
    kv *s = q->store;
    kv_seq *c;
    err_code rc = seq_make(s, child, &c, e);
    if (rc != ERR_OK) return rc;
    rc = cells_fork(&c->cells, &q->cells, e);
    if (rc == ERR_OK) rc = skips_fork(c, q, e);
    if (rc == ERR_OK && q->lossy) rc = lossy_fork(c, q, e);
    if (rc == ERR_OK) rc = table_share(&c->table, &q->table, &s->pages, c->cells.committed - c->base, e);
    if (rc == ERR_OK) seq_add(s, c);
    else seq_free(c);
    return rc;
}

err_code kv_fork_policy(kv_seq *q, uint64_t child, const kv_policy *p, err *e)
{
    kv *s = q->store;
    kv_seq *c;
    if (!q->lossy || !q->lossy->watch || q->cells.committed != q->lossy->n_prompt)
        return err_set(e, ERR_STATE, "sequence %llu does not watch, or its prompt is not there: %u rows are", (unsigned long long)q->id,
                       q->cells.committed);
    err_code rc = seq_make(s, child, &c, e);
    if (rc != ERR_OK) return rc;
    rc = cells_fork(&c->cells, &q->cells, e);
    if (rc == ERR_OK) rc = skips_fork(c, q, e);
    if (rc == ERR_OK && p->lossy) rc = lossy_adopt(c, q, p, e);
    if (rc == ERR_OK) rc = table_share(&c->table, &q->table, &s->pages, c->cells.committed, e);
    if (rc == ERR_OK && p->lossy) rc = lossy_after_commit(c, e);
    if (rc == ERR_OK) seq_add(s, c);
    else seq_free(c);
    return rc;
}

uint32_t kv_rows(const kv_seq *q) { return q->cells.committed; }
uint32_t kv_rows_tentative(const kv_seq *q) { return q->cells.used - q->cells.committed; }
uint32_t kv_last_row(const kv_seq *q) { return cells_last(&q->cells); }

static uint64_t rope_bytes(const rope_table *t)
{
    return 2 * (uint64_t)t->n_ctx * t->half * sizeof *t->cos;
}

static void count_pages(kv_usage *u, const pages *p)
{
    u->pages_used += pages_used(p);
    u->pages_free += p->n_free;
    u->data += (uint64_t)pages_used(p) * p->page;
    u->meta += pages_meta(p);
}

kv_seq_usage kv_seq_bytes(const kv_seq *q)
{
    const kv *s = q->store;
    kv_seq_usage u = { .data = table_pages(&q->table) * s->layout.page,
                       .meta = sizeof *q + kv_layers(s) + cells_bytes(&q->cells) + table_bytes(&q->table) + skips_bytes(q) };
    if (!q->lossy) return u;
    u.data += lossy_data(q);
    u.meta += lossy_meta(q);
    u.seen = observe_bytes(&q->lossy->see);
    return u;
}

kv_usage kv_bytes(const kv *s)
{
    kv_usage u = { .arena = s->arena.bytes, .sequences = s->sequences, .evicted = s->evicted,
                   .read = __atomic_load_n(&s->read, __ATOMIC_RELAXED),
                   .sparse_read = __atomic_load_n(&s->sparse_read, __ATOMIC_RELAXED),
                   .sparse_seen = __atomic_load_n(&s->sparse_seen, __ATOMIC_RELAXED) };
    double by_kind[KV_PACK_COUNT] = { 0 };
    count_pages(&u, &s->pages);
    uint64_t raw = u.data;
    for (uint32_t i = 0; i < s->classes; i++) count_pages(&u, &s->class[i]);
    u.packed = u.data - raw;
    u.prefix_pages = s->prefixes.pages;
    u.prefix = u.prefix_pages * s->pages.page;
    u.prefix_hits = s->prefixes.hits;
    u.prefix_misses = s->prefixes.misses;
    u.meta += prefixes_bytes(s);
    u.meta += sizeof *s + rope_bytes(&s->rope) + rope_bytes(&s->rope_local) + (s->work ? sizeof *s->work : 0)
              + (s->books ? (uint64_t)kv_layers(s) * KV_SIDES * KV_BOOKS * sizeof *s->books : 0);
    for (int b = 0; b < KV_BUCKETS; b++)
        for (const kv_seq *q = s->bucket[b]; q; q = q->next) {
            u.meta += sizeof *q + kv_layers(s) + cells_bytes(&q->cells) + table_bytes(&q->table) + skips_bytes(q);
            if (!q->lossy) continue;
            lossy_by_kind(q, by_kind);
            u.seen += observe_bytes(&q->lossy->see);
            u.meta += lossy_meta(q) + observe_bytes(&q->lossy->see);
        }
    for (uint32_t i = 0; i < KV_PACK_COUNT; i++) u.by_kind[i] = (uint64_t)(by_kind[i] + 0.5);
    return u;
}
