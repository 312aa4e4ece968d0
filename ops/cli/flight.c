#include "ops/cli/flight.h"
#include "core/clock.h"
#include <stdlib.h>

/* Owns which jobs of this process are under way. It makes no requests and prints nothing. */

/* A signal should end the command soon; the coordinator drops jobs of clients that are gone anyway. */
enum { CANCEL_MS = 2000 };

typedef struct {
    uint64_t ref, job;      /* ref 0: free; job 0: not accepted yet */
    size_t index;
    answer a;
} slot;

typedef struct {
    client *c;
    slot *slot;
    size_t limit, live, sent;
    bool more;
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
    request r = { 0 };
    slot *s = free_slot(f);
    err_code rc = f->ops->next(f->me, &r, &f->more, e);
    if (rc == ERR_OK && f->more) rc = send_request(f->c, &r, &s->ref, e);
    if (rc == ERR_OK && f->more) {
        s->index = f->sent++;
        f->live++;
    }
    request_free(&r);
    return rc;
}

static err_code finish(flight *f, slot *s, err *e)
{
    err_code rc = f->ops->done(f->me, s->index, &s->a, e);
    answer_free(&s->a);
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

static err_code take_fail(flight *f, const packet *p, err *e)
{
    slot *s = slot_of(f, p->head.fail.ref, 0);
    if (!s) s = slot_of(f, 0, p->head.fail.ref);
    if (!s) return ERR_OK;
    client_failed(p, &s->a.fail);
    return finish(f, s, e);
}

static err_code take(flight *f, const packet *p, err *e)
{
    bool fresh = false;
    if (p->head.type == MSG_FAIL) return take_fail(f, p, e);
    if (p->head.type == MSG_ACCEPTED) {
        slot *s = slot_of(f, p->head.accepted.ref, 0);
        if (s) s->job = s->a.job = p->head.accepted.job;
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

static err_code fly(flight *f, err *e)
{
    err_code rc = ERR_OK;
    while (rc == ERR_OK && (f->more || f->live)) {
        const packet *p;
        while (rc == ERR_OK && f->more && f->live < f->limit) rc = launch(f, e);
        if (rc == ERR_OK && f->live) rc = client_next(f->c, -1, false, &p, e);
        else continue;
        if (rc == ERR_OK) rc = take(f, p, e);
    }
    return rc;
}

static void land(flight *f)
{
    for (size_t i = 0; i < f->limit; i++) answer_free(&f->slot[i].a);
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

err_code flight_fetch(client *c, uint64_t job, const flight_ops *ops, void *me, err *e)
{
    slot one = { .ref = client_ref(c), .job = job, .a.job = job };
    flight f = { .c = c, .limit = 1, .live = 1, .ops = ops, .me = me, .slot = calloc(1, sizeof(slot)) };
    if (!f.slot) return err_set(e, ERR_NOMEM, "out of memory");
    message m = msg_init(MSG_FETCH);
    f.slot[0] = one;
    m.fetch.ref = one.ref;
    m.fetch.job = job;
    err_code rc = client_send(c, &m, NULL, e);
    if (rc == ERR_OK) rc = fly(&f, e);
    land(&f);
    return rc;
}

err_code flight_detach(client *c, request *r, uint64_t *job, err *e)
{
    uint64_t ref;
    const packet *p;
    r->m.submit.detach = true;
    err_code rc = send_request(c, r, &ref, e);
    while (rc == ERR_OK) {
        rc = client_next(c, -1, false, &p, e);
        if (rc == ERR_OK && p->head.type == MSG_ACCEPTED && p->head.accepted.ref == ref) return *job = p->head.accepted.job, ERR_OK;
        if (rc == ERR_OK && p->head.type == MSG_FAIL && p->head.fail.ref == ref) return client_failed(p, e);
    }
    return rc;
}
