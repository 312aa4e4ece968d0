#include "kvstore/table.h"
#include <stdlib.h>

void table_open(table *t, uint32_t layers)
{
    *t = (table){ .layers = layers };
}

void table_close(table *t, pages *p)
{
    table_shrink(t, p, 0);
    free(t->id);
    *t = (table){ .layers = t->layers };
}

uint64_t table_bytes(const table *t)
{
    return (uint64_t)t->cap * t->layers * sizeof *t->id;
}

uint64_t table_pages(const table *t)
{
    uint64_t n = 0;
    for (size_t i = 0; i < (size_t)t->used * t->layers; i++) n += t->id[i] != TABLE_NONE;
    return n;
}

static uint32_t pages_for(uint32_t slots)
{
    return slots / KV_PAGE_ROWS + (slots % KV_PAGE_ROWS != 0);
}

/* slots are at most 2^30 (kv_open), so doubling a count of pages cannot wrap. */
static err_code room(table *t, uint32_t want, err *e)
{
    if (want <= t->cap) return ERR_OK;
    uint32_t cap = t->cap ? t->cap : 4;
    while (cap < want) cap *= 2;
    uint32_t *id = realloc(t->id, (size_t)cap * t->layers * sizeof *id);
    if (!id) return err_set(e, ERR_NOMEM, "out of memory for the page table of %u pages", want);
    t->id = id;
    t->cap = cap;
    return ERR_OK;
}

/* The ids of the page that holds `from`, or NULL when it begins a new one. */
static uint32_t *tail_of(const table *t, uint32_t from)
{
    return from % KV_PAGE_ROWS ? t->id + (size_t)(from / KV_PAGE_ROWS) * t->layers : NULL;
}

static bool is_shared(const pages *p, const uint32_t *tail, const uint8_t *off, uint32_t l)
{
    return !(off && off[l]) && tail[l] != TABLE_NONE && pages_refs(p, tail[l]) > 1;
}

err_code table_grow(table *t, pages *p, uint32_t from, uint32_t to, const uint8_t *off, err *e)
{
    if (from >= to) return ERR_OK;
    uint32_t want = pages_for(to), *tail = tail_of(t, from), on = 0;
    for (uint32_t l = 0; l < t->layers; l++) on += !(off && off[l]);
    uint64_t need = want > t->used ? (uint64_t)(want - t->used) * on : 0;
    for (uint32_t l = 0; tail && l < t->layers; l++) need += is_shared(p, tail, off, l);
    err_code rc = room(t, want, e);
    if (rc == ERR_OK) rc = pages_ensure(p, need, e);
    if (rc != ERR_OK) return rc;

    tail = tail_of(t, from);
    for (uint32_t l = 0; tail && l < t->layers; l++)
        if (is_shared(p, tail, off, l)) tail[l] = pages_split(p, tail[l]);
    for (; t->used < want; t->used++)
        for (uint32_t l = 0; l < t->layers; l++)
            t->id[(size_t)t->used * t->layers + l] = off && off[l] ? TABLE_NONE : pages_take(p);
    return ERR_OK;
}

void table_shrink(table *t, pages *p, uint32_t slots)
{
    for (uint32_t keep = pages_for(slots); t->used > keep; t->used--)
        for (uint32_t l = 0; l < t->layers; l++) {
            uint32_t id = t->id[(size_t)(t->used - 1) * t->layers + l];
            if (id != TABLE_NONE) pages_drop(p, id);
        }
}

err_code table_append(table *t, pages *p, const uint32_t *ids, uint32_t n, err *e)
{
    err_code rc = room(t, t->used + n, e);
    for (size_t i = 0; rc == ERR_OK && i < (size_t)n * t->layers; i++) {
        t->id[(size_t)t->used * t->layers + i] = ids[i];
        if (ids[i] != TABLE_NONE) pages_hold(p, ids[i]);
    }
    if (rc == ERR_OK) t->used += n;
    return rc;
}

void table_drop_layer(table *t, pages *p, uint32_t layer)
{
    for (uint32_t i = 0; i < t->used; i++) {
        uint32_t *id = &t->id[(size_t)i * t->layers + layer];
        if (*id != TABLE_NONE) pages_drop(p, *id);
        *id = TABLE_NONE;
    }
}

void table_empty(table *t)
{
    t->used = 0;
}

err_code table_share(table *child, const table *t, pages *p, uint32_t slots, err *e)
{
    uint32_t n = pages_for(slots);
    err_code rc = room(child, n, e);
    if (rc != ERR_OK) return rc;
    for (size_t i = 0; i < (size_t)n * t->layers; i++) {
        child->id[i] = t->id[i];
        if (t->id[i] != TABLE_NONE) pages_hold(p, t->id[i]);
    }
    child->used = n;
    return ERR_OK;
}
