#ifndef CLI_KV_LAB_H
#define CLI_KV_LAB_H
/* What a lab (engine/lab.h) lacks for KV policies: many sequences of one model, prompts that are forked for each policy, rows of a
 * segment, and steps over several sequences. One thread calls it. */
#include "engine/lab.h"
#include "engine/profile_kv.h"
#include "engine/tokenizer.h"

typedef struct {
    const char *model;             /* path */
    uint32_t n_ctx, threads;       /* 0: what the model states; as many as the process was given */
    const char *profile;           /* as --profile: NULL looks beside the model */
    pack_options pack;             /* packed weights; the bits are the same without */
} kvlab_options;

typedef struct {
    gguf *file;
    lab *lab;
    tokenizer *words;
    profile *profile;              /* NULL: none */
    profile_kv *tables;
    kv *store;                     /* the lab's, as the runner is */
    runner *runner;
    uint32_t V, n_ctx, bos;        /* bos TOKEN_NONE: the model adds none */
    uint64_t next_id;              /* of sequences */
    float *h;                      /* [KVLAB_ROWS][D] */
    kv_row *row;
    forward_row *fwd;
    uint32_t *slot;
} kv_lab;

enum { KVLAB_ROWS = 128 };           /* of a step */

err_code kvlab_open(kv_lab *l, const kvlab_options *o, err *e);
void kvlab_close(kv_lab *l);         /* {0} is fine */

/* An empty sequence under p (NULL: exact), one that watches for all that the policies [n] want, and forks. */
err_code kvlab_new(kv_lab *l, const kv_policy *p, uint32_t n_prompt, kv_seq **out, err *e);
err_code kvlab_watch(kv_lab *l, const kv_policy *p, size_t n, uint32_t n_prompt, kv_seq **out, err *e);
err_code kvlab_fork(kv_lab *l, kv_seq *watcher, const kv_policy *p, kv_seq **out, err *e);
void kvlab_drop(kv_lab *l, kv_seq **q);

/* Rows of ids [n] behind what q has, committed, never across a settlement. segment: [n], NULL: all the user's. sink (NULL: no head)
 * gets the logits [V] of each row from `from` on, in order; they are gone when it returns. */
typedef struct { void (*fn)(void *me, uint32_t i, const float *logits, const row_stats *s); void *me; uint32_t from; } kvlab_sink;
err_code kvlab_feed(kv_lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, const uint16_t *segment, const kvlab_sink *sink, err *e);

/* The same n rows behind each of some sequences, as kvlab_feed does one after another; next[i]: the likeliest token behind them. */
err_code kvlab_feed_each(kv_lab *l, kv_seq *const *q, uint32_t seqs, const uint32_t *ids, uint32_t n, uint32_t *next, err *e);

/* One more row in each of n <= KVLAB_ROWS sequences: ids[i] in, the likeliest next token out, in place. */
err_code kvlab_step(kv_lab *l, kv_seq *const *q, uint32_t *ids, uint32_t n, err *e);
#endif
