#include "coordinator/session.h"
#include "core/clock.h"
#include "kvstore/kv.h"
#include <stdlib.h>
#include <string.h>

#define SLIDE_KEEP 4u   /* first tokens that stay when the context slides: attention sinks, arXiv:2309.17453 section 3.2 */

/* ---- the list ----------------------------------------------------------------------------------------------------- */

err_code session_new(session_list *l, job *j, uint32_t index, session **out, err *e)
{
    *out = NULL;
    session *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory for a session");
    s->job = j;
    s->index = index;
    s->sample = j->sample;
    s->sample.seed += index;
    err_code rc = stops_open(&s->stops, j->stop.ptr, j->stop.len, e);
    for (size_t i = 0; !rc && i < j->tokens.n; i++)
        if (!token_list_add(&s->tokens, j->tokens.id[i])) rc = err_set(e, ERR_NOMEM, "out of memory for %zu tokens", j->tokens.n);
    if (!rc && j->mask && !(s->mask = malloc(sizeof *s->mask))) rc = err_set(e, ERR_NOMEM, "out of memory for a session's mask");
    if (rc) {
        token_list_free(&s->tokens);
        if (s->stops) stops_close(&s->stops);
        free(s->mask);
        free(s);
        return rc;
    }
    s->n_prompt = j->ask.kind == 1 && j->ask.prompt_rows ? (uint32_t)j->ask.prompt_rows : (uint32_t)s->tokens.n;
    if (s->mask) mask_bind(s->mask, j->mask, session_prompt_rows(s), 0);
    s->born = s->tokens.n;
    s->detok.started = true; /* the answer goes on from the prompt: its first space is kept */
    s->want_row = sample_wants_row(&s->sample);
    s->exact = j->way < WAY_PREDICT;
    s->id = j->id << 6 | index; /* a job has at most 64 choices: log lines of every process name the job by it */
    s->next = l->head;
    l->head = s;
    l->n++;
    j->n_open++;
    *out = s;
    return ERR_OK;
}

session *session_find(session_list *l, uint64_t id)
{
    session *s = l->head;
    while (s && s->id != id) s = s->next;
    return s;
}

void session_free(session_list *l, session *s)
{
    session **at = &l->head;
    while (*at && *at != s) at = &(*at)->next;
    if (*at) *at = s->next, l->n--;
    s->job->n_open--;
    if (s->of) s->of->shadow = NULL;
    if (s->shadow) s->shadow->of = NULL, s->shadow->state = SESSION_OVER;
    token_list_free(&s->tokens);
    sample_scratch_free(&s->scratch);
    text_free(&s->detok.pending);
    stops_close(&s->stops);
    free(s->mask);
    free(s->pooled);
    free(s);
}

/* ---- what to send ------------------------------------------------------------------------------------------------- */

uint32_t session_prompt_rows(const session *s)
{
    return s->job->ask.kind == 1 && s->job->ask.role == 1 ? 0 : s->n_prompt;
}

uint32_t session_filled_rows(const session *s)
{
    return s->job->choice[s->index].slides ? 0 : (uint32_t)s->job->ask.fill_rows;
}

const kv_policy *session_policy(const session *s)
{
    static kv_policy none;
    if (s->exact) return &s->job->kv;
    none = kv_policy_identity(); /* the same every time */
    return &none;
}

/* No step goes beyond rows that are to settle: what comes after them must find them settled. */
static uint32_t room_to_boundary(const session *s)
{
    return kv_policy_boundary(session_policy(s), session_prompt_rows(s), s->cursor) - s->cursor;
}

session_rows session_next(const session *s, uint32_t room, uint32_t score_max)
{
    session_rows r = { .first = s->cursor };
    if (s->state == SESSION_DECODE) {
        r.decode = s->cursor >= s->n_prompt || s->job->ask.role == 1;
        r.n = 1;
    } else if (s->state == SESSION_PROMPT) {
        r.n = (uint32_t)s->tokens.n - s->cursor; /* after a rebuild also rows that were generated: each keeps its role */
        if (r.n > room) r.n = room;
        if (r.n > room_to_boundary(s)) r.n = room_to_boundary(s);
        if (s->job->route_due && s->cursor + r.n > s->n_prompt) r.n = s->n_prompt - s->cursor;
        if (s->job->ask.chunk && r.n > s->job->ask.chunk) r.n = (uint32_t)s->job->ask.chunk;
        if (s->job->ask.kind == 1 && s->job->ask.score_rows && r.n > score_max) r.n = score_max;
    }
    return r;
}

static uint8_t wants(const session *s, uint32_t i)
{
    const job *j = s->job;
    if (s->is_shadow) return 0;
    if (j->ask.kind == 1) return j->ask.score_rows ? WANT_ROW : 0;
    if (i + 1 < s->tokens.n) return 0;
    if (s->want_row) return WANT_ROW | WANT_CANDIDATES;
    return WANT_CANDIDATES;
}

step_row session_row(const session *s, uint32_t i, const session_rows *r, path_id prompt, path_id decode)
{
    bool role = (s->job->ask.kind == 1 && s->job->ask.role == 1) || i >= s->n_prompt;
    step_row w = { .session = s->id, .row = i, .pos = i, .parent = i == r->first ? MSG_NO_ROW : i - 1, .token = s->tokens.id[i],
                   .target = MSG_NO_ROW, .path = (uint8_t)(role ? decode : prompt), .want = wants(s, i) };
    if (s->mask && s->mask->calm.last && i >= s->mask->calm.from) w.calm = 1;
    if (s->job->ask.kind == 1) /* every scored row brings at least its log-sum-exp: the last one has no target of its own */
        w.target = i + 1 < s->tokens.n ? s->tokens.id[i + 1] : s->tokens.id[i];
    return w;
}

void session_sent(session *s, const session_rows *r)
{
    s->committed = r->first;
    s->cursor += r->n;
    s->again = s->slide = s->trim = s->tell = false;
    if (s->state == SESSION_DECODE || s->cursor == s->tokens.n) s->state = SESSION_WAIT;
}

void session_rebuild(session *s)
{
    if (s->state == SESSION_OVER) return;
    s->state = SESSION_OPENING;
    s->cursor = s->committed = s->acks = s->refs = s->kept = 0;
    s->t_asked = 0;
    s->again = s->slide = s->trim = s->tell = false;
    s->exact = s->exact || s->held; /* it was to go on with exact rows from here on */
    s->held = false;
    free(s->pooled);
    s->pooled = NULL;
}

/* ---- what came back ----------------------------------------------------------------------------------------------- */

void session_end(session *s, finish_reason why)
{
    choice *c = &s->job->choice[s->index];
    if (s->state == SESSION_OVER) return;
    if (s->is_shadow) {
        s->state = SESSION_OVER;
        return;
    }
    if (why != FINISH_STOP_STRING) {
        text rest = { 0 };
        err e;
        if (!detok_end(&s->detok, &rest, &e) && rest.ptr && !stops_push(s->stops, (view){ rest.ptr, rest.len }, &c->shown))
            stops_flush(s->stops, &c->shown);
        else if (!rest.ptr)
            stops_flush(s->stops, &c->shown);
        text_free(&rest);
    }
    s->state = SESSION_OVER;
    c->finish = why;
    c->done = true;
}

static sample_input input_of(const session_answer *a)
{
    return (sample_input){ .cand = a->cand, .n = a->row->n_candidates, .lse = a->row->lse, .row = a->full, .V = a->V };
}

bool session_needs_row(session *s, const session_answer *a)
{
    if (a->full) return false;
    sample_input in = input_of(a);
    sample_choice c;
    sample_params p = s->sample;
    for (uint32_t i = 0; i < s->job->n_choices; i++) {
        if (!s->made) p.seed = s->job->sample.seed + i;
        if (sample_pick(&p, &in, s->tokens.id, s->tokens.n, (uint32_t)s->born, &s->scratch, &c) == SAMPLE_NEED_ROW) return true;
        if (s->made) break; /* choices part after the first token */
    }
    return false;
}

void session_repeat(session *s)
{
    s->cursor--;
    s->again = s->want_row = true;
    s->state = SESSION_DECODE;
    s->job->full_rows++;
}

static uint32_t top_logprobs(const session *s, const session_answer *a, cand_rec *out)
{
    uint32_t n = (uint32_t)s->job->ask.logprobs;
    if (n > a->row->n_candidates) n = a->row->n_candidates;
    for (uint32_t i = 0; i < n; i++) out[i] = (cand_rec){ a->cand[i].id, a->cand[i].logit - a->row->lse };
    return n;
}

/* The text of a token through detokenizer and stop strings into the choice. true: a stop string ended. */
static err_code show(session *s, uint32_t id, const tokenizer *tok, bool *stopped, err *e)
{
    text piece = { 0 };
    err_code rc = detok_push(&s->detok, tok, id, &piece, e);
    if (!rc && piece.len) *stopped = stops_push(s->stops, (view){ piece.ptr, piece.len }, &s->job->choice[s->index].shown);
    text_free(&piece);
    if (!rc && stops_failed(s->stops)) rc = err_set(e, ERR_NOMEM, "out of memory for text");
    return rc;
}

/* Keep the first tokens and the newer half of the rest; their KV is computed anew from row 0, exactly. */
static void slide_context(session *s)
{
    uint32_t n = (uint32_t)s->tokens.n, keep = n > SLIDE_KEEP ? SLIDE_KEEP : 0, cut = (n - keep) / 2;
    memmove(s->tokens.id + keep, s->tokens.id + keep + cut, (n - keep - cut) * sizeof *s->tokens.id);
    s->tokens.n = n - cut;
    s->n_prompt = (uint32_t)s->tokens.n;
    if (s->mask) mask_bind(s->mask, s->job->mask, s->n_prompt, s->made);
    s->cursor = s->committed = 0;
    s->slide = s->exact = s->tell = true;
    s->state = SESSION_PROMPT;
    s->job->choice[s->index].slides++;
}

/* What happens after a token: the end, a slide, or the next row. */
static void go_on(session *s, uint32_t id, const tokenizer *tok, bool stopped, uint32_t n_ctx)
{
    const msg_submit *a = &s->job->ask;
    s->want_row = sample_wants_row(&s->sample);
    if (stopped) session_end(s, FINISH_STOP_STRING);
    else if (tokenizer_is_eog(tok, id) && !a->ignore_eog) session_end(s, FINISH_STOP);
    else if (s->made >= a->max_tokens) session_end(s, FINISH_LENGTH);
    else if (s->tokens.n <= n_ctx) s->state = SESSION_DECODE; /* the new token's row is tokens.n - 1 */
    else if (a->full_policy == 1 && n_ctx > 2 * SLIDE_KEEP) slide_context(s);
    else session_end(s, FINISH_CONTEXT);
}

err_code session_take(session *s, const session_answer *a, const tokenizer *tok, uint32_t n_ctx, err *e)
{
    choice *c = &s->job->choice[s->index];
    sample_input in = input_of(a);
    sample_choice pick;
    if (s->job->ask.max_tokens == 0) return session_end(s, FINISH_LENGTH), ERR_OK;
    sample_status st = sample_pick(&s->sample, &in, s->tokens.id, s->tokens.n, (uint32_t)s->born, &s->scratch, &pick);
    if (st == SAMPLE_NEED_ROW) return session_repeat(s), ERR_OK;
    if (st == SAMPLE_NOMEM) return err_set(e, ERR_NOMEM, "out of memory for sampling");
    cand_rec top[64];
    uint32_t n_top = top_logprobs(s, a, top);
    bool stopped = false, eog = tokenizer_is_eog(tok, pick.id) && !s->job->ask.ignore_eog;
    err_code rc = eog ? ERR_OK : show(s, pick.id, tok, &stopped, e);
    if (!rc) rc = choice_add(c, pick.id, pick.logprob, top, n_top, e);
    if (!rc && !token_list_add(&s->tokens, pick.id)) rc = err_set(e, ERR_NOMEM, "out of memory after %u tokens", s->made);
    if (rc) return rc;
    s->born++;
    s->made++;
    if (!s->exact) c->predicted = s->made;
    if (c->n_tok > 1) c->calm += a->row->left_out; /* the first token's row is the prompt's */
    c->t_last = clock_ns();
    if (!c->t_first) c->t_first = c->t_last;
    go_on(s, pick.id, tok, stopped, n_ctx);
    return ERR_OK;
}

err_code session_split(session_list *l, session *s, uint32_t index, session **out, err *e)
{
    err_code rc = session_new(l, s->job, index, out, e);
    if (rc) return rc;
    (*out)->cursor = s->cursor;
    (*out)->exact = s->exact;
    (*out)->state = SESSION_WAIT;
    return ERR_OK;
}
