#include "ops/cli/kv_lab.h"
#include <stdlib.h>
#include <string.h>

/* Owns sequences and steps over them; the model is the lab's. It measures nothing. */

static err_code open_scratch(kv_lab *l, err *e)
{
    l->h = malloc(sizeof *l->h * KVLAB_ROWS * lab_shape(l->lab)->D);
    l->row = malloc(sizeof *l->row * KVLAB_ROWS);
    l->fwd = malloc(sizeof *l->fwd * KVLAB_ROWS);
    l->slot = malloc(sizeof *l->slot * KVLAB_ROWS);
    return l->h && l->row && l->fwd && l->slot ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for steps of %d rows", KVLAB_ROWS);
}

static err_code open_profile(kv_lab *l, const kvlab_options *o, err *e)
{
    model_shape s;
    err_code rc = profile_choose(&l->profile, o->profile, o->model, &(profile_binding){ .model = gguf_digest(l->file) }, e);
    if (!rc && l->profile) rc = model_shape_read(&s, l->file, e);
    return rc || !l->profile ? rc : profile_kv_open(&l->tables, l->profile, &s, 0, s.L, e);
}

err_code kvlab_open(kv_lab *l, const kvlab_options *o, err *e)
{
    *l = (kv_lab){ .next_id = 1 };
    err_code rc = gguf_open(&l->file, o->model, e);
    if (!rc) rc = open_profile(l, o, e);
    lab_options lo = { .path = PATH_I8B32, .threads = o->threads, .n_ctx = o->n_ctx, .max_rows = KVLAB_ROWS,
                       .tables = profile_kv_tables(l->tables), .pack = o->pack };
    if (!rc) rc = tokenizer_open(&l->words, l->file, e);
    if (!rc) rc = lab_open(&l->lab, l->file, &lo, e);
    if (rc) return rc;
    l->V = lab_shape(l->lab)->V;
    l->n_ctx = lab_ctx(l->lab);
    l->store = lab_store(l->lab);
    l->runner = lab_runner(l->lab);
    l->bos = tokenizer_adds_bos(l->words) ? tokenizer_bos(l->words) : TOKEN_NONE;
    return open_scratch(l, e);
}

void kvlab_close(kv_lab *l)
{
    lab_close(&l->lab);
    profile_kv_close(&l->tables);
    profile_close(&l->profile);
    tokenizer_close(&l->words);
    gguf_close(&l->file);
    void *mem[] = { l->h, l->row, l->fwd, l->slot };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    *l = (kv_lab){ 0 };
}

/* ---- sequences ---- */

err_code kvlab_new(kv_lab *l, const kv_policy *p, uint32_t n_prompt, kv_seq **out, err *e)
{
    uint64_t id = l->next_id++;
    return p ? kv_seq_open_policy(l->store, id, p, n_prompt, out, e) : kv_seq_open(l->store, id, out, e);
}

err_code kvlab_watch(kv_lab *l, const kv_policy *p, size_t n, uint32_t n_prompt, kv_seq **out, err *e)
{
    uint32_t see = 0, window = 1;
    for (size_t i = 0; i < n; i++) {
        see |= p[i].see;
        if (p[i].window_queries > window) window = p[i].window_queries;
    }
    return kv_seq_open_watch(l->store, l->next_id++, see, window, n_prompt, out, e);
}

err_code kvlab_fork(kv_lab *l, kv_seq *watcher, const kv_policy *p, kv_seq **out, err *e)
{
    uint64_t id = l->next_id++;
    err_code rc = kv_fork_policy(watcher, id, p, e);
    *out = rc ? NULL : kv_seq_find(l->store, id);
    return rc;
}

void kvlab_drop(kv_lab *l, kv_seq **q)
{
    if (*q) kv_seq_close(l->store, kv_seq_id(*q));
    *q = NULL;
}

/* ---- steps ---- */

static void rows_of(kv_lab *l, kv_seq *q, uint32_t n, const uint16_t *segment)
{
    uint32_t at = kv_rows(q);
    for (uint32_t i = 0; i < n; i++)
        l->row[i] = (kv_row){ .row = at + i, .pos = at + i, .parent = at + i ? at + i - 1 : KV_ROW_NONE,
                              .segment = segment ? segment[i] : KV_SEGMENT_USER, .path = PATH_I8B32 };
}

static void rows_run(kv_lab *l, const uint32_t *ids, uint32_t n)
{
    runner_embed(l->runner, ids, n, l->h);
    runner_layers(l->runner, l->fwd, n, l->h);
}

static void rows_show(kv_lab *l, uint32_t first, uint32_t n, uint32_t base, const kvlab_sink *sink)
{
    uint32_t pick[RUNNER_HEAD_ROWS];
    row_stats stats[RUNNER_HEAD_ROWS];
    for (uint32_t at = first, m; at < n; at += m) {
        m = n - at < RUNNER_HEAD_ROWS ? n - at : RUNNER_HEAD_ROWS;
        for (uint32_t i = 0; i < m; i++) pick[i] = at + i;
        const float *logits = runner_head(l->runner, l->h, pick, l->fwd + at, m, stats);
        for (uint32_t i = 0; i < m; i++) sink->fn(sink->me, base + at + i, logits + (size_t)i * l->V, &stats[i]);
    }
}

static err_code feed_some(kv_lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, const uint16_t *segment, err *e)
{
    rows_of(l, q, n, segment);
    err_code rc = kv_reserve(q, l->row, n, l->slot, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n; i++) l->fwd[i] = (forward_row){ .seq = q, .slot = l->slot[i], .path = PATH_I8B32 };
    rows_run(l, ids, n);
    return kv_commit(q, l->row[n - 1].row, e);
}

err_code kvlab_feed(kv_lab *l, kv_seq *q, const uint32_t *ids, uint32_t n, const uint16_t *segment, const kvlab_sink *sink, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t at = 0, m; !rc && at < n; at += m) {
        uint32_t room = kv_boundary(q) - kv_rows(q);
        m = n - at < KVLAB_ROWS ? n - at : KVLAB_ROWS;
        if (m > room) m = room;
        rc = m ? feed_some(l, q, ids + at, m, segment ? segment + at : NULL, e)
               : err_set(e, ERR_STATE, "a sequence that watches takes no row behind its prompt");
        if (!rc && sink && at + m > sink->from) rows_show(l, sink->from > at ? sink->from - at : 0, m, at, sink);
    }
    return rc;
}

typedef struct { const kv_lab *l; uint32_t *ids; } best;

static void take_best(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    best *b = me;
    candidate c;
    (void)s;
    forward_top(logits, b->l->V, &c, 1);
    b->ids[i] = c.id;
}

/* Sequences that have room for n rows, as many as a step takes: the model's weights pass once for all. */
static err_code feed_group(kv_lab *l, kv_seq *const *q, uint32_t seqs, const uint32_t *ids, uint32_t n, uint32_t *next, err *e)
{
    uint32_t all[KVLAB_ROWS] = { 0 }, pick[RUNNER_HEAD_ROWS];
    forward_row last[RUNNER_HEAD_ROWS];
    row_stats stats[RUNNER_HEAD_ROWS];
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < seqs; i++) {
        rows_of(l, q[i], n, NULL);
        rc = kv_reserve(q[i], l->row, n, l->slot + i * n, e);
        memcpy(all + i * n, ids, n * sizeof *ids);
        for (uint32_t k = i * n; k < (i + 1) * n; k++) l->fwd[k] = (forward_row){ .seq = q[i], .slot = l->slot[k], .path = PATH_I8B32 };
    }
    if (rc) return rc;
    rows_run(l, all, seqs * n);
    for (uint32_t i = 0; !rc && i < seqs; i++) rc = kv_commit(q[i], kv_rows(q[i]) + n - 1, e);
    best b = { l, next };
    for (uint32_t at = 0, m; !rc && at < seqs; at += m) {
        m = seqs - at < RUNNER_HEAD_ROWS ? seqs - at : RUNNER_HEAD_ROWS;
        for (uint32_t i = 0; i < m; i++) last[i] = l->fwd[pick[i] = (at + i + 1) * n - 1];
        const float *logits = runner_head(l->runner, l->h, pick, last, m, stats);
        for (uint32_t i = 0; i < m; i++) take_best(&b, at + i, logits + (size_t)i * l->V, &stats[i]);
    }
    return rc;
}

typedef struct { const kv_lab *l; uint32_t *id; } last_best;

static void take_last(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    const last_best *b = me;
    best to = { b->l, b->id };
    (void)i;
    take_best(&to, 0, logits, s);
}

err_code kvlab_feed_each(kv_lab *l, kv_seq *const *q, uint32_t seqs, const uint32_t *ids, uint32_t n, uint32_t *next, err *e)
{
    uint32_t most = n && n <= KVLAB_ROWS ? KVLAB_ROWS / n : 0;
    err_code rc = ERR_OK;
    for (uint32_t at = 0, m; !rc && at < seqs; at += m) {
        for (m = 0; m < most && at + m < seqs && kv_boundary(q[at + m]) - kv_rows(q[at + m]) >= n;) m++;
        if (m) rc = feed_group(l, q + at, m, ids, n, next + at, e);
        else {
            last_best b = { l, next + at };
            rc = kvlab_feed(l, q[at], ids, n, NULL, &(kvlab_sink){ take_last, &b, n - 1 }, e);
            m = 1;
        }
    }
    return rc;
}

err_code kvlab_step(kv_lab *l, kv_seq *const *q, uint32_t *ids, uint32_t n, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < n; i++) {
        rows_of(l, q[i], 1, NULL);
        rc = kv_reserve(q[i], l->row, 1, &l->slot[i], e);
        l->fwd[i] = (forward_row){ .seq = q[i], .slot = l->slot[i], .path = PATH_I8B32 };
    }
    if (rc) return rc;
    rows_run(l, ids, n);
    for (uint32_t i = 0; !rc && i < n; i++) rc = kv_commit(q[i], kv_rows(q[i]), e);
    best b = { l, ids };
    rows_show(l, 0, n, 0, &(kvlab_sink){ take_best, &b, 0 });
    return rc;
}
