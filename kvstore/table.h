#ifndef KVSTORE_TABLE_H
#define KVSTORE_TABLE_H
/* The page table of one sequence: which page holds slots [32i, 32i+32) of each layer. Owns one reference of every page it
 * names; refuses to know what rows mean. Threads as pages.h. */
#include "kvstore/format.h"
#include "kvstore/pages.h"

#define TABLE_NONE UINT32_MAX   /* the layer has no page for these slots */

typedef struct {
    uint32_t *id;              /* [cap][layers] */
    uint32_t layers, used, cap;  /* pages a layer */
} table;

void table_open(table *t, uint32_t layers);
void table_close(table *t, pages *p);
uint64_t table_bytes(const table *t);
/* Pages that it names. */
uint64_t table_pages(const table *t);

/* Slots [from, to) become writable in every layer but those with off[layer] (NULL: none), `from` being the number of slots in
 * use: takes pages, and copies the page of slot `from` where a fork shares it. All or nothing (ERR_FULL, ERR_NOMEM). */
err_code table_grow(table *t, pages *p, uint32_t from, uint32_t to, const uint8_t *off, err *e);
/* Give back the pages behind the first `slots` slots. */
void table_shrink(table *t, pages *p, uint32_t slots);
/* Pages [n][layers] that others hold too come after those in use, which end with a full one. ERR_NOMEM. */
err_code table_append(table *t, pages *p, const uint32_t *ids, uint32_t n, err *e);
/* Give back all pages of one layer; table_empty when that was done for every one. Nothing else may come in between. */
void table_drop_layer(table *t, pages *p, uint32_t layer);
void table_empty(table *t);
/* *child (open, empty) shares the pages of the first `slots` slots. */
err_code table_share(table *child, const table *t, pages *p, uint32_t slots, err *e);

/* layer counts from the shard's first. */
static inline unsigned char *table_page(const table *t, const pages *p, uint32_t layer, uint32_t slot)
{
    return pages_at(p, t->id[(size_t)(slot / KV_PAGE_ROWS) * t->layers + layer]);
}
#endif
