#ifndef KVSTORE_KV_H
#define KVSTORE_KV_H
/* The KV cache of one stage: for every session (a "sequence" here) and every layer of the shard, rows of K and V.
 * Knows nothing of sockets or weights. This is the one door: open, reserve, append, attend, commit, fork, truncate,
 * export, import, bytes, close. Behind it a sequence is exact (the identity) or under a policy (policy.h, lossy.h).
 *
 * Row identity (numerics contract): a row has a row index (monotone in its sequence), a position id (RoPE) and a parent
 * row. Rows of a step are tentative until a commit names one: that row and its ancestors become committed, every other
 * tentative row is dropped, and the cache is dense again. attend() of a row sees all committed rows and the row's
 * tentative ancestors (itself included), in order; reductions run over that dense order, so a branch of a tree gives the
 * same bits as the same tokens in a line, and a chunk of 64 the same as 64 single steps.
 *
 * Threads: open/close/reserve/commit/fork/truncate/export/import by the owner thread only, with no append/attend under
 * way. Between reserve and the next of those: append and attend by any number of threads, disjoint (layer, row) for
 * append (or disjoint heads of one), and append of a layer's rows before attend of that layer (the caller's barrier).
 * Layers are numbered as in the model: [first, last) of the geometry. */
#include "core/err.h"
#include "core/isa.h"
#include "core/rope.h"
#include "kvstore/look.h"
#include "kvstore/policy.h"
#include "kvstore/tables.h"
#include <stddef.h>
#include <stdint.h>

#define KV_FORMAT_MAP(X) X(F16, 0, "f16") X(F32, 1, "f32")
typedef enum {
#define X(N, id, name) KV_##N = id,
    KV_FORMAT_MAP(X)
#undef X
    KV_FORMAT_COUNT
} kv_format;
const char *kv_format_name(kv_format f);
err_code kv_format_parse(const char *s, kv_format *out, err *e);

typedef struct {
    uint32_t first, last;      /* layers of this shard */
    uint32_t H, K, d;          /* query heads, kv heads, head size */
    kv_format format;
    uint32_t n_ctx;            /* rows a sequence may hold */
    uint64_t max_bytes;        /* hard budget of the arena, 0: no budget */
    uint64_t prefix_bytes;     /* of it, pages of shared prompt rows at most; 0: none are kept */
    isa isa;
    rope_config rope;
    kv_look look;
    uint32_t n_layers;         /* of the whole model; 0: last */
    const kv_tables *tables;   /* of the profile, NULL: none */
} kv_geometry;

#define KV_ROW_NONE UINT32_MAX
enum { KV_EXACT = 0, KV_PREDICTED = 1, KV_EXTERNAL = 2 };   /* provenance */
enum { KV_SEGMENT_USER = 0, KV_SEGMENT_SYSTEM = 1 };        /* rows of a system segment are never evicted; others are names */

typedef struct {
    uint32_t row, pos, parent; /* parent: row index or KV_ROW_NONE (none: no earlier row is tentative, or row 0) */
    uint16_t segment;
    uint8_t provenance, path;
} kv_row;

typedef struct kv kv;
typedef struct kv_seq kv_seq;

err_code kv_open(kv **out, const kv_geometry *g, err *e);
void kv_close(kv **s);

/* A new empty sequence. ERR_FULL when the budget cannot hold one page a layer, ERR_STATE when the id is in use. */
err_code kv_seq_open(kv *s, uint64_t id, kv_seq **out, err *e);
/* The same under a policy. n_prompt: rows of the prompt (0: not known). Committed rows settle (score, select, merge, prune, pack)
 * when the prompt's last row is committed, and at multiples of KV_INTERVAL rows behind it. ERR_CONFIG: the profile lacks what
 * the policy needs. */
err_code kv_seq_open_policy(kv *s, uint64_t id, const kv_policy *p, uint32_t n_prompt, kv_seq **out, err *e);
/* The same for a session that leaves out layers: rows with an index of from[l] on have nothing in layer l of the model and take
 * no room there (UINT32_MAX: all rows have); from [n_layers], copied, NULL: none is left out. A layer that no later row reads
 * gives its pages back when the first such row is reserved. The caller appends and attends only where a row has a place. */
err_code kv_seq_open_skipping(kv *s, uint64_t id, const kv_policy *p, uint32_t n_prompt, const uint32_t *from, kv_seq **out, err *e);
/* From now on so. ERR_STATE when rows that are here would have been kept otherwise: a layer comes back only to a sequence that is
 * empty, or whose rows were all in it. */
err_code kv_skip(kv_seq *q, const uint32_t *from, err *e);
/* The session goes on without this store, at row `row`: layers that no such row reads give their pages back. */
void kv_release(kv_seq *q, uint32_t row);
/* Rows the sequence may hold before the next settlement, tentative ones included: reserve refuses more (ERR_STATE) until the
 * row at the boundary is committed. UINT32_MAX for the identity. */
uint32_t kv_boundary(const kv_seq *q);
/* As kv_boundary, for whoever plans steps: policy and prompt say it all. */
uint32_t kv_policy_boundary(const kv_policy *p, uint32_t n_prompt, uint32_t committed);
/* An empty sequence gets another prompt, or a watching one a longer one. ERR_STATE when it holds rows. */
err_code kv_seq_prompt(kv_seq *q, uint32_t n_prompt, err *e);
/* Does its policy score by attention? Then every row has to attend in every layer. */
bool kv_scores_attention(const kv_seq *q);
kv_seq *kv_seq_find(kv *s, uint64_t id);                  /* NULL when absent */
uint64_t kv_seq_id(const kv_seq *q);
void kv_seq_close(kv *s, uint64_t id);                    /* absent ids are fine */

/* Room for n tentative rows in all layers. Row indices must ascend and be above all rows of the sequence; parents must
 * be the last committed row, a tentative row, or KV_ROW_NONE (= the last committed row). slots[i] is where row i went,
 * for append/attend until the next owner call. Changes nothing when it fails (ERR_FULL, ERR_INPUT with the bad value,
 * ERR_STATE while an import waits for more layers). A position must be below n_ctx, the size of the rotary table. */
err_code kv_reserve(kv_seq *q, const kv_row *rows, uint32_t n, uint32_t *slots, err *e);
/* k [K][d] before RoPE, v [K][d]: rotated (k) at the row's position and stored in the format, heads [k0,k1). */
void kv_append(kv_seq *q, uint32_t layer, uint32_t slot, const float *k, const float *v, uint32_t k0, uint32_t k1);
/* q [H][d] before RoPE -> out [H][d], for the query heads of kv heads [k0,k1). scratch: kv_scratch_floats() floats,
 * one per thread. softmax(q.k / sqrt(d)) v, arXiv:1706.03762 eq. 1, GQA as arXiv:2305.13245; kv_look says what differs. */
void kv_attend(kv_seq *q, uint32_t layer, uint32_t slot, const float *query, float *out, uint32_t k0, uint32_t k1, float *scratch);
/* The same for rows in slots [slot, slot + n), of which each is the parent of the next; query and out are those of the first,
 * ldq and ldo floats from a row to the next. The bits are those of n calls of kv_attend; it is faster. */
void kv_attend_rows(kv_seq *q, uint32_t layer, uint32_t slot, uint32_t n, const float *query, size_t ldq, float *out, size_t ldo,
                    uint32_t k0, uint32_t k1, float *scratch);
size_t kv_scratch_floats(const kv *s);

/* Under a policy that retrieves (TidalDecode) a row that is not the prompt's reads all rows in some layers, and in the layers behind
 * these the rows that they chose. kv_choose: all heads of `layer` have attended for `slot` (nothing happens unless it is a layer that
 * chooses); by any thread, one a row. kv_choice: what was chosen last, *n places among the rows that it sees, ascending; NULL: nothing.
 * kv_choice_set: what the stage before chose, n x u32 that lie `step` bytes apart, for a row that was just reserved. ERR_INPUT: it cannot be, or n is 0 and the
 * first layer here needs it. */
void kv_choose(kv_seq *q, uint32_t layer, uint32_t slot);
const uint32_t *kv_choice(const kv_seq *q, uint32_t slot, uint32_t *n);
err_code kv_choice_set(kv_seq *q, uint32_t slot, const void *rows, size_t step, uint32_t n, err *e);

/* Row `row` (tentative, or the last committed one) and its tentative ancestors become committed, the other tentative rows
 * go. Naming the last committed row (kv_last_row, KV_ROW_NONE when empty) drops every tentative one. ERR_INPUT when there
 * is no such row, ERR_STATE while an import waits for more layers. */
err_code kv_commit(kv_seq *q, uint32_t row, err *e);
/* Drop every tentative row, all committed rows with index >= row, and an import that waits for more layers. */
err_code kv_truncate(kv_seq *q, uint32_t row, err *e);
/* A new sequence `child` with the committed rows of q; pages are shared until one side writes (copy on write). ERR_STATE
 * when the id is in use. */
err_code kv_fork(kv_seq *q, uint64_t child, err *e);

/* One prompt for several policies. A watching sequence is exact: its rows stay raw, and what attention leaves behind for scores
 * (see: KV_SEE_*; window: queries) is there when the prompt's last row is committed. It takes no row behind its prompt, but
 * kv_seq_prompt may make that longer. kv_fork_policy: a new sequence `child` under p that has settled, bit for bit as if it had
 * been opened under p and computed the prompt itself. ERR_STATE before the prompt's end; ERR_CONFIG when p needs more than was
 * watched, or what kv_seq_open_policy refuses. */
err_code kv_seq_open_watch(kv *s, uint64_t id, uint32_t see, uint32_t window, uint32_t n_prompt, kv_seq **out, err *e);
err_code kv_fork_policy(kv_seq *q, uint64_t child, const kv_policy *p, err *e);

uint32_t kv_rows(const kv_seq *q);                        /* committed */
uint32_t kv_rows_tentative(const kv_seq *q);
uint32_t kv_last_row(const kv_seq *q);                    /* index of the last committed row, KV_ROW_NONE when empty */

/* The export stream of committed rows [from, to) (counted, not indices) of layers [l0, l1): self-describing, versioned,
 * little-endian; what KV_PUSH carries and what fail-over restores. kv_export_bytes says how large it is (0: no such range);
 * len must be just that. ERR_INPUT. */
size_t kv_export_bytes(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to);
err_code kv_export(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to, void *buf, size_t len, err *e);
/* Append an exported stream: layers outside this store's are refused; `from` must equal kv_rows() unless rows for other
 * layers of the same range came before (layers of a row range may arrive in several streams; rows become committed when
 * all layers have them). Every byte is checked; the sequence is unchanged on error. ERR_INPUT with both values, ERR_FULL,
 * ERR_STATE while there are tentative rows. */
err_code kv_import(kv_seq *q, const void *buf, size_t len, err *e);

/* Shared prompt rows (kvstore/prefix.h). keep: the last 64 of the first `end` committed rows are block `id`, which hangs on the
 * block that the sequence kept or took before; nothing happens when they are not exact any more, or there is no room. take: an
 * empty sequence gets the rows of a block and of those it hangs on; returns its rows now: 0 when the block is gone, or the policy
 * would have had to see them computed. Ids are never used again for other rows. */
void kv_prefix_keep(kv_seq *q, uint64_t id, uint32_t end);
uint32_t kv_prefix_take(kv_seq *q, uint64_t id);

/* An empty sequence gets n committed rows of random numbers (uniform, variance 1; K before RoPE), a function of seed, layer and row
 * alone: to measure behind a context that nobody has computed. ERR_STATE when it holds rows or n are not below the boundary. */
err_code kv_fill(kv_seq *q, uint32_t n, uint64_t seed, err *e);

/* All that a sequence has in layers [l0, l1): packed rows as they are, raw rows, and what its policy has observed; kv_import takes
 * it into an empty sequence of the same policy and prompt, which goes on with the same bits. Of an identity: kv_export of all
 * rows. 0 and ERR_STATE while the sequence is not whole. */
size_t kv_state_bytes(const kv_seq *q, uint32_t l0, uint32_t l1);
err_code kv_state_export(const kv_seq *q, uint32_t l0, uint32_t l1, void *buf, size_t len, err *e);

/* data: pages that hold rows, whole, a shared one once; packed: those of them that settled rows are in. meta: identities, page
 * tables, rotary table, positions of packed rows; seen: of it, what scores need. arena: memory of all pages, used and free;
 * never above max_bytes. read: packed bytes that attention has read since the store is open; evicted: rows x heads x layers. */
typedef struct {
    uint64_t data, packed, meta, seen, arena, pages_used, pages_free, sequences, read, evicted;
    uint64_t sparse_read, sparse_seen;                         /* rows x heads that sparse layers have read; those there were */
    uint64_t by_kind[KV_PACK_COUNT];                           /* of packed, by how; RAW: settled rows that are kept as they were */
    uint64_t prefix_pages, prefix, prefix_hits, prefix_misses; /* shared blocks; rows taken from them; those that were gone */
} kv_usage;
kv_usage kv_bytes(const kv *s);

/* Of one sequence, as if it were alone: pages it has rows in, whole, those that forks share too; identities, page tables, positions
 * and weights of packed rows, kept channels; seen: what scores need, not in meta. */
typedef struct { uint64_t data, meta, seen; } kv_seq_usage;
kv_seq_usage kv_seq_bytes(const kv_seq *q);
#endif
