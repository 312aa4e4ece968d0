#ifndef KVSTORE_STORE_H
#define KVSTORE_STORE_H
/* What lies behind the door, shared by the files of this folder. */
#include "core/vec.h"
#include "kvstore/cells.h"
#include "kvstore/pane.h"
#include "kvstore/prefix.h"
#include "kvstore/table.h"

/* Buckets of the id table: sessions on a stage are tens to thousands, and an id is looked up once a step. */
enum { KV_BUCKETS = 256 };

typedef struct kv_lossy kv_lossy;

struct kv_seq {
    kv *store;
    kv_seq *next;              /* in its bucket */
    uint64_t id;
    cells cells;
    table table;
    uint8_t *have;             /* [layers]: the pending import has brought this layer */
    uint32_t base;             /* committed rows that are not in the table: they have settled (lossy.h); else 0 */
    uint64_t tail;             /* last block of shared rows that it took or kept, 0: none */
    kv_lossy *lossy;           /* NULL: the identity */
    struct kv_skips *skips;    /* layers that it leaves out (skip.h), NULL: none */
};

/* Page sizes of packed rows: two sides, and codes that a policy mixes. Many sessions share few policies. */
enum { KV_CLASSES = 48 };
/* Codebooks with Q-Norm applied, padded to 16 values, by bits 0..4. */
enum { KV_BOOK = 16, KV_BOOKS = 5 * KV_BOOK };

struct kv {
    kv_geometry g;
    kv_layout layout;
    const vec_ops *vec;
    const struct tile_ops *tile;
    rope_table rope;
    rope_table rope_local;     /* of local layers; closed unless look.local_base > 0 */
    uint64_t rope_print;       /* of both and n_rot: two stores with the same one rotate alike */
    arena arena;
    pages pages;               /* of raw rows, all heads: layout.page bytes */
    prefixes prefixes;
    pages class[KV_CLASSES];   /* of panes, by page size; class[0, classes) are open */
    uint32_t classes;
    pane_reader reader;
    pane_work *work;           /* made when first needed */
    float *books;              /* [layers][sides][KV_BOOKS], NULL without a profile's */
    uint64_t read, evicted;    /* packed bytes that attention has read; rows that went, of closed sequences too */
    uint64_t sparse_read, sparse_seen;   /* rows, over kv heads, that sparse layers have read; that they would have without a choice */
    kv_seq *bucket[KV_BUCKETS];
    uint32_t sequences;
};

/* Make room when pages are out: memory that holds no row, then shared blocks. false: there is nothing more to give. */
bool kv_make_room(kv *s);
/* Slots [from, to) of the sequence become writable (table_grow); `row` is the index of the first of these rows. */
err_code kv_grow(kv_seq *q, uint32_t from, uint32_t to, uint32_t row, err *e);
static inline uint32_t kv_layers(const kv *s) { return s->g.last - s->g.first; }
static inline uint32_t kv_model_layers(const kv *s) { return s->g.n_layers > s->g.last ? s->g.n_layers : s->g.last; }

static inline bool kv_is_local(const kv *s, uint32_t layer)
{
    const kv_look *a = &s->g.look;
    return a->window && (!a->global_every || (layer + 1) % a->global_every);
}

/* Has the layer a place for the row in `slot`? layer as in the model. */
static inline bool kv_has_row(const kv_seq *q, uint32_t layer, uint32_t slot)
{
    return q->table.id[(size_t)(slot / KV_PAGE_ROWS) * q->table.layers + layer - q->store->g.first] != TABLE_NONE;
}

/* Row `slot` of a head, K or V, counted from the sequence's base; the rows up to the page's end follow, layout.row bytes apart.
 * layer as in the model. */
static inline void *kv_row_at(const kv_seq *q, uint32_t layer, int side, uint32_t head, uint32_t slot)
{
    const kv *s = q->store;
    return table_page(&q->table, &s->pages, layer - s->g.first, slot) + kv_layout_at(&s->layout, side, head, slot);
}
#endif
