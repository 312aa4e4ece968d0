#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H
/* One step over a batch of rows: embed, layers, head. The same code runs in a stage and in the coordinator's local prefill.
 * A runner owns the scratch of one compute loop (sized at open: a step allocates nothing); one thread calls it, the pool's
 * threads work inside. Rows may belong to different sequences and have different paths, adapters and masks; what a row gives
 * depends on neither its neighbours nor theirs. Weights of a half of a layer that every row leaves out are not read. */
#include "core/mask.h"
#include "core/pool.h"
#include "engine/lora.h"
#include "engine/model.h"
#include "engine/stand_in.h"
#include "kvstore/kv.h"

typedef struct {
    kv_seq *seq;
    uint32_t slot;             /* from kv_reserve */
    path_id path;
    const lora *adapter;       /* NULL: the model as it is */
    float adapter_scale;
    const layer_mask *mask;    /* NULL: no layer is left out */
    uint32_t row;              /* index in its session, for the mask */
    uint32_t calm;             /* what it carries for its mask's calm rule (core/mask.h: mask_row.state), 0: it does not follow it */
    bool ends;                 /* only its K and V are wanted of the last layer here, and h of it means nothing afterwards */
    float *pool;               /* [last - first][D]: each layer's input, divided by its root mean square, is added; NULL: not wanted */
} forward_row;

typedef struct {               /* what the head says of one row of logits */
    float lse;                 /* log-sum-exp of the whole row */
    float entropy;             /* nats, of softmax(row) */
    float max;
} row_stats;

/* max, log-sum-exp and entropy of logits [V], in the fixed order; log is our own (libm differs between hosts). Any thread. */
row_stats row_stats_of(const vec_ops *v, const float *logits, uint32_t V);

/* The KV store's geometry for layers [first, last) of a model; format, n_ctx, max_bytes and isa are left to the caller. */
kv_geometry forward_kv(const model_shape *s, uint32_t first, uint32_t last);

typedef struct runner runner;
/* max_rows: the largest T of a step. The model, store and pool must outlive the runner. store may be NULL when the
 * shard has no layers. */
err_code runner_open(runner **out, const model *m, kv *store, pool *p, isa i, uint32_t max_rows, err *e);
void runner_close(runner **r);
/* What takes the place of halves that masks leave out, from the next runner_layers on; it outlives that. NULL: none, and a mask that wants
 * one (core/mask.h: mask_stand) must not come. */
void runner_stand_ins(runner *r, const stand_ins *s);

/* What layers make of the rows of a step, for whoever maps or fits it: K behind its bias and before its norm and RoPE, V, and the
 * layer's input, [last - first][max_rows][width]; NULL: not wanted. Row t of the step is row t here. */
typedef struct { float *k, *v, *h; } runner_tap;
/* From the next runner_layers on; NULL: no more. The arrays must outlive that. */
void runner_listen(runner *r, const runner_tap *to);

/* h [T][D] <- embedding rows of ids [T]. ids must be < V (checked by the caller at the message door). */
void runner_embed(runner *r, const uint32_t *ids, uint32_t T, float *h);
/* For calibration: what passes through a layer, shown to one function at four places of it. It is called by the thread that called
 * runner_layers, while others may go on; everything it is shown is read-only and gone when it returns. A step in which rows leave
 * out layers is not shown.
 *   FORWARD_IN        h: the layer's input
 *   FORWARD_QKV       and q, k, v: before RoPE, with biases and head norms, as they go to the cache
 *   FORWARD_ATTENDED  and att: what attention gave, before its projection
 *   FORWARD_MIDDLE    h: input of the FFN's norm */
typedef enum { FORWARD_IN, FORWARD_QKV, FORWARD_ATTENDED, FORWARD_MIDDLE } forward_place;
typedef struct {
    uint32_t layer, T;
    const forward_row *rows;   /* [T] */
    const float *h;            /* [T][D] */
    const float *q, *k, *v;    /* [T][H*d], [T][K*d], [T][K*d] */
    const float *att;          /* [T][ld_att], H*d of each */
    size_t ld_att;
} forward_view;
typedef void forward_watch(void *arg, forward_place at, const forward_view *v);
/* Rows that would end (forward_row.ends) go on while it watches. fn NULL: nobody watches (and nothing is slower). */
void runner_watch(runner *r, forward_watch *fn, void *arg);

/* h [T][D] through layers [first,last) of the shard, in place. */
void runner_layers(runner *r, const forward_row *rows, uint32_t T, float *h);
/* What the rows of the last step carry on, and how many FFNs they have left out here, [T]; NULL: none of them follows a calm rule. */
const mask_row *runner_calm(const runner *r);
/* logits [n][V] of rows h[pick[i]] (final norm, head), and stats [n]; n <= RUNNER_HEAD_ROWS. Of rows[i] only path and
 * adapter matter. The logits live in the runner until the next call. h is not changed. */
#define RUNNER_HEAD_ROWS 32u /* bounds the logits buffer: 32 rows of a 128k vocabulary are 16 MiB */
const float *runner_head(runner *r, const float *h, const uint32_t *pick, const forward_row *rows, uint32_t n, row_stats *stats);
/* The n largest of logits [V], descending, ties by lower id. Any thread. Returns how many (min(n, V)). */
typedef struct { uint32_t id; float logit; } candidate;
uint32_t forward_top(const float *logits, uint32_t V, candidate *out, uint32_t n);
#endif
