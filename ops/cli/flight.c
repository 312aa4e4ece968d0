#include "ops/cli/flight.h"
#include "core/clock.h"
#include <stdlib.h>

/* Owns which jobs of this process are under way. It makes no requests and prints nothing. */

/* A signal should end the command soon; the coordinator drops jobs of clients that are gone anyway. */
enum { CANCEL_MS = 2000 };
/* How long to stay away from a busy cluster: what it says, and half as long again with every refusal. */
enum { AWAY_MAX_MS = 60000 };

typedef struct {
    uint64_t ref, job;      /* ref 0: free; job 0: not accepted yet */
    size_t index;
    request r;              /* until it is accepted */
    uint64_t n;             /* choices, 0: not known */
    uint64_t t_first, t_again; /* ns: sent first; to be sent again, 0: it is under way */
    double away_ms;         /* last pause */
    answer a;
} slot;

typedef struct {
    client *c;
    slot *slot;
    size_t limit, live, sent;
    bool more, told;        /* told: the user knows that the cluster is busy */
    const flight_ops *ops;
    void *me;
} flight;

static slot *free_slot(flight *f)
{
    for (size_t i = 0; i < f->limit; i++)
        if (!f->slot[i].ref) return &f->slot[i];
    return NULL;
}

static slot *slot_of(flight *f, uint64_t ref, uint64_t job)
{
    for (size_t i = 0; i < f->limit; i++) {
        slot *s = &f->slot[i];
        if (s->ref && ((ref && s->ref == ref) || (job && s->job == job))) return s;
    }
    return NULL;
}

static err_code send_request(client *c, request *r, uint64_t *ref, err *e)
{
    view frames[4];
    *ref = r->m.submit.ref = client_ref(c);
    request_frames(r, frames);
    return client_send(c, &r->m, frames, e);
}

static err_code launch(flight *f, err *e)
{
    slot *s = free_slot(f);
    request r = { 0 };
    err_code rc = f->ops->next(f->me, &r, &f->more, e);
    if (rc != ERR_OK || !f->more) {
        request_free(&r);
        return rc;
    }
    s->r = r;
    s->n = r.m.submit.n;
    s->t_first = clock_ns();
    s->index = f->sent++;
    f->live++;
    return send_request(f->c, &s->r, &s->ref, e);
}

static err_code finish(flight *f, slot *s, err *e)
{
    err_code rc = f->ops->done(f->me, s->index, &s->a, e);
    answer_free(&s->a);
    request_free(&s->r);
    *s = (slot){ 0 };
    f->live--;
    return rc;
}

static uint64_t job_of(const packet *p)
{
    switch (p->head.type) {
    case MSG_TOKEN: return p->head.token.job;
    case MSG_SCORED: return p->head.scored.job;
    case MSG_DONE: return p->head.done.job;
    default: return 0;
    }
}

/* ---- a cluster that is busy ---- */

static bool is_busy(const flight *f, const slot *s, const msg_fail *m)
{
    double waited = (double)(clock_ns() - s->t_first) / 1e9;
    return m->retry_ms && !s->job && waited + (double)m->retry_ms / 1e3 <= client_patience_of(f->c).busy_s;
}

/* Not all that were refused come back at the same moment: up to a quarter later, by the number of the request. */
static void stay_away(slot *s, const msg_fail *m)
{
    double ms = s->away_ms * 1.5 > (double)m->retry_ms ? s->away_ms * 1.5 : (double)m->retry_ms;
    s->away_ms = ms < AWAY_MAX_MS ? ms : AWAY_MAX_MS;
    s->t_again = clock_ns() + (uint64_t)(s->away_ms * (1 + (double)(s->index * 7 % 32) / 128) * 1e6);
}

static bool any_away(const flight *f)
{
    for (size_t i = 0; i < f->limit; i++)
        if (f->slot[i].t_again) return true;
    return false;
}

static err_code send_again(flight *f, err *e)
{
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < f->limit; i++) {
        slot *s = &f->slot[i];
        if (!s->t_again || clock_left_ms(s->t_again)) continue;
        s->t_again = 0;
        rc = send_request(f->c, &s->r, &s->ref, e);
    }
    return rc;
}

static int until_next(const flight *f)
{
    int ms = -1;
    for (size_t i = 0; i < f->limit; i++) {
        int left = f->slot[i].t_again ? clock_left_ms(f->slot[i].t_again) + 1 : -1;
        if (left >= 0 && (ms < 0 || left < ms)) ms = left;
    }
    return ms;
}

/* ---- a coordinator that went away ---- */

static err_code fetch(client *c, const slot *s, uint64_t index, uint64_t offset, err *e)
{
    message m = msg_init(MSG_FETCH);
    m.fetch = (msg_fetch){ .ref = s->ref, .job = s->job, .offset = offset, .choice = index };
    return client_send(c, &m, NULL, e);
}

/* From where its answer was. Choices that nothing has been heard of begin at their beginning. */
static err_code go_on(flight *f, slot *s, err *e)
{
    uint64_t n = s->n > s->a.n_choices ? s->n : s->a.n_choices;
    if (n <= 1) return fetch(f->c, s, 64, s->a.from + (s->a.n_choices ? s->a.choice[0].n_tokens : 0), e);
    err_code rc = ERR_OK;
    for (uint64_t i = 0; rc == ERR_OK && i < n; i++)
        if (i >= s->a.n_choices || !s->a.choice[i].finished) rc = fetch(f->c, s, i, s->a.from + (i < s->a.n_choices ? s->a.choice[i].n_tokens : 0), e);
    return rc;
}

/* What had been accepted goes on; what had not is sent again. Scored rows are not kept: such a job fails. */
static err_code come_back(flight *f, err *e)
{
    fprintf(stderr, "the coordinator is gone; waiting for another one\n");
    err_code rc = client_reopen(f->c, e);
    for (size_t i = 0; rc == ERR_OK && i < f->limit; i++) {
        slot *s = &f->slot[i];
        if (!s->ref) continue;
        if (s->job) rc = go_on(f, s, e);
        else if (!s->t_again) rc = send_request(f->c, &s->r, &s->ref, e);
    }
    return rc;
}

static void say_how_to_go_on(const flight *f, err *e)
{
    const slot *s = &f->slot[0];
    if (f->limit != 1 || !s->job || s->a.n_scores) return;
    char was[420];
    snprintf(was, sizeof was, "%.400s", e->text);
    err_set(e, e->code, "%s; once it is up, sluice result %llu --from %llu goes on", was, (unsigned long long)s->job,
            (unsigned long long)(s->a.from + (s->a.n_choices ? s->a.choice[0].n_tokens : 0)));
}

/* ---- answers ---- */

static err_code take_fail(flight *f, const packet *p, err *e)
{
    slot *s = slot_of(f, p->head.fail.ref, 0);
    if (!s) s = slot_of(f, 0, p->head.fail.ref);
    if (!s) return ERR_OK;
    if (is_busy(f, s, &p->head.fail)) {
        if (!f->told) fprintf(stderr, "%s\n", p->head.fail.text);
        f->told = true;
        return stay_away(s, &p->head.fail), ERR_OK;
    }
    client_failed(p, &s->a.fail);
    return finish(f, s, e);
}

static err_code take(flight *f, const packet *p, err *e)
{
    bool fresh = false;
    if (p->head.type == MSG_FAIL) return take_fail(f, p, e);
    if (p->head.type == MSG_ACCEPTED) {
        slot *s = slot_of(f, p->head.accepted.ref, 0);
        if (s) s->job = s->a.job = p->head.accepted.job, request_free(&s->r);
        return ERR_OK;
    }
    slot *s = slot_of(f, 0, job_of(p));
    if (!s) return ERR_OK;
    err_code rc = answer_take(&s->a, p, &fresh, e);
    if (rc == ERR_OK && fresh && f->ops->event) rc = f->ops->event(f->me, s->index, &s->a, p, e);
    if (rc == ERR_OK && s->a.over) rc = finish(f, s, e);
    return rc;
}

static err_code cancel(flight *f, uint64_t job)
{
    err quiet;
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = job;
    return client_send(f->c, &m, NULL, &quiet);
}

/* What a job says after it was cancelled: its end, or only now that it has an id to be cancelled by. */
static void hear_last(flight *f, const packet *p)
{
    bool over = p->head.type == MSG_DONE && p->head.done.last, refused = p->head.type == MSG_FAIL;
    slot *s = p->head.type == MSG_ACCEPTED ? slot_of(f, p->head.accepted.ref, 0) : NULL;
    if (s) {
        s->job = p->head.accepted.job;
        cancel(f, s->job);
        return;
    }
    if (over || refused) s = slot_of(f, refused ? p->head.fail.ref : 0, over ? p->head.done.job : 0);
    if (!s) return;
    answer_free(&s->a);
    *s = (slot){ 0 };
    f->live--;
}

static void cancel_all(flight *f)
{
    err quiet;
    const packet *p;
    uint64_t end = clock_ns() + (uint64_t)CANCEL_MS * 1000000u;
    for (size_t i = 0; i < f->limit; i++)
        if (f->slot[i].job && cancel(f, f->slot[i].job) != ERR_OK) return;
    while (f->live && clock_left_ms(end) && client_next(f->c, clock_left_ms(end), true, &p, &quiet) == ERR_OK) hear_last(f, p);
}

static err_code one_round(flight *f, err *e)
{
    const packet *p;
    err_code rc = send_again(f, e);
    while (rc == ERR_OK && f->more && f->live < f->limit && !any_away(f)) rc = launch(f, e);
    if (rc != ERR_OK || !f->live) return rc;
    rc = client_next(f->c, until_next(f), false, &p, e);
    if (rc == ERR_TIMEOUT) return ERR_OK;
    return rc == ERR_OK ? take(f, p, e) : rc;
}

static err_code fly(flight *f, err *e)
{
    err_code rc = ERR_OK;
    while (rc == ERR_OK && (f->more || f->live)) {
        rc = one_round(f, e);
        if (rc == ERR_GONE && client_patience_of(f->c).lost_s > 0) rc = come_back(f, e);
    }
    if (rc == ERR_GONE) say_how_to_go_on(f, e);
    return rc;
}

static void land(flight *f)
{
    for (size_t i = 0; i < f->limit; i++) answer_free(&f->slot[i].a), request_free(&f->slot[i].r);
    free(f->slot);
}

err_code flight_run(client *c, size_t limit, const flight_ops *ops, void *me, err *e)
{
    flight f = { .c = c, .limit = limit, .more = true, .ops = ops, .me = me, .slot = calloc(limit, sizeof(slot)) };
    if (!f.slot) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = fly(&f, e);
    if (rc != ERR_OK && rc != ERR_GONE) cancel_all(&f);
    land(&f);
    return rc;
}

err_code flight_fetch(client *c, const flight_part *part, const flight_ops *ops, void *me, err *e)
{
    slot one = { .ref = client_ref(c), .job = part->job, .a.job = part->job, .a.from = part->from };
    flight f = { .c = c, .limit = 1, .live = 1, .ops = ops, .me = me, .slot = calloc(1, sizeof(slot)) };
    if (!f.slot) return err_set(e, ERR_NOMEM, "out of memory");
    message m = msg_init(MSG_FETCH);
    f.slot[0] = one;
    m.fetch.ref = one.ref;
    m.fetch.job = part->job;
    m.fetch.offset = part->from;
    m.fetch.once = part->once;
    err_code rc = client_send(c, &m, NULL, e);
    if (rc == ERR_OK) rc = fly(&f, e);
    land(&f);
    return rc;
}

err_code flight_detach(client *c, request *r, uint64_t *job, err *e)
{
    slot s = { .t_first = clock_ns() };
    flight f = { .c = c, .limit = 1, .slot = &s };
    const packet *p;
    r->m.submit.detach = true;
    err_code rc = send_request(c, r, &s.ref, e);
    while (rc == ERR_OK) {
        rc = client_next(c, until_next(&f), false, &p, e);
        if (rc == ERR_TIMEOUT && s.t_again) {
            s.t_again = 0;
            rc = send_request(c, r, &s.ref, e);
            continue;
        }
        if (rc == ERR_OK && p->head.type == MSG_ACCEPTED && p->head.accepted.ref == s.ref) return *job = p->head.accepted.job, ERR_OK;
        if (rc != ERR_OK || p->head.type != MSG_FAIL || p->head.fail.ref != s.ref) continue;
        if (!is_busy(&f, &s, &p->head.fail)) return client_failed(p, e);
        if (!f.told) fprintf(stderr, "%s\n", p->head.fail.text);
        f.told = true;
        stay_away(&s, &p->head.fail);
    }
    return rc;
}
