#include "coordinator/refresh.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <string.h>

#define SHARE 5u        /* a prompt's rows take 1 of so many parts of the time while others decode: their rate stays above 70 % */
#define TURNS 16u       /* or goes when so many steps have decoded since the last: a machine that others use keeps nobody waiting for ever */
#define NEAR 64u        /* the session waits while its last rows are made exact: no longer than for these, however large a chunk may be */
#define ROWS 16u        /* of such a step: a matrix product over 16 rows is nearly as fast a row as over 64 */

/* ---- shadows -------------------------------------------------------------------------------------------------------- */

static void end_shadow(session *s)
{
    session *w = s->shadow;
    if (!w) return;
    w->of = s->shadow = NULL;
    w->state = SESSION_OVER;
}

static err_code begin(coordinator *c, session *s, err *e)
{
    session *w;
    err_code rc = session_new(&c->sessions, s->job, s->index, &w, e);
    if (rc) return rc;
    w->id = s->id | REFRESH_BIT;
    w->is_shadow = w->exact = true;
    w->of = s;
    w->tokens.n = 0; /* told by and by: refresh_tick */
    s->shadow = w;
    for (uint32_t i = 0; !rc && i < s->n_prompt; i++)
        if (!token_list_add(&w->tokens, s->tokens.id[i])) rc = err_set(e, ERR_NOMEM, "out of memory for %u tokens", s->n_prompt);
    if (!rc) session_open(c, w);
    return rc;
}

/* Rows that s has sent, the shadow computes too. */
static bool tell(session *s)
{
    session *w = s->shadow;
    size_t before = w->tokens.n;
    for (size_t i = before; i < s->cursor; i++)
        if (!token_list_add(&w->tokens, s->tokens.id[i])) return false;
    if (w->tokens.n > before && w->state == SESSION_WAIT) w->state = SESSION_PROMPT;
    return true;
}

/* ---- when ------------------------------------------------------------------------------------------------------------ */

/* Could the shadow catch up within a short step? */
static bool is_near(const coordinator *c, const session *s)
{
    const session *w = s->shadow;
    return w && (w->state == SESSION_PROMPT || w->state == SESSION_WAIT) && s->cursor - w->cursor <= (c->chunk < NEAR ? c->chunk : NEAR);
}

static bool decide(coordinator *c, session *s)
{
    job *j = s->job;
    uint32_t row = (uint32_t)s->tokens.n - 1;
    if (j->ask.refresh_at) return s->made == j->ask.refresh_at;
    if (s->made % REFRESH_STEP) return false;
    const event *v = log_find_at(&j->log, EVENT_REFRESH, s->index, row);
    if (v) return v->payload.len == 3;
    bool now = is_near(c, s);
    if (!log_add(&j->log, s->index, row, EVENT_REFRESH, (view){ now ? "yes" : "no", now ? 3 : 2 }))
        job_fail(c, j, &(err){ ERR_NOMEM, "out of memory for the log" });
    return now;
}

void refresh_token(coordinator *c, session *s)
{
    err e;
    if (s->exact || s->job->way != WAY_HYBRID || s->state == SESSION_OVER) return;
    if (!s->shadow && begin(c, s, &e)) {
        job_fail(c, s->job, &e);
        return;
    }
    s->held = decide(c, s);
}

/* Steps that carry rows of the shadow now carry rows of s, and the other way round: s has none on its way. */
static void take_over(coordinator *c, session *s)
{
    session *w = s->shadow;
    uint64_t id = s->id;
    for (uint32_t i = 0; i < c->pump.n; i++)
        for (uint32_t k = 0; k < c->pump.at[i].n_parts; k++)
            if (c->pump.at[i].part[k].s == w) c->pump.at[i].part[k].s = s;
    s->id = w->id;
    s->refs = w->refs;
    s->prefix = w->prefix;
    s->prefix_asked = w->prefix_asked;
    s->kept = w->kept;
    s->committed = w->committed;
    s->exact = true;
    s->held = false;
    w->id = id;
    w->refs = 0;
    end_shadow(s);
    LOG(LOG_INFO, "KV-REFRESHED", "job=%" PRIu64 " choice=%u row=%u tokens=%u", s->job->id, s->index, s->cursor, s->made);
}

void refresh_tick(coordinator *c)
{
    for (session *s = c->sessions.head; s; s = s->next) {
        session *w = s->shadow;
        if (!w) continue;
        if (s->state == SESSION_OVER || s->exact) end_shadow(s);
        else if (w->state != SESSION_OPENING && !tell(s)) job_fail(c, s->job, &(err){ ERR_NOMEM, "out of memory for tokens" });
        else if (s->held && w->state == SESSION_WAIT && w->cursor == s->cursor && !s->refs) take_over(c, s);
    }
}

/* ---- how fast ---------------------------------------------------------------------------------------------------------- */

static bool others_decode(const coordinator *c)
{
    for (const session *s = c->sessions.head; s; s = s->next)
        if (!s->is_shadow && !s->held && (s->state == SESSION_DECODE || (s->state == SESSION_WAIT && s->cursor >= s->n_prompt))) return true;
    return false;
}

bool refresh_may_send(const coordinator *c, const session *s)
{
    if (!s->of || s->of->held) return s->of != NULL;
    if (s->cursor >= s->n_prompt) return true; /* what was generated meanwhile: else it might never catch up */
    return clock_ns() >= c->t_refresh || c->pump.decode_steps >= c->refresh_turn || !others_decode(c);
}

uint32_t refresh_rows(const coordinator *c, uint32_t room)
{
    return room > ROWS && others_decode(c) ? ROWS : room;
}

void refresh_paced(coordinator *c, uint64_t took)
{
    c->t_refresh = clock_ns() + took * (SHARE - 1);
    c->refresh_turn = c->pump.decode_steps + TURNS;
}

void refresh_break(coordinator *c)
{
    for (session *s = c->sessions.head; s; s = s->next) {
        if (!s->shadow) continue;
        s->shadow->refs = 0;
        end_shadow(s);
    }
}
