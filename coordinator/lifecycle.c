/* The life of a job in the cluster: queued -> (retrieving) -> sessions opened in every stage -> prompt -> decoding -> done.
 * Owns the order in which these happen; sends only SESSION_OPEN and DROP. */
#include "coordinator/coordinator.h"
#include "coordinator/handover.h"
#include "coordinator/predict.h"
#include "coordinator/prefix.h"
#include "coordinator/prompt_cache.h"
#include "coordinator/refresh.h"
#include "coordinator/room.h"
#include "coordinator/route.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- ends ---------------------------------------------------------------------------------------------------------- */

static void end_job(coordinator *c, job *j, finish_reason why)
{
    if (j->state == JOB_DONE) return;
    for (session *s = c->sessions.head; s; s = s->next)
        if (s->job == j) {
            if (s->state == SESSION_LOCAL) prefill_cancel(c, s->id);
            session_end(s, why);
        }
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (!j->choice[i].done) j->choice[i].done = true, j->choice[i].finish = why;
    j->state = JOB_DONE;
}

void job_fail(coordinator *c, job *j, const err *why)
{
    if (j->state == JOB_DONE) return;
    LOG(LOG_INFO, "JOB-FAILED", "job=%" PRIu64 " text=\"%s\"", j->id, why->text);
    j->failure = *why;
    if (!j->failure.code) j->failure.code = ERR_STATE;
    end_job(c, j, FINISH_ERROR);
}

void job_cancel(coordinator *c, job *j)
{
    if (j->state == JOB_DONE) return;
    LOG(LOG_INFO, "JOB-CANCELLED", "job=%" PRIu64, j->id);
    j->cancelled = true;
    end_job(c, j, FINISH_CANCELLED);
}

static void finish_jobs(coordinator *c)
{
    for (job *j = c->jobs.head; j; j = j->next)
        if (j->state == JOB_RUNNING && job_is_done(j)) {
            j->state = JOB_DONE;
            LOG(LOG_INFO, "JOB-DONE", "job=%" PRIu64 " finish=%s tokens=%zu", j->id, finish_name(j->choice[0].finish), j->choice[0].n_tok);
        }
}

void sessions_sweep(coordinator *c)
{
    message drop = msg_init(MSG_DROP);
    bool asked = false;
    for (session *s = c->sessions.head, *next; s; s = next) {
        next = s->next;
        if (s->state != SESSION_OVER || s->refs || prompt_cache_holds(c, s)) continue;
        if (!asked) fleet_ask_stats(c), asked = true; /* the last look at its KV: control keeps the order */
        drop.drop.session = s->id;
        fleet_send_all(c, &drop, NULL);
        prompt_cache_drop(s);
        handover_drop(s);
        session_free(&c->sessions, s);
    }
    finish_jobs(c);
    job_list_trim(&c->jobs, (uint32_t)c->set->keep_jobs); /* a finished job may be forgotten only when no session points at it */
}

/* ---- beginnings ---------------------------------------------------------------------------------------------------- */

static err_code tokenize(coordinator *c, job *j, err *e)
{
    view prompt = job_prompt(j);
    if (!j->ask.n_tokens) {
        err_code rc = tokenizer_encode(c->tok, prompt, true, j->ask.parse_special, &j->tokens, e);
        if (rc) return rc;
        if (!prompt.len) return err_set(e, ERR_INPUT, "the prompt is empty");
    }
    if (!j->tokens.n) return err_set(e, ERR_INPUT, "the prompt is empty");
    if (j->tokens.n > j->n_ctx)
        return err_set(e, ERR_INPUT, "the prompt has %zu tokens, the context holds %u", j->tokens.n, j->n_ctx);
    return ERR_OK;
}

static log_path path_here(const coordinator *c)
{
    const rope_config *r = &c->shape.rope;
    return (log_path){ .path = c->path, .prompt = c->prompt_path, .kv = c->kv, .n_ctx = c->n_ctx, .rope_long = r->scaling == ROPE_LONG && c->n_ctx > r->orig_ctx };
}

static err_code follow_profile(const coordinator *c, const job *j, err *e)
{
    const event *v = log_find(&j->log, EVENT_PROFILE);
    const char *here = c->profile ? profile_digest(c->profile) : "none";
    if (!v || (v->payload.len == strlen(here) && !memcmp(v->payload.ptr, here, v->payload.len))) return ERR_OK;
    return err_set(e, ERR_STATE, "by its log job %" PRIu64 " used profile %.32s; this cluster has %s", j->id, v->payload.ptr, here);
}

err_code job_follow(const coordinator *c, job *j, err *e)
{
    log_path here = path_here(c), want = here;
    err_code rc = log_find(&j->log, EVENT_PATH) ? log_read_path(&j->log, &want, e) : ERR_OK;
    if (rc) return rc;
    if (want.kv != here.kv || want.n_ctx > here.n_ctx || want.rope_long != here.rope_long)
        return err_set(e, ERR_STATE, "by its log job %" PRIu64 " has %s rows and a context of %u; this cluster has %s rows and %u", j->id,
                       kv_format_name((kv_format)want.kv), want.n_ctx, kv_format_name(c->kv), c->n_ctx);
    j->path = (path_id)want.path;
    j->prompt_path = (path_id)want.prompt;
    j->n_ctx = want.n_ctx;
    rc = predict_follow(c, j, e);
    return rc ? rc : follow_profile(c, j, e);
}

/* What the profile says goes into the job's rows: then the log names it. */
static bool log_profile(const coordinator *c, job *j)
{
    if (!c->profile || !kv_tables_lack(NULL, 0, c->shape.L, &j->kv)) return true;
    const char *digest = profile_digest(c->profile);
    return log_add(&j->log, 0, 0, EVENT_PROFILE, (view){ digest, strlen(digest) });
}

/* Its KV policy likewise: by its log, by its own wish, or the cluster's. */
static err_code fix_kv(coordinator *c, job *j, bool has_log, err *e)
{
    const event *v = log_find(&j->log, EVENT_KV);
    if (v) return kv_policy_parse(&j->kv, v->payload.ptr, v->payload.len, "its log", e);
    if (has_log) j->kv = kv_policy_identity();
    else if (!j->ask.kv[0]) j->kv = c->kv_policy;
    char line[KV_POLICY_TEXT];
    kv_policy_print(&j->kv, line);
    if (!j->kv.lossy || has_log) return ERR_OK;
    bool ok = log_add(&j->log, 0, 0, EVENT_KV, (view){ line, strlen(line) }) && log_profile(c, j);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* From here on its arithmetic is fixed: by its log or, the first time, by this cluster, which the log then says. */
static err_code fix_path(coordinator *c, job *j, err *e)
{
    log_path here = path_here(c);
    err_code rc = job_follow(c, j, e);
    bool has_log = log_find(&j->log, EVENT_PATH) != NULL;
    if (!rc) rc = fix_kv(c, j, has_log, e);
    if (!rc) rc = route_fix(c, j, has_log, e);
    if (!rc && j->ask.fill_rows && (j->mask || j->route_due))
        rc = err_set(e, ERR_INPUT, "%" PRIu64 " random rows, and a rule that leaves out layers", j->ask.fill_rows);
    if (rc || has_log) return rc;
    return log_add_path(&j->log, &here) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

void session_open(coordinator *c, session *s)
{
    s->t_asked = clock_ns();
    message m = msg_init(MSG_SESSION_OPEN);
    s->prefix = UINT32_MAX;
    m.session_open.epoch = c->epoch;
    m.session_open.session = s->id;
    const msg_submit *a = &s->job->ask;
    snprintf(m.session_open.lora, sizeof m.session_open.lora, "%s", a->lora);
    snprintf(m.session_open.lora_digest, sizeof m.session_open.lora_digest, "%s", a->lora_digest);
    m.session_open.lora_scale = a->lora_scale;
    m.session_open.prompt_rows = session_prompt_rows(s);
    const kv_policy *policy = session_policy(s);
    snprintf(m.session_open.policy, sizeof m.session_open.policy, "%s", policy->name);
    if (policy->lossy) kv_policy_print(policy, m.session_open.kv_policy);
    s->prefix_asked = 0;
    m.session_open.prefix = s->handed ? 0 : prefix_for(c, s, &s->prefix_asked);
    mask_rec recs[MASK_LAYERS];
    m.session_open.n_mask = route_records(s, recs);
    m.session_open.pool_rows = route_pool_rows(s);
    route_say_more(s, &m.session_open);
    m.session_open.fill_rows = session_filled_rows(s);
    m.session_open.fill_seed = a->seed;
    fleet_send_all(c, &m, &(view){ recs, m.session_open.n_mask * sizeof *recs });
}

void job_begin(coordinator *c, job *j)
{
    err e;
    session *s;
    bool has_log = log_find(&j->log, EVENT_PATH) != NULL;
    err_code rc = fix_path(c, j, &e);
    if (!rc) rc = tokenize(c, j, &e);
    if (!rc) rc = predict_fix(c, j, has_log, &e);
    if (!rc) rc = session_new(&c->sessions, j, 0, &s, &e);
    if (rc) {
        job_fail(c, j, &e);
        return;
    }
    j->state = JOB_RUNNING;
    if (fleet_is_whole(c)) session_open(c, s); /* else sessions_reopen does, once */
}

/* ---- a stage died -------------------------------------------------------------------------------------------------- */

void sessions_break(coordinator *c)
{
    prefill_close(c);
    prompt_cache_break(c);
    handover_break(c);
    refresh_break(c);
    prefix_clear(c->prefixes);
    pump_reset(c);
    for (session *s = c->sessions.head; s; s = s->next) {
        session_rebuild(s);
        s->refs = 0;
    }
}

void sessions_reopen(coordinator *c)
{
    uint32_t n = 0;
    for (session *s = c->sessions.head; s; s = s->next)
        if (s->state == SESSION_OPENING) s->acks = 0, session_open(c, s), n++;
    LOG(LOG_WARN, "SESSIONS-REBUILT", "epoch=%u sessions=%u", c->epoch, n);
}

/* Who fills it first: a file, the coordinator's own engine, or (false) the stages themselves. A predicted prompt is predicted again
 * whenever its KV is gone. */
static bool fill(coordinator *c, session *s, bool first)
{
    err e;
    if (s->is_shadow) return false;
    if (handover_fill(c, s)) return true;
    if (first && prompt_cache_begin(c, s)) return true;
    bool local = first && s->job->way == WAY_LOCAL && s->n_prompt > 1;
    if (!local && s->exact) return false;
    s->state = SESSION_LOCAL;
    if (prefill_start(c, s, &e)) job_fail(c, s->job, &e);
    return true;
}

void session_opened(coordinator *c, uint64_t id, uint32_t prefix)
{
    session *s = session_find(&c->sessions, id);
    if (!fleet_is_whole(c)) return; /* it was opened before a stage died, and is opened again */
    if (!s || s->state != SESSION_OPENING) return;
    if (prefix < s->prefix) s->prefix = prefix;
    if (++s->acks < c->n_stages) return;
    s->acks = 0;
    s->t_asked = 0;
    if (s->prefix_asked) prefix_taken(c, s, s->prefix);
    if (session_filled_rows(s)) s->cursor = session_filled_rows(s);
    bool first = !s->job->t_start;
    if (first) s->job->t_start = clock_ns();
    s->state = s->job->ask.kind == 1 && s->job->ask.role == 1 ? SESSION_DECODE : SESSION_PROMPT;
    if (!first && s->made) s->state = SESSION_PROMPT; /* a rebuild: all its rows go again, in chunks */
    fill(c, s, first);
}

/* All rows but the prompt's last, or newest, are in every stage; they go through the pipeline and bring the logits. */
void session_filled(coordinator *c, uint64_t id)
{
    session *s = session_find(&c->sessions, id);
    if (!s || s->state != SESSION_LOCAL || ++s->acks < c->n_stages) return;
    s->acks = 0;
    s->t_asked = 0;
    if (s->handed) s->cursor = handover_filled(c, s);
    else if (s->cache && !s->filled) prompt_cache_filled(s);
    else s->cursor = s->filled;
    s->state = SESSION_PROMPT;
}

void session_failed(coordinator *c, uint64_t id, const err *why)
{
    session *s = session_find(&c->sessions, id);
    if (s && (prompt_cache_failed(s, why) || handover_failed(c, s))) return;
    /* KV that was lost on its way is computed again, by the stages; when there is no room for it that does not help */
    bool here = why->code == ERR_FULL || why->code == ERR_NOMEM || why->code == ERR_CONFIG || why->code == ERR_MODEL || why->code == ERR_IO;
    if (s && s->state == SESSION_LOCAL && !here) fleet_again(c, why);
    else if (s && s->state != SESSION_OVER) job_fail(c, s->job, why);
}

void session_pushed(coordinator *c, uint64_t id)
{
    session *s = session_find(&c->sessions, id);
    if (s && s->state == SESSION_LOCAL) s->t_asked = clock_ns();
}

void sessions_watch(coordinator *c)
{
    err e;
    if (!fleet_is_whole(c)) return;
    for (session *s = c->sessions.head; s; s = s->next) {
        if (route_waits(s) && !s->t_asked) s->t_asked = clock_ns();
        double waits = s->t_asked && s->state != SESSION_OVER ? (double)(clock_ns() - s->t_asked) / 1e9 : 0;
        if (waits <= 1.5 * c->set->stage_timeout) continue;
        err_set(&e, ERR_TIMEOUT, "%u of %u stages have answered for session %" PRIu64 " in %.1f s", s->acks, c->n_stages, s->id, waits);
        fleet_again(c, &e);
        return;
    }
}

/* Sessions that a job has or is going to have: its choices part only when its prompt is done. */
static uint32_t places_of(const job *j)
{
    uint32_t n = 0;
    if (j->state == JOB_RUNNING || j->state == JOB_RETRIEVING)
        for (uint32_t i = 0; i < j->n_choices; i++) n += !j->choice[i].done;
    return n > j->n_open ? n : j->n_open;
}

/* The worker may have died a moment ago: then the job waits for the next one. */
static void retrieve_first(coordinator *c, job *j)
{
    err e;
    j->state = JOB_RETRIEVING;
    err_code rc = retrieve_ask(c, j, &e);
    if (rc == ERR_GONE) fleet_lost(c, c->rag, &e);
    else if (rc) job_fail(c, j, &e);
}

/* Whoever is over time fails, wherever it is; its KV goes with its session. */
static void check_deadlines(coordinator *c, uint64_t now)
{
    err e;
    for (job *j = c->jobs.head; j; j = j->next) {
        if (j->state == JOB_DONE || !j->deadline || now < j->deadline) continue;
        size_t n = 0;
        for (uint32_t i = 0; i < j->n_choices; i++) n += j->choice[i].n_tok;
        char where[64] = "its prompt was being computed";
        if (j->state != JOB_RUNNING) snprintf(where, sizeof where, "it was still waiting");
        else if (n) snprintf(where, sizeof where, "%zu tokens were there", n);
        err_set(&e, ERR_TIMEOUT, "the deadline of %g s has passed: %s", (double)j->ask.deadline_ms / 1e3, where);
        job_fail(c, j, &e);
    }
}

void jobs_advance(coordinator *c)
{
    uint64_t taken = 0, now = clock_ns();
    check_deadlines(c, now);
    if (fleet_is_whole(c)) prefill_get_ready(c);
    if (!fleet_is_whole(c) || (c->state != COORD_READY && c->state != COORD_DRAINING)) return;
    for (const job *j = c->jobs.head; j; j = j->next) taken += places_of(j);
    for (job *j; (j = queue_next(&c->jobs, now, c->rag != NULL));) {
        if (taken && taken + j->n_choices > c->set->max_sessions) return; /* it waits for its room; nobody overtakes it */
        if (!room_for(c, j)) return;
        taken += j->n_choices;
        queue_started(&c->queue, &c->jobs, j, now);
        if (!j->ask.rag || log_find(&j->log, EVENT_PROMPT) || j->ask.kind == 1) job_begin(c, j);
        else retrieve_first(c, j);
    }
}
