/* Ready means that a token went through every stage: one row of a session of its own, opened, computed and dropped under every
 * new plan. Its answer must have the bits it had the first time, so a stage that computes otherwise never serves. Knows
 * nothing of jobs. */
#include "coordinator/coordinator.h"
#include "core/clock.h"
#include "core/log.h"
#include <string.h>

void probe_reset(coordinator *c)
{
    c->probe.state = PROBE_DUE;
    c->probe.acks = 0;
}

void probe_tick(coordinator *c)
{
    err e;
    if (c->probe.state == PROBE_DUE) {
        message m = msg_init(MSG_SESSION_OPEN);
        m.session_open.epoch = c->epoch;
        m.session_open.session = PROBE_SESSION;
        c->probe.state = PROBE_OPENING;
        c->probe.t = clock_ns();
        fleet_send_all(c, &m, &(view){ NULL, 0 });
    } else if (c->probe.state == PROBE_OPENING && (double)(clock_ns() - c->probe.t) / 1e9 > c->set->stage_timeout) {
        err_set(&e, ERR_TIMEOUT, "%u of %u stages have opened the probe's session", c->probe.acks, c->n_stages);
        fleet_again(c, &e);
    }
}

void probe_opened(coordinator *c)
{
    if (c->probe.state != PROBE_OPENING || ++c->probe.acks < c->n_stages) return;
    c->probe.state = PROBE_STEP;
    pump_probe(c);
}

static bool same_bits(float a, float b) { return !memcmp(&a, &b, sizeof a); }

void probe_answered(coordinator *c, const result_row *r)
{
    probe *p = &c->probe;
    err e;
    bool good = r && !r->status && r->n_candidates && r->lse == r->lse;
    if (!good) {
        err_set(&e, r && r->status && r->status < ERR_COUNT ? (err_code)r->status : ERR_PROTO, "a first token does not come through the stages: %s",
                r && r->status ? err_name((err_code)r->status) : "its answer is not one row");
        coordinator_fail(c, &e);
        return;
    }
    if (p->known && !(same_bits(p->lse, r->lse) && same_bits(p->max, r->max) && same_bits(p->entropy, r->entropy))) {
        err_set(&e, ERR_STATE, "a first token has other bits than when the cluster started (log-sum-exp %.9g, was %.9g): a stage computes wrongly",
                (double)r->lse, (double)p->lse);
        coordinator_fail(c, &e);
        return;
    }
    *p = (probe){ .state = PROBE_DONE, .known = true, .lse = r->lse, .max = r->max, .entropy = r->entropy };
    message drop = msg_init(MSG_DROP);
    drop.drop.session = PROBE_SESSION;
    fleet_send_all(c, &drop, NULL);
}
