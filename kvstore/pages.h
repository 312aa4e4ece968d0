#ifndef KVSTORE_PAGES_H
#define KVSTORE_PAGES_H
/* Memory of a store. An arena is the hard budget; it is cut into slabs, and a `pages` carves slabs into pages of one size:
 * counted references (a fork shares pages until one side writes), a free list. Several sizes share one arena: a slab whose
 * pages are all free goes back when there are many such pages, or when another size needs the room. Owns the memory; refuses
 * to know what a page holds. A page is written first by whoever takes it, so its memory lies near that thread; slabs of 2 MiB
 * ask for a huge page.
 * Threads: one owner changes; pages_at by any thread in between. */
#include "core/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t max_bytes;             /* 0: no budget */
    uint64_t bytes;                 /* in slabs */
} arena;

typedef struct { unsigned char *at; uint32_t n, n_free; } slab; /* at NULL: was given back, its ids are not in use */

typedef struct {
    arena *arena;
    size_t page;                    /* bytes, a multiple of 64 */
    uint32_t per_slab;              /* pages of one; the last ones of a budget have fewer */
    uint32_t shift;                 /* page ids of slab s begin at s << shift */
    slab *slab;                     /* [slabs] */
    uint32_t slabs, slab_cap;
    uint32_t *refs;                 /* [cap] by page id */
    uint32_t *free_id;              /* [cap], the first n_free are free: last in, first out */
    uint32_t n, n_free, cap;        /* pages in slabs */
} pages;

void pages_open(pages *p, arena *a, size_t page);
void pages_close(pages *p);

/* Make sure that the next n takes and copies succeed. ERR_FULL names the bytes; ERR_NOMEM. */
err_code pages_ensure(pages *p, uint64_t n, err *e);
/* Give back every slab whose pages are all free. */
void pages_trim(pages *p);
/* A page of zeros with one reference: what an earlier sequence wrote never shows. */
uint32_t pages_take(pages *p);
/* A page of its own with the contents of `id`, whose reference it replaces. */
uint32_t pages_split(pages *p, uint32_t id);
void pages_hold(pages *p, uint32_t id);
void pages_drop(pages *p, uint32_t id);

static inline unsigned char *pages_at(const pages *p, uint32_t id)
{
    return p->slab[id >> p->shift].at + (size_t)(id & ((1u << p->shift) - 1)) * p->page;
}
static inline uint32_t pages_refs(const pages *p, uint32_t id) { return p->refs[id]; }
static inline uint32_t pages_used(const pages *p) { return p->n - p->n_free; }
uint64_t pages_meta(const pages *p);
#endif
