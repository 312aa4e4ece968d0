/* Open addressing, at most half full. It refuses to grow: the vocabulary is known when a table is made. */
#include "engine/piece_table.h"
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static size_t slots_for(size_t n)
{
    size_t s = 16;
    while (s < 2 * n) s *= 2;
    return s;
}

static size_t piece_len(const piece_list *l, uint32_t id) { return l->at[id + 1] - l->at[id]; }

bool piece_table_open(piece_table *t, piece_list list, size_t n)
{
    size_t slots = slots_for(n);
    *t = (piece_table){ list, malloc(slots * sizeof *t->slot), slots - 1, 0 };
    if (t->slot) memset(t->slot, 0xFF, slots * sizeof *t->slot);
    return t->slot != NULL;
}

void piece_table_close(piece_table *t)
{
    free(t->slot);
    *t = (piece_table){ 0 };
}

static uint32_t *find_slot(const piece_table *t, const void *p, size_t len)
{
    size_t i = (size_t)XXH3_64bits(p, len) & t->mask;
    for (;; i = (i + 1) & t->mask) {
        uint32_t id = t->slot[i];
        if (id == TOKEN_ABSENT || (piece_len(&t->list, id) == len && !memcmp(t->list.bytes + t->list.at[id], p, len))) break;
    }
    return &t->slot[i];
}

void piece_table_put(piece_table *t, uint32_t id)
{
    size_t len = piece_len(&t->list, id);
    if (!len) return;
    *find_slot(t, t->list.bytes + t->list.at[id], len) = id;
    if (len > t->longest) t->longest = (uint32_t)len;
}

uint32_t piece_table_find(const piece_table *t, const void *p, size_t len)
{
    return len && len <= t->longest ? *find_slot(t, p, len) : TOKEN_ABSENT;
}

/* ---- pairs ---- */

#define NO_PAIR UINT64_MAX

bool merge_table_open(merge_table *t, size_t n)
{
    size_t slots = slots_for(n);
    *t = (merge_table){ malloc(slots * sizeof *t->slot), slots - 1 };
    for (size_t i = 0; t->slot && i < slots; i++) t->slot[i].pair = NO_PAIR;
    return t->slot != NULL;
}

void merge_table_close(merge_table *t)
{
    free(t->slot);
    *t = (merge_table){ 0 };
}

static merge_row *pair_slot(const merge_table *t, uint64_t pair)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(h >> 20 ^ h >> 43) & t->mask;
    while (t->slot[i].pair != NO_PAIR && t->slot[i].pair != pair) i = (i + 1) & t->mask;
    return &t->slot[i];
}

void merge_table_put(merge_table *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    merge_row *row = pair_slot(t, pair);
    if (row->pair == NO_PAIR) *row = (merge_row){ pair, rank, id };
}

const merge_row *merge_table_find(const merge_table *t, uint32_t left, uint32_t right)
{
    if (left == TOKEN_ABSENT || right == TOKEN_ABSENT) return NULL;
    const merge_row *row = pair_slot(t, (uint64_t)left << 32 | right);
    return row->pair == NO_PAIR ? NULL : row;
}
