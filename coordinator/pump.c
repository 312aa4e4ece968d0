/* Steps out, results in. Keeps `width` micro-batches on their way (as many as stages), alternates prompt chunks with decode
 * rows so that no token waits longer than one chunk, and never waits for anything itself. */
#include "coordinator/coordinator.h"
#include "coordinator/back_off.h"
#include "coordinator/predict.h"
#include "coordinator/prefix.h"
#include "coordinator/refresh.h"
#include "coordinator/result_check.h"
#include "coordinator/route.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SCORE_BYTES (16u << 20)   /* whole rows of logits in one RESULT: enough to be efficient, far below the message limit */
#define COPY_KEPT (4u << 20)       /* whole rows of logits are rare: their copy is given back */
#define KEEPS 256u                /* blocks of shared rows that one step may make: 16,000 rows of prompts */
#define SKIPS (4u * MASK_LAYERS) /* operations that tell masks anew in one step: of two sessions of the largest model */
#define HELD_BYTES (64u << 20)    /* scored rows that wait for a slow client before its job pauses */
#define AGAIN_MIN_NS 200000000u   /* a step is not missed sooner: a stage that pages in weights takes so long */
#define AGAIN_MAX_NS 2000000000u  /* nor later: sending one again costs little */
#define AGAIN_TIMES 4             /* of what a step usually takes */
#define PROMPT_ROWS 8u             /* in a step, to say something about how long a prompt's rows take */
#define FRUITLESS 5u              /* plans under which no step comes back: another one would not help either */

err_code pump_open(coordinator *c, err *e)
{
    pump *p = &c->pump;
    p->width = c->set->in_flight ? (uint32_t)c->set->in_flight : c->n_stages;
    p->next_step = 1;
    uint32_t sessions = c->set->max_sessions > 64 ? (uint32_t)c->set->max_sessions : 64; /* one job alone may have 64 */
    p->cap_ops = c->max_rows + 2 * sessions + 64; /* one a row, and two for the fork of every session */
    p->patience = AGAIN_MIN_NS;
    p->at = calloc(p->width, sizeof *p->at);
    bool ok = p->at;
    for (uint32_t i = 0; ok && i < p->width; i++) {
        flight *f = &p->at[i];
        f->part = calloc(2 * p->cap_ops, sizeof *f->part);
        f->rows = calloc(c->max_rows, sizeof *f->rows);
        f->ops = calloc(p->cap_ops + KEEPS + SKIPS, sizeof *f->ops);
        f->hops = calloc(512, sizeof *f->hops);
        ok = f->part && f->rows && f->ops && f->hops;
    }
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %u steps in flight", p->width);
}

void pump_close(coordinator *c)
{
    pump *p = &c->pump;
    for (uint32_t i = 0; p->at && i < p->width; i++) {
        free(p->at[i].part);
        free(p->at[i].rows);
        free(p->at[i].ops);
        free(p->at[i].hops);
    }
    free(p->at);
    free(p->op);
    text_free(&p->copy);
    *p = (pump){ 0 };
}

/* ---- building a step ---------------------------------------------------------------------------------------------- */

typedef struct { coordinator *c; flight *f; uint64_t full; uint32_t keeps, skips; } build; /* keeps, skips: KEEP and SKIP operations left */

static void mention(build *b, session *s, uint32_t first, uint32_t n)
{
    b->f->part[b->f->n_parts].s = s;
    b->f->part[b->f->n_parts].first = first;
    b->f->part[b->f->n_parts++].n = n;
    s->refs++;
}

static void add_op(build *b, uint64_t session_id, uint64_t other, uint32_t row, uint32_t kind)
{
    b->f->ops[b->f->n_ops++] = (step_op){ .session = session_id, .other = other, .row = row, .kind = kind };
}

/* Forks first: they copy a session as it was when its prompt's last row came back. */
static void add_pending(build *b)
{
    pump *p = &b->c->pump;
    for (uint32_t i = 0; i < p->n_op; i++) {
        b->f->ops[b->f->n_ops++] = p->op[i].op;
        mention(b, p->op[i].a, 0, 0);
        p->op[i].a->refs--; /* the one it held while it waited */
        if (p->op[i].b) mention(b, p->op[i].b, 0, 0), p->op[i].b->refs--;
        b->f->everywhere = true;
    }
    p->n_op = 0;
}

static void add_rows(build *b, session *s, const session_rows *r)
{
    /* A row that is sent again goes by the COMMIT of the one before it: a TRUNCATE would take its chunk's other rows too. */
    if (s->slide || (s->again && !r->first)) add_op(b, s->id, session_prompt_rows(s), 0, OP_TRUNCATE);
    else if (s->trim) add_op(b, s->id, r->first ? 0 : session_prompt_rows(s), r->first, OP_TRUNCATE);
    else if (r->first) add_op(b, s->id, 0, r->first - 1, OP_COMMIT);
    if (s->tell && s->mask) { /* it was just chosen, or rows begin anew, and the schedule with them */
        uint32_t skips = route_tell(s, b->f->ops + b->f->n_ops);
        b->f->n_ops += skips;
        b->skips -= skips;
    }
    b->f->everywhere = b->f->everywhere || s->slide || s->tell;
    uint32_t keeps = prefix_keep(b->c, s, r->first, b->f->ops + b->f->n_ops, b->keeps);
    b->f->n_ops += keeps;
    b->keeps -= keeps;
    for (uint32_t i = 0; i < r->n; i++) b->f->rows[b->f->n_rows++] = session_row(s, r->first + i, r, s->job->prompt_path, s->job->path);
    if (s->job->ask.kind == 1 && s->job->ask.score_rows) b->full += r->n;
    mention(b, s, r->first, r->n);
    s->last_step = b->f->step;
    session_sent(s, r);
}

static uint32_t score_max(const coordinator *c)
{
    uint32_t n = SCORE_BYTES / (c->shape.V * 4);
    return n ? n : 1;
}

static bool may_send(const coordinator *c, const session *s, bool decode)
{
    if (s->state != (decode ? SESSION_DECODE : SESSION_PROMPT)) return false;
    const job *j = s->job;
    if (s->held || (s->is_shadow && !refresh_may_send(c, s))) return false;
    if (j->route_due && s->cursor >= s->n_prompt) return false;
    return j->ask.kind != 1 || (uint64_t)j->n_scored * (j->ask.score_rows ? c->shape.V * 4 : 16) < HELD_BYTES;
}

static uint32_t count(const coordinator *c, bool decode)
{
    uint32_t n = 0;
    for (const session *s = c->sessions.head; s; s = s->next) n += may_send(c, s, decode);
    return n;
}

/* Has rows to decode, or on their way. One that waits for a slow client to take its scores has not: nobody waits for it. */
static bool decodes(const coordinator *c, const session *s)
{
    return may_send(c, s, true) || (s->state == SESSION_WAIT && s->cursor >= s->n_prompt && !s->is_shadow);
}

static uint32_t decoding(const coordinator *c)
{
    uint32_t n = 0;
    for (const session *s = c->sessions.head; s; s = s->next) n += decodes(c, s);
    return n;
}

/* Sessions that decode are spread over the micro-batches in flight, so that every stage has something to do. A prompt
 * takes one of these places: with two places all tokens go in the other one and wait for one chunk, not for two. */
static uint32_t decode_share(const coordinator *c)
{
    uint32_t n = decoding(c), places = c->pump.width - (c->pump.width > 1 && count(c, false));
    uint32_t share = (n + places - 1) / places;
    return share < c->max_rows ? share : c->max_rows;
}

/* Prompts: first come, first served. Tokens: who has waited longest; by id alone, the first micro-batch would go round and
 * round while a long prompt keeps the other places in flight. */
static bool goes_before(const session *a, const session *b, bool decode)
{
    if (decode && a->last_step != b->last_step) return a->last_step < b->last_step;
    return a->id < b->id;
}

static session *next_session(coordinator *c, bool decode, uint64_t full)
{
    session *best = NULL;
    for (session *s = c->sessions.head; s; s = s->next)
        if (may_send(c, s, decode) && (!best || goes_before(s, best, decode)) && !(full && s->job->ask.kind == 1)) best = s;
    return best;
}

static void add_decode(build *b)
{
    uint32_t room = decode_share(b->c);
    for (session *s; b->f->n_rows < room && b->skips >= 2 * MASK_LAYERS && (s = next_session(b->c, true, b->full));) {
        session_rows r = session_next(s, 1, 1);
        add_rows(b, s, &r);
    }
}

static void add_prompt(build *b)
{
    uint32_t room = b->c->chunk < b->c->max_rows ? b->c->chunk : b->c->max_rows;
    for (session *s; b->f->n_rows < room && b->skips >= 2 * MASK_LAYERS && (s = next_session(b->c, false, b->full));) {
        uint32_t more = room - b->f->n_rows;
        session_rows r = session_next(s, s->is_shadow ? refresh_rows(b->c, more) : more, score_max(b->c));
        add_rows(b, s, &r);
        if (s->state == SESSION_PROMPT) return; /* its next chunk is another step */
    }
}

/* Prompt chunks go between decode steps: after one, the next step is for decoding sessions if there are any, even if
 * they are on their way just now. */
static bool choose(const coordinator *c, bool *decode)
{
    uint32_t d = count(c, true), p = count(c, false);
    if (!d && !p) return *decode = false, c->pump.n_op > 0;
    if (p && c->pump.last_was_prompt && decoding(c)) return *decode = true, d > 0;
    *decode = !p;
    return true;
}

/* Every stage is a hop that has something to do; its number of this step there goes with it. */
static void set_hops(coordinator *c, flight *f)
{
    f->n_hops = 0;
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (route_visits(c, f, i)) f->hops[f->n_hops++] = (hop_rec){ i, ++c->pump.seq[i] };
    c->pump.passed_by += c->n_stages - f->n_hops;
}

static err_code send_flight(coordinator *c, const flight *f, err *e)
{
    message m = msg_init(MSG_STEP);
    m.step = (msg_step){ .epoch = c->epoch, .step = f->step, .n_rows = f->n_rows, .n_ops = f->n_ops, .n_hops = f->n_hops, .dim = c->shape.D, .top = f->top };
    view frames[MSG_FRAMES_MAX] = { [STEP_ROWS] = { f->rows, f->n_rows * sizeof *f->rows },
                                    [STEP_OPS] = { f->ops, f->n_ops * sizeof *f->ops },
                                    [STEP_HOPS] = { f->hops, f->n_hops * sizeof *f->hops } };
    return link_send(c->first_hop, NULL, &m, frames, 0, e);
}

/* Steps go out in their order and none waits here: the first hop may be connecting still, or be gone. */
static void send_waiting(coordinator *c)
{
    pump *p = &c->pump;
    err e;
    p->unsent = false;
    for (uint32_t i = 0; i < p->n && !p->unsent; i++) {
        if (p->at[i].sent) continue;
        err_code rc = send_flight(c, &p->at[i], &e);
        p->at[i].sent = rc == ERR_OK;
        p->unsent = rc != ERR_OK;
        if (rc && rc != ERR_TIMEOUT && rc != ERR_GONE) { /* the connection broke: there may be another one */
            fleet_lost(c, c->by_stage[0], &e);
            return;
        }
    }
}

static flight *new_flight(coordinator *c)
{
    pump *p = &c->pump;
    flight *f = &p->at[p->n++];
    f->n_rows = f->n_ops = f->n_parts = 0;
    f->decode = f->probe = f->sent = f->everywhere = false;
    f->step = p->next_step++;
    f->t_sent = clock_ns();
    f->top = 64;
    if (p->n == 1) p->t_result = f->t_sent, p->t_again = f->t_sent + p->patience;
    return f;
}

static void start_step(coordinator *c, bool decode)
{
    pump *p = &c->pump;
    flight *f = new_flight(c);
    f->decode = decode;
    build b = { .c = c, .f = f, .keeps = KEEPS, .skips = SKIPS };
    add_pending(&b);
    if (decode) add_decode(&b);
    else add_prompt(&b);
    set_hops(c, f);
    for (uint32_t i = 0; i < f->n_parts; i++) {
        uint32_t want = sample_wants_top(&f->part[i].s->sample);
        if (f->part[i].n && want > f->top) f->top = want;
    }
    p->last_was_prompt = !decode;
    *(decode ? &p->decode_steps : &p->prompt_steps) += f->n_rows > 0;
    *(decode ? &p->decode_rows : &p->prompt_rows) += f->n_rows;
    send_waiting(c);
}

void pump_fill(coordinator *c)
{
    bool decode;
    if (c->pump.unsent && c->first_hop) send_waiting(c);
    if (leave_holds_steps(c)) return;
    while (fleet_is_whole(c) && c->state != COORD_STOPPED && !c->fatal.code && c->pump.n < c->pump.width && choose(c, &decode))
        start_step(c, decode);
}

void pump_probe(coordinator *c)
{
    flight *f = new_flight(c);
    uint32_t bos = tokenizer_bos(c->tok);
    f->probe = f->everywhere = true;
    f->n_rows = 1;
    f->rows[0] = (step_row){ .session = PROBE_SESSION, .parent = MSG_NO_ROW, .token = bos < c->shape.V ? bos : 0, .target = MSG_NO_ROW,
                             .path = (uint8_t)c->path, .want = WANT_CANDIDATES };
    set_hops(c, f);
    send_waiting(c);
}

/* ---- lost steps ---------------------------------------------------------------------------------------------------- */

void pump_plan(coordinator *c)
{
    memset(c->pump.seq, 0, sizeof c->pump.seq);
    pump_reset(c);
}

/* From one step's end to the next one's: with several on their way, that is less than each takes. */
static void time_prompt(pump *p, const flight *f, uint64_t now)
{
    uint64_t from = p->t_result > f->t_sent ? p->t_result : f->t_sent, row = f->n_rows ? (now - from) / f->n_rows : 0;
    if (f->decode || f->probe || f->n_rows < PROMPT_ROWS) return;
    p->prompt_row_ns = p->prompt_row_ns ? p->prompt_row_ns - p->prompt_row_ns / 8 + row / 8 : row;
}

static void expect_soon(pump *p, uint64_t now)
{
    uint64_t want = p->usual * AGAIN_TIMES;
    p->patience = want < AGAIN_MIN_NS ? AGAIN_MIN_NS : want > AGAIN_MAX_NS ? AGAIN_MAX_NS : want;
    p->t_result = now;
    p->t_again = now + p->patience;
}

static void send_again(coordinator *c, uint64_t now)
{
    pump *p = &c->pump;
    LOG(LOG_INFO, "STEPS-AGAIN", "first=%" PRIu64 " n=%u quiet_ms=%" PRIu64, p->at[0].step, p->n, (now - p->t_result) / 1000000);
    for (uint32_t i = 0; i < p->n; i++) p->at[i].sent = false;
    p->resent += p->n;
    p->patience = p->patience < AGAIN_MAX_NS / 2 ? 2 * p->patience : AGAIN_MAX_NS;
    p->t_again = now + p->patience;
    send_waiting(c);
}

void pump_watch(coordinator *c, bool away)
{
    pump *p = &c->pump;
    uint64_t now = clock_ns();
    err e;
    if (!p->n || c->plan_due) return;
    if (away) expect_soon(p, now); /* what came meanwhile waits to be read */
    double quiet = (double)(now - p->t_result) / 1e9;
    if (quiet > 1.5 * c->set->stage_timeout) { /* a stage that hangs was replaced before: its PINGs stay away sooner */
        err_set(&e, ERR_TIMEOUT, "step %" PRIu64 " has not come back for %.1f s, though every stage answers", p->at[0].step, quiet);
        if (++p->fruitless >= FRUITLESS) coordinator_fail(c, &e);
        else fleet_again(c, &e);
    } else if (now >= p->t_again && c->first_hop) {
        send_again(c, now);
    }
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

static void end_flight(coordinator *c, uint32_t at)
{
    pump *p = &c->pump;
    flight done = p->at[at];
    for (uint32_t i = 0; i < done.n_parts; i++) done.part[i].s->refs--;
    memmove(&p->at[at], &p->at[at + 1], (p->n - at - 1) * sizeof *p->at);
    p->at[--p->n] = done; /* keeps its part array for reuse */
}

static uint32_t flight_find(const pump *p, uint64_t step)
{
    uint32_t i = 0;
    while (i < p->n && p->at[i].step != step) i++;
    return i;
}

static bool room_for_ops(pump *p, uint32_t n)
{
    uint32_t cap = p->cap_op ? 2 * p->cap_op : 128;
    if (p->n_op + n <= p->cap_op) return true;
    pending_op *q = realloc(p->op, cap * sizeof *q);
    if (!q) return false;
    p->op = q;
    p->cap_op = cap;
    return true;
}

bool pump_commit(coordinator *c, session *s)
{
    pump *p = &c->pump;
    if (!room_for_ops(p, 1)) return false;
    p->op[p->n_op++] = (pending_op){ { .session = s->id, .row = s->cursor - 1, .kind = OP_COMMIT }, s, NULL };
    s->refs++;
    return true;
}

static err_code queue_fork(coordinator *c, session *parent, session *child, err *e)
{
    pump *p = &c->pump;
    if (!room_for_ops(p, 2)) return err_set(e, ERR_NOMEM, "out of memory for forks");
    p->op[p->n_op++] = (pending_op){ { .session = parent->id, .row = parent->cursor - 1, .kind = OP_COMMIT }, parent, NULL };
    p->op[p->n_op++] = (pending_op){ { .session = parent->id, .other = child->id, .kind = OP_FORK }, parent, child };
    parent->refs += 2;
    child->refs++;
    return ERR_OK;
}

/* The prompt is done and several choices are wanted: each gets a session of its own, which samples from this same answer. */
static err_code split_choices(coordinator *c, session *s, const session_answer *a, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 1; !rc && i < s->job->n_choices; i++) {
        session *child;
        rc = session_split(&c->sessions, s, i, &child, e);
        if (!rc) rc = queue_fork(c, s, child, e);
        if (!rc) rc = session_take(child, a, c->tok, s->job->n_ctx, e);
        if (!rc) refresh_token(c, child), back_off_token(c, child, a);
    }
    return rc;
}

static void take_token(coordinator *c, session *s, const session_answer *a)
{
    err e;
    job *j = s->job;
    uint32_t made = s->made;
    if (!j->t_prefilled) {
        j->t_prefilled = clock_ns();
        if (!s->prefix && !j->cached && s->made == 0) predict_measured(c, j, s->n_prompt);
    }
    if (j->ask.max_tokens && session_needs_row(s, a)) {
        session_repeat(s);
        return;
    }
    err_code rc = s->made == 0 && j->n_choices > 1 && s->index == 0 ? split_choices(c, s, a, &e) : ERR_OK;
    if (!rc) rc = session_take(s, a, c->tok, j->n_ctx, &e);
    if (rc) job_fail(c, j, &e);
    else refresh_token(c, s), route_entropy(c, s, a->row->entropy);
    if (!rc && s->made > made) back_off_token(c, s, a);
}

static void take_score(coordinator *c, session *s, const session_answer *a)
{
    job *j = s->job;
    uint32_t i = a->row->row;
    if (i + 1 == s->n_prompt) route_entropy(c, s, a->row->entropy);
    if (j->ask.role == 1 && s->state == SESSION_WAIT && s->cursor == i + 1 && s->cursor < s->tokens.n) s->state = SESSION_DECODE;
    if (i < j->first_scored + j->n_scored) return; /* counted before a rebuild */
    size_t V = a->full ? c->shape.V : 0;
    score_rec *r = realloc(j->score, (j->n_scored + 1) * sizeof *r);
    if (r) j->score = r;
    if (!r || (V && !text_add(&j->full, a->full, V * 4))) {
        job_fail(c, j, &(err){ ERR_NOMEM, "out of memory for scored rows" });
        return;
    }
    j->choice[0].calm += a->row->left_out;
    j->score[j->n_scored++] = (score_rec){ s->tokens.id[i], a->row->target_logit, a->row->lse, a->row->entropy };
    if (i + 1 == s->tokens.n) session_end(s, FINISH_SCORED);
}

static void take_row(coordinator *c, const result_row *r, const view *full, const candidate *cand)
{
    session *s = session_find(&c->sessions, r->session);
    if (!s || s->state == SESSION_OVER) return;
    if (r->status) {
        err e;
        err_set(&e, (err_code)r->status, "a stage could not compute row %u: %s", r->row, err_name((err_code)r->status));
        job_fail(c, s->job, &e);
        return;
    }
    if (r->row >= s->cursor || s->is_shadow) return;
    session_answer a = { .row = r, .cand = cand, .V = c->shape.V };
    if (r->full != MSG_NO_ROW) a.full = (const float *)full->ptr + (size_t)r->full * c->shape.V;
    if (s->job->ask.kind == 1) take_score(c, s, &a);
    else if (r->row + 1 == s->cursor) take_token(c, s, &a);
}

/* Frames may lie at any address: one aligned copy of the three, in memory that is used again. */
static bool align_frames(text *copy, const packet *in, result_row **rows, candidate **cand, view *full)
{
    const view *f = in->frame;
    size_t a = f[RESULT_ROWS].len, b = f[RESULT_CANDS].len, n = f[RESULT_FULL].len;
    text_clear(copy);
    if (!text_reserve(copy, a + b + n + 1)) return false;
    char *p = copy->ptr;
    if (a) memcpy(p, f[RESULT_ROWS].ptr, a);
    if (b) memcpy(p + a, f[RESULT_CANDS].ptr, b);
    if (n) memcpy(p + a + b, f[RESULT_FULL].ptr, n);
    *rows = (result_row *)(void *)p;
    *cand = (candidate *)(void *)(p + a);
    *full = (view){ p + a + b, n };
    return true;
}

/* A session whose last rows came back without an answer would wait for ever. */
static void fail_unanswered(coordinator *c, const flight *f, uint64_t step)
{
    err e;
    for (uint32_t i = 0; i < f->n_parts; i++) {
        session *s = f->part[i].s;
        if (s->state != SESSION_WAIT || s->refs || s->is_shadow) continue;
        err_set(&e, ERR_PROTO, "the result of step %" PRIu64 " has no answer for row %u", step, s->cursor - 1);
        job_fail(c, s->job, &e);
    }
}

void pump_result(coordinator *c)
{
    const msg_result *m = &c->in.head.result;
    if (c->in.head.type != MSG_RESULT || m->epoch != c->epoch) return;
    pump *p = &c->pump;
    uint32_t at = p->n ? flight_find(p, m->step) : 1;
    if (at) { /* its answer was here already, or one before it is missing: then both come again */
        LOG(LOG_DEBUG, "STEP-OUT-OF-TURN", "step=%" PRIu64, m->step);
        return;
    }
    result_row *rows;
    candidate *cand;
    view full;
    if (!align_frames(&c->pump.copy, &c->in, &rows, &cand, &full)) { /* the rows are lost: their jobs end with an error that says why */
        err e;
        err_set(&e, ERR_NOMEM, "out of memory for the result of step %" PRIu64, m->step);
        pump_step_failed(c, m->step, &e);
        return;
    }
    if (!result_is_sound(m, rows, cand, c->shape.V) || !result_answers(&p->at[0], m, rows)) { /* the step's own answer still comes */
        p->refused++;
        LOG(LOG_WARN, "RESULT-REFUSED", "step=%" PRIu64 " rows=%" PRIu64 " of=%u", m->step, m->n_rows, p->at[0].n_rows);
        return;
    }
    uint64_t now = clock_ns(), took = now - p->at[0].t_sent;
    p->usual = p->usual ? p->usual - p->usual / 8 + took / 8 : took;
    p->fruitless = 0;
    time_prompt(p, &p->at[0], now);
    expect_soon(p, now);
    if (p->at[0].probe) {
        end_flight(c, 0);
        probe_answered(c, m->n_rows == 1 && rows[0].session == PROBE_SESSION ? rows : NULL);
        return;
    }
    for (uint64_t i = 0; i < m->n_rows; i++) {
        take_row(c, &rows[i], &full, cand);
        cand += rows[i].n_candidates;
    }
    if (p->copy.cap > COPY_KEPT) text_free(&p->copy);
    for (uint32_t i = 0; i < p->at[0].n_parts; i++)
        if (p->at[0].part[i].s->is_shadow) refresh_paced(c, took);
    LOG(LOG_DEBUG, "STEP-DONE", "step=%" PRIu64 " rows=%u us=%" PRIu64, m->step, p->at[0].n_rows, took / 1000);
    end_flight(c, 0);
    fail_unanswered(c, &p->at[p->n], m->step);
}

/* Every step on its way is lost: a stage is gone. */
void pump_reset(coordinator *c)
{
    pump *p = &c->pump;
    p->n = 0;
    p->n_op = 0;
    p->last_was_prompt = p->unsent = false;
}

bool pump_step_failed(coordinator *c, uint64_t step, const err *why)
{
    uint32_t at = flight_find(&c->pump, step);
    if (at == c->pump.n) return false;
    flight *f = &c->pump.at[at];
    if (f->probe) coordinator_fail(c, why);
    for (uint32_t i = 0; i < f->n_parts; i++)
        if (f->part[i].s->state != SESSION_OVER) job_fail(c, f->part[i].s->job, why);
    end_flight(c, at);
    return true;
}
