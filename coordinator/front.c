/* Clients: messages in, answers out. A client that is slow or gone never holds anything up: what it has not had yet stays
 * with the job and is sent when it can take it; a client that is gone ends its job unless the job was detached. */
#include "coordinator/coordinator.h"
#include "coordinator/journal.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static err_code to_client(coordinator *c, const link_id *to, const message *m, const view *frames, err *e)
{
    return link_send(c->client, to, m, frames, 0, e);
}

static void send_fail(coordinator *c, const link_id *to, uint64_t ref, const err *why)
{
    err e;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    m.fail.ref = ref;
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    to_client(c, to, &m, NULL, &e);
}

#define PROBE_NS 1000000000u

/* ---- answers ------------------------------------------------------------------------------------------------------- */

static err_code send_tokens(coordinator *c, job *j, uint32_t index, err *e)
{
    choice *ch = &j->choice[index];
    size_t n = ch->n_tok - ch->sent_tok, top0 = ch->sent_tok ? ch->tok[ch->sent_tok - 1].top_end : 0;
    message m = msg_init(MSG_TOKEN);
    m.token.job = j->id;
    m.token.index = index;
    m.token.offset = ch->sent_tok;
    m.token.n = n;
    m.token.n_top = ch->n_top - top0;
    token_rec one, *recs = n <= 1 ? &one : malloc(n * sizeof *recs);
    if (!recs) return err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) recs[i] = ch->tok[ch->sent_tok + i].rec;
    view f[MSG_FRAMES_MAX] = { [TOKEN_TOKENS] = { recs, n * sizeof *recs }, [TOKEN_TOP] = { ch->top + top0, (ch->n_top - top0) * sizeof *ch->top },
                               [TOKEN_TEXT] = { ch->shown.ptr + ch->sent_text, ch->shown.len - ch->sent_text } };
    err_code rc = to_client(c, &j->client, &m, f, e);
    if (!rc) ch->sent_tok = ch->n_tok, ch->sent_text = ch->shown.len;
    if (recs != &one) free(recs);
    return rc;
}

static uint64_t us(uint64_t from, uint64_t to) { return from && to > from ? (to - from) / 1000 : 0; }

static err_code send_done(coordinator *c, job *j, uint32_t index, err *e)
{
    choice *ch = &j->choice[index];
    bool last = job_is_done(j);
    for (uint32_t i = 0; i < j->n_choices; i++) last = last && (i == index || j->choice[i].done_sent);
    message m = msg_init(MSG_DONE);
    m.done = (msg_done){ .job = j->id, .index = index, .finish = ch->finish, .last = last, .tokens = ch->n_tok,
                         .prompt_tokens = j->tokens.n ? j->tokens.n : j->n_prompt,
                         .queue_us = us(j->t_submit, j->t_start), .ttft_us = us(j->t_submit, ch->t_first), .prefill_us = us(j->t_start, j->t_prefilled),
                         .decode_us = us(ch->t_first, ch->t_last), .prefill_mode = j->local, .slides = ch->slides, .code = j->failure.code,
                         .full_rows = j->full_rows, .n_passages = j->n_passages, .n_prompt = j->ask.echo_prompt_tokens ? j->tokens.n : 0 };
    m.done.cached = j->cached;
    snprintf(m.done.cache_note, sizeof m.done.cache_note, "%s", j->cache_note);
    snprintf(m.done.custom_id, sizeof m.done.custom_id, "%s", j->ask.custom_id);
    snprintf(m.done.lora, sizeof m.done.lora, "%s", j->ask.lora);
    snprintf(m.done.lora_digest, sizeof m.done.lora_digest, "%s", j->ask.lora_digest);
    m.done.lora_scale = j->ask.lora_scale;
    _Static_assert(sizeof(id_rec) == sizeof *j->tokens.id, "prompt ids go out as they are");
    view f[MSG_FRAMES_MAX] = { [DONE_TEXT] = { j->failure.text, j->failure.code ? strlen(j->failure.text) : 0 },
                               [DONE_PASSAGES] = { j->passages.ptr, j->passages.len },
                               [DONE_PROMPT] = { j->tokens.id, m.done.n_prompt * sizeof(id_rec) } };
    err_code rc = to_client(c, &j->client, &m, f, e);
    if (!rc) ch->done_sent = true;
    return rc;
}

static err_code send_scores(coordinator *c, job *j, err *e)
{
    size_t row = j->ask.score_rows ? (size_t)c->shape.V * 4 : 0;
    uint32_t n = j->n_scored < 512 ? j->n_scored : 512; /* keeps a message of whole rows below its limit: 512 x 128k x 4 = 256 MiB */
    while (row && n > 1 && n * row > 32u << 20) n /= 2;
    message m = msg_init(MSG_SCORED);
    m.scored = (msg_scored){ .job = j->id, .first = j->first_scored, .n = n, .n_full = row ? n : 0, .vocab = row ? c->shape.V : 0 };
    view f[MSG_FRAMES_MAX] = { [SCORED_ROWS] = { j->score, n * sizeof *j->score }, [SCORED_FULL] = { j->full.ptr, n * row } };
    err_code rc = to_client(c, &j->client, &m, f, e);
    if (rc) return rc;
    j->first_scored += n;
    j->n_scored -= n;
    memmove(j->score, j->score + n, j->n_scored * sizeof *j->score);
    if (row) memmove(j->full.ptr, j->full.ptr + n * row, j->full.len - n * row), j->full.len -= n * row;
    return ERR_OK;
}

static err_code flush_choice(coordinator *c, job *j, uint32_t i, err *e)
{
    choice *ch = &j->choice[i];
    err_code rc = ERR_OK;
    bool whole = j->ask.stream || ch->done; /* without stream the answer goes out in one piece */
    if (whole && (ch->sent_tok < ch->n_tok || ch->sent_text < ch->shown.len)) rc = send_tokens(c, j, i, e);
    if (!rc && ch->done && !ch->done_sent && !j->n_scored) rc = send_done(c, j, i, e);
    return rc;
}

static void client_gone(coordinator *c, job *j)
{
    LOG(LOG_INFO, "CLIENT-GONE", "job=%" PRIu64, j->id);
    j->has_client = false;
    if (!j->ask.detach) job_cancel(c, j);
}

static void drop_scores(job *j)
{
    j->first_scored += j->n_scored;
    j->n_scored = 0;
    text_free(&j->full);
}

void front_flush_job(coordinator *c, job *j)
{
    err e;
    err_code rc = ERR_OK;
    if (!j->has_client) drop_scores(j); /* nobody will read them */
    if (!j->has_client || !j->acked) return;
    while (!rc && j->n_scored) rc = send_scores(c, j, &e);
    if (j->state == JOB_DONE && !j->n_scored) drop_scores(j);
    for (uint32_t i = 0; !rc && i < j->n_choices; i++) rc = flush_choice(c, j, i, &e);
    if (rc == ERR_GONE) client_gone(c, j); /* ERR_TIMEOUT: the client is slow, the next flush goes on from here */
}

/* ---- the journal --------------------------------------------------------------------------------------------------- */

static bool durable(const coordinator *c, const job *j) { return c->journal && j->ask.kind == 0; /* scores are not kept */ }

static void accept_job(coordinator *c, job *j, const err *bad)
{
    err e;
    j->acked = true;
    if (!j->on_disk && bad->code) {
        send_fail(c, &j->client, j->ask.ref, bad);
        j->has_client = false;
        job_fail(c, j, bad);
        return;
    }
    j->on_disk = true;
    message m = msg_init(MSG_ACCEPTED);
    m.accepted.ref = j->ask.ref;
    m.accepted.job = j->id;
    err_code rc = to_client(c, &j->client, &m, NULL, &e);
    if (rc == ERR_GONE && !j->ask.detach) job_cancel(c, j);
    j->acked = rc != ERR_TIMEOUT; /* a client that submits faster than it reads: the next round tries again */
    if (j->ask.detach && j->acked) j->has_client = false;
}

/* A detached job that ended only because the cluster failed: the next coordinator runs it again. */
static bool outlives(const coordinator *c, const job *j) { return c->fatal.code && j->failure.code && j->ask.detach; }

/* Before anybody hears of them: new jobs and ends of jobs become durable, all of this round with one fsync. */
static void record(coordinator *c)
{
    err e = { 0 };
    err_code rc = ERR_OK;
    for (job *j = c->jobs.head; j && !rc; j = j->next)
        if (j->state == JOB_DONE && !j->recorded) {
            if (durable(c, j) && !outlives(c, j)) rc = journal_finish(c->journal, j, &e);
            j->recorded = true;
        }
    if (!rc && c->journal) rc = journal_commit(c->journal, &e);
    if (rc) LOG(LOG_ERROR, "JOURNAL-FAILED", "text=\"%s\"", e.text);
    for (job *j = c->jobs.head; j; j = j->next)
        if (!j->acked) accept_job(c, j, &e);
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

static void on_submit(coordinator *c)
{
    err e;
    job *j = NULL;
    uint64_t ref = c->in.head.submit.ref;
    err_code rc = c->state == COORD_READY ? adapter_check(&c->adapters, &c->shape, &c->in.head.submit, &e)
                                          : err_set(&e, ERR_STATE, "the cluster is %s", c->state == COORD_STARTING ? "not ready" : "stopping");
    if (!rc) rc = job_new(&c->jobs, &c->in, c->shape.V, &j, &e);
    if (!rc && durable(c, j)) rc = journal_add(c->journal, j, &e);
    if (!rc && j->ask.rag && !c->set->rag) rc = err_set(&e, ERR_INPUT, "retrieval was asked for, but the cluster has no corpus (--rag)");
    if (rc) {
        send_fail(c, &c->in.from, ref, &e);
        if (j) j->has_client = false, j->acked = true, job_fail(c, j, &e);
        return;
    }
    LOG(LOG_INFO, "JOB-NEW", "job=%" PRIu64 " custom_id=\"%s\" prompt_bytes=%zu max_tokens=%" PRIu64, j->id, j->ask.custom_id, j->prompt.len, j->ask.max_tokens);
    jobs_advance(c);
}

static void on_cancel(coordinator *c)
{
    job *j = job_find(&c->jobs, c->in.head.cancel.job);
    if (j) job_cancel(c, j);
    else send_fail(c, &c->in.from, c->in.head.cancel.job, &(err){ ERR_ABSENT, "no such job" });
}

static void on_fetch(coordinator *c)
{
    const msg_fetch *f = &c->in.head.fetch;
    job *j = job_find(&c->jobs, f->job);
    err e;
    if (!j) {
        err_set(&e, ERR_ABSENT, "there is no job %" PRIu64, f->job);
        send_fail(c, &c->in.from, f->ref, &e);
        return;
    }
    if (j->ask.kind == 1) {
        err_set(&e, ERR_INPUT, "job %" PRIu64 " was for scores, which are not kept", f->job);
        send_fail(c, &c->in.from, f->ref, &e);
        return;
    }
    j->client = c->in.from;
    j->has_client = true;
    j->ask.stream = true;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *ch = &j->choice[i];
        ch->sent_tok = f->offset < ch->n_tok ? f->offset : ch->n_tok;
        ch->sent_text = ch->sent_tok ? ch->tok[ch->sent_tok - 1].text_end : 0;
        ch->done_sent = false;
    } /* the end of this round sends it, after the journal has it */
}

static void send_report(coordinator *c, const link_id *to, uint64_t ref, bool (*report)(coordinator *, text *))
{
    text json = { 0 };
    err e;
    bool ok = report(c, &json);
    message m = msg_init(MSG_REPORT);
    m.report.ref = ref;
    if (ok) to_client(c, to, &m, &(view){ json.ptr, json.len }, &e);
    else send_fail(c, to, ref, &(err){ ERR_NOMEM, "out of memory for the report" });
    text_free(&json);
}

/* A status report waits for the stages' counters of the moment (front_flush sends it). */
static void on_ask(coordinator *c)
{
    uint64_t ref = c->in.head.ask.ref;
    if (c->in.head.ask.what == 1 || c->n_ask == sizeof c->ask / sizeof *c->ask) {
        send_report(c, &c->in.from, ref, c->in.head.ask.what ? report_jobs : report_status);
        return;
    }
    if (fleet_stats_fresh(c)) fleet_ask_stats(c);
    c->ask[c->n_ask].to = c->in.from;
    c->ask[c->n_ask++].ref = ref;
}

static void answer_asks(coordinator *c)
{
    if (!c->n_ask || !fleet_stats_fresh(c)) return;
    for (uint32_t i = 0; i < c->n_ask; i++) send_report(c, &c->ask[i].to, c->ask[i].ref, report_status);
    c->n_ask = 0;
}

/* A job that sends nothing for long (a long prompt, an answer in one piece) would not notice that its client is gone: an
 * empty TOKEN a second tells. */
static void probe_clients(coordinator *c)
{
    if (clock_ns() - c->t_probe < PROBE_NS) return;
    c->t_probe = clock_ns();
    err e;
    for (job *j = c->jobs.head; j; j = j->next) {
        message m = msg_init(MSG_TOKEN);
        m.token.job = j->id;
        m.token.offset = j->choice[0].sent_tok;
        bool ask = j->state != JOB_DONE && j->has_client && j->acked;
        if (ask && to_client(c, &j->client, &m, (view[MSG_FRAMES_MAX]){ { 0 } }, &e) == ERR_GONE) client_gone(c, j);
    }
}

void front_flush(coordinator *c)
{
    record(c);
    probe_clients(c);
    for (job *j = c->jobs.head; j; j = j->next)
        if (j->state == JOB_RUNNING || j->state == JOB_DONE) front_flush_job(c, j);
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
        send_fail(c, &c->in.from, 0, &e);
    }
    }
}
