#include "coordinator/job.h"
#include "core/clock.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const states[] = {
#define X(N, n) [JOB_##N] = n,
    JOB_STATE_MAP(X)
#undef X
};

const char *job_state_name(const job *j)
{
    if (j->state != JOB_DONE) return states[j->state];
    return j->failure.code ? "failed" : j->cancelled ? "cancelled" : states[JOB_DONE];
}

/* ---- from a SUBMIT ------------------------------------------------------------------------------------------------ */

static err_code take_tokens(job *j, view v, uint32_t V, err *e)
{
    for (size_t i = 0; i < j->ask.n_tokens; i++) {
        id_rec r;
        memcpy(&r, (const uint8_t *)v.ptr + i * sizeof r, sizeof r);
        if (r.id >= V) return err_set(e, ERR_INPUT, "token %zu is %u, the vocabulary has %u", i, r.id, V);
        if (!token_list_add(&j->tokens, r.id)) return err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " tokens", j->ask.n_tokens);
    }
    return ERR_OK;
}

static err_code take_bias(job *j, view v, err *e)
{
    j->bias = calloc(j->ask.n_bias + 1, sizeof *j->bias);
    if (!j->bias) return err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " biases", j->ask.n_bias);
    for (size_t i = 0; i < j->ask.n_bias; i++) {
        bias_rec r;
        memcpy(&r, (const uint8_t *)v.ptr + i * sizeof r, sizeof r);
        j->bias[i] = (sample_bias){ r.id, r.bias };
    }
    return ERR_OK;
}

static err_code check_stops(job *j, err *e)
{
    stops *s;
    err_code rc = stops_open(&s, j->stop.ptr, j->stop.len, e);
    if (!rc) stops_close(&s);
    return rc;
}

static err_code fill(job *j, const packet *in, uint32_t V, err *e)
{
    const msg_submit *a = &j->ask;
    if (a->adapter) return err_set(e, ERR_INPUT, "adapter %" PRIu64 " is not known", a->adapter);
    j->kv = kv_policy_identity();
    if (a->kv_policy[0] && kv_policy_parse(&j->kv, a->kv_policy, strlen(a->kv_policy), a->kv, e)) return e->code;
    skip_rule rule;
    if (a->skip[0] && skip_rule_parse(&rule, a->skip, e)) return e->code = ERR_INPUT;
    if (a->prompt_rows && (a->kind != 1 || a->role || a->prompt_rows > a->n_tokens))
        return err_set(e, ERR_INPUT, "%" PRIu64 " prompt rows of %" PRIu64 " scored tokens", a->prompt_rows, a->n_tokens);
    if (a->fill_rows && (a->fill_rows >= a->n_tokens || a->kind || a->prefill != 1 || a->cache[0] || a->rag || a->skip[0]))
        return err_set(e, ERR_INPUT, "%" PRIu64 " random rows of %" PRIu64 " tokens: the last token must be computed, in the pipeline, "
                       "and nothing else may fill or leave out rows", a->fill_rows, a->n_tokens);
    if (a->n_tokens && in->frame[SUBMIT_PROMPT].len) return err_set(e, ERR_INPUT, "both a text prompt and %" PRIu64 " tokens", a->n_tokens);
    if (a->cache[0] && a->cache[0] != '/') return err_set(e, ERR_INPUT, "prompt cache \"%.200s\" is no absolute path", a->cache);
    if (a->kind == 1 && (!a->n_tokens || a->n != 1)) return err_set(e, ERR_INPUT, "scoring wants token ids and n = 1");
    err_code rc = take_tokens(j, in->frame[SUBMIT_TOKENS], V, e);
    if (!rc) rc = take_bias(j, in->frame[SUBMIT_BIAS], e);
    if (rc) return rc;
    view p = in->frame[SUBMIT_PROMPT], s = in->frame[SUBMIT_STOP];
    if (!text_add(&j->prompt, p.ptr, p.len) || !text_add(&j->stop, s.ptr, s.len)) return err_set(e, ERR_NOMEM, "out of memory");
    j->sample = (sample_params){ .temperature = a->temperature, .top_k = (uint32_t)a->top_k, .top_p = a->top_p, .min_p = a->min_p,
                                 .repeat_penalty = a->repeat_penalty, .repeat_last = (uint32_t)a->repeat_last, .seed = a->seed,
                                 .bias = j->bias, .n_bias = (uint32_t)a->n_bias };
    if ((rc = sample_check(&j->sample, V, e)) || (rc = check_stops(j, e))) return rc;
    j->n_choices = (uint32_t)a->n;
    j->choice = calloc(j->n_choices, sizeof *j->choice);
    return j->choice ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

void job_free(job *j)
{
    for (uint32_t i = 0; j->choice && i < j->n_choices; i++) {
        free(j->choice[i].tok);
        free(j->choice[i].top);
        text_free(&j->choice[i].shown);
    }
    free(j->choice);
    free(j->bias);
    free(j->mask);
    free(j->score);
    watch_drop_all(&j->watch);
    log_free(&j->log);
    text_free(&j->prompt);
    text_free(&j->stop);
    text_free(&j->full);
    token_list_free(&j->tokens);
    free(j);
}

err_code job_make(uint64_t id, const packet *in, uint32_t V, job **out, err *e)
{
    job *j = calloc(1, sizeof *j);
    if (!j) return err_set(e, ERR_NOMEM, "out of memory");
    j->id = id;
    j->state = JOB_QUEUED;
    j->ask = in->head.submit;
    j->client = in->from;
    j->t_submit = clock_ns();
    j->wall_ms = clock_wall_ms();
    if (j->ask.deadline_ms) j->deadline = j->t_submit + j->ask.deadline_ms * 1000000u;
    err_code rc = fill(j, in, V, e);
    if (rc) {
        job_free(j);
        return rc;
    }
    *out = j;
    return ERR_OK;
}

err_code job_new(job_list *l, const packet *in, uint32_t V, job **out, err *e)
{
    err_code rc = job_make(l->last_id + 1, in, V, out, e);
    if (!rc) job_list_put(l, *out);
    return rc;
}

job *job_stub(uint64_t id, const err *why)
{
    job *j = calloc(1, sizeof *j);
    choice *c = calloc(1, sizeof *c);
    if (!j || !c) {
        free(j);
        free(c);
        return NULL;
    }
    *c = (choice){ .done = true, .finish = FINISH_ERROR };
    *j = (job){ .id = id, .state = JOB_DONE, .ask = msg_init(MSG_SUBMIT).submit, .choice = c, .n_choices = 1, .failure = *why, .acked = true,
                .on_disk = true };
    return j;
}

/* ---- the list ----------------------------------------------------------------------------------------------------- */

void job_list_put(job_list *l, job *j)
{
    job **at = &l->head;
    while (*at && (*at)->id < j->id) at = &(*at)->next;
    j->next = *at;
    *at = j;
    l->n++;
    if (j->id > l->last_id) l->last_id = j->id;
}

job *job_find(job_list *l, uint64_t id)
{
    job *j = l->head;
    while (j && j->id != id) j = j->next;
    return j;
}

bool job_is_done(const job *j)
{
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (!j->choice[i].done) return false;
    return true;
}

static bool may_go(const job *j)
{
    return j->state == JOB_DONE && j->recorded && j->acked && !j->n_open && !j->watch; /* n_open: a step in flight may mention its session */
}

/* Nobody will look for it here: it is in the journal, or nowhere. */
static bool leaves_no_trace(const job *j) { return j->archived || j->refused || j->replays; }

void job_list_trim(job_list *l, uint32_t keep)
{
    job **at = &l->head;
    uint32_t others = 0;
    for (const job *j = l->head; j; j = j->next) others += may_go(j) && !leaves_no_trace(j);
    while (*at) {
        job *j = *at;
        bool at_once = leaves_no_trace(j), old = others > keep;
        if (may_go(j) && (at_once || old)) {
            *at = j->next;
            others -= !at_once;
            job_free(j);
            l->n--;
        } else {
            at = &j->next;
        }
    }
}

void job_list_free(job_list *l)
{
    while (l->head) {
        job *j = l->head;
        l->head = j->next;
        job_free(j);
    }
    *l = (job_list){ 0 };
}

/* ---- answers ------------------------------------------------------------------------------------------------------ */

static bool room(void **p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t c = *cap ? *cap : 64;
    while (c < need) c *= 2;
    void *q = realloc(*p, c * size);
    if (!q) return false;
    *p = q;
    *cap = c;
    return true;
}

err_code choice_add(choice *c, uint32_t id, float logprob, const cand_rec *top, uint32_t n_top, err *e)
{
    if (!room((void **)&c->tok, &c->cap_tok, c->n_tok + 1, sizeof *c->tok)
        || !room((void **)&c->top, &c->cap_top, c->n_top + n_top, sizeof *c->top))
        return err_set(e, ERR_NOMEM, "out of memory after %zu tokens", c->n_tok);
    if (n_top) memcpy(c->top + c->n_top, top, n_top * sizeof *top);
    c->n_top += n_top;
    c->tok[c->n_tok++] = (answer_token){ .rec = { .id = id, .logprob = logprob, .n_top = n_top }, .text_end = c->shown.len, .top_end = c->n_top };
    return ERR_OK;
}

static view in_log(const job *j, event_kind kind, view otherwise)
{
    const event *v = log_find(&j->log, kind);
    return v ? (view){ v->payload.ptr, v->payload.len } : otherwise;
}

view job_prompt(const job *j) { return in_log(j, EVENT_PROMPT, (view){ j->prompt.ptr, j->prompt.len }); }
view job_passages(const job *j) { return in_log(j, EVENT_PASSAGES, (view){ "", 0 }); }

/* ---- what it says of itself --------------------------------------------------------------------------------------- */

size_t job_bytes(const job *j)
{
    size_t n = sizeof *j + (j->mask ? sizeof *j->mask : 0) + j->prompt.cap + j->tokens.cap * sizeof *j->tokens.id + j->stop.cap + j->full.cap
               + j->ask.n_bias * sizeof *j->bias;
    for (uint32_t i = 0; i < j->log.n; i++) n += j->log.at[i].payload.cap;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        const choice *c = &j->choice[i];
        n += sizeof *c + c->cap_tok * sizeof *c->tok + c->cap_top * sizeof *c->top + c->shown.cap;
    }
    return n;
}

static uint64_t us(uint64_t from, uint64_t to) { return from && to > from ? (to - from) / 1000 : 0; }

static void put_times(const job *j, uint32_t i, msg_done *d)
{
    const choice *c = &j->choice[i];
    d->queue_us = us(j->t_submit, j->t_start);
    d->ttft_us = us(j->t_submit, c->t_first);
    d->prefill_us = us(j->t_start, j->t_prefilled);
    d->decode_us = us(c->t_first, c->t_last);
    if (!c->timed) return;
    d->queue_us = c->us[0];
    d->ttft_us = c->us[1];
    d->prefill_us = c->us[2];
    d->decode_us = c->us[3];
}

msg_done job_done_message(const job *j, uint32_t index)
{
    const choice *c = &j->choice[index];
    msg_done d = { .job = j->id, .index = index, .finish = c->finish, .tokens = c->n_tok, .prompt_tokens = j->tokens.n ? j->tokens.n : j->n_prompt,
                   .prefill_mode = j->way, .slides = c->slides, .predicted = c->predicted, .code = j->failure.code, .full_rows = j->full_rows, .n_passages = j->n_passages,
                   .n_prompt = j->ask.echo_prompt_tokens ? j->tokens.n : 0, .lora_scale = j->ask.lora_scale, .cached = j->cached };
    put_times(j, index, &d);
    snprintf(d.aux, sizeof d.aux, "%s", j->aux);
    snprintf(d.why, sizeof d.why, "%s", j->why);
    snprintf(d.cache_note, sizeof d.cache_note, "%s", j->cache_note);
    snprintf(d.custom_id, sizeof d.custom_id, "%s", j->ask.custom_id);
    snprintf(d.lora, sizeof d.lora, "%s", j->ask.lora);
    snprintf(d.lora_digest, sizeof d.lora_digest, "%s", j->ask.lora_digest);
    return d;
}
