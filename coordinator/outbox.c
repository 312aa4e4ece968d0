/* Answers on their way out: each client's place in each choice, and what comes next there. What a slow one has not had yet stays
 * with the job and is sent when it can take it. Takes no requests. */
#include "coordinator/back_off.h"
#include "coordinator/front.h"
#include "coordinator/record.h"
#include "coordinator/route.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_NS 200000000u     /* how long the end of a client that is sent nothing goes unnoticed */
#define PIECE_TOKENS 4096u      /* of one TOKEN: 64 KiB of records and at most 2 MiB of log-probabilities */

/* ---- tokens -------------------------------------------------------------------------------------------------------- */

/* Tokens [from, to) with the text that they made visible; behind the last one also what came with the end. */
static err_code send_piece(coordinator *c, const job *j, watcher *w, uint32_t index, size_t to, err *e)
{
    const choice *ch = &j->choice[index];
    watch_place *at = &w->at[index];
    size_t from = at->tok, n = to - from, top0 = from ? ch->tok[from - 1].top_end : 0, top1 = to ? ch->tok[to - 1].top_end : 0;
    size_t text_end = to == ch->n_tok ? ch->shown.len : ch->tok[to - 1].text_end;
    message m = msg_init(MSG_TOKEN);
    m.token = (msg_token){ .job = j->id, .index = index, .offset = from, .n = n, .n_top = top1 - top0 };
    token_rec one, *recs = n <= 1 ? &one : malloc(n * sizeof *recs);
    if (!recs) return err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) recs[i] = ch->tok[from + i].rec;
    view f[MSG_FRAMES_MAX] = { [TOKEN_TOKENS] = { recs, n * sizeof *recs }, [TOKEN_TOP] = { ch->top + top0, (top1 - top0) * sizeof *ch->top },
                               [TOKEN_TEXT] = { ch->shown.ptr + at->text, text_end - at->text } };
    err_code rc = front_send(c, &w->to, &m, f, e);
    if (!rc) at->tok = to, at->text = text_end;
    if (recs != &one) free(recs);
    return rc;
}

/* A client that knows more tokens than there are (the job runs again after a restart) waits until they are there. */
static bool caught_up(const choice *ch, watch_place *at, bool end)
{
    if (!at->ahead) return true;
    if (ch->n_tok < at->tok && !end) return false;
    if (ch->n_tok < at->tok) at->tok = ch->n_tok;
    at->text = at->tok ? ch->tok[at->tok - 1].text_end : 0;
    at->ahead = false;
    return true;
}

static err_code send_tokens(coordinator *c, const job *j, watcher *w, uint32_t i, err *e)
{
    const choice *ch = &j->choice[i];
    watch_place *at = &w->at[i];
    err_code rc = ERR_OK;
    if (!caught_up(ch, at, ch->done || w->once)) return ERR_OK;
    while (!rc && (at->tok < ch->n_tok || at->text < ch->shown.len)) {
        size_t left = ch->n_tok - at->tok;
        rc = send_piece(c, j, w, i, at->tok + (left < PIECE_TOKENS ? left : PIECE_TOKENS), e);
    }
    return rc;
}

/* ---- ends ---------------------------------------------------------------------------------------------------------- */

static bool is_last(const job *j, const watcher *w, uint32_t index)
{
    if (!w->once && !job_is_done(j)) return false;
    for (uint32_t i = 0; i < w->n; i++)
        if (i != index && !w->at[i].done) return false;
    return true;
}

static err_code send_done(coordinator *c, const job *j, watcher *w, uint32_t index, err *e)
{
    message m = msg_init(MSG_DONE);
    m.done = job_done_message(j, index);
    view rule, mask;
    route_said(j, &rule, &mask);
    snprintf(m.done.skip, sizeof m.done.skip, "%.*s", (int)rule.len, (const char *)rule.ptr);
    m.done.skipped = route_share(c, j, index);
    m.done.back_off = back_off_at(j, index);
    m.done.last = is_last(j, w, index);
    if (!j->choice[index].done) m.done.finish = FINISH_NONE;
    _Static_assert(sizeof(id_rec) == sizeof *j->tokens.id, "prompt ids go out as they are");
    view f[MSG_FRAMES_MAX] = { [DONE_TEXT] = { j->failure.text, j->failure.code ? strlen(j->failure.text) : 0 },
                               [DONE_PASSAGES] = job_passages(j),
                               [DONE_PROMPT] = { j->tokens.id, m.done.n_prompt * sizeof(id_rec) },
                               [DONE_MASK] = mask };
    err_code rc = front_send(c, &w->to, &m, f, e);
    if (!rc) w->at[index].done = true;
    return rc;
}

/* ---- scores, for the submitter --------------------------------------------------------------------------------------- */

static err_code send_scores(coordinator *c, job *j, const watcher *w, err *e)
{
    size_t row = j->ask.score_rows ? (size_t)c->shape.V * 4 : 0;
    uint32_t n = j->n_scored < 512 ? j->n_scored : 512; /* keeps a message of whole rows below its limit: 512 x 128k x 4 = 256 MiB */
    while (row && n > 1 && n * row > 32u << 20) n /= 2;
    message m = msg_init(MSG_SCORED);
    m.scored = (msg_scored){ .job = j->id, .first = j->first_scored, .n = n, .n_full = row ? n : 0, .vocab = row ? c->shape.V : 0 };
    view f[MSG_FRAMES_MAX] = { [SCORED_ROWS] = { j->score, n * sizeof *j->score }, [SCORED_FULL] = { j->full.ptr, n * row } };
    err_code rc = front_send(c, &w->to, &m, f, e);
    if (rc) return rc;
    j->first_scored += n;
    j->n_scored -= n;
    memmove(j->score, j->score + n, j->n_scored * sizeof *j->score);
    if (row) memmove(j->full.ptr, j->full.ptr + n * row, j->full.len - n * row), j->full.len -= n * row;
    return ERR_OK;
}

static void drop_scores(job *j)
{
    j->first_scored += j->n_scored;
    j->n_scored = 0;
    text_free(&j->full);
}

/* ---- a job's watchers ------------------------------------------------------------------------------------------------- */

static err_code flush_choice(coordinator *c, const job *j, watcher *w, uint32_t i, err *e)
{
    const choice *ch = &j->choice[i];
    if (w->at[i].done) return ERR_OK;
    bool whole = j->ask.stream || ch->done || !w->submitter; /* without stream the answer goes out in one piece */
    err_code rc = whole ? send_tokens(c, j, w, i, e) : ERR_OK;
    if (!rc && (ch->done || w->once) && !(w->submitter && j->n_scored)) rc = send_done(c, j, w, i, e);
    return rc;
}

static void gone(coordinator *c, job *j, watcher *w)
{
    bool ends = w->submitter && !j->ask.detach;
    LOG(LOG_INFO, "CLIENT-GONE", "job=%" PRIu64, j->id);
    watch_drop(&j->watch, w);
    if (ends) job_cancel(c, j);
}

static void flush_watcher(coordinator *c, job *j, watcher *w)
{
    err e;
    err_code rc = ERR_OK;
    while (!rc && w->submitter && j->n_scored) rc = send_scores(c, j, w, &e);
    if (w->submitter && j->state == JOB_DONE && !j->n_scored) drop_scores(j);
    for (uint32_t i = 0; !rc && i < w->n; i++) rc = flush_choice(c, j, w, i, &e);
    if (rc == ERR_GONE) gone(c, j, w); /* ERR_TIMEOUT: it is slow, the next flush goes on from here */
    else if (watch_is_done(w)) watch_drop(&j->watch, w);
}

void outbox_flush(coordinator *c, job *j)
{
    if (j->n_scored && j->acked && !watch_submitter(j->watch)) drop_scores(j); /* nobody will read them */
    if (!record_allows(c, j)) return;
    for (watcher *w = j->watch, *next; w && record_allows(c, j); w = next) { /* one that is gone may have ended the job */
        next = w->next;
        flush_watcher(c, j, w);
    }
}

static uint32_t open_choice(const watcher *w)
{
    uint32_t i = 0;
    while (i + 1 < w->n && w->at[i].done) i++;
    return i;
}

static void probe_job(coordinator *c, job *j)
{
    err e;
    for (watcher *w = j->watch, *next; w; w = next) {
        next = w->next;
        uint32_t i = open_choice(w);
        message m = msg_init(MSG_TOKEN);
        m.token = (msg_token){ .job = j->id, .index = i, .offset = w->at[i].tok };
        if (front_send(c, &w->to, &m, (view[MSG_FRAMES_MAX]){ { 0 } }, &e) == ERR_GONE) gone(c, j, w);
    }
}

void outbox_probe(coordinator *c)
{
    if (clock_ns() - c->t_probe < PROBE_NS) return;
    c->t_probe = clock_ns();
    for (job *j = c->jobs.head; j; j = j->next)
        if (j->state != JOB_DONE && j->acked) probe_job(c, j);
}
