#include "kvstore/pages.h"
#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A slab is one huge page: few calls to grow, little memory that nobody asked for. Of a small budget it is a 64th, so that
 * one page size does not take all of it at once. */
#define SLAB_BYTES ((size_t)2 << 20)
#define SLAB_SHARE 64u
/* Free memory that stays: sessions come and go, and a slab costs page faults. */
#define KEEP_BYTES ((uint64_t)4 << 20)
/* Ids stay below 2^31, so doubling a capacity cannot wrap. */
#define MAX_PAGES ((uint64_t)1 << 31)

void pages_open(pages *p, arena *a, size_t page)
{
    assert(page > 0 && page % 64 == 0);
    *p = (pages){ .arena = a, .page = page };
    size_t bytes = a->max_bytes && a->max_bytes / SLAB_SHARE < SLAB_BYTES ? (size_t)(a->max_bytes / SLAB_SHARE) : SLAB_BYTES;
    p->per_slab = bytes < page ? 1 : (uint32_t)(bytes / page);
    while ((1u << p->shift) < p->per_slab) p->shift++;
}

void pages_close(pages *p)
{
    for (uint32_t i = 0; i < p->slabs; i++) {
        if (p->slab[i].at) p->arena->bytes -= p->slab[i].n * p->page;
        free(p->slab[i].at);
    }
    free(p->slab);
    free(p->refs);
    free(p->free_id);
    *p = (pages){ 0 };
}

uint64_t pages_meta(const pages *p)
{
    return (uint64_t)p->cap * (sizeof *p->refs + sizeof *p->free_id) + (uint64_t)p->slab_cap * sizeof *p->slab;
}

/* Room in the tables for ids below `ids` and one slab; a failure half way leaves larger arrays and nothing else. */
static bool tables_grow(pages *p, uint32_t ids, uint32_t slabs)
{
    if (ids > p->cap) {
        uint32_t cap = p->cap ? p->cap : 64;
        while (cap < ids) cap *= 2;
        uint32_t *refs = realloc(p->refs, (size_t)cap * sizeof *refs);
        if (refs) p->refs = refs;
        uint32_t *free_id = realloc(p->free_id, (size_t)cap * sizeof *free_id);
        if (free_id) p->free_id = free_id;
        if (!refs || !free_id) return false;
        p->cap = cap;
    }
    if (slabs > p->slab_cap) {
        uint32_t cap = p->slab_cap ? p->slab_cap * 2 : 16;
        slab *s = realloc(p->slab, (size_t)cap * sizeof *s);
        if (!s) return false;
        p->slab = s;
        p->slab_cap = cap;
    }
    return true;
}

/* Pages that the budget still has room for, MAX_PAGES at most. */
static uint64_t room_left(const pages *p)
{
    const arena *a = p->arena;
    uint64_t ids = MAX_PAGES - ((uint64_t)p->slabs << p->shift);
    uint64_t left = a->max_bytes ? (a->max_bytes - a->bytes) / p->page : MAX_PAGES;
    return left < ids ? left : ids;
}

static bool slab_add(pages *p)
{
    uint64_t left = room_left(p);
    uint32_t more = p->per_slab, at = 0;
    if (more > left) more = (uint32_t)left;
    while (at < p->slabs && p->slab[at].at) at++;         /* the place of one that was given back */
    if (!more || !tables_grow(p, (at + 1) << p->shift, at + 1)) return false;
    size_t bytes = more * p->page;
    bool huge = bytes > SLAB_BYTES - SLAB_BYTES / 16 && bytes <= SLAB_BYTES;
    unsigned char *mem = aligned_alloc(huge ? SLAB_BYTES : 64, huge ? SLAB_BYTES : bytes);
    if (!mem) return false;
    if (huge) madvise(mem, SLAB_BYTES, MADV_HUGEPAGE);    /* a wish: without huge pages it is ordinary memory */
    p->slab[at] = (slab){ mem, more, more };
    if (at == p->slabs) p->slabs++;
    for (uint32_t i = more; i-- > 0;) {                   /* the lowest id is taken first */
        uint32_t id = (at << p->shift) + i;
        p->refs[id] = 0;
        p->free_id[p->n_free++] = id;
    }
    p->n += more;
    p->arena->bytes += bytes;
    return true;
}

static err_code refuse(const pages *p, uint64_t n, err *e)
{
    const arena *a = p->arena;
    uint64_t budget = a->max_bytes ? a->max_bytes : MAX_PAGES * p->page;
    uint64_t left = (room_left(p) + p->n_free) * p->page;
    return err_set(e, ERR_FULL, "the KV cache needs %" PRIu64 " bytes more; its budget of %" PRIu64 " bytes has %" PRIu64 " left",
                   n * p->page, budget, left);
}

err_code pages_ensure(pages *p, uint64_t n, err *e)
{
    if (n <= p->n_free) return ERR_OK;
    if (n - p->n_free > room_left(p)) return refuse(p, n, e);
    while (n > p->n_free)
        if (!slab_add(p))
            return err_set(e, ERR_NOMEM, "out of memory: the KV cache has %" PRIu64 " bytes and needs more", p->arena->bytes);
    return ERR_OK;
}

static uint32_t page_next(pages *p)
{
    assert(p->n_free > 0);
    uint32_t id = p->free_id[--p->n_free];
    p->slab[id >> p->shift].n_free--;
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

/* Give back slabs that are all free (`most` of them), in one pass over the free list. */
static void slabs_release(pages *p, uint32_t most)
{
    uint32_t gone = 0, kept = 0;
    for (uint32_t i = 0; i < p->slabs && gone < most; i++) {
        slab *s = &p->slab[i];
        if (!s->at || s->n_free < s->n) continue;
        free(s->at);
        s->at = NULL;
        p->n -= s->n;
        p->arena->bytes -= s->n * p->page;
        gone++;
    }
    for (uint32_t i = 0; gone && i < p->n_free; i++)
        if (p->slab[p->free_id[i] >> p->shift].at) p->free_id[kept++] = p->free_id[i];
    if (gone) p->n_free = kept;
}

void pages_trim(pages *p)
{
    slabs_release(p, UINT32_MAX);
}

void pages_drop(pages *p, uint32_t id)
{
    assert(p->refs[id] > 0);
    if (--p->refs[id]) return;
    slab *s = &p->slab[id >> p->shift];
    p->free_id[p->n_free++] = id;
    if (++s->n_free == s->n && (uint64_t)(p->n_free - s->n) * p->page > KEEP_BYTES + (uint64_t)p->n * p->page / 32)
        slabs_release(p, p->slabs);
}
