#include "workers/stage/stage.h"
#include "core/clock.h"
#include "core/log.h"
#include "proto/endpoint.h"
#include "workers/stage/kept.h"
#include "workers/stage/peers.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 250          /* how soon a stop flag or a silent coordinator is seen */
#define UNSENT_MS 2          /* how soon a reply whose peer was not there is tried again */
#define SPIN_US 30           /* a hop over ipc takes about so long: sleeping and waking costs as much again. Only where every busy thread has a cpu */
#define HELLO_AGAIN_NS 3000000000u /* a worker that came by itself says HELLO again after so much silence (a PING comes every second) */
#define SILENT_NS 60000000000u /* and leaves after so much */
#define LEAVE_NS 10000000000u /* a coordinator that is told of it lets a worker go when its steps are through; it is not waited for longer */
#define SEND_MS 3000         /* no connection to the next hop for so long: it is gone (a slow one still has room: high-water marks are far off) */
#define SLICE_MS 200         /* how soon a stop flag is seen meanwhile */

typedef struct {
    const stage_options *o;
    gguf *file;
    profile *profile;            /* NULL: none */
    pack_file *packed;                /* NULL: weights from the file */
    pool *pool;
    link_t *control, *data, *bulk, *result;
    link_t *hop[512];            /* PUSH to the other stages, made when first needed */
    peers peers;                 /* where they are */
    char host[128];              /* ours, in tcp addresses */
    uint64_t epoch, last_heard, last_hello;
    shard_state *shards;
    uint32_t n_unsent;           /* replies that wait for their peer */
    trace *trace;
    packet in;
    uint64_t steps, rows, busy_ns, wait_ns, transfer_ns, n_sessions, repeats, damaged;
    uint32_t spin_us;            /* how long it spins for the next message before it sleeps */
    uint64_t t_taken;            /* when the message under way was there to be read */
    bool sandboxed;              /* nothing but the list of core/sandbox.c is possible any more */
    bool bye, heard;             /* told to go; anything has come from the coordinator */
    uint64_t t_leave;            /* since when it waits to be let go, 0: it does not */
    err refused;                 /* why the coordinator does not want us */
} stage;

/* ---- small answers ------------------------------------------------------------------------------------------------ */

static err_code say(stage *s, const message *m, err *e) { return link_send(s->control, NULL, m, NULL, 1000, e); }

static void say_fail(stage *s, const err *why, uint64_t session, uint64_t step)
{
    LOG(LOG_WARN, "STAGE-FAIL", "job=%" PRIu64 " session=%" PRIu64 " step=%" PRIu64 " code=%d text=\"%s\"", session >> 6, session, step,
        why->code, why->text);
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    m.fail.epoch = step && s->in.head.type == MSG_STEP ? s->in.head.step.epoch : s->epoch;
    m.fail.session = session;
    m.fail.step = step;
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    err e;
    if (say(s, &m, &e)) LOG(LOG_WARN, "STAGE-MUTE", "text=\"%s\"", e.text);
}

static shard_state *shard_find(stage *s, uint64_t id)
{
    for (shard_state *p = s->shards; p; p = p->next)
        if (p->id == id) return p;
    return NULL;
}

/* ---- PLAN ---------------------------------------------------------------------------------------------------------- */

static void close_hops(stage *s)
{
    for (size_t i = 0; i < sizeof s->hop / sizeof *s->hop; i++)
        if (s->hop[i]) link_close(&s->hop[i]);
    if (s->result) link_close(&s->result);
}

static void close_shards(stage *s)
{
    while (s->shards) {
        shard_state *next = s->shards->next;
        shard_close(&s->shards);
        s->shards = next;
    }
    s->n_sessions = 0;
    malloc_trim(0); /* plans differ in sizes: what one leaves between the pieces of the next would add up */
}

static err_code take_plan(stage *s, const packet *in, err *e)
{
    const msg_plan *p = &in->head.plan;
    if (p->epoch != s->epoch) {
        close_shards(s);
        close_hops(s);
    }
    s->epoch = p->epoch;
    s->spin_us = p->host_threads && s->o->where && topo_given(s->o->where) >= p->host_threads ? SPIN_US : 0;
    err_code rc = peers_take(&s->peers, s->o->hub, (uint32_t)p->n_stages, in->frame[0], e);
    if (!rc && !s->result) {
        rc = link_connect(&s->result, s->o->hub, LINK_PUSH, LINK_DATA, p->result_addr, e);
        if (!rc) link_trace(s->result, s->trace, "result");
    }
    shard_state *sh = NULL;
    if (!rc) rc = shard_open(&sh, s->file, s->packed, s->profile, p, s->pool, s->o->isa, e);
    if (rc) return rc;
    sh->next = s->shards;
    s->shards = sh;
    return ERR_OK;
}

static void on_plan(stage *s)
{
    err e;
    uint64_t t = clock_ns();
    if (take_plan(s, &s->in, &e)) {
        err_wrap(&e, "stage %s", s->o->name);
        say_fail(s, &e, 0, 0);
        return;
    }
    message m = msg_init(MSG_READY);
    m.ready.epoch = s->epoch;
    m.ready.stage = s->shards->plan.stage;
    m.ready.sandbox = s->sandboxed;
    m.ready.weight_bytes = s->shards->model->bytes;
    m.ready.kv_row_bytes = shard_row_bytes(s->shards);
    m.ready.load_ms = (clock_ns() - t) / 1000000u;
    LOG(LOG_INFO, "STAGE-READY", "epoch=%" PRIu64 " layers=%" PRIu64 "-%" PRIu64 " ms=%" PRIu64, s->epoch, s->shards->plan.first,
        s->shards->plan.last, m.ready.load_ms);
    if (say(s, &m, &e)) LOG(LOG_WARN, "STAGE-MUTE", "text=\"%s\"", e.text);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------ */

/* What a session wants in place of what it leaves out must be what this shard has. */
static err_code take_stand(const shard_state *sh, const msg_session_open *m, layer_mask *out, err *e)
{
    out->stand = (mask_stand)m->stand;
    out->stand_id = (uint32_t)m->stand_id;
    if (!out->stand) return ERR_OK;
    uint32_t have = stand_ins_id(sh->stand, out->stand);
    if (have && have == out->stand_id) return ERR_OK;
    return err_set(e, ERR_CONFIG, "session %" PRIu64 " wants stand-ins %08x of kind %u, and the profile of this stage has %08x", m->session, out->stand_id, (unsigned)out->stand, have);
}

/* n 0: nothing is left out. */
static err_code take_mask(const shard_state *sh, const msg_session_open *m, view recs, layer_mask *out, err *e)
{
    uint32_t L = sh->model->shape.L;
    *out = (layer_mask){ 0 };
    if (!m->n_mask) return ERR_OK;
    if (m->n_mask != L || L > MASK_LAYERS)
        return err_set(e, ERR_PROTO, "session %" PRIu64 ": a mask of %" PRIu64 " layers, the model has %u", m->session, m->n_mask, L);
    out->n = L;
    for (uint32_t l = 0; l < L; l++) {
        mask_rec r;
        memcpy(&r, (const uint8_t *)recs.ptr + l * sizeof r, sizeof r);
        out->at[l] = (mask_layer){ r.attn, r.ffn };
    }
    out->calm = (mask_calm){ (uint32_t)m->calm_first, (uint32_t)m->calm_last, (uint32_t)m->calm_count, 0, (float)m->calm_theta };
    if (take_stand(sh, m, out, e)) return e->code;
    if (m->calm_last > L) return err_set(e, ERR_PROTO, "session %" PRIu64 ": a rule about layer %" PRIu64 ", the model has %u", m->session, m->calm_last - 1, L);
    return ERR_OK;
}

static err_code open_session(stage *s, const msg_session_open *m, view mask, err *e)
{
    shard_state *sh = shard_find(s, m->model);
    kv_seq *q;
    if (m->epoch != s->epoch || !sh) return err_set(e, ERR_STATE, "session %" PRIu64 ": no shard of model %" PRIu64 " in epoch %" PRIu64, m->session, m->model, m->epoch);
    kv_policy policy = kv_policy_identity();
    if (m->kv_policy[0] && kv_policy_parse(&policy, m->kv_policy, strlen(m->kv_policy), m->policy, e)) return e->code;
    if (m->adapter) return err_set(e, ERR_CONFIG, "adapter %" PRIu64 " is not known to this stage", m->adapter);
    layer_mask left_out;
    if (take_mask(sh, m, mask, &left_out, e)) return e->code;
    adapter_want w = { m->session, m->lora, m->lora_digest, (float)m->lora_scale };
    if (m->lora[0] && adapters_take(&sh->adapters, sh->model, &w, e)) return err_wrap(e, "stage %s: adapter", s->o->name);
    uint32_t from[MASK_LAYERS];
    for (uint32_t l = 0; l < left_out.n; l++) from[l] = left_out.at[l].attn;
    err_code rc = sh->store ? kv_seq_open_skipping(sh->store, m->session, &policy, (uint32_t)m->prompt_rows, left_out.n ? from : NULL, &q, e) : ERR_OK;
    bool opened = !rc && sh->store;
    if (!rc) rc = masks_take(&sh->masks, m->session, &left_out, e);
    if (!rc) rc = pools_take(&sh->pools, m->session, (uint32_t)m->pool_rows, e);
    if (!rc && opened && m->fill_rows) rc = kv_fill(q, (uint32_t)m->fill_rows, m->fill_seed, e);
    if (rc && opened) kv_seq_close(sh->store, m->session);
    if (rc) adapters_drop(&sh->adapters, m->session), masks_drop(&sh->masks, m->session);
    return rc;
}

/* A shard that has nothing to do has every row. */
static uint64_t begin_with(stage *s, const msg_session_open *m)
{
    shard_state *sh = shard_find(s, m->model);
    if (!m->prefix) return 0;
    const mask_use *u = masks_find(&sh->masks, m->session);
    return sh->store && !(u && !u->idle) ? kv_prefix_take(kv_seq_find(sh->store, m->session), m->prefix) : m->prompt_rows;
}

static void on_session_open(stage *s)
{
    err e;
    const msg_session_open *m = &s->in.head.session_open;
    if (open_session(s, m, s->in.frame[0], &e)) {
        say_fail(s, &e, m->session, 0);
        return;
    }
    s->n_sessions++;
    LOG(LOG_INFO, "SESSION-OPEN", "job=%" PRIu64 " session=%" PRIu64, m->session >> 6, m->session);
    message r = msg_init(MSG_SESSION_READY);
    r.session_ready.epoch = s->epoch;
    r.session_ready.session = m->session;
    r.session_ready.prefix_rows = begin_with(s, m);
    if (say(s, &r, &e)) LOG(LOG_WARN, "STAGE-MUTE", "text=\"%s\"", e.text);
}

static void on_drop(stage *s)
{
    uint64_t id = s->in.head.drop.session;
    bool had = false;
    for (shard_state *p = s->shards; p; p = p->next) {
        if (p->store && kv_seq_find(p->store, id)) kv_seq_close(p->store, id), had = true;
        had = adapters_drop(&p->adapters, id) || had;
        had = masks_drop(&p->masks, id) || had;
        had = pools_drop(&p->pools, id) || had;
    }
    if (had && s->n_sessions) s->n_sessions--;
    LOG(LOG_INFO, "SESSION-DROP", "job=%" PRIu64 " session=%" PRIu64, id >> 6, id);
}

/* ---- the rest of control ------------------------------------------------------------------------------------------- */

static void on_ping(stage *s)
{
    err e;
    message m = msg_init(MSG_PONG);
    m.pong.nonce = s->in.head.ping.nonce;
    m.pong.steps = s->steps;
    say(s, &m, &e);
}

static uint64_t rss_kb(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}

static void on_stats_get(stage *s)
{
    err e;
    message m = msg_init(MSG_STATS);
    msg_stats *t = &m.stats;
    *t = (msg_stats){ .nonce = s->in.head.stats_get.nonce, .steps = s->steps, .rows = s->rows, .busy_ns = s->busy_ns,
                      .wait_ns = s->wait_ns, .transfer_ns = s->transfer_ns, .sessions = s->n_sessions, .rss_kb = rss_kb(),
                      .repeats = s->repeats, .damaged = s->damaged };
    for (shard_state *p = s->shards; p; p = p->next) {
        kv_usage u = p->store ? kv_bytes(p->store) : (kv_usage){ 0 };
        t->kv_bytes += u.data + u.meta;
        t->kv_pages += u.pages_used - u.prefix_pages;
        t->kv_arena += u.arena;
        t->kv_packed += u.packed;
        uint64_t *kind[KV_PACK_COUNT] = { &t->kv_raw, &t->kv_q8, &t->kv_q4, &t->kv_token, &t->kv_channel, &t->kv_nuq };
        for (uint32_t i = 0; i < KV_PACK_COUNT; i++) *kind[i] += u.by_kind[i];
        t->kv_seen += u.seen;
        t->kv_evicted += u.evicted;
        t->kv_read += u.read;
        t->kv_sparse_read += u.sparse_read;
        t->kv_sparse_seen += u.sparse_seen;
        t->kv_shared += u.prefix;
        t->prefix_hits += u.prefix_hits;
        t->prefix_misses += u.prefix_misses;
        t->weight_bytes += p->model->bytes + adapters_bytes(&p->adapters);
    }
    uint64_t out = 0, unused = 0;
    link_counted(s->data, &t->bytes_in, &unused);
    for (uint32_t i = 0; i < s->peers.n; i++) {
        if (s->hop[i]) link_counted(s->hop[i], &unused, &out), t->bytes_out += out;
    }
    if (s->result) link_counted(s->result, &unused, &out), t->bytes_out += out;
    kernel_counts k = kernels_counted();
#define X(n) t->n = k.n;
    KERNEL_COUNTERS(X)
#undef X
    say(s, &m, &e);
}

static void say_bye(stage *s, const char *reason)
{
    err e;
    message m = msg_init(MSG_BYE);
    snprintf(m.bye.reason, sizeof m.bye.reason, "%s", reason);
    if (say(s, &m, &e)) LOG(LOG_WARN, "STAGE-MUTE", "text=\"%s\"", e.text);
}

/* The answer lets the coordinator end sooner: it waits for those that joined. */
static void on_bye(stage *s)
{
    LOG(LOG_INFO, "STAGE-BYE", "reason=\"%s\"", s->in.head.bye.reason);
    if (s->o->joined && !s->t_leave) say_bye(s, "as told");
    s->bye = true;
}

/* The coordinator refused our HELLO: there is nothing to stay for. */
static void on_fail(stage *s)
{
    const msg_fail *f = &s->in.head.fail;
    err_set(&s->refused, f->code < ERR_COUNT ? (err_code)f->code : ERR_STATE, "refused by %s: %s", s->o->connect, f->text);
    s->bye = true;
}

static err_code send_patiently(stage *s, link_t *to, const message *m, const view *frames, err *e)
{
    for (int waited = 0;; waited += SLICE_MS) {
        err_code rc = link_send(to, NULL, m, frames, SLICE_MS, e);
        if (rc != ERR_TIMEOUT || waited >= SEND_MS || (s->o->stop && atomic_load(s->o->stop))) return rc;
    }
}

/* Rows for the coordinator's prompt cache. Committed rows do not change, so it matters little when this comes. */
static err_code pull(stage *s, const msg_kv_pull *m, text *stream, err *e)
{
    shard_state *sh = shard_find(s, m->model);
    kv_seq *q = sh && sh->store ? kv_seq_find(sh->store, m->session) : NULL;
    if (!q) return err_set(e, ERR_STATE, "rows of session %" PRIu64 ", which is not open here", m->session);
    uint32_t layer = (uint32_t)m->layer, from = (uint32_t)m->from, to = (uint32_t)m->to;
    size_t n = kv_export_bytes(q, layer, layer + 1, from, to);
    if (!text_reserve(stream, n)) return err_set(e, ERR_NOMEM, "out of memory for %zu bytes of KV", n);
    err_code rc = kv_export(q, layer, layer + 1, from, to, stream->ptr, n, e);
    message r = msg_init(MSG_KV_ROWS);
    r.kv_rows = (msg_kv_rows){ m->epoch, m->session, m->model, m->layer, m->from, m->to };
    return rc ? rc : send_patiently(s, s->result, &r, &(view){ stream->ptr, n }, e);
}

static void on_pull(stage *s)
{
    const msg_kv_pull *m = &s->in.head.kv_pull;
    text stream = { 0 };
    err e;
    if (m->epoch != s->epoch) return;
    if (pull(s, m, &stream, &e)) say_fail(s, &e, m->session, 0);
    text_free(&stream);
}

static void on_control(stage *s)
{
    static const struct { msg_type t; void (*f)(stage *); } table[] = {
        { MSG_PLAN, on_plan }, { MSG_PING, on_ping }, { MSG_SESSION_OPEN, on_session_open }, { MSG_DROP, on_drop },
        { MSG_STATS_GET, on_stats_get }, { MSG_KV_PULL, on_pull }, { MSG_BYE, on_bye }, { MSG_FAIL, on_fail },
    };
    s->last_heard = clock_ns();
    s->heard = true;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].t == s->in.head.type) {
            table[i].f(s);
            return;
        }
    LOG(LOG_WARN, "STAGE-STRAY", "message=%s", msg_name(s->in.head.type));
}

/* ---- data and bulk ------------------------------------------------------------------------------------------------- */

static err_code way_of(stage *s, const step_out *o, link_t **to, err *e)
{
    *to = s->result;
    if (o->is_result) return ERR_OK;
    if (o->next >= s->peers.n) return err_set(e, ERR_PROTO, "next hop %u, plan has %u stages", o->next, s->peers.n);
    if (!s->hop[o->next]) {
        const peer *p = &s->peers.at[o->next];
        err_code rc = link_connect_to(&s->hop[o->next], s->o->hub, LINK_PUSH, LINK_DATA, p->addr, p->key, e);
        if (rc) return rc;
        link_trace(s->hop[o->next], s->trace, "next");
    }
    *to = s->hop[o->next];
    return ERR_OK;
}

/* Never waits: a peer that is not there (yet, or any more) gets the reply when it is, or a new plan takes the reply's place. */
static err_code send_reply(stage *s, kept_reply *r, err *e)
{
    link_t *to;
    err_code rc = way_of(s, &r->out, &to, e);
    if (!rc) rc = link_send_lent(to, NULL, &r->out.head, r->out.frame, r->out.lent, 0, e);
    r->unsent = rc == ERR_TIMEOUT || rc == ERR_GONE; /* the connection broke: there may be another one */
    return r->unsent ? ERR_OK : rc;
}

static void send_waiting(stage *s)
{
    s->n_unsent = 0;
    for (shard_state *p = s->shards; p; p = p->next) {
        err e;
        kept_reply *r;
        while ((r = kept_unsent(p->kept))) {
            if (send_reply(s, r, &e)) say_fail(s, &e, 0, r->step);
            if (!r->unsent) continue;
            s->n_unsent++;
            break;
        }
    }
}

/* Sums that are whole go out, in front of the step's answer. */
static void send_sums(stage *s, shard_state *sh)
{
    err e;
    for (pool_use *u; (u = pools_full(&sh->pools)); pools_drop(&sh->pools, u->session)) {
        message m = msg_init(MSG_POOLED);
        m.pooled = (msg_pooled){ .epoch = s->epoch, .session = u->session, .first = sh->plan.first, .layers = sh->pools.layers, .dim = sh->pools.D };
        if (send_patiently(s, s->result, &m, &(view){ u->sum, (size_t)sh->pools.layers * sh->pools.D * sizeof *u->sum }, &e)) say_fail(s, &e, u->session, 0);
    }
}

static err_code compute(stage *s, shard_state *sh, const message *head, const view *frame, kept_reply *r, uint32_t seq, err *e)
{
    uint64_t t = clock_ns();
    err_code rc = step_run(sh, head, frame, &r->out, e);
    if (!rc && r->out.failed_session) say_fail(s, &r->out.failure, r->out.failed_session, 0);
    if (!rc) send_sums(s, sh);
    if (!rc) kept_done(sh->kept, r, seq, head->step.step);
    s->steps++;
    s->rows += head->step.n_rows;
    uint64_t computed = clock_ns();
    s->busy_ns += computed - t;
    s->transfer_ns += t - s->t_taken;
    s->t_taken = computed; /* what is left of this message's time is sending */
    return rc;
}

/* ERR_STATE: of another plan. */
static err_code take_step(stage *s, const message *head, const view *frame, uint32_t *seq, err *e)
{
    const msg_step *m = &head->step;
    shard_state *sh = shard_find(s, m->model);
    hop_rec mine = { 0 };
    kept_reply *r;
    *seq = 0;
    if (!sh) return err_set(e, ERR_STATE, "no shard of model %" PRIu64, m->model);
    bool ours = m->epoch == sh->plan.epoch && step_hop(sh, head, frame, &mine);
    switch (kept_take(sh->kept, ours ? mine.seq : 0, &r)) {
    case KEPT_NEW: break;
    case KEPT_NOMEM: return err_set(e, ERR_NOMEM, "out of memory for step %" PRIu64, m->step);
    case KEPT_AGAIN:
        s->repeats++;
        return send_reply(s, r, e);
    case KEPT_EARLY:
        early_keep(&sh->early, mine.seq, kept_due(sh->kept), head, frame);
        return ERR_OK;
    case KEPT_PAST:
        LOG(LOG_INFO, "STEP-OUT-OF-TURN", "step=%" PRIu64 " seq=%u", m->step, mine.seq);
        return ERR_OK;
    }
    err_code rc = compute(s, sh, head, frame, r, ours ? mine.seq : 0, e);
    if (!rc) rc = send_reply(s, r, e);
    s->n_unsent += !rc && r->unsent;
    if (!rc && ours) *seq = mine.seq;
    return rc;
}

/* The step that came, and those that came before their turn and have it now. */
static void take_steps(stage *s)
{
    const message *head = &s->in.head;
    const view *frame = s->in.frame;
    view held[MSG_FRAMES_MAX];
    do {
        err e = { 0 };
        uint32_t seq;
        if (take_step(s, head, frame, &seq, &e)) say_fail(s, &e, 0, head->step.step);
        shard_state *sh = seq ? shard_find(s, head->step.model) : NULL;
        head = sh ? early_take(&sh->early, seq + 1, held) : NULL;
        frame = held;
    } while (head);
}

static void on_step(stage *s)
{
    if (s->in.head.type != MSG_STEP) {
        LOG(LOG_WARN, "STAGE-STRAY", "data message=%s", msg_name(s->in.head.type));
        return;
    }
    take_steps(s);
    s->transfer_ns += clock_ns() - s->t_taken;
}

static void push_done(stage *s, const kv_seq *q)
{
    err e;
    message r = msg_init(MSG_KV_DONE);
    r.kv_done.epoch = s->epoch;
    r.kv_done.session = s->in.head.kv_push.session;
    r.kv_done.rows = kv_rows(q);
    say(s, &r, &e);
}

static void on_push(stage *s)
{
    if (s->in.head.type != MSG_KV_PUSH) return;
    const msg_kv_push *m = &s->in.head.kv_push;
    if (m->epoch != s->epoch) return; /* it was on its way when the plan changed: its session is filled anew */
    shard_state *sh = shard_find(s, m->model);
    kv_seq *q = sh && sh->store ? kv_seq_find(sh->store, m->session) : NULL;
    err e = { 0 };
    if (q && m->from < kv_rows(q)) { /* it came twice */
        if (m->last) push_done(s, q);
        return;
    }
    if (q && m->from > kv_rows(q)) {
        err_set(&e, ERR_STATE, "KV of session %" PRIu64 " from row %" PRIu64 " on, but %u rows are here", m->session, m->from, kv_rows(q));
        say_fail(s, &e, m->session, 0);
        return;
    }
    err_code rc = q ? kv_import(q, s->in.frame[0].ptr, s->in.frame[0].len, &e)
                    : err_set(&e, ERR_STATE, "KV for session %" PRIu64 ", which is not open here", m->session);
    if (rc) {
        say_fail(s, &e, m->session, 0);
    } else if (m->last) {
        push_done(s, q);
    }
}

static err_code hello(stage *s, err *e);

/* ---- life ---------------------------------------------------------------------------------------------------------- */

/* Take what is there on one link without waiting; false when nothing was. */
static bool take(stage *s, link_t *l, void (*f)(stage *))
{
    err e;
    err_code rc = link_recv(l, &s->in, 0, &e);
    if (rc == ERR_TIMEOUT) return false;
    if (rc == ERR_DENIED) { /* counted and logged by the gate; a stranger is owed no answer */
        packet_done(&s->in);
        return true;
    }
    if (rc) {
        LOG(LOG_WARN, "STAGE-BAD-MESSAGE", "text=\"%s\"", e.text);
        s->damaged++;
        if (l == s->control) say_fail(s, &e, 0, 0); /* a step or rows of KV that came damaged are missed, and come again */
    } else {
        f(s);
    }
    packet_done(&s->in);
    return true;
}

/* The library goes on trying where it may help; where it gives up (our key is not on the list, one side has no keys) so do we. */
static err_code mind_handshake(const stage *s, err *e)
{
    err why;
    if (link_state(s->control, &why) != LOOKOUT_REFUSED) return ERR_OK;
    return err_set(e, ERR_DENIED, "%s; this worker's key is %s", why.text, hub_has_keys(s->o->hub) ? hub_key(s->o->hub) : "none (--key FILE)");
}

/* A worker that came by itself: the coordinator may have been restarted and know nobody. */
static err_code mind_silence(stage *s, err *e)
{
    uint64_t now = clock_ns();
    if (!s->o->joined || !s->heard || now - s->last_heard < HELLO_AGAIN_NS) return ERR_OK;
    if (now - s->last_heard > SILENT_NS)
        return err_set(e, ERR_GONE, "coordinator %s has been silent for %u s", s->o->connect, (unsigned)(SILENT_NS / 1000000000u));
    if (now - s->last_hello < HELLO_AGAIN_NS) return ERR_OK;
    LOG(LOG_WARN, "STAGE-HELLO-AGAIN", "silent_ms=%" PRIu64, (now - s->last_heard) / 1000000);
    err_code rc = hello(s, e);
    return rc == ERR_TIMEOUT ? ERR_OK : rc;
}

/* A worker that came by itself and is told to stop leaves in good order: it serves until the coordinator lets it go, or until it
 * is told again. false: it ends now. */
static bool stays(stage *s)
{
    if (s->bye) return false;
    if (s->t_leave && clock_ns() - s->t_leave > LEAVE_NS) return false;
    if (!s->o->stop || !atomic_load(s->o->stop)) return true;
    if (!s->o->joined || !s->heard || s->t_leave) return false;
    atomic_store(s->o->stop, false);
    s->t_leave = clock_ns();
    say_bye(s, "it was told to stop");
    return true;
}

static err_code serve(stage *s, err *e)
{
    while (stays(s)) {
        link_t *links[] = { s->control, s->bulk, s->data };
        bool ready[3] = { false, false, false };
        uint64_t t = clock_ns();
        err_code rc = link_poll(links, 3, ready, s->n_unsent ? UNSENT_MS : POLL_MS, s->spin_us, e);
        if (rc) return rc;
        s->t_taken = clock_ns();
        s->wait_ns += s->t_taken - t;
        if (s->n_unsent) send_waiting(s);
        if (ready[0]) take(s, s->control, on_control);
        if (ready[1]) take(s, s->bulk, on_push);
        if (ready[0] || ready[1]) s->t_taken = clock_ns();
        if (ready[2]) take(s, s->data, on_step);
        bool any = ready[0] || ready[1] || ready[2]; /* after long work its PINGs wait to be read: no silence */
        if (!any && ((rc = mind_handshake(s, e)) || (rc = mind_silence(s, e)))) return rc;
    }
    if (s->refused.code) *e = s->refused;
    return s->refused.code;
}

static err_code bind_lane(stage *s, link_t **l, link_lane lane, const char *given, const char *suffix, err *e)
{
    char addr[256];
    if (given) snprintf(addr, sizeof addr, "%s", given);
    else if (s->o->data_dir) /* the pid: the one that died before us may still hold its sockets */
        snprintf(addr, sizeof addr, "ipc://%s/%s.%d.%s", s->o->data_dir, s->o->name, (int)getpid(), suffix);
    else snprintf(addr, sizeof addr, "tcp://%s:*", s->host);
    err_code rc = link_bind(l, s->o->hub, LINK_PULL, lane, addr, e);
    if (!rc) link_trace(*l, s->trace, suffix);
    return rc;
}

static void put_digest(digest_rec *d, const char *hex)
{
    char half[17] = { 0 };
    memcpy(half, hex, 16);
    d->hi = strtoull(half, NULL, 16);
    d->lo = strtoull(hex + 16, NULL, 16);
}

static err_code hello(stage *s, err *e)
{
    message m = msg_init(MSG_HELLO);
    msg_hello *h = &m.hello;
    s->last_hello = clock_ns();
    h->major = PROTO_MAJOR;
    h->minor = PROTO_MINOR;
    h->pid = (uint64_t)getpid();
    h->cores = s->o->where ? topo_cores(s->o->where) : 0;
    h->mem_mb = (uint64_t)sysconf(_SC_PHYS_PAGES) / 1024 * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
    h->paths = (1u << PATH_COUNT) - 1;
    h->threads = pool_threads(s->pool);
    h->n_models = 1;
    h->spare = s->o->joined;
    h->cookie = s->o->cookie;
    snprintf(h->name, sizeof h->name, "%s", s->o->name);
    gethostname(h->host, sizeof h->host - 1);
    snprintf(h->isa, sizeof h->isa, "%s", isa_name(s->o->isa));
    snprintf(h->cpuset, sizeof h->cpuset, "%s", s->o->where ? topo_cpulist(s->o->where) : "");
    snprintf(h->data_addr, sizeof h->data_addr, "%s", link_addr(s->data));
    snprintf(h->bulk_addr, sizeof h->bulk_addr, "%s", link_addr(s->bulk));
    if (!strncmp(h->data_addr, "tcp:", 4)) snprintf(h->key, sizeof h->key, "%s", hub_key(s->o->hub));
    digest_rec d;
    if (s->profile) snprintf(h->profile, sizeof h->profile, "%s", profile_digest(s->profile));
    put_digest(&d, gguf_digest(s->file));
    return link_send(s->control, NULL, &m, &(view){ &d, sizeof d }, 5000, e);
}

static bool still_wanted(void *arg, uint64_t done, uint64_t total)
{
    const stage *s = arg;
    (void)done, (void)total;
    return !s->o->stop || !atomic_load(s->o->stop);
}

static err_code find_host(stage *s, err *e)
{
    const stage_options *o = s->o;
    snprintf(s->host, sizeof s->host, "%s", o->address ? o->address : "127.0.0.1");
    if (o->address || o->data_dir || strncmp(o->connect, "tcp:", 4)) return ERR_OK;
    return endpoint_local_host(o->connect, s->host, sizeof s->host, e);
}

static err_code start(stage *s, err *e)
{
    const stage_options *o = s->o;
    err_code rc = gguf_open(&s->file, o->model, e);
    if (!rc) rc = profile_choose(&s->profile, o->profile, o->model, &(profile_binding){ .model = gguf_digest(s->file) }, e);
    if (!rc) rc = find_host(s, e);
    uint32_t n = o->threads ? o->threads : o->where ? topo_cores(o->where) : 1;
    if (!rc) rc = pool_open(&s->pool, n, o->where ? topo_bind_thread : NULL, o->where, e);
    pack_meter meter = { still_wanted, s };
    if (!rc) s->packed = pack_open(s->file, &o->pack, n, &meter);
    if (!rc && o->trace) rc = trace_open(&s->trace, o->trace, e);
    if (!rc) rc = bind_lane(s, &s->data, LINK_DATA, o->data_addr, "data", e);
    if (!rc) rc = bind_lane(s, &s->bulk, LINK_BULK, o->bulk_addr, "bulk", e);
    if (!rc) rc = link_connect(&s->control, o->hub, LINK_DEALER, LINK_CONTROL, o->connect, e);
    if (!rc) link_trace(s->control, s->trace, "control");
    if (!rc && o->sandbox) rc = sandbox_enter(o->sandbox, &s->sandboxed, e);
    return rc ? rc : hello(s, e);
}

err_code stage_run(const stage_options *o, err *e)
{
    stage *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    s->o = o;
    s->last_heard = clock_ns();
    err_code rc = start(s, e);
    if (!rc) rc = serve(s, e);
    packet_done(&s->in);
    close_shards(s);
    close_hops(s);
    link_t **links[] = { &s->control, &s->data, &s->bulk };
    for (int i = 0; i < 3; i++) {
        if (!*links[i]) continue;
        char addr[256];
        snprintf(addr, sizeof addr, "%s", link_addr(*links[i]));
        link_close(links[i]);
        if (i && !strncmp(addr, "ipc://", 6)) unlink(addr + 6);
    }
    if (s->trace) trace_close(&s->trace);
    if (s->pool) pool_close(&s->pool);
    pack_close(&s->packed);
    profile_close(&s->profile);
    if (s->file) gguf_close(&s->file);
    peers_free(&s->peers);
    free(s);
    return rc;
}
