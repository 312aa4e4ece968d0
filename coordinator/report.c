/* What `sluice status` and `sluice jobs` show, as JSON. */
#include "coordinator/coordinator.h"
#include "core/clock.h"
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

static json_int_t num(uint64_t v) { return v > INT64_MAX ? INT64_MAX : (json_int_t)v; }

static json_t *stage_json(const member *m)
{
    const msg_stats *t = &m->stats;
    return json_pack("{s:s,s:i,s:I,s:s,s:i,s:i,s:b,s:b,s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:{s:I,s:I,s:I,s:I}}", "name", m->name, "stage",
                     (int)m->stage, "pid", num(m->hello.pid), "host", m->hello.host, "first", (int)m->part.first, "last", (int)m->part.last, "embed",
                     m->part.embed, "head", m->part.head, "cores", m->hello.cpuset, "threads", num(m->hello.threads), "isa", m->hello.isa,
                     "weight_bytes", num(m->took.weight_bytes), "kv_row_bytes", num(m->took.kv_row_bytes), "kv_bytes", num(t->kv_bytes), "kv_arena",
                     num(t->kv_arena), "steps", num(t->steps), "rows", num(t->rows), "busy_ms", num(t->busy_ns / 1000000), "wait_ms",
                     num(t->wait_ns / 1000000), "busy_us", num(t->busy_ns / 1000), "wait_us", num(t->wait_ns / 1000),
                     "transfer_us", num(t->transfer_ns / 1000), "rss_kb", num(t->rss_kb), "kernels", "float_few", num(t->float_few), "float_many", num(t->float_many),
                     "quant_few", num(t->quant_few), "quant_many", num(t->quant_many));
}

static json_t *jobs_count(const coordinator *c)
{
    uint64_t n[3] = { 0 };
    for (const job *j = c->jobs.head; j; j = j->next) n[j->state == JOB_QUEUED ? 0 : j->state == JOB_DONE ? 2 : 1]++;
    return json_pack("{s:I,s:I,s:I}", "queued", num(n[0]), "running", num(n[1]), "done", num(n[2]));
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
        if (c->by_stage[i]) json_array_append_new(stages, stage_json(c->by_stage[i]));
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].hello_seen && !c->member[i].rag && c->member[i].stage == STAGE_NONE) json_array_append_new(spares, json_string(c->member[i].name));
    const pump *p = &c->pump;
    json_t *o = json_pack(
        "{s:s,s:b,s:I,s:s,s:{s:s,s:s,s:s,s:i,s:i,s:i},s:i,s:s,s:s,s:o,s:o,s:o?,s:o,s:i,s:{s:I,s:I,s:I,s:I,s:i}}", "schema", "sluice.status/1", "ready",
        c->state == COORD_READY, "pid", num((uint64_t)getpid()), "control", link_addr(c->control_tcp ? c->control_tcp : c->control), "model", "file",
        gguf_path(c->file), "name", c->shape.name, "digest", c->shape.digest, "layers", (int)c->shape.L, "vocab", (int)c->shape.V, "context", (int)c->n_ctx,
        "epoch", (int)(c->epoch % (1u << EPOCH_BITS)), "path", path_name(c->path), "kv", kv_format_name(c->kv), "stages", stages, "spares", spares, "rag",
        c->rag ? json_pack("{s:s,s:I,s:s}", "name", c->rag->name, "pid", num(c->rag->hello.pid), "corpus", c->set->rag ? c->set->rag : "") : NULL, "jobs",
        jobs_count(c), "sessions", (int)c->sessions.n, "pump", "decode_steps", num(p->decode_steps), "decode_rows", num(p->decode_rows), "prompt_steps",
        num(p->prompt_steps), "prompt_rows", num(p->prompt_rows), "in_flight", (int)p->width);
    return put(o, out);
}

static json_t *job_json(const job *j)
{
    const choice *ch = &j->choice[0];
    return json_pack("{s:I,s:s,s:s,s:I,s:I,s:s,s:s?}", "id", num(j->id), "custom_id", j->ask.custom_id, "state", job_state_name(j->state), "prompt_tokens",
                     num(j->tokens.n), "tokens", num(ch->n_tok), "finish_reason", ch->done ? finish_name(ch->finish) : "none", "error",
                     j->failure.code ? j->failure.text : NULL);
}

bool report_jobs(coordinator *c, text *out)
{
    json_t *list = json_array();
    for (const job *j = c->jobs.head; j; j = j->next) json_array_append_new(list, job_json(j));
    return put(json_pack("{s:s,s:o}", "schema", "sluice.jobs/1", "jobs", list), out);
}
