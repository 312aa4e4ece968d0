#ifndef KVSTORE_POLICY_H
#define KVSTORE_POLICY_H
/* A KV policy: which choice was made for each small decision of the cache. Owns the names, the INI text and the rules about
 * what goes together; refuses to decide anything about a row (kvstore/policy/). Parsed once, then read-only: any thread.
 *
 * The text is INI, and travels in SESSION_OPEN, so that a stage needs no file:
 *   [policy] name
 *   [format] k, v (a kv_pack name), residual, levels
 *   [keep]   score, budget, rows | share, select, sinks, window, pool, roles, prompt, interval is fixed (KV_INTERVAL)
 *   [change] merge, prune, prune_share, retrieve, retrieve_rows
 * kv_policy_print gives the same policy back in its shortest form. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Committed rows between two settlements while decoding (absolute multiples); a prompt's end is one too. A multiple of the 32
 * rows of a pane. Part of the numerics contract: never a matter of configuration. */
enum { KV_INTERVAL = 256 };
enum { KV_POLICY_TEXT = 1024, KV_LEVELS = 4 };
/* Rows that a sparse layer reads at most: their number travels with a row in 16 bits. */
enum { KV_RETRIEVE_MOST = 65535 };

/* How a row of one side of one head is packed. A pane is 32 rows of it (kvstore/pane.h).
 *   RAW      as the store's exact rows (f16 or f32)
 *   Q8, Q4   blocks of 32 elements along the row with one f16 scale: 8.5 and 4.5 bits an element
 *   TOKEN    `bits` 2, 3, 4, 8; groups of 32 elements along the row with f16 scale and minimum (KIVI's values)
 *   CHANNEL  `bits` 2, 3, 4, 8; each channel over the pane's 32 rows, f16 scale and minimum: KIVI's keys, arXiv:2402.02750
 *   NUQ      `bits` 2, 3, 4; KVQuant, arXiv:2401.18079: codebook and thresholds of the profile, outliers apart; keys before RoPE
 * hadamard: each row is rotated by a Hadamard matrix over the largest power-of-two factor of d first (Q8, Q4, TOKEN).
 * small: scale and minimum in a byte each, half a bit an element less (TOKEN, CHANNEL; kvstore/pane.h). */
#define KV_PACK_MAP(X) X(RAW, "raw") X(Q8, "q8_0") X(Q4, "q4_0") X(TOKEN, "token") X(CHANNEL, "channel") X(NUQ, "nuq")
typedef enum {
#define X(N, name) KV_PACK_##N,
    KV_PACK_MAP(X)
#undef X
    KV_PACK_COUNT
} kv_pack_kind;

typedef struct { uint8_t kind, bits; bool hadamard, small; } kv_pack; /* bits: of TOKEN, CHANNEL, NUQ, else 0 */

/* Names as in INI files: raw, q8_0, q4_0, q8_0+h, q4_0+h, token4, token2+h, token2+s, channel4, nuq3; +s: small, after +h; "kivi4" and "kvquant4" mean
 * channel4/nuq4 for K and token4/nuq4 for V. ERR_CONFIG quotes the name. */
err_code kv_pack_parse(const char *name, bool key_side, kv_pack *out, err *e);
void kv_pack_name(kv_pack p, char out[16]);

#define KV_SCORE_MAP(X) X(NONE, "none") X(RANDOM, "random") X(POSITION, "position") X(KNORM, "knorm") X(KEYDIFF, "keydiff") \
    X(H2O, "h2o") X(TOVA, "tova") X(SNAPKV, "snapkv") X(EXPECTED, "expected") X(CRITIC, "critic") X(SEMANTIC, "semantic")
#define KV_BUDGET_MAP(X) X(UNIFORM, "uniform") X(PYRAMID, "pyramid") X(ADAKV, "adakv") X(MASS, "mass") \
    X(LAYER_ERROR, "layer-error") X(PRESSURE, "pressure")
#define KV_SELECT_MAP(X) X(TOP, "top") X(TWO_STAGE, "two-stage")
#define KV_MERGE_MAP(X) X(NONE, "none") X(NEAREST, "nearest") X(COMPENSATE, "compensate")
#define KV_PRUNE_MAP(X) X(NONE, "none") X(THINK, "think")
#define KV_RETRIEVE_MAP(X) X(NONE, "none") X(TIDAL, "tidal") X(RANDOM, "random")
#define KV_ROLES_MAP(X) X(NONE, "none") X(RAZOR, "razor") X(ALPHA, "alpha")
#define X(N, name) KV_SCORE_##N,
typedef enum { KV_SCORE_MAP(X) KV_SCORE_COUNT } kv_score_kind;
#undef X
#define X(N, name) KV_BUDGET_##N,
typedef enum { KV_BUDGET_MAP(X) KV_BUDGET_COUNT } kv_budget_kind;
#undef X
#define X(N, name) KV_SELECT_##N,
typedef enum { KV_SELECT_MAP(X) KV_SELECT_COUNT } kv_select_kind;
#undef X
#define X(N, name) KV_MERGE_##N,
typedef enum { KV_MERGE_MAP(X) KV_MERGE_COUNT } kv_merge_kind;
#undef X
#define X(N, name) KV_PRUNE_##N,
typedef enum { KV_PRUNE_MAP(X) KV_PRUNE_COUNT } kv_prune_kind;
#undef X
#define X(N, name) KV_RETRIEVE_##N,
typedef enum { KV_RETRIEVE_MAP(X) KV_RETRIEVE_COUNT } kv_retrieve_kind;
#undef X
#define X(N, name) KV_ROLES_##N,
typedef enum { KV_ROLES_MAP(X) KV_ROLES_COUNT } kv_roles_kind;
#undef X

/* What attention must leave behind for the scores (kvstore/observe.h). */
enum {
    KV_SEE_SUMS = 1,      /* column sums: attention each row received from every committed query */
    KV_SEE_LAST = 2,      /* the last committed query's weights */
    KV_SEE_QUERIES = 4,   /* the last `window_queries` committed queries, before RoPE */
    KV_SEE_ENTROPY = 8,   /* entropy of each row's own attention */
};

typedef struct kv_policy {
    char name[64];
    kv_pack k, v;              /* of rows that have settled */
    kv_pack k2, v2;            /* tier 1 (ZipVL's rest); kind RAW: there is none */
    uint8_t levels[KV_LEVELS]; /* staircase: bits by age, the last one stays; levels[0] 0: none */
    uint32_t residual;         /* newest settled rows that stay raw, at least; a multiple of 32 */
    kv_score_kind score;
    kv_budget_kind budget;
    kv_select_kind select;
    kv_merge_kind merge;
    kv_prune_kind prune;
    kv_retrieve_kind retrieve;
    kv_roles_kind roles;
    uint32_t sinks, window;    /* first and newest rows that are always kept */
    uint32_t rows;             /* kept a head, sinks and window included; 0: by share */
    float share;               /* of the rows seen so far, when rows is 0; 1: nothing is evicted */
    uint32_t window_queries;   /* SnapKV's and ThinK's w */
    uint32_t pool;             /* width of the average over neighbours, odd; 1: none */
    float tau;                 /* MASS: share of attention to keep; PRESSURE: r_max */
    float alpha;               /* ADAKV: floor of a head; PYRAMID: 1/beta */
    float prune_share;         /* channels that go */
    uint32_t retrieve_rows;    /* rows a sparse layer reads */
    uint32_t retrieve_every;   /* a layer selects anew every so many layers; 0: once, before the middle of the model */
    uint64_t seed;             /* RANDOM, of score and of retrieve */
    uint32_t see;              /* KV_SEE_*: derived */
    bool lossy;                /* derived: false is the identity, whose sessions take the exact path */
    bool evicts;               /* derived */
    bool asks;                 /* derived: depends on queries, so its rows are of no use to another prompt */
} kv_policy;

/* The identity. */
kv_policy kv_policy_identity(void);
/* `text` is checked whole: unknown sections, keys, names and numbers out of range are quoted; a composition that cannot work is
 * refused with its reason. origin names the text in messages. ERR_CONFIG. */
err_code kv_policy_parse(kv_policy *out, const char *text, size_t len, const char *origin, err *e);
/* Shortest text that parses to the same policy, with its NUL; always fits. */
void kv_policy_print(const kv_policy *p, char out[KV_POLICY_TEXT]);
#endif
