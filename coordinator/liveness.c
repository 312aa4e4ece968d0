/* Who is silent: asks every worker, and takes the word of its compute loop or, while it loads, the progress of its process. What
 * becomes of one that is lost is fleet.c's business. */
#include "coordinator/coordinator.h"
#include "coordinator/spawn.h"
#include "core/clock.h"

/* Has no answer to a PING to give yet: it starts, or takes its place (maps and checks weights). */
static bool loads(const member *w)
{
    if (w->pid && !w->hello_seen) return true;
    return w->hello_seen && !w->ready && (w->rag || w->stage != STAGE_NONE);
}

/* A child that loads must compute or read; of a worker elsewhere nothing is seen but that it is not ready. */
static bool stuck(coordinator *c, member *w, bool away, err *e)
{
    uint64_t now = clock_ns();
    if (!w->pid) {
        double s = (double)(now - w->t_plan) / 1e9;
        if (s < 0.8 * c->set->start_timeout) return false; /* before the whole cluster is given up */
        return err_set(e, ERR_TIMEOUT, "%s has not taken its plan for %.1f s", w->name, s), true;
    }
    bool busy;
    uint64_t at = spawn_progress(w->pid, &busy);
    if (at != w->progress || busy || away) w->progress = at, w->t_progress = now;
    double s = (double)(now - w->t_progress) / 1e9;
    if (s <= c->set->stage_timeout) return false;
    return err_set(e, ERR_TIMEOUT, "%s (pid %d) has done nothing for %.1f s while it was starting", w->name, (int)w->pid, s), true;
}

void liveness_ping(coordinator *c, bool away)
{
    message m = msg_init(MSG_PING);
    err e;
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *w = &c->member[i];
        if (loads(w) && stuck(c, w, away, &e)) {
            if (!c->whole && c->state != COORD_STARTING) c->t_broken = clock_ns(); /* its successor has time, too */
            fleet_lost(c, w, &e);
            continue;
        }
        if (!w->control) continue;
        if (!w->t_pong || loads(w) || away) w->t_pong = clock_ns();
        err_code rc = fleet_send(c, w, &m, NULL, &e);
        double silent = (double)(clock_ns() - w->t_pong) / 1e9;
        if (rc != ERR_GONE && silent > c->set->stage_timeout) rc = err_set(&e, ERR_TIMEOUT, "%s has not answered for %.1f s", w->name, silent);
        if (rc == ERR_GONE || (rc == ERR_TIMEOUT && silent > c->set->stage_timeout)) fleet_lost(c, w, &e);
    }
}
