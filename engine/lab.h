#ifndef ENGINE_LAB_H
#define ENGINE_LAB_H
/* A whole model in one process, for calibration and evaluation: tokens go through all layers of a sequence, and what passes may be
 * watched (runner_watch). Owns model, store, threads and the runner; refuses to sample or to know texts. The bits are those of a
 * cluster on the same path. One thread. */
#include "engine/forward.h"
#include "engine/pack.h"

typedef struct {
    path_id path;
    kv_format format;
    uint32_t threads;          /* 0: as many as the process was given */
    uint32_t n_ctx;            /* rows a sequence may hold; 0: what the model states */
    uint32_t max_rows;         /* in a step; 0: 512 */
    uint64_t kv_bytes;         /* of the store, 0: no limit */
    const kv_tables *tables;   /* of the profile, NULL: none; outlives the lab */
    pack_options pack;
} lab_options;

typedef struct lab lab;
err_code lab_open(lab **out, const gguf *g, const lab_options *o, err *e);
void lab_close(lab **l);
const model_shape *lab_shape(const lab *l);
const model *lab_model(const lab *l);
kv *lab_store(lab *l);
runner *lab_runner(lab *l);
pool *lab_pool(lab *l);
isa lab_isa(const lab *l);
uint32_t lab_ctx(const lab *l);

/* What came out of the last layer for rows [first, first + n) of the sequence, h [n][D]; not yet committed. ERR stops the feed. */
typedef err_code lab_rows(void *arg, uint32_t first, uint32_t n, const float *h, err *e);
/* n more tokens of a sequence, in steps of max_rows at most that end at the policy's boundaries (each is committed); fn may be
 * NULL. ERR_INPUT: an id beyond the vocabulary, or more rows than the context has. */
err_code lab_feed(lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, lab_rows *fn, void *arg, err *e);
/* An empty sequence of its own, the one before is closed; exact. */
err_code lab_fresh(lab *l, kv_seq **out, err *e);
/* Logits of h [n][D], n <= RUNNER_HEAD_ROWS: [n][V], and stats [n]; until the next call. Inside a lab_rows too. */
const float *lab_logits(lab *l, const float *h, uint32_t n, row_stats *stats);
#endif
