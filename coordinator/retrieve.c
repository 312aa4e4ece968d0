/* Passages for a job: asks the rag worker, puts what it found in front of the prompt. */
#include "coordinator/coordinator.h"
#include "core/log.h"
#include "coordinator/rag_prompt.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* English prose has about four characters a token in common vocabularies; the model's own figure from the question is
 * better, and clamped against questions of one odd word. */
static double chars_per_token(coordinator *c, view q)
{
    token_list l = { 0 };
    err e;
    double r = 4.0;
    if (!tokenizer_encode(c->tok, q, false, false, &l, &e) && l.n) r = (double)q.len / (double)l.n;
    token_list_free(&l);
    return r < 1 ? 1 : r > 6 ? 6 : r;
}

err_code retrieve_ask(coordinator *c, job *j, err *e)
{
    view q = { j->prompt.ptr, j->prompt.len };
    if (!q.len) return err_set(e, ERR_INPUT, "the prompt is empty");
    if (q.len > 65536) return err_set(e, ERR_INPUT, "a question of %zu bytes is too long for retrieval (65536)", q.len);
    message m = msg_init(MSG_QUERY);
    m.query.id = j->id;
    m.query.max_passages = j->ask.rag_passages ? j->ask.rag_passages : c->set->rag_passages;
    m.query.token_budget = j->ask.rag_tokens ? j->ask.rag_tokens : c->set->rag_tokens;
    m.query.chars_per_token = chars_per_token(c, q);
    return fleet_send(c, c->rag, &m, &q, e);
}

/* ---- the answer ---------------------------------------------------------------------------------------------------- */

static err_code take_passages(const packet *in, passages *out, err *e)
{
    const msg_passages *m = &in->head.passages;
    const char *at = in->frame[PASSAGES_BYTES].ptr, *end = at + in->frame[PASSAGES_BYTES].len;
    for (uint64_t i = 0; i < m->n; i++) {
        passage_rec r;
        memcpy(&r, (const uint8_t *)in->frame[PASSAGES_RECS].ptr + i * sizeof r, sizeof r);
        if ((uint64_t)r.text_len + r.source_len + r.title_len > (uint64_t)(end - at))
            return err_set(e, ERR_PROTO, "passage %" PRIu64 " is longer than its frame", i);
        passage *p = passages_add(out);
        if (!p || !text_add(&p->body, at, r.text_len) || !text_add(&p->source, at + r.text_len, r.source_len)
            || !text_add(&p->title, at + r.text_len + r.source_len, r.title_len))
            return err_set(e, ERR_NOMEM, "out of memory for passages");
        at += (size_t)r.text_len + r.source_len + r.title_len;
        p->begin = r.begin;
        p->end = r.end;
        p->chunk = r.chunk;
        p->score = (double)r.score;
    }
    return ERR_OK;
}

static json_t *str(const text *t) { return json_stringn(t->ptr ? t->ptr : "", t->len); }

static err_code describe(job *j, const passages *ps, err *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ps->count; i++) {
        const passage *p = &ps->at[i];
        json_array_append_new(list, json_pack("{s:I,s:o,s:o,s:o,s:I,s:I,s:f}", "n", (json_int_t)(i + 1), "source", str(&p->source), "title",
                                              str(&p->title), "text", str(&p->body), "begin", (json_int_t)p->begin, "end", (json_int_t)p->end,
                                              "score", p->score));
    }
    char *s = json_dumps(list, JSON_COMPACT);
    bool ok = s && log_add(&j->log, 0, 0, EVENT_PASSAGES, (view){ s, strlen(s) });
    free(s);
    json_decref(list);
    j->n_passages = (uint32_t)ps->count;
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for passages");
}

void retrieve_answer(coordinator *c)
{
    job *j = job_find(&c->jobs, c->in.head.passages.id);
    if (!j || j->state != JOB_RETRIEVING) return;
    err e;
    passages ps = { 0 };
    text prompt = { 0 };
    rag_template t = { .prompt = c->set->rag_template, .passage = c->set->rag_passage_template };
    err_code rc = take_passages(&c->in, &ps, &e);
    if (!rc) rc = rag_prompt(&prompt, &t, &ps, (view){ j->prompt.ptr, j->prompt.len }, &e);
    if (!rc) rc = describe(j, &ps, &e);
    if (!rc && !log_add(&j->log, 0, 0, EVENT_PROMPT, (view){ prompt.ptr, prompt.len })) rc = err_set(&e, ERR_NOMEM, "out of memory");
    passages_free(&ps);
    text_free(&prompt);
    if (rc) job_fail(c, j, &e);
    else job_begin(c, j);
}

void retrieve_again(coordinator *c)
{
    for (job *j = c->jobs.head; j; j = j->next)
        if (j->state == JOB_RETRIEVING) j->state = JOB_QUEUED;
}
