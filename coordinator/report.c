/* What `sluice status` and `sluice jobs` show, as JSON. */
#include "coordinator/coordinator.h"
#include "coordinator/handover.h"
#include "coordinator/journal.h"
#include "coordinator/record.h"
#include "coordinator/trust.h"
#include "core/clock.h"
#include "core/log.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_int_t num(uint64_t v) { return v > INT64_MAX ? INT64_MAX : (json_int_t)v; }

static const char *on_off(bool on) { return on ? "on" : "off"; }

static json_t *stage_json(const member *m)
{
    const msg_stats *t = &m->stats;
    return json_pack("{s:s,s:i,s:I,s:s,s:i,s:i,s:b,s:b,s:s,s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I}}", "name", m->name, "stage",
                     (int)m->stage, "pid", num(m->hello.pid), "host", m->hello.host, "first", (int)m->part.first, "last", (int)m->part.last, "embed",
                     m->part.embed, "head", m->part.head, "cores", m->hello.cpuset, "threads", num(m->hello.threads), "isa", m->hello.isa, "sandbox", on_off(m->took.sandbox),
                     "weight_bytes", num(m->took.weight_bytes), "kv_row_bytes", num(m->took.kv_row_bytes), "kv_bytes", num(t->kv_bytes), "kv_arena",
                     num(t->kv_arena), "steps", num(t->steps), "rows", num(t->rows), "busy_ms", num(t->busy_ns / 1000000), "wait_ms",
                     num(t->wait_ns / 1000000), "busy_us", num(t->busy_ns / 1000), "wait_us", num(t->wait_ns / 1000),
                     "transfer_us", num(t->transfer_ns / 1000), "rss_kb", num(t->rss_kb), "sessions", num(t->sessions), "kv_pages", num(t->kv_pages),
                     "repeats", num(t->repeats), "damaged", num(t->damaged), "kernels", "float_few", num(t->float_few), "float_many", num(t->float_many),
                     "quant_few", num(t->quant_few), "quant_many", num(t->quant_many), "bf16_few",
                     num(t->bf16_few), "bf16_many", num(t->bf16_many));
}

/* Bytes by kind, and what policies did; a member of a stage's object. */
static json_t *kv_json(const msg_stats *t)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I}}", "exact_bytes", num(t->kv_bytes - t->kv_packed - t->kv_seen),
                     "packed_bytes", num(t->kv_packed), "score_bytes", num(t->kv_seen), "shared_bytes", num(t->kv_shared),
                     "evicted_rows", num(t->kv_evicted), "read_bytes", num(t->kv_read), "sparse_read", num(t->kv_sparse_read), "sparse_seen", num(t->kv_sparse_seen), "prefix_rows", num(t->prefix_hits),
                     "prefix_misses", num(t->prefix_misses), "packed", "raw", num(t->kv_raw), "q8_0", num(t->kv_q8), "q4_0", num(t->kv_q4),
                     "token", num(t->kv_token), "channel", num(t->kv_channel), "nuq", num(t->kv_nuq));
}

static json_t *jobs_count(const coordinator *c)
{
    uint64_t n[3] = { 0 };
    for (const job *j = c->jobs.head; j; j = j->next)
        if (!j->archived && !j->refused && !(j->replays && j->state == JOB_DONE)) n[j->state == JOB_QUEUED || j->state == JOB_CHECKING ? 0 : j->state == JOB_DONE ? 2 : 1]++;
    if (c->journal) n[2] += journal_finished(c->journal);
    return json_pack("{s:I,s:I,s:I,s:I,s:s?}", "queued", num(n[0]), "running", num(n[1]), "done", num(n[2]), "busy_refused", num(c->queue.refused),
                     "journal_trouble", record_trouble(c));
}

static bool put(json_t *o, text *out)
{
    char *s = o ? json_dumps(o, JSON_COMPACT) : NULL;
    bool ok = s && text_adds(out, s);
    free(s);
    json_decref(o);
    return ok;
}

bool report_status(coordinator *c, text *out)
{
    json_t *stages = json_array(), *spares = json_array();
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (c->by_stage[i]) {
            json_t *o = stage_json(c->by_stage[i]);
            json_object_set_new(o, "kv", kv_json(&c->by_stage[i]->stats));
            json_array_append_new(stages, o);
        }
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].hello_seen && !c->member[i].rag && c->member[i].stage == STAGE_NONE) json_array_append_new(spares, json_string(c->member[i].name));
    const pump *p = &c->pump;
    json_t *o = json_pack(
        "{s:s,s:b,s:I,s:s,s:{s:s,s:s,s:s,s:i,s:i,s:i},s:i,s:s,s:s,s:s,s:o,s:o,s:o?,s:o,s:i,s:{s:I,s:I,s:I,s:I,s:i,s:I,s:I,s:I}}", "schema", "sluice.status/1", "ready",
        c->state == COORD_READY, "pid", num((uint64_t)getpid()), "control", link_addr(c->control_tcp ? c->control_tcp : c->control), "model", "file",
        gguf_path(c->file), "name", c->shape.name, "digest", c->shape.digest, "layers", (int)c->shape.L, "vocab", (int)c->shape.V, "context", (int)c->n_ctx,
        "epoch", (int)(c->epoch % (1u << EPOCH_BITS)), "path", path_name(c->path), "prompt_path", path_name(c->prompt_path), "kv",
        c->kv_policy.lossy ? c->kv_policy.name : kv_format_name(c->kv), "stages", stages, "spares", spares, "rag",
        c->rag ? json_pack("{s:s,s:s,s:I,s:s}", "name", c->rag->name, "sandbox", on_off(c->rag->took.sandbox), "pid", num(c->rag->hello.pid), "corpus", c->set->rag ? c->set->rag : "") : NULL, "jobs",
        jobs_count(c), "sessions", (int)c->sessions.n, "pump", "decode_steps", num(p->decode_steps), "decode_rows", num(p->decode_rows), "prompt_steps",
        num(p->prompt_steps), "prompt_rows", num(p->prompt_rows), "in_flight", (int)p->width, "resent", num(p->resent), "refused_results",
        num(p->refused), "passed_by", num(p->passed_by));
    if (o) json_object_set_new(o, "trust", trust_json(c));
    if (o) json_object_set_new(o, "handover", handover_json(c));
    if (o && c->profile) json_object_set_new(json_object_get(o, "model"), "profile", json_string(profile_digest(c->profile)));
    return put(o, out);
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------ */

#define LIST_MAX 5000u          /* jobs of one report: far below what a message holds */

static json_t *job_json(const job *j)
{
    const choice *ch = &j->choice[0];
    return json_pack("{s:I,s:s,s:s,s:I,s:I,s:s,s:s?,s:s,s:I,s:I,s:f}", "id", num(j->id), "custom_id", j->ask.custom_id, "state", job_state_name(j),
                     "prompt_tokens", num(j->tokens.n ? j->tokens.n : j->n_prompt), "tokens", num(ch->n_tok), "finish_reason",
                     ch->done ? finish_name(ch->finish) : "none", "error", j->failure.code ? j->failure.text : NULL, "owner", j->owner, "submitted_ms",
                     num(j->wall_ms), "priority", num(j->ask.priority), "deadline_s", (double)j->ask.deadline_ms / 1e3);
}

static size_t place_of(const json_t *list, uint64_t id)
{
    size_t lo = 0, hi = json_array_size(list);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if ((uint64_t)json_integer_value(json_object_get(json_array_get(list, mid), "id")) < id) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* What is in memory is newer than what the journal says, unless it is over and recorded. */
static void put_job(json_t *list, const job *j)
{
    size_t at = place_of(list, j->id);
    const json_t *o = json_array_get(list, at);
    if (o && (uint64_t)json_integer_value(json_object_get(o, "id")) == j->id) json_array_set_new(list, at, job_json(j));
    else json_array_insert_new(list, at, job_json(j));
}

bool report_jobs(coordinator *c, const char *who, text *out)
{
    json_t *list = json_array();
    err e;
    if (c->journal && journal_list(c->journal, LIST_MAX, list, &e)) LOG(LOG_ERROR, "JOURNAL-FAILED", "text=\"%s\"", e.text);
    for (const job *j = c->jobs.head; j; j = j->next)
        if (!j->refused && !j->archived) put_job(list, j);
    for (size_t i = json_array_size(list); i-- > 0 && strcmp(who, OWNER_LOCAL);) {
        const char *owner = json_string_value(json_object_get(json_array_get(list, i), "owner"));
        if (!owner || strcmp(owner, who)) json_array_remove(list, i);
    }
    while (json_array_size(list) > LIST_MAX) json_array_remove(list, 0);
    return put(json_pack("{s:s,s:o}", "schema", "sluice.jobs/1", "jobs", list), out);
}

static json_t *event_json(const event *v)
{
    json_t *words = event_is_text(v->kind) ? json_stringn(v->payload.ptr ? v->payload.ptr : "", v->payload.len) : NULL;
    return json_pack("{s:i,s:I,s:s,s:I,s:o?}", "choice", (int)v->choice, "row", num(v->row), "kind", event_name(v->kind), "bytes", num(v->payload.len),
                     "payload", words);
}

bool report_log(const job *j, text *out)
{
    json_t *events = json_array();
    for (uint32_t i = 0; i < j->log.n; i++) json_array_append_new(events, event_json(&j->log.at[i]));
    return put(json_pack("{s:s,s:I,s:s,s:s?,s:o}", "schema", "sluice.log/1", "id", num(j->id), "state", job_state_name(j), "error",
                         j->failure.code ? j->failure.text : NULL, "events", events), out);
}
