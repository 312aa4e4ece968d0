#include "coordinator/prefill.h"
#include "core/log.h"
#include "engine/forward.h"
#include "engine/predictor.h"
#include "proto/link.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct task {
    uint64_t session;
    uint32_t n, chunk, n_prompt, sinks;
    kv_policy policy;
    layer_mask mask;            /* n 0: no layer is left out */
    bool dropped, predict, pool;
    struct task *next;
    uint32_t token[];
} task;

struct prefill {
    prefill_options o;
    prefill_stage *stage;
    pthread_t thread;
    pthread_mutex_t lock;       /* guards tasks, their dropped flags, and quit */
    pthread_cond_t more;
    task *tasks;                /* the first one is under way */
    bool quit;
    bool ended;                 /* the thread has nothing left to do but to return */
    prefill *next;              /* of those that leave; the main thread's */
    /* the thread's own */
    gguf *file;
    model *model;
    kv *store;
    pool *pool;
    runner *runner;
    predictor *predictor;       /* NULL: none is wanted, or why is said by */
    err no_predictor;
    link_t *bulk[512], *inbox;
    float *h;                   /* [max_rows][D] */
    float *sum;                 /* [L][D] of the task, when it pools */
    kv_row *rows;
    forward_row *fwd;
    uint32_t *slots;
    text stream;
};

/* ---- one task ------------------------------------------------------------------------------------------------------ */

#define SEND_MS 10000   /* a stage that takes nothing for so long is stuck or gone */
#define SLICE_MS 200    /* how soon the end of this thread is seen meanwhile */

static bool quits(prefill *p)
{
    pthread_mutex_lock(&p->lock);
    bool q = p->quit;
    pthread_mutex_unlock(&p->lock);
    return q;
}

static bool given_up(prefill *p, const task *t)
{
    pthread_mutex_lock(&p->lock);
    bool up = t->dropped || p->quit;
    pthread_mutex_unlock(&p->lock);
    return up;
}

static err_code run_chunk(prefill *p, kv_seq *q, const task *t, uint32_t first, uint32_t n, err *e)
{
    const layer_mask *mask = t->mask.n ? &t->mask : NULL;
    for (uint32_t i = 0; i < n; i++)
        p->rows[i] = (kv_row){ .row = first + i, .pos = first + i, .parent = i ? first + i - 1 : KV_ROW_NONE, .path = (uint8_t)p->o.path };
    err_code rc = kv_reserve(q, p->rows, n, p->slots, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n; i++)
        p->fwd[i] = (forward_row){ .seq = q, .slot = p->slots[i], .path = (path_id)p->o.path, .mask = mask, .row = first + i, .ends = true,
                                   .pool = t->pool ? p->sum : NULL };
    runner_embed(p->runner, t->token + first, n, p->h);
    runner_layers(p->runner, p->fwd, n, p->h);
    return kv_commit(q, first + n - 1, e);
}

static err_code send_patiently(prefill *p, uint32_t stage, const message *m, view stream, err *e)
{
    for (int waited = 0;; waited += SLICE_MS) {
        err_code rc = link_send(p->bulk[stage], NULL, m, &stream, SLICE_MS, e);
        if (rc != ERR_TIMEOUT || waited >= SEND_MS || quits(p)) return rc;
    }
}

/* To every stage its layers: rows [from, to), or, under a policy that observes, all there is when the prompt is done. */
static err_code push(prefill *p, kv_seq *q, uint64_t session, uint32_t from, uint32_t to, bool state, bool last, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < p->o.n_stages; i++) {
        const prefill_stage *s = &p->stage[i];
        size_t n = state ? kv_state_bytes(q, s->first, s->last) : kv_export_bytes(q, s->first, s->last, from, to);
        text_clear(&p->stream);
        if (!text_reserve(&p->stream, n)) return err_set(e, ERR_NOMEM, "out of memory for %zu bytes of KV", n);
        rc = state ? kv_state_export(q, s->first, s->last, p->stream.ptr, n, e)
                   : kv_export(q, s->first, s->last, from, to, p->stream.ptr, n, e);
        message m = msg_init(MSG_KV_PUSH);
        m.kv_push.epoch = p->o.epoch;
        m.kv_push.session = session;
        m.kv_push.last = last;
        m.kv_push.from = from;
        if (!rc) rc = send_patiently(p, i, &m, (view){ p->stream.ptr, n }, e);
    }
    return rc;
}

/* The auxiliary reads all rows; the base computes the sinks itself. */
static err_code predict_chunk(prefill *p, kv_seq *q, const task *t, uint32_t first, uint32_t n, err *e)
{
    err_code rc = first ? ERR_OK : predictor_begin(p->predictor, e);
    uint32_t from[MASK_LAYERS], own = first < t->sinks ? t->sinks - first : 0;
    for (uint32_t l = 0; l < t->mask.n; l++) from[l] = t->mask.at[l].attn;
    if (!rc && own) rc = run_chunk(p, q, t, first, own < n ? own : n, e);
    return rc ? rc : predictor_rows(p->predictor, q, t->mask.n ? from : NULL, t->token + first, first, n, e);
}

/* All rows but the prompt's last: those that stages add up where they compute them. */
static err_code say_sums(prefill *p, const task *t, err *e)
{
    const model_shape *s = &p->model->shape;
    message m = msg_init(MSG_POOLED);
    m.pooled = (msg_pooled){ .epoch = p->o.epoch, .session = t->session, .layers = s->L, .dim = s->D };
    return link_send(p->inbox, NULL, &m, &(view){ p->sum, (size_t)s->L * s->D * sizeof *p->sum }, 1000, e);
}

static err_code run_task(prefill *p, const task *t, err *e)
{
    if (t->predict && !p->predictor) return err_set(e, p->no_predictor.code ? p->no_predictor.code : ERR_CONFIG, "%s", p->no_predictor.text);
    kv_seq *q;
    bool state = t->policy.see != 0;
    uint32_t from[MASK_LAYERS];
    memset(p->sum, 0, (size_t)p->model->shape.L * p->model->shape.D * sizeof *p->sum);
    for (uint32_t l = 0; l < t->mask.n; l++) from[l] = t->mask.at[l].attn;
    err_code rc = kv_seq_open_skipping(p->store, t->session, &t->policy, t->n_prompt, t->mask.n ? from : NULL, &q, e);
    for (uint32_t at = 0, n; !rc && at < t->n && !given_up(p, t); at += n) {
        n = t->n - at < t->chunk ? t->n - at : t->chunk;
        bool last = at + n == t->n;
        rc = t->predict ? predict_chunk(p, q, t, at, n, e) : run_chunk(p, q, t, at, n, e);
        if (!rc && (!state || last)) rc = push(p, q, t->session, state ? 0 : at, at + n, state, last, e);
    }
    kv_seq_close(p->store, t->session);
    if (!rc && t->pool && !given_up(p, t)) rc = say_sums(p, t, e);
    return rc;
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

static err_code connect_all(prefill *p, err *e)
{
    err_code rc = link_connect(&p->inbox, p->o.hub, LINK_PUSH, LINK_CONTROL, p->o.inbox, e);
    for (uint32_t i = 0; !rc && i < p->o.n_stages; i++)
        rc = link_connect_to(&p->bulk[i], p->o.hub, LINK_PUSH, LINK_BULK, p->stage[i].bulk_addr, p->stage[i].key, e);
    return rc;
}

static err_code scratch(prefill *p, err *e)
{
    size_t n = p->o.max_rows;
    p->h = malloc(n * p->model->shape.D * sizeof *p->h);
    p->rows = malloc(n * sizeof *p->rows);
    p->fwd = malloc(n * sizeof *p->fwd);
    p->slots = malloc(n * sizeof *p->slots);
    p->sum = calloc((size_t)p->model->shape.L * p->model->shape.D, sizeof *p->sum);
    return p->sum && p->h && p->rows && p->fwd && p->slots ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for local prefill");
}

static err_code load(prefill *p, err *e)
{
    isa use;
    err_code rc = isa_pick(&use, e);
    if (!rc) rc = gguf_open(&p->file, p->o.model, e);
    model_shape s;
    if (!rc) rc = model_shape_read(&s, p->file, e);
    pack_file *packed = rc ? NULL : pack_open(p->file, &p->o.pack, p->o.threads, NULL);
    if (!rc) rc = model_open_packed(&p->model, p->file, packed, (shard){ 0, s.L, true, false }, e);
    pack_close(&packed);
    if (rc) return rc;
    kv_geometry g = forward_kv(&s, 0, s.L);
    g.format = (kv_format)p->o.format;
    g.n_ctx = p->o.n_ctx;
    g.isa = use;
    g.tables = p->o.tables;
    rc = kv_open(&p->store, &g, e);
    if (!rc) rc = pool_open(&p->pool, p->o.threads, NULL, NULL, e);
    if (!rc) rc = runner_open(&p->runner, p->model, p->store, p->pool, use, p->o.max_rows, e);
    return rc ? rc : scratch(p, e);
}

/* Without it exact prompts go on, and predicted ones fail with the reason. */
static void load_predictor(prefill *p)
{
    predictor_source from = { .aux = p->o.aux, .profile = p->o.profile, .base = p->file, .path = (path_id)p->o.aux_path };
    predictor_place at = { .base = p->model, .pool = p->pool, .pack = p->o.pack, .n_ctx = p->o.n_ctx, .max_rows = p->o.max_rows,
                           .format = (kv_format)p->o.format };
    if (!p->o.aux) err_set(&p->no_predictor, ERR_CONFIG, "there is no auxiliary model");
    else if (!isa_pick(&at.isa, &p->no_predictor)) predictor_open(&p->predictor, &from, &at, &p->no_predictor);
}

static void say_fail(prefill *p, uint64_t session, const err *why)
{
    err e;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    m.fail.epoch = p->o.epoch;
    m.fail.session = session;
    snprintf(m.fail.text, sizeof m.fail.text, "local prefill: %s", why->text);
    if (p->inbox) link_send(p->inbox, NULL, &m, NULL, 1000, &e);
}

/* From now on only the stages' KV_DONE is missing. */
static void say_pushed(prefill *p, uint64_t session)
{
    err e;
    message m = msg_init(MSG_KV_DONE);
    m.kv_done.epoch = p->o.epoch;
    m.kv_done.session = session;
    if (p->inbox) link_send(p->inbox, NULL, &m, NULL, 1000, &e);
}

static task *next_task(prefill *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->quit && !p->tasks) pthread_cond_wait(&p->more, &p->lock);
    task *t = p->quit ? NULL : p->tasks;
    pthread_mutex_unlock(&p->lock);
    return t;
}

static void task_done(prefill *p, task *t)
{
    pthread_mutex_lock(&p->lock);
    p->tasks = t->next;
    pthread_mutex_unlock(&p->lock);
    free(t);
}

static void unload(prefill *p)
{
    for (uint32_t i = 0; i < p->o.n_stages; i++)
        if (p->bulk[i]) link_close(&p->bulk[i]);
    if (p->inbox) link_close(&p->inbox);
    predictor_close(&p->predictor);
    runner_close(&p->runner);
    if (p->pool) pool_close(&p->pool);
    if (p->store) kv_close(&p->store);
    model_close(&p->model);
    if (p->file) gguf_close(&p->file);
    free(p->h);
    free(p->sum);
    free(p->rows);
    free(p->fwd);
    free(p->slots);
    text_free(&p->stream);
}

static void *thread_main(void *arg)
{
    prefill *p = arg;
    err e = { 0 };
    log_role("prefill", true);
    err_code rc = connect_all(p, &e);
    if (!rc) rc = load(p, &e);
    if (!rc) load_predictor(p);
    for (task *t; (t = next_task(p));) {
        err te = e;
        err_code trc = rc ? rc : run_task(p, t, &te);
        if (trc && !given_up(p, t)) say_fail(p, t->session, &te);
        else if (!trc) say_pushed(p, t->session);
        task_done(p, t);
    }
    unload(p);
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the main thread's side ---------------------------------------------------------------------------------------- */

err_code prefill_open(prefill **out, const prefill_options *o, err *e)
{
    prefill *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p || !(p->stage = malloc(o->n_stages * sizeof *p->stage))) {
        free(p);
        return err_set(e, ERR_NOMEM, "out of memory for local prefill");
    }
    p->o = *o;
    memcpy(p->stage, o->stage, o->n_stages * sizeof *p->stage);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    if (pthread_create(&p->thread, NULL, thread_main, p)) {
        free(p->stage);
        free(p);
        return err_set(e, ERR_NOMEM, "cannot start the thread of local prefill");
    }
    *out = p;
    return ERR_OK;
}

void prefill_leave(prefill **pp, prefill **leaving)
{
    prefill *p = *pp;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    p->next = *leaving;
    *leaving = p;
    *pp = NULL;
}

static bool has_ended(prefill *p)
{
    pthread_mutex_lock(&p->lock);
    bool ended = p->ended;
    pthread_mutex_unlock(&p->lock);
    return ended;
}

static void give_back(prefill *p)
{
    pthread_join(p->thread, NULL);
    for (task *t = p->tasks, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    free(p->stage);
    free(p);
}

void prefill_reap(prefill **leaving, bool wait)
{
    while (*leaving) {
        prefill *p = *leaving;
        if (!wait && !has_ended(p)) {
            leaving = &p->next;
            continue;
        }
        *leaving = p->next;
        give_back(p);
    }
}

err_code prefill_add(prefill *p, const prefill_work *w, err *e)
{
    task *t = malloc(sizeof *t + w->n * sizeof *t->token);
    if (!t) return err_set(e, ERR_NOMEM, "out of memory for %u tokens", w->n);
    *t = (task){ .session = w->session, .n = w->n, .chunk = w->chunk, .n_prompt = w->n_prompt, .policy = *w->policy, .predict = w->predict,
                 .sinks = w->sinks };
    t->pool = w->pool;
    if (w->mask) t->mask = *w->mask;
    memcpy(t->token, w->tokens, w->n * sizeof *w->tokens);
    pthread_mutex_lock(&p->lock);
    task **at = &p->tasks;
    while (*at) at = &(*at)->next;
    *at = t;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    return ERR_OK;
}

void prefill_drop(prefill *p, uint64_t session)
{
    pthread_mutex_lock(&p->lock);
    for (task *t = p->tasks; t; t = t->next)
        if (t->session == session) t->dropped = true;
    pthread_mutex_unlock(&p->lock);
}
