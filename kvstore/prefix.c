#include "kvstore/prefix.h"
#include "kvstore/lossy.h"
#include "kvstore/skip.h"
#include "core/rng.h"
#include <stdlib.h>
#include <string.h>

static kv_block **link_of(prefixes *p, uint64_t id)
{
    kv_block **at = &p->bucket[rng_u64(1, id) % KV_BLOCK_BUCKETS];
    while (*at && (*at)->id != id) at = &(*at)->next;
    return at;
}

static void unlist(prefixes *p, kv_block *b)
{
    *(b->newer ? &b->newer->older : &p->newest) = b->older;
    *(b->older ? &b->older->newer : &p->oldest) = b->newer;
    b->newer = b->older = NULL;
}

static void list_newest(prefixes *p, kv_block *b)
{
    b->older = p->newest;
    *(p->newest ? &p->newest->newer : &p->oldest) = b;
    p->newest = b;
}

static void drop(kv *s, kv_block *b)
{
    prefixes *p = &s->prefixes;
    for (uint32_t i = 0; i < KV_BLOCK_PAGES * kv_layers(s); i++) {
        if (b->page[i] == TABLE_NONE) continue;
        pages_drop(&s->pages, b->page[i]);
        p->pages--;
    }
    *link_of(p, b->id) = b->next;
    unlist(p, b);
    if (b->parent) b->parent->children--;
    p->blocks--;
    free(b);
}

bool prefixes_drop_one(kv *s)
{
    for (kv_block *b = s->prefixes.oldest; b; b = b->newer) {
        if (b->children) continue;
        drop(s, b);
        s->prefixes.dropped++;
        return true;
    }
    return false;
}

void prefixes_close(kv *s)
{
    while (s->prefixes.oldest) prefixes_drop_one(s);
}

uint64_t prefixes_bytes(const kv *s)
{
    return s->prefixes.blocks * (sizeof(kv_block) + KV_BLOCK_PAGES * kv_layers(s) * sizeof(uint32_t));
}

/* Every layer has its rows, but those that the sequence leaves out from its first row on: sessions that share the block leave out the
 * same ones (coordinator/prefix.h). */
static bool is_whole(const kv_seq *q)
{
    const kv_geometry *g = &q->store->g;
    for (uint32_t l = g->first; l < g->last; l++)
        if (skips_absent(q, l) && q->skips->from[l]) return false;
    return true;
}

static bool fits(const kv_seq *q, const kv_block *b)
{
    const kv_geometry *g = &q->store->g;
    for (uint32_t l = g->first; l < g->last; l++)
        if ((b->page[l - g->first] == TABLE_NONE) != (q->skips && !q->skips->from[l])) return false;
    return true;
}

/* A block that hangs on the tail of what the sequence has taken and kept so far. */
void kv_prefix_keep(kv_seq *q, uint64_t id, uint32_t end)
{
    kv *s = q->store;
    prefixes *p = &s->prefixes;
    uint32_t first = end - KV_BLOCK_ROWS, layers = kv_layers(s);
    kv_block **at = link_of(p, id), *parent = q->tail ? *link_of(p, q->tail) : NULL;
    if (*at) {
        q->tail = id;
        return;
    }
    if (!id || !p->max_blocks || q->base || !is_whole(q) || end % KV_BLOCK_ROWS || end < KV_BLOCK_ROWS || end > q->cells.committed) return;
    if ((first == 0) != (parent == NULL)) return;           /* its parent went, or was never kept */
    while (p->blocks >= p->max_blocks && prefixes_drop_one(s)) {}
    if (parent && *link_of(p, q->tail) != parent) return;   /* it was the oldest itself */
    kv_block *b = p->blocks < p->max_blocks ? calloc(1, sizeof *b + KV_BLOCK_PAGES * layers * sizeof *b->page) : NULL;
    if (!b) return;                                         /* a cache that cannot grow is still a cache */
    b->id = id;
    b->parent = parent;
    memcpy(b->row, q->cells.row + first, sizeof b->row);
    for (uint32_t i = 0; i < KV_BLOCK_PAGES; i++)
        for (uint32_t l = 0; l < layers; l++) {
            uint32_t page = b->page[i * layers + l] = q->table.id[(size_t)(first / KV_PAGE_ROWS + i) * layers + l];
            if (page == TABLE_NONE) continue;
            pages_hold(&s->pages, page);
            p->pages++;
        }
    if (parent) parent->children++;
    b->next = NULL;
    *link_of(p, id) = b;
    list_newest(p, b);
    p->blocks++;
    q->tail = id;
}

/* The chain from its first block; every one was used just now, the last one least recently of them. */
static uint32_t chain_of(prefixes *p, kv_block *leaf, kv_block **out, uint32_t most)
{
    uint32_t n = 0;
    for (kv_block *b = leaf; b && n < most; b = b->parent) n++;
    kv_block *b = leaf;
    for (uint32_t i = n; i-- > 0; b = b->parent) out[i] = b;
    for (uint32_t i = n; i-- > 0;) {
        unlist(p, out[i]);
        list_newest(p, out[i]);
    }
    return n;
}

uint32_t kv_prefix_take(kv_seq *q, uint64_t id)
{
    kv *s = q->store;
    prefixes *p = &s->prefixes;
    kv_block *leaf = id ? *link_of(p, id) : NULL;
    uint32_t most = s->g.n_ctx / KV_BLOCK_ROWS, n = 0;
    if (!leaf || q->cells.used || q->cells.pending || (q->lossy && q->lossy->policy.see)) return p->misses += id && !leaf, 0;
    kv_block **chain = malloc((most + 1) * sizeof *chain);
    n = chain ? chain_of(p, leaf, chain, most) : 0;
    if (n && chain[0]->parent) n = 0;
    err quiet;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = (i + 1) * KV_BLOCK_ROWS;
        if (!fits(q, chain[i]) || end >= kv_boundary(q) || cells_check_chain(&q->cells, chain[i]->row, KV_BLOCK_ROWS, &quiet)) break;
        if (table_append(&q->table, &s->pages, chain[i]->page, KV_BLOCK_PAGES, &quiet)) break;
        cells_pend(&q->cells, chain[i]->row, KV_BLOCK_ROWS);
        cells_pend_commit(&q->cells);
        q->tail = chain[i]->id;
        p->hits += KV_BLOCK_ROWS;
    }
    free(chain);
    return q->cells.committed;
}
