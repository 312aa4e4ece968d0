#include "kvstore/pages.h"
#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A slab is about one huge page: few calls to grow, little memory that nobody asked for. */
#define SLAB_BYTES ((size_t)2 << 20)
/* Ids stay below 2^31, so doubling a capacity cannot wrap. */
#define MAX_PAGES ((uint64_t)1 << 31)

void pages_open(pages *p, size_t page, uint64_t max_bytes)
{
    assert(page > 0 && page % 64 == 0);
    *p = (pages){ .page = page, .max_bytes = max_bytes, .max_pages = max_bytes ? max_bytes / page : MAX_PAGES };
    if (p->max_pages > MAX_PAGES) p->max_pages = MAX_PAGES;
    while ((page << (p->shift + 1)) <= SLAB_BYTES) p->shift++;
}

void pages_close(pages *p)
{
    for (uint32_t i = 0; i < p->slabs; i++) free(p->slab[i]);
    free(p->slab);
    free(p->refs);
    free(p->free_id);
    *p = (pages){ 0 };
}

uint64_t pages_meta(const pages *p)
{
    return (uint64_t)p->cap * (sizeof *p->refs + sizeof *p->free_id) + (uint64_t)p->slab_cap * sizeof *p->slab;
}

/* Room in the tables for `more` pages and one slab; a failure half way leaves larger arrays and nothing else. */
static bool tables_grow(pages *p, uint32_t more)
{
    if (p->n + more > p->cap) {
        uint32_t cap = p->cap ? p->cap : 64;
        while (cap < p->n + more) cap *= 2;
        uint32_t *refs = realloc(p->refs, (size_t)cap * sizeof *refs);
        if (refs) p->refs = refs;
        uint32_t *ids = realloc(p->free_id, (size_t)cap * sizeof *ids);
        if (ids) p->free_id = ids;
        if (!refs || !ids) return false;
        p->cap = cap;
    }
    if (p->slabs == p->slab_cap) {
        uint32_t cap = p->slab_cap ? p->slab_cap * 2 : 16;
        unsigned char **slab = realloc(p->slab, (size_t)cap * sizeof *slab);
        if (!slab) return false;
        p->slab = slab;
        p->slab_cap = cap;
    }
    return true;
}

static bool slab_add(pages *p)
{
    uint64_t left = p->max_pages - p->n;
    uint32_t more = 1u << p->shift;
    if (more > left) more = (uint32_t)left;
    if (!tables_grow(p, more)) return false;
    unsigned char *slab = aligned_alloc(64, more * p->page);
    if (!slab) return false;
    p->slab[p->slabs++] = slab;
    for (uint32_t i = 0; i < more; i++) {
        uint32_t id = p->n + more - 1 - i;     /* the lowest id is taken first */
        p->refs[id] = 0;
        p->free_id[p->n_free++] = id;
    }
    p->n += more;
    return true;
}

static err_code refuse(const pages *p, uint64_t n, err *e)
{
    uint64_t budget = p->max_bytes ? p->max_bytes : p->max_pages * p->page;
    uint64_t left = (p->max_pages - p->n + p->n_free) * p->page;
    return err_set(e, ERR_FULL, "the KV cache needs %" PRIu64 " bytes more; its budget of %" PRIu64 " bytes has %" PRIu64 " left",
                   n * p->page, budget, left);
}

err_code pages_ensure(pages *p, uint64_t n, err *e)
{
    if (n <= p->n_free) return ERR_OK;
    if (n - p->n_free > p->max_pages - p->n) return refuse(p, n, e);
    while (n > p->n_free)
        if (!slab_add(p))
            return err_set(e, ERR_NOMEM, "out of memory: the KV cache has %" PRIu64 " bytes and needs more", pages_arena(p));
    return ERR_OK;
}

static uint32_t page_next(pages *p)
{
    assert(p->n_free > 0);
    uint32_t id = p->free_id[--p->n_free];
    p->refs[id] = 1;
    return id;
}

uint32_t pages_take(pages *p)
{
    uint32_t id = page_next(p);
    memset(pages_at(p, id), 0, p->page);
    return id;
}

uint32_t pages_split(pages *p, uint32_t id)
{
    uint32_t own = page_next(p);
    memcpy(pages_at(p, own), pages_at(p, id), p->page);
    pages_drop(p, id);
    return own;
}

void pages_hold(pages *p, uint32_t id)
{
    assert(p->refs[id] > 0);
    p->refs[id]++;
}

void pages_drop(pages *p, uint32_t id)
{
    assert(p->refs[id] > 0);
    if (--p->refs[id] == 0) p->free_id[p->n_free++] = id;
}
