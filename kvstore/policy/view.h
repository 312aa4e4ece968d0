#ifndef KVSTORE_POLICY_VIEW_H
#define KVSTORE_POLICY_VIEW_H
/* What a policy step sees of one layer of one sequence at a settlement: plain arrays, no pages, no packing. The store fills
 * them, the steps (kvstore/policy/) are pure functions of them, the store carries the decision out. All rows are committed.
 * Arrays belong to the caller and live for one settlement of one layer; those marked (w) may be changed in place. */
#include "core/rope.h"
#include "core/vec.h"
#include "kvstore/policy.h"

/* One kv head. Rows ascend by row, except that merged rows (weight > 1) may stand anywhere. */
typedef struct {
    uint32_t n;                /* rows; every array has room for one more (kv_keep.extra) */
    uint32_t d, g;             /* head size; query heads of this kv head */
    uint32_t head;             /* kv head */
    float *k;                  /* [n][d] (w) after RoPE, as attention sees it (already pruned channels are 0) */
    float *k_pre;              /* [n][d] (w) before RoPE; NULL unless the policy merges or asks (kv_needs_pre) */
    float *v;                  /* [n][d] (w) */
    float *weight;             /* [n] (w) tokens a row stands for, 1 if never merged; attention adds ln(weight) */
    const uint32_t *row;       /* [n] place among the committed rows, evicted ones counted; so drafts that failed change nothing */
    const uint32_t *pos;       /* [n] position id */
    const uint16_t *segment;   /* [n] */
    const uint8_t *provenance; /* [n] */
    const uint8_t *fixed;      /* [n] 1: must be kept (sinks, system segments): the store keeps them whatever is decided */
    const uint8_t *fresh;      /* [n] 1: committed since the last settlement, still raw; 0: packed, values as decoded */
    const float *sum;          /* [n] column sums over the g query heads, NULL unless KV_SEE_SUMS */
    const float *last;         /* [n] last query's weights summed over the g heads, NULL unless KV_SEE_LAST */
    const float *entropy;      /* [n] of the row's own query, mean over the g heads, nats, NULL unless KV_SEE_ENTROPY */
    uint32_t w;                /* window queries, oldest first */
    const float *q_pre;        /* [w][g][d] before RoPE */
    const float *q;            /* [w][g][d] after RoPE */
    const uint32_t *q_row;     /* [w] their rows: query i sees rows with row[j] <= q_row[i] */
    bool local;                /* Razor: not a retrieval head */
    float alpha;               /* role score, 1 if there is none */
} kv_head_view;

typedef struct {
    const kv_policy *policy;
    uint32_t layer, layers;    /* of the model; layers that the mask leaves on: `active`, and this one's place among them */
    uint32_t active, rank;
    uint32_t heads;            /* kv heads */
    const kv_head_view *head;  /* [heads] */
    uint32_t seen;             /* committed rows of the sequence so far, evicted ones too */
    bool prompt_end;           /* this settlement is at the prompt's end; else at a multiple of KV_INTERVAL */
    float scale;               /* on q.k */
    const vec_ops *vec;        /* of any ISA: the bits are the same; NULL: plain */
    const rope_table *rope;    /* this layer's; pairs (i, i+half) if neox, else (2i, 2i+1) */
    bool neox;
    float layer_error;         /* of the profile, normalised over layers; 1/layers if there is none */
    const uint8_t *semantic;   /* [4] query heads of the layer (CompressKV), NULL if there are none */
    uint64_t used, budget;     /* rows of the session and of its context, budget 0: none. PRESSURE only: its memory in use, as CRITIC
                                * has it. That of others does not count, or a job's bits would depend on its neighbours */
} kv_layer_view;

/* The decision for one head. */
typedef struct {
    uint32_t n_keep;
    uint32_t *keep;            /* [n+1] ascending indices into the view; the rest is evicted */
    uint8_t *tier;             /* [n+1] by view index: 0 policy.k/v, 1 policy.k2/v2, 2 raw for ever */
    uint8_t *touched;          /* [n+1] by view index: k, v or weight of the row was changed (a merge) */
    bool extra;                /* row n of the view was filled in: Razor's compensation row; keep must name it */
    uint8_t *drop;             /* [d] 1: this K channel goes (ThinK); read at the prompt's end only */
    uint32_t n_drop;
} kv_keep;

/* All steps of a policy for one layer: out [heads], arrays zeroed by the caller. Pure: the same view, the same bits.
 * scratch: kv_decide_floats(view) floats. */
void kv_decide(const kv_layer_view *view, kv_keep *out, float *scratch);
size_t kv_decide_floats(const kv_layer_view *view);
/* Must the store fill k_pre? */
static inline bool kv_needs_pre(const kv_policy *p) { return p->merge != KV_MERGE_NONE || p->score == KV_SCORE_EXPECTED; }

/* Retrieve (TidalDecode, arXiv:2410.05076): the first two layers read all rows, the third one too and selects, those behind it read
 * what was selected, and a layer before the middle of the L (the 13th of the paper's 32) reads all and selects anew. Random is the
 * baseline: the same layers select as many rows, drawn. */
typedef enum { KV_LAYER_FULL, KV_LAYER_SELECTS, KV_LAYER_SPARSE } kv_layer_role;
kv_layer_role kv_role_of(const kv_policy *p, uint32_t layer, uint32_t L);
/* total [n]: attention of one query summed over all heads of a selecting layer, fixed point (2^32 = 1), by row index order of
 * the rows it sees. -> *n_pick indices (ascending) into it, sinks and window included. */
void kv_select_rows(const kv_policy *p, const uint64_t *total, uint32_t n, uint32_t *pick, uint32_t *n_pick);
#endif
