#include "tests/faults/desk.h"
#include "core/clock.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_NS 50000000u      /* a job that was refused (draining, journal full) is sent again after so long */

typedef struct {
    bool used, acked, cancelled, refetch;
    uint32_t number, attempt;
    uint64_t ref, id, t_again;
    work_spec spec;
    work_answer got;
} ticket;

struct desk {
    char addr[256];
    uint64_t seed, ref;
    bool rag, asking;           /* asking: the list of jobs is on its way; nothing is sent before */
    hub *hub;
    link_t *link;
    packet in;
    ticket *at;                 /* [window] */
    uint32_t window, next, n;
    const work_answer *want;
    work_answer *kept;
    uint64_t *ids;
    size_t n_ids;
    desk_count count;
};

desk *desk_open(const char *dir, uint64_t seed, uint32_t window, bool rag, const work_answer *want, uint32_t n)
{
    desk *d = calloc(1, sizeof *d);
    err e;
    if (!d || !(d->at = calloc(window, sizeof *d->at)) || hub_open(&d->hub, &e)) abort();
    snprintf(d->addr, sizeof d->addr, "ipc://%s/client", dir);
    d->seed = seed;
    d->window = window;
    d->rag = rag;
    d->want = want;
    d->n = n;
    if (!want && !(d->kept = calloc(n, sizeof *d->kept))) abort();
    d->count.t_word = clock_ns();
    return d;
}

void desk_disconnect(desk *d)
{
    packet_done(&d->in);
    if (d->link) link_close(&d->link);
}

void desk_close(desk **dp)
{
    desk *d = *dp;
    desk_disconnect(d);
    for (uint32_t i = 0; i < d->window; i++) work_free(&d->at[i].got);
    for (uint32_t i = 0; d->kept && i < d->n; i++) work_free(&d->kept[i]);
    free(d->kept);
    free(d->at);
    free(d->ids);
    hub_close(&d->hub);
    free(d);
    *dp = NULL;
}

static bool say(desk *d, const message *m, const view *frames)
{
    err e;
    return d->link && !link_send(d->link, NULL, m, frames, 1000, &e);
}

/* ---- out ----------------------------------------------------------------------------------------------------------- */

static void submit(desk *d, ticket *t)
{
    view f[MSG_FRAMES_MAX];
    message m = t->spec.submit;
    work_frames(&t->spec, f);
    t->ref = m.submit.ref = ++d->ref;
    snprintf(m.submit.custom_id, sizeof m.submit.custom_id, "j%u.%u", t->number, ++t->attempt);
    t->t_again = say(d, &m, f) ? 0 : clock_ns() + RETRY_NS;
}

static void fetch(desk *d, ticket *t)
{
    message m = msg_init(MSG_FETCH);
    work_free(&t->got);
    t->ref = m.fetch.ref = ++d->ref;
    m.fetch.job = t->id;
    d->count.fetched++;
    t->t_again = say(d, &m, NULL) ? 0 : clock_ns() + RETRY_NS;
    t->refetch = t->t_again != 0;
}

static void maybe_cancel(desk *d, ticket *t)
{
    message m = msg_init(MSG_CANCEL);
    if (!d->want || t->cancelled || !t->acked || !t->spec.cancel_after || t->got.choice[0].n_tok < t->spec.cancel_after) return;
    m.cancel.job = t->id;
    t->cancelled = say(d, &m, NULL);
}

static ticket *free_ticket(desk *d)
{
    for (uint32_t i = 0; i < d->window; i++)
        if (!d->at[i].used) return &d->at[i];
    return NULL;
}

static void fill(desk *d, uint32_t until)
{
    uint64_t now = clock_ns();
    ticket *t;
    if (!d->link || d->asking) return;
    for (uint32_t i = 0; i < d->window; i++) {
        t = &d->at[i];
        if (!t->used || !t->t_again || now < t->t_again) continue;
        if (t->refetch) fetch(d, t);
        else submit(d, t);
    }
    while (d->next < until && (t = free_ticket(d))) {
        *t = (ticket){ .used = true, .number = d->next++ };
        work_make(&t->spec, d->seed, t->number % d->n, d->rag);
        submit(d, t);
    }
}

/* ---- in ------------------------------------------------------------------------------------------------------------ */

static ticket *ticket_by(desk *d, uint64_t ref, uint64_t id)
{
    for (uint32_t i = 0; i < d->window; i++)
        if (d->at[i].used && ((ref && d->at[i].ref == ref) || (id && d->at[i].id == id))) return &d->at[i];
    return NULL;
}

static void acknowledged(desk *d, ticket *t, uint64_t id)
{
    t->id = id;
    t->acked = true;
    uint64_t *more = realloc(d->ids, (d->n_ids + 1) * sizeof *more);
    if (!more) abort();
    d->ids = more;
    d->ids[d->n_ids++] = id;
}

static void finish(desk *d, ticket *t)
{
    char why[600];
    d->count.over++;
    d->count.cancelled += t->cancelled;
    if (d->kept) {
        work_free(&d->kept[t->number % d->n]);
        d->kept[t->number % d->n] = t->got;
        t->got = (work_answer){ .n = 0 };
    } else if (!work_same(&t->got, &d->want[t->number % d->n], t->cancelled, why, sizeof why)) {
        bool failed = t->got.code != d->want[t->number % d->n].code;
        *(failed ? &d->count.failed : &d->count.changed) += 1;
        printf("# job %u (id %" PRIu64 ") %s: %s\n", t->number, t->id, failed ? "FAILED" : "CHANGED", why);
        fflush(stdout);
    }
    work_free(&t->got);
    t->used = false;
}

static void on_answer(desk *d, const message *m)
{
    uint64_t id = m->type == MSG_TOKEN ? m->token.job : m->done.job;
    ticket *t = ticket_by(d, 0, id);
    if (!t) {
        for (size_t i = 0; m->type == MSG_DONE && i < d->n_ids; i++)
            if (d->ids[i] == id) d->count.twice++, printf("# job id %" PRIu64 " ended twice\n", id), fflush(stdout);
        return;
    }
    if (!work_take(&t->got, m, d->in.frame)) {
        printf("# job %u (id %" PRIu64 "): an answer out of order\n", t->number, id);
        d->count.changed++;
    }
    d->count.tokens += m->type == MSG_TOKEN ? m->token.n : 0;
    maybe_cancel(d, t);
    if (m->type == MSG_DONE && m->done.last) finish(d, t);
}

static void on_fail(desk *d, const msg_fail *m)
{
    ticket *t = ticket_by(d, m->ref, 0);
    if (!t) return;
    if (t->acked && m->code == ERR_ABSENT) {
        printf("# job %u (id %" PRIu64 ") LOST: %s\n", t->number, t->id, m->text);
        d->count.lost++;
        t->used = false;
        work_free(&t->got);
        return;
    }
    d->count.refused++;
    t->refetch = t->acked;
    t->t_again = clock_ns() + RETRY_NS;
}

/* "j12.3": number and attempt. */
static void on_listed(desk *d, const char *custom, uint64_t id, uint32_t *seen)
{
    unsigned number, attempt;
    if (sscanf(custom, "j%u.%u", &number, &attempt) != 2) return;
    for (uint32_t i = 0; i < d->window; i++) {
        ticket *t = &d->at[i];
        if (!t->used || t->number != number || attempt != t->attempt) continue;
        if (++seen[i] > 1) d->count.twice++, printf("# job %u is there twice, as %" PRIu64 " too\n", number, id);
        if (!t->acked) acknowledged(d, t, id), d->count.adopted++; /* it was recorded, and the word of it was lost */
    }
}

static void on_report(desk *d)
{
    json_t *o = json_loadb(d->in.frame[0].ptr, d->in.frame[0].len, 0, NULL), *list = json_object_get(o, "jobs"), *j;
    uint32_t *seen = calloc(d->window, sizeof *seen);
    size_t k;
    if (!o || !seen) abort();
    json_array_foreach(list, k, j)
        on_listed(d, json_string_value(json_object_get(j, "custom_id")), (uint64_t)json_integer_value(json_object_get(j, "id")), seen);
    d->asking = false;
    for (uint32_t i = 0; i < d->window; i++) {
        ticket *t = &d->at[i];
        if (!t->used) continue;
        if (t->acked) fetch(d, t);
        else submit(d, t);
    }
    free(seen);
    json_decref(o);
}

static bool hear(desk *d, int timeout_ms)
{
    err e;
    if (!d->link || link_recv(d->link, &d->in, timeout_ms, &e)) return false;
    const message *m = &d->in.head;
    ticket *t;
    d->count.t_word = clock_ns();
    switch (m->type) {
    case MSG_ACCEPTED:
        if (!(t = ticket_by(d, m->accepted.ref, 0)) || t->acked) break;
        acknowledged(d, t, m->accepted.job);
        if (t->spec.submit.submit.detach) fetch(d, t); /* nobody is told of it unasked */
        break;
    case MSG_TOKEN:
    case MSG_DONE: on_answer(d, m); break;
    case MSG_FAIL: on_fail(d, &m->fail); break;
    case MSG_REPORT: on_report(d); break;
    default: break;
    }
    packet_done(&d->in);
    return true;
}

void desk_connect(desk *d)
{
    err e;
    message m = msg_init(MSG_ASK);
    desk_disconnect(d);
    if (link_connect(&d->link, d->hub, LINK_DEALER, LINK_CLIENT, d->addr, &e)) return;
    m.ask.ref = ++d->ref;
    m.ask.what = 1;
    d->asking = say(d, &m, NULL);
}

void desk_tick(desk *d, int timeout_ms, uint32_t until)
{
    if (hear(d, timeout_ms))
        for (int i = 0; i < 200 && hear(d, 0); i++) continue;
    fill(d, until);
}

/* ---- looks --------------------------------------------------------------------------------------------------------- */

uint32_t desk_open_jobs(const desk *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->window; i++) n += d->at[i].used;
    return n;
}

const desk_count *desk_counts(const desk *d) { return &d->count; }

const uint64_t *desk_ids(const desk *d, size_t *n)
{
    *n = d->n_ids;
    return d->ids;
}

work_answer *desk_answers(desk *d)
{
    work_answer *a = d->kept;
    d->kept = NULL;
    return a;
}

void desk_print(const desk *d)
{
    for (uint32_t i = 0; i < d->window; i++) {
        const ticket *t = &d->at[i];
        if (!t->used) continue;
        printf("#   job %u id %" PRIu64 "%s%s attempt %u, %" PRIu64 " tokens of at most %" PRIu64 " x %" PRIu64 "%s\n", t->number, t->id, t->acked ? " acknowledged" : "",
               t->t_again ? " to be sent again" : "", t->attempt, work_tokens(&t->got), t->spec.submit.submit.max_tokens, t->spec.submit.submit.n,
               t->spec.submit.submit.rag ? ", with passages" : "");
    }
    fflush(stdout);
}
