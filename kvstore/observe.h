#ifndef KVSTORE_OBSERVE_H
#define KVSTORE_OBSERVE_H
/* What attention leaves behind for the scores, and the one promise about it: only committed rows count, and nothing depends on
 * chunks, threads or stages. Column sums are therefore integers (2^32 = weight 1): integer addition has no order.
 *
 * When a row attends, what it saw goes to a lane of its own; when a commit names it, its lane is added to the sequence; when it
 * is dropped, its lane is forgotten. Prompt rows but the last of a prompt share one lane, since they are committed together.
 *
 * The driver, on a commit that reaches the prompt's end or a multiple of KV_INTERVAL rows (settle.c), a layer at a time:
 *     lanes -> sums, last, queries, entropy        (observe)
 *     rows -> kv_layer_view -> kv_decide           (score, budget, select, merge, prune: kvstore/policy/)
 *     keep lists -> panes                          (encode)
 *
 * Arrays are by unit (layer, kv head) and entry: a head's packed rows first, then the raw rows in dense order.
 * Threads: observe_row by any thread, one (row, unit) by one thread; the rest by the owner. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One weight as an integer; p in [0, 1], give or take its rounding. Rows that a peer sent may make it no number: 0. */
static inline uint64_t kv_fixed(float p) { return p >= 0 && p <= 2 ? (uint64_t)((double)p * 4294967296.0) : 0; }
static inline float kv_unfixed(uint64_t s) { return (float)((double)s * 0x1p-32); }

typedef struct {
    uint32_t what, window;             /* KV_SEE_*, queries */
    uint32_t layers, heads, width;     /* of the store; floats of a query row */
    uint32_t shared;                   /* slots below this one share a lane */
    uint32_t stride;                   /* entries a unit has room for */
    uint64_t *sum, *pend, *last;       /* [units][stride], NULL unless wanted; pend: the shared lane */
    float *entropy;                    /* [units][stride] */
    uint64_t *lane;                    /* [lanes][units][stride], of slot lane0 + i */
    uint32_t lanes, lane0;
    float *query;                      /* [layers][queries][width], of slot query0 + i */
    uint32_t queries, query0;
} observe;

void observe_open(observe *o, uint32_t what, uint32_t window, uint32_t layers, uint32_t heads, uint32_t width, uint32_t n_prompt);
void observe_close(observe *o);
uint64_t observe_bytes(const observe *o);
err_code observe_fork(observe *child, const observe *o, err *e);
/* *to (open, nothing seen yet) takes of what o saw until row n is committed as much as it wants. o wants all of it and more. */
err_code observe_take(observe *to, const observe *o, uint32_t n, err *e);

/* Before slots [committed, used) attend: entries entries a unit, the next boundary. ERR_NOMEM changes nothing that matters. */
err_code observe_reserve(observe *o, uint32_t committed, uint32_t used, uint32_t entries, uint32_t boundary, err *e);

/* What query row `slot` saw in one unit: query head i gave entry j < n the weight x[i*ld + j] * inv[i]; entropy: mean over the
 * heads; own: the row's own entry. */
typedef struct { const float *x; size_t ld; const float *inv; uint32_t g, n, own; float entropy; } observed;
void observe_row(const observe *o, uint32_t unit, uint32_t slot, const observed *w);
/* The n floats at `query` are floats [from, from + n) of a row's query before RoPE, kept if the window may want them. */
void observe_query(const observe *o, uint32_t layer, uint32_t slot, const float *query, uint32_t from, uint32_t n);

/* A tentative row becomes committed: its lane is added; `last`: it is the newest one. Rows of the shared lane all at once. */
void observe_commit(observe *o, uint32_t slot, bool last);
void observe_commit_shared(observe *o);
void observe_forget_shared(observe *o);
/* A row's query moves to a lower slot; and what it saw itself, in one unit, from entry to entry. */
void observe_move(observe *o, uint32_t from, uint32_t to);
void observe_move_entry(observe *o, uint32_t unit, uint32_t from, uint32_t to);

/* After a settlement of one unit: entry j is now what entry from[j] was, UINT32_MAX: nothing; entries above n are empty. */
void observe_remap(observe *o, uint32_t unit, const uint32_t *from, uint32_t n, uint64_t *tmp);
/* All units are settled: only queries of the window of the next boundary stay. */
void observe_settled(observe *o, uint32_t boundary);
/* Query of slot, or NULL if it was not kept. */
const float *observe_query_of(const observe *o, uint32_t layer, uint32_t slot);
/* As if nothing had been seen. */
void observe_clear(observe *o, uint32_t n_prompt);
#endif
