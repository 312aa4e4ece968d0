#ifndef KVSTORE_PAGES_H
#define KVSTORE_PAGES_H
/* The arena of a store: pages of one size, counted references (a fork shares pages until one side writes), a free list, a
 * hard budget. Owns the memory; refuses to know what a page holds. It grows in slabs and never shrinks before
 * pages_close. A page is written first by whoever takes it, so its memory lies near that thread.
 * Threads: one owner changes; pages_at by any thread in between. */
#include "core/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    size_t page;                    /* bytes, a multiple of 64 */
    uint64_t max_pages;             /* the budget in whole pages */
    uint64_t max_bytes;             /* the budget as given, for messages; 0: none */
    uint32_t shift;                 /* 2^shift pages a slab; the last slab of a budget may have fewer */
    unsigned char **slab;           /* [slabs] */
    uint32_t slabs, slab_cap;
    uint32_t *refs;                 /* [cap] by page id */
    uint32_t *free_id;              /* [cap], the first n_free are free: last in, first out */
    uint32_t n, n_free, cap;        /* pages in the arena */
} pages;

void pages_open(pages *p, size_t page, uint64_t max_bytes);
void pages_close(pages *p);

/* Make sure that the next n takes and copies succeed. ERR_FULL names the bytes; ERR_NOMEM. */
err_code pages_ensure(pages *p, uint64_t n, err *e);
/* A page of zeros with one reference: what an earlier sequence wrote never shows. */
uint32_t pages_take(pages *p);
/* A page of its own with the contents of `id`, whose reference it replaces. */
uint32_t pages_split(pages *p, uint32_t id);
void pages_hold(pages *p, uint32_t id);
void pages_drop(pages *p, uint32_t id);

static inline unsigned char *pages_at(const pages *p, uint32_t id)
{
    return p->slab[id >> p->shift] + (size_t)(id & ((1u << p->shift) - 1)) * p->page;
}
static inline uint32_t pages_refs(const pages *p, uint32_t id) { return p->refs[id]; }
static inline uint64_t pages_arena(const pages *p) { return (uint64_t)p->n * p->page; }
uint64_t pages_meta(const pages *p);
#endif
