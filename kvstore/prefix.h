#ifndef KVSTORE_PREFIX_H
#define KVSTORE_PREFIX_H
/* Blocks of exact prompt rows that sessions share: KV_BLOCK_ROWS committed rows of every layer, named by whoever knows the tokens
 * (coordinator/prefix.c). A block hangs on the one before it. Owns a reference of the pages; refuses to know what the rows mean.
 * Least recently used blocks that nothing hangs on go when the share of the budget is used up, or when a session needs the room. */
#include "kvstore/cells.h"
#include "kvstore/format.h"

enum { KV_BLOCK_ROWS = 64, KV_BLOCK_PAGES = KV_BLOCK_ROWS / KV_PAGE_ROWS, KV_BLOCK_BUCKETS = 1024 };

typedef struct kv_block {
    uint64_t id;
    struct kv_block *parent, *next;        /* next in its bucket */
    struct kv_block *newer, *older;        /* by use */
    uint32_t children;
    kv_row row[KV_BLOCK_ROWS];
    uint32_t page[];                       /* [KV_BLOCK_PAGES][layers] */
} kv_block;

typedef struct {
    kv_block *bucket[KV_BLOCK_BUCKETS];
    kv_block *newest, *oldest;
    uint64_t blocks, max_blocks, pages;
    uint64_t hits, misses, dropped;        /* rows taken; takes of a block that is gone; blocks that went */
} prefixes;

void prefixes_close(kv *s);
/* Drop the least recently used block that nothing hangs on. false: there is none. */
bool prefixes_drop_one(kv *s);
uint64_t prefixes_bytes(const kv *s);      /* beside the pages */
#endif
