/* What clients ask for: jobs, their answers, their ends, reports. Checks every request and whose it is; sends nothing but
 * refusals and reports (outbox.c sends answers). */
#include "coordinator/front.h"
#include "coordinator/journal.h"
#include "coordinator/record.h"
#include "coordinator/replay.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

err_code front_send(coordinator *c, const link_id *to, const message *m, const view *frames, err *e)
{
    if (c->stuck.len && link_id_same(&c->stuck, to)) return err_set(e, ERR_TIMEOUT, "the client does not read");
    err_code rc = link_send(c->client, to, m, frames, 0, e);
    if (rc == ERR_TIMEOUT) c->stuck = *to;
    return rc;
}

void front_fail(coordinator *c, const link_id *to, uint64_t ref, const err *why, uint64_t retry_ms)
{
    err e;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    m.fail.ref = ref;
    m.fail.retry_ms = retry_ms;
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    front_send(c, to, &m, NULL, &e);
}

/* ---- whose job is it ------------------------------------------------------------------------------------------------ */

/* Who is behind this message: its key. The client socket lies in a folder of mode 0700: whoever reaches it is the user who runs
 * the cluster, or root. */
static const char *sender(const coordinator *c)
{
    static char key[KEY_TEXT];
    gate_peer p;
    if (!c->in.from.who) return OWNER_LOCAL;
    if (!gate_look(hub_gate(c->hub), c->in.from.who, &p)) return "nobody";
    key_show(p.key, key);
    return key;
}

/* The user who runs the cluster sees and ends every job; anybody else only its own. */
static bool may_touch(const char *who, const job *j) { return !strcmp(who, OWNER_LOCAL) || !strcmp(who, j->owner); }

/* A job of the sender: in memory or, when it is over, from the journal. One that belongs to somebody else does not exist. */
static job *find_job(coordinator *c, uint64_t id, bool recall, err *e)
{
    job *j = job_find(&c->jobs, id);
    err_code rc = j && !j->refused ? ERR_OK : !j && recall ? record_recall(c, id, &j, e) : err_set(e, ERR_ABSENT, "there is no job %" PRIu64, id);
    if (!rc && !may_touch(sender(c), j)) rc = err_set(e, ERR_ABSENT, "there is no job %" PRIu64, id);
    return rc ? NULL : j;
}

/* ---- SUBMIT --------------------------------------------------------------------------------------------------------- */

static err_code may_submit(coordinator *c, const job *like, uint64_t *retry_ms, err *e)
{
    size_t bytes = sizeof *like;
    queue_limits max = { c->set->max_queue, c->set->max_queue_mb << 20 };
    if (c->state != COORD_READY) return err_set(e, ERR_STATE, "the cluster is %s", c->state == COORD_STARTING ? "not ready" : "stopping");
    if (c->jobs.last_id >= JOB_ID_MAX) return err_set(e, ERR_FULL, "no job numbers are left");
    if (like->ask.rag && !like->ask.replay && !c->set->rag) return err_set(e, ERR_INPUT, "retrieval was asked for, but the cluster has no corpus (--rag)");
    for (uint32_t i = 0; i < c->in.n_frames; i++) bytes += c->in.frame[i].len;
    return queue_admit(&c->queue, &c->jobs, &max, like, bytes, retry_ms, e);
}

static void name_sender(const coordinator *c, job *j)
{
    snprintf(j->owner, sizeof j->owner, "%s", sender(c));
    j->client = c->in.from;
}

static err_code make_job(coordinator *c, job **out, err *e)
{
    uint64_t again = c->in.head.submit.replay;
    if (again && strcmp(sender(c), OWNER_LOCAL) && !find_job(c, again, true, e)) return e->code;
    if (again) return replay_make(c, out, e);
    err_code rc = job_new(&c->jobs, &c->in, c->shape.V, out, e);
    return rc ? rc : profile_fits(c, &(*out)->kv, e);
}

static void on_submit(coordinator *c)
{
    err e;
    bool pending = false;
    uint64_t ref = c->in.head.submit.ref, retry_ms = 0;
    job *j = NULL, like = { .ask = c->in.head.submit };
    name_sender(c, &like);
    err_code rc = may_submit(c, &like, &retry_ms, &e);
    if (!rc && c->in.from.who && like.ask.cache[0]) /* it would be a file of this host, read and written for a stranger */
        rc = err_set(&e, ERR_DENIED, "a prompt cache is a file of the coordinator's host: not over a network");
    if (!rc) rc = make_job(c, &j, &e);
    if (!rc) rc = adapter_check(&c->adapters, j->id, &j->ask, &pending, &e);
    if (j) name_sender(c, j);
    if (rc && j) j->refused = true;
    if (rc) {
        front_fail(c, &c->in.from, ref, &e, retry_ms);
        if (j) j->acked = j->on_disk = true, job_fail(c, j, &e);
        return;
    }
    queue_put(&c->queue, j);
    if (pending) j->state = JOB_CHECKING;
    LOG(LOG_INFO, "JOB-NEW", "job=%" PRIu64 " custom_id=\"%s\" prompt_bytes=%zu max_tokens=%" PRIu64, j->id, j->ask.custom_id, j->prompt.len, j->ask.max_tokens);
    jobs_advance(c);
}

/* Adapters that have been looked at: their jobs are accepted or refused now. */
static void take_adapters(coordinator *c)
{
    uint64_t id;
    char digest[33];
    err why;
    while (adapter_answer(&c->adapters, &id, digest, &why)) {
        job *j = job_find(&c->jobs, id);
        if (!j || j->state != JOB_CHECKING) continue;
        j->state = JOB_QUEUED;
        if (!why.code) adapter_agree(&j->ask, digest, &why);
        if (!why.code) continue;
        front_fail(c, &j->client, j->ask.ref, &why, 0);
        j->refused = j->acked = j->on_disk = true;
        job_fail(c, j, &why);
    }
}

/* ---- CANCEL, FETCH ---------------------------------------------------------------------------------------------------- */

static void on_cancel(coordinator *c)
{
    err e;
    job *j = find_job(c, c->in.head.cancel.job, true, &e);
    if (j) job_cancel(c, j);
    else front_fail(c, &c->in.from, c->in.head.cancel.job, &e, 0);
}

/* A client that fetched before, or submitted, goes on from another place; others are not touched. */
static watcher *watch_here(coordinator *c, job *j, const msg_fetch *f)
{
    watcher *w = watch_find(j->watch, &c->in.from);
    bool fresh = !w;
    if (fresh && !(w = watch_add(&j->watch, &c->in.from, j->n_choices))) return NULL;
    for (uint32_t i = 0; i < w->n; i++) {
        bool wanted = f->choice == 64 || f->choice == i;
        if (fresh && !wanted) w->at[i].done = true;
        if (!wanted) continue;
        w->at[i] = (watch_place){ .tok = f->offset, .ahead = true };
    }
    w->once = f->once;
    return w;
}

/* Answers out of the journal wait in memory until they are read: as many as jobs may wait. */
static err_code may_recall(coordinator *c, uint64_t id, err *e)
{
    uint64_t n = 0;
    if (job_find(&c->jobs, id)) return ERR_OK;
    for (const job *j = c->jobs.head; j; j = j->next) n += j->archived;
    return n < c->set->max_queue ? ERR_OK : err_set(e, ERR_FULL, "busy: %" PRIu64 " answers wait to be read, retry after 1 s", n);
}

static void on_fetch(coordinator *c)
{
    const msg_fetch *f = &c->in.head.fetch;
    err e;
    err_code rc = may_recall(c, f->job, &e);
    uint64_t retry_ms = rc ? 1000 : 0;
    job *j = rc ? NULL : find_job(c, f->job, true, &e);
    if (!rc && !j) rc = e.code;
    if (!rc && j->ask.kind == 1) rc = err_set(&e, ERR_INPUT, "job %" PRIu64 " was for scores, which are not kept", f->job);
    if (!rc && f->choice < 64 && f->choice >= j->n_choices)
        rc = err_set(&e, ERR_INPUT, "job %" PRIu64 " has %u choices, number %" PRIu64 " is wanted", f->job, j->n_choices, f->choice);
    if (!rc && !watch_here(c, j, f)) rc = err_set(&e, ERR_NOMEM, "out of memory for the answer");
    if (rc) front_fail(c, &c->in.from, f->ref, &e, retry_ms);
    /* the end of this round sends it, after the journal has it */
}

/* ---- reports ---------------------------------------------------------------------------------------------------------- */

static void send_report(coordinator *c, const link_id *to, uint64_t ref, text *json, bool ok)
{
    err e;
    message m = msg_init(MSG_REPORT);
    m.report.ref = ref;
    err_code rc = ok ? front_send(c, to, &m, &(view){ json->ptr, json->len }, &e) : err_set(&e, ERR_NOMEM, "out of memory for the report");
    if (rc && rc != ERR_GONE && rc != ERR_TIMEOUT) front_fail(c, to, ref, &e, 0);
    text_free(json);
}

static void send_log(coordinator *c)
{
    const msg_ask *a = &c->in.head.ask;
    text json = { 0 };
    err e;
    job *j = find_job(c, a->job, true, &e);
    if (j) send_report(c, &c->in.from, a->ref, &json, report_log(j, &json));
    else front_fail(c, &c->in.from, a->ref, &e, 0);
}

/* A status report waits for the stages' counters of the moment (front_flush sends it). */
static void on_ask(coordinator *c)
{
    const msg_ask *a = &c->in.head.ask;
    text json = { 0 };
    if (a->what == 2) {
        send_log(c);
        return;
    }
    if (a->what == 1 || c->n_ask == sizeof c->ask / sizeof *c->ask) {
        bool ok = a->what ? report_jobs(c, sender(c), &json) : report_status(c, &json);
        send_report(c, &c->in.from, a->ref, &json, ok);
        return;
    }
    if (fleet_stats_fresh(c)) fleet_ask_stats(c);
    c->ask[c->n_ask].to = c->in.from;
    c->ask[c->n_ask++].ref = a->ref;
}

static void answer_asks(coordinator *c)
{
    if (!c->n_ask || !fleet_stats_fresh(c)) return;
    for (uint32_t i = 0; i < c->n_ask; i++) {
        text json = { 0 };
        bool ok = report_status(c, &json);
        send_report(c, &c->ask[i].to, c->ask[i].ref, &json, ok);
    }
    c->n_ask = 0;
}

/* ---- rounds ----------------------------------------------------------------------------------------------------------- */

void front_flush(coordinator *c)
{
    c->stuck = (link_id){ 0 };
    take_adapters(c);
    record_round(c);
    outbox_probe(c);
    for (job *j = c->jobs.head; j; j = j->next)
        if (j->watch || j->n_scored) outbox_flush(c, j);
    c->stuck = (link_id){ 0 };
    answer_asks(c);
}

static void on_stop(coordinator *c)
{
    c->stop_now = c->stop_now || c->in.head.stop.now;
    if (c->state == COORD_READY || c->state == COORD_STARTING) c->state = COORD_DRAINING;
    LOG(LOG_INFO, "DRAIN", "now=%d", c->stop_now);
}

void front_message(coordinator *c)
{
    switch (c->in.head.type) {
    case MSG_SUBMIT: on_submit(c); break;
    case MSG_CANCEL: on_cancel(c); break;
    case MSG_FETCH: on_fetch(c); break;
    case MSG_ASK: on_ask(c); break;
    case MSG_STOP: on_stop(c); break;
    default: {
        err e;
        err_set(&e, ERR_PROTO, "%s is no message for a client to send", msg_name(c->in.head.type));
        front_fail(c, &c->in.from, 0, &e, 0);
    }
    }
}
