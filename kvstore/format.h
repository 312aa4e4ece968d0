#ifndef KVSTORE_FORMAT_H
#define KVSTORE_FORMAT_H
/* How the rows of one layer lie in a page: a side is K or V; each side is [K][KV_PAGE_ROWS][d] elements, so the rows of
 * one head are contiguous. Owns this arithmetic and the format names; refuses to hold any memory. Any thread. */
#include "kvstore/kv.h"

/* Rows a page. A power of two; 32 f16 rows of d=128 are 8 KiB a head, which stay in L1 while a group's queries share them. */
enum { KV_PAGE_ROWS = 32 };
/* Largest head: append rotates in a buffer of this many floats on the stack. */
enum { KV_MAX_D = 1024 };
enum { KV_SIDE_K, KV_SIDE_V, KV_SIDES };

typedef struct {
    uint32_t K, d;
    size_t elem;        /* bytes of an element */
    size_t row;         /* bytes from a head's row to its next: d * elem */
    size_t head;        /* bytes from a head to the next: KV_PAGE_ROWS * row */
    size_t side;        /* bytes of a side: K * head */
    size_t page;        /* bytes of a page, a multiple of 64 */
} kv_layout;

/* K and d are at most 2^16 and KV_MAX_D (kv_open checks), so nothing overflows. */
kv_layout kv_layout_of(uint32_t K, uint32_t d, kv_format f);

static inline size_t kv_layout_at(const kv_layout *l, int side, uint32_t head, uint32_t slot)
{
    return (size_t)side * l->side + head * l->head + (slot % KV_PAGE_ROWS) * l->row;
}

/* Rows from `slot` to the end of its page, `end` at most. */
static inline uint32_t kv_layout_run(uint32_t slot, uint32_t end)
{
    uint32_t n = KV_PAGE_ROWS - slot % KV_PAGE_ROWS;
    return n < end - slot ? n : end - slot;
}
#endif
