#include "ops/cli/load.h"
#include "core/clock.h"
#include "core/rng.h"
#include <stdlib.h>
#include <string.h>

/* Owns jobs that exist to be measured. It knows no statistics. */

void load_open(load *l, client *c, uint32_t V, uint64_t seed) { *l = (load){ .c = c, .V = V, .seed = seed }; }

void load_close(load *l)
{
    free(l->job);
    free(l->ids);
    *l = (load){ 0 };
}

void load_forget(load *l) { l->n = 0; }

static err_code make_room(load *l, uint32_t n_prompt, err *e)
{
    if (n_prompt > l->cap_ids) {
        id_rec *ids = realloc(l->ids, n_prompt * sizeof *ids);
        if (!ids) return err_set(e, ERR_NOMEM, "out of memory for %u tokens", n_prompt);
        l->ids = ids;
        l->cap_ids = n_prompt;
    }
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 64;
        load_job *job = realloc(l->job, cap * sizeof *job);
        if (!job) return err_set(e, ERR_NOMEM, "out of memory for %u jobs", cap);
        l->job = job;
        l->cap = cap;
    }
    return ERR_OK;
}

err_code load_submit(load *l, uint32_t n_prompt, uint32_t n_gen, err *e)
{
    err_code rc = make_room(l, n_prompt, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n_prompt; i++) l->ids[i].id = (uint32_t)(rng_u64(l->seed, l->drawn++) % l->V);
    message m = msg_init(MSG_SUBMIT);
    m.submit.ref = client_ref(l->c);
    m.submit.n_tokens = n_prompt;
    m.submit.max_tokens = n_gen;
    m.submit.ignore_eog = !l->end;
    m.submit.stream = true;
    m.submit.fill_rows = l->fill;
    if (l->fill) m.submit.prefill = 1;
    const view frames[MSG_FRAMES_MAX] = { [SUBMIT_TOKENS] = { l->ids, n_prompt * sizeof *l->ids } };
    load_job j = { .ref = m.submit.ref, .n_prompt = n_prompt, .n_gen = n_gen, .t_sent = clock_ns() };
    if ((rc = client_send(l->c, &m, frames, e))) return rc;
    l->job[l->n++] = j;
    l->live++;
    return ERR_OK;
}

err_code load_cancel(load *l, uint32_t index, err *e)
{
    load_job *j = &l->job[index];
    if (j->over || j->cancelled) return ERR_OK;
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = j->job;
    j->cancelled = true;
    return client_send(l->c, &m, NULL, e);
}

/* Newest first: what comes is mostly about jobs that were sent lately. */
static load_job *find(load *l, uint64_t ref, uint64_t job)
{
    for (uint32_t i = l->n; i-- > 0;)
        if ((ref && l->job[i].ref == ref) || (job && l->job[i].job == job)) return &l->job[i];
    return NULL;
}

static void end(load *l, load_job *j, load_event *out)
{
    j->over = out->over = true;
    l->live--;
}

static void take_tokens(load_job *j, uint64_t n, load_event *out)
{
    if (!n) return; /* the coordinator asks whether we are here */
    out->tokens = (uint32_t)n;
    out->gap = j->got ? out->t - j->t_last : 0;
    if (!j->got) j->t_first = out->t;
    else if (!j->t_second) j->t_second = out->t, j->before = j->got + (uint32_t)n;
    j->t_last = out->t;
    j->got += (uint32_t)n;
}

static void take_done(load *l, load_job *j, const packet *p, load_event *out)
{
    const msg_done *m = &p->head.done;
    if (m->code) err_set(&j->fail, m->code < ERR_COUNT ? (err_code)m->code : ERR_STATE, "%.*s", (int)p->frame[DONE_TEXT].len,
                         p->frame[DONE_TEXT].len ? (const char *)p->frame[DONE_TEXT].ptr : "");
    j->decode_ns = m->decode_us * 1000;
    j->prefill_ns = m->prefill_us * 1000;
    if (m->last) end(l, j, out);
}

/* false: the message is about nothing of ours. */
static bool take(load *l, const packet *p, load_event *out)
{
    const message *h = &p->head;
    uint64_t ref = h->type == MSG_ACCEPTED ? h->accepted.ref : h->type == MSG_FAIL ? h->fail.ref : 0;
    uint64_t job = h->type == MSG_TOKEN ? h->token.job : h->type == MSG_DONE ? h->done.job : 0;
    load_job *j = ref || job ? find(l, ref, job) : NULL;
    if (!j || j->over) return false;
    *out = (load_event){ .index = (uint32_t)(j - l->job), .t = clock_ns() };
    if (h->type == MSG_ACCEPTED) j->job = h->accepted.job;
    if (h->type == MSG_TOKEN) take_tokens(j, h->token.n, out);
    if (h->type == MSG_DONE) take_done(l, j, p, out);
    if (h->type == MSG_FAIL) client_failed(p, &j->fail), end(l, j, out);
    return out->tokens || out->over;
}

err_code load_next(load *l, int timeout_ms, load_event *out, err *e)
{
    uint64_t until = clock_ns() + (timeout_ms < 0 ? 0 : (uint64_t)timeout_ms * 1000000u);
    for (;;) {
        const packet *p;
        err_code rc = client_next(l->c, timeout_ms < 0 ? -1 : clock_left_ms(until), false, &p, e);
        if (rc) return rc;
        if (take(l, p, out)) return ERR_OK;
    }
}

err_code load_drain(load *l, err *e)
{
    load_event ev;
    err_code rc = ERR_OK;
    while (rc == ERR_OK && l->live) rc = load_next(l, -1, &ev, e);
    for (uint32_t i = 0; rc == ERR_OK && i < l->n; i++)
        if (l->job[i].fail.code && !l->job[i].cancelled) *e = l->job[i].fail, rc = err_wrap(e, "job %u of the load", i);
    return rc;
}
