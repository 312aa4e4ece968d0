/* Workers that go in good order: one that asks to leave is let go when no step is on its way, and those that joined hear when the
 * cluster ends. What becomes of the place of one that left is fleet.c's business. */
#include "coordinator/handover.h"
#include "core/clock.h"
#include "core/log.h"
#include <stdio.h>
#include <string.h>

#define FAREWELL_NS 5000000000u /* a host that comes back while the cluster ends needs so long for a connection and its HELLO */
#define LISTEN_MS 100

static err_code send_bye(link_t *to, const link_id *id, const char *reason, err *e)
{
    message bye = msg_init(MSG_BYE);
    snprintf(bye.bye.reason, sizeof bye.bye.reason, "%s", reason);
    return link_send(to, id, &bye, NULL, 1000, e);
}

void leave_asked(coordinator *c, member *m)
{
    LOG(LOG_INFO, "WORKER-LEAVES", "name=%s stage=%d text=\"%s\"", m->name, (int)m->stage, c->in.head.bye.reason);
    m->leaving = true;
}

bool leave_holds_steps(const coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].leaving && c->member[i].stage != STAGE_NONE) return true;
    return false;
}

void leave_tick(coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *m = &c->member[i];
        err e;
        bool serves = m->stage != STAGE_NONE && c->whole;
        if (!m->leaving || !m->hello_seen || (serves && (c->pump.n || !handover_done(c)))) continue;
        m->leaving = false;
        if (send_bye(m->control, &m->id, "as you asked", &e)) LOG(LOG_INFO, "WORKER-DEAF", "name=%s text=\"%s\"", m->name, e.text);
        fleet_lost(c, m, &(err){ ERR_GONE, "it asked to leave" });
    }
}

/* ---- the end of the cluster ---------------------------------------------------------------------------------------- */

static bool waited_for(const coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].slot == JOINED && c->member[i].control) return true;
    return false;
}

/* A HELLO now is of a worker whose connection broke and took our BYE along: it comes on a new one. */
static void hear(coordinator *c, link_t *from)
{
    err e;
    const message *h = &c->in.head;
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *m = &c->member[i];
        if (m->slot != JOINED || !m->control) continue;
        bool same = m->control == from && link_id_same(&m->id, &c->in.from);
        if (same && h->type == MSG_BYE) m->control = NULL;
        if (h->type == MSG_HELLO && !strcmp(m->name, h->hello.name)) m->control = from, m->id = c->in.from;
    }
    if (h->type == MSG_HELLO) send_bye(from, &c->in.from, "the cluster stops", &e);
}

static bool listen_once(coordinator *c)
{
    link_t *l[] = { c->control, c->control_tcp };
    bool ready[2] = { false };
    err e;
    if (link_poll(l, c->control_tcp ? 2 : 1, ready, LISTEN_MS, 0, &e)) return false;
    for (int i = 0; i < 2; i++) {
        if (!ready[i]) continue;
        if (!link_recv(l[i], &c->in, 0, &e)) hear(c, l[i]);
        packet_done(&c->in);
    }
    return true;
}

void leave_all(coordinator *c)
{
    err e;
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].control) send_bye(c->member[i].control, &c->member[i].id, "the cluster stops", &e);
}

void leave_wait(coordinator *c)
{
    for (uint64_t end = clock_ns() + FAREWELL_NS; waited_for(c) && clock_ns() < end && listen_once(c);) {}
}
