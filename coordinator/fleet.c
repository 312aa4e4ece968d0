/* Who is here: has children started, hears HELLO, makes and sends the PLAN, waits for READY, notices deaths. Does not know jobs:
 * what a death means for them is lifecycle.c's business. */
#include "coordinator/coordinator.h"
#include "coordinator/plan_file.h"
#include "coordinator/trust.h"
#include "core/clock.h"
#include "core/log.h"
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define PING_NS 1000000000u   /* joined workers wonder after 3 s of silence (workers/stage/stage.c) */
#define AWAY_NS 500000000u    /* a round of the loop takes no longer unless we were stopped, or busy with a file */
#define LATE_NS 200000000u    /* a poll may make a round of PINGs so much later than it is due */
#define GRACE_NS 2000000000u  /* a spare or a worker that comes back has so long before the others take its layers */
#define SPIN_US 20            /* results of small models come back within this */

err_code fleet_send(coordinator *c, member *m, const message *msg, const view *frames, err *e)
{
    (void)c;
    if (!m->control) return err_set(e, ERR_GONE, "%s has not said hello", m->name);
    return link_send(m->control, &m->id, msg, frames, 1000, e);
}

void fleet_send_all(coordinator *c, const message *m, const view *frames)
{
    err e;
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (c->by_stage[i] && fleet_send(c, c->by_stage[i], m, frames, &e))
            LOG(LOG_WARN, "STAGE-MUTE", "stage=%u message=%s text=\"%s\"", i, msg_name(m->type), e.text);
}

#define STATS_WAIT_NS 200000000u  /* a stage in a long prompt step answers after it; nobody waits longer than this */

void fleet_ask_stats(coordinator *c)
{
    message m = msg_init(MSG_STATS_GET);
    m.stats_get.nonce = ++c->stats_nonce;
    c->t_stats = clock_ns();
    fleet_send_all(c, &m, NULL);
}

bool fleet_stats_fresh(const coordinator *c)
{
    if (clock_ns() - c->t_stats > STATS_WAIT_NS) return true;
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (c->by_stage[i] && c->by_stage[i]->stats.nonce < c->stats_nonce) return false;
    return true;
}

/* ---- members ------------------------------------------------------------------------------------------------------ */

static member *add_member(coordinator *c)
{
    member *m = c->n_members < MAX_MEMBERS ? &c->member[c->n_members++] : NULL;
    if (m) *m = (member){ .stage = STAGE_NONE, .slot = JOINED };
    return m;
}

err_code fleet_start(coordinator *c, err *e)
{
    c->member = calloc(MAX_MEMBERS, sizeof *c->member);
    if (!c->member) return err_set(e, ERR_NOMEM, "out of memory");
    c->plan_due = true;
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < c->set->stages + (c->set->rag != NULL); i++) {
        member *m = add_member(c);
        if (!m) return err_set(e, ERR_CONFIG, "more than %u workers", MAX_MEMBERS);
        m->rag = i == c->set->stages;
        m->slot = i;
        if (m->rag) snprintf(m->name, sizeof m->name, "rag");
        else snprintf(m->name, sizeof m->name, "stage-%u", i);
        rc = child_start(c, m, e);
    }
    return rc;
}

/* ---- HELLO --------------------------------------------------------------------------------------------------------- */

/* Peers choose their routing ids, so a worker is known by its link and its key, too. */
static member *member_of(coordinator *c, const link_t *from, const link_id *id)
{
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].hello_seen && c->member[i].control == from && link_id_same(&c->member[i].id, id)) return &c->member[i];
    return NULL;
}

/* hex: the digest of the worker's last model, "nothing" when it has none. */
static bool has_model(const coordinator *c, const msg_hello *h, view models, char hex[static 40])
{
    snprintf(hex, 40, "nothing");
    for (uint64_t i = 0; i < h->n_models; i++) {
        digest_rec d;
        memcpy(&d, (const uint8_t *)models.ptr + i * sizeof d, sizeof d);
        snprintf(hex, 40, "%016" PRIx64 "%016" PRIx64, d.hi, d.lo);
        if (!strcmp(hex, c->shape.digest)) return true;
    }
    return false;
}

static err_code check_hello(const coordinator *c, const msg_hello *h, view models, err *e)
{
    if (h->major != PROTO_MAJOR)
        return err_set(e, ERR_PROTO, "coordinator speaks protocol %u.%u, worker %s speaks %" PRIu64 ".%" PRIu64, PROTO_MAJOR, PROTO_MINOR,
                       h->name, h->major, h->minor);
    if (h->role == 1) return ERR_OK;
    char theirs[40];
    if (!has_model(c, h, models, theirs))
        return err_set(e, ERR_MODEL, "worker %s has another model: its file has digest %s, the cluster runs %s, digest %s", h->name, theirs, c->shape.name,
                       c->shape.digest);
    if (c->profile_kv && strcmp(h->profile, profile_digest(c->profile)))
        return err_set(e, ERR_CONFIG, "worker %s has %s%s, the cluster uses %s (%s)", h->name, *h->profile ? "another profile of the model: " : "no profile of the model",
                       h->profile, profile_digest(c->profile), profile_file(c->profile));
    path_id lacks = h->paths >> c->path & 1 ? c->prompt_path : c->path;
    if (!(h->paths >> lacks & 1)) return err_set(e, ERR_CONFIG, "worker %s cannot compute path %s of the plan", h->name, path_name(lacks));
    if (!h->data_addr[0] || !h->bulk_addr[0]) return err_set(e, ERR_PROTO, "worker %s names no data or bulk address", h->name);
    return ERR_OK;
}

static member *place_for(coordinator *c, const msg_hello *h, err *e)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *m = &c->member[i];
        if (h->cookie && h->cookie == i + 1 && m->pid && !m->hello_seen) return m;
        if (m->hello_seen && !strcmp(m->name, h->name)) {
            err_set(e, ERR_STATE, "a worker named %s is here already", h->name);
            return NULL;
        }
    }
    if (h->cookie || !h->spare || h->role == 1) { /* only stages join by themselves */
        err_set(e, ERR_STATE, "worker %s is no child of this coordinator", h->name);
        return NULL;
    }
    member *m = NULL; /* the place of one that left, or a new one */
    for (uint32_t i = 0; !m && i < c->n_members; i++)
        if (c->member[i].slot == JOINED && !c->member[i].hello_seen) m = &c->member[i];
    if (!m) m = add_member(c);
    if (!m) err_set(e, ERR_FULL, "no room for worker %s: %u are here", h->name, c->n_members);
    return m;
}

static void refuse(link_t *from, const link_id *to, const err *why)
{
    err e;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    LOG(LOG_WARN, "WORKER-REFUSED", "text=\"%s\"", why->text);
    link_send(from, to, &m, NULL, 0, &e);
}

static void make_plan(coordinator *c);

/* A joined worker (by name, host and key) whose connection broke, or who lost us for a while: what it held belongs to the past. */
static member *came_back(coordinator *c, const msg_hello *h)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *m = &c->member[i];
        if (m->hello_seen && m->slot == JOINED && m->id.who == c->in.from.who && m->hello.pid == h->pid && !strcmp(m->name, h->name) && !strcmp(m->hello.host, h->host)) return m;
    }
    return NULL;
}

static void on_hello(coordinator *c, link_t *from)
{
    const msg_hello *h = &c->in.head.hello;
    err e;
    member *m = member_of(c, from, &c->in.from);
    if (m) return; /* said it again before it heard us */
    err_code rc = trust_hello(c, from, h, &e);
    member *old = rc ? NULL : came_back(c, h);
    if (old) fleet_lost(c, old, &(err){ ERR_GONE, "came back on a new connection" });
    if (!rc && !check_hello(c, h, c->in.frame[0], &e)) m = place_for(c, h, &e);
    if (!m) {
        refuse(from, &c->in.from, &e);
        return;
    }
    m->id = c->in.from;
    m->control = from;
    m->hello = *h;
    m->hello_seen = true;
    m->leaving = false;
    m->t_pong = clock_ns(); /* not the last word of the one whose place it takes */
    m->rag = h->role == 1;
    snprintf(m->name, sizeof m->name, "%s", h->name);
    if (trust_admit(c, &e)) LOG(LOG_WARN, "WORKER-KEY", "name=%s text=\"%s\"", m->name, e.text);
    LOG(LOG_INFO, "WORKER-HELLO", "name=%s role=%s pid=%" PRIu64 " cpus=%s isa=%s", h->name, m->rag ? "rag" : "stage", h->pid, h->cpuset, h->isa);
    make_plan(c);
}

/* ---- PLAN ---------------------------------------------------------------------------------------------------------- */

static bool is_tcp(const char *addr) { return !strncmp(addr, "tcp:", 4); }

/* Compute threads of the plan on a host (NULL: this one) and the coordinator's own, and of each process the one that moves
 * messages: where it has no cpu to itself, spinning for a message keeps that message away. */
static uint64_t host_threads(const coordinator *c, const char *host)
{
    char here[64] = "";
    gethostname(here, sizeof here - 1);
    if (!host) host = here;
    uint64_t n = strcmp(here, host) ? 0 : 2;
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (!strcmp(c->by_stage[i]->hello.host, host)) n += c->by_stage[i]->hello.threads + 1;
    return n;
}

static err_code send_plan(coordinator *c, member *m, const text *addrs, err *e)
{
    message p = msg_init(MSG_PLAN);
    m->t_plan = clock_ns();
    m->progress = 0;
    p.plan = (msg_plan){ .epoch = c->epoch, .stage = m->stage, .n_stages = c->n_stages, .first = m->part.first, .last = m->part.last,
                         .embed = m->part.embed, .head = m->part.head, .n_ctx = c->n_ctx, .max_rows = c->max_rows,
                         .kv_format = c->kv, .kv_max_bytes = c->set->kv_mem << 20, .prefix_bytes = c->set->prefix_mem << 20, .prompt_path = c->prompt_path, .decode_path = c->path,
                         .in_flight = c->pump.width, .host_threads = host_threads(c, m->hello.host) };
    snprintf(p.plan.digest, sizeof p.plan.digest, "%s", c->shape.digest);
    if (c->profile_kv) snprintf(p.plan.profile, sizeof p.plan.profile, "%s", profile_digest(c->profile));
    bool tcp = c->result_tcp && is_tcp(m->hello.data_addr);
    snprintf(p.plan.result_addr, sizeof p.plan.result_addr, "%s", link_addr(tcp ? c->result_tcp : c->result));
    return fleet_send(c, m, &p, &(view){ addrs->ptr, addrs->len }, e);
}

static uint32_t may_spin_us(const coordinator *c)
{
    cpu_set_t set;
    int cpus = sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
    return (uint64_t)cpus >= host_threads(c, NULL) ? SPIN_US : 0;
}

/* Children in their order, then joined workers in the order they came. */
static uint32_t seat(coordinator *c)
{
    uint32_t n = 0;
    memset(c->by_stage, 0, sizeof c->by_stage);
    for (uint32_t i = 0; i < c->n_members; i++) c->member[i].stage = STAGE_NONE, c->member[i].ready &= c->member[i].rag;
    for (uint32_t i = 0; i < c->n_members && n < c->n_stages; i++)
        if (c->member[i].hello_seen && !c->member[i].rag) c->by_stage[n] = &c->member[i], c->member[i].stage = n, n++;
    return n;
}

static err_code split(coordinator *c, err *e)
{
    double cost[MODEL_MAX_LAYERS], head;
    plan_part part[512];
    err_code rc = c->split ? plan_file_split(c->split, c->n_stages, part, e) : plan_costs(c->file, &c->shape, cost, &head, e);
    if (!rc && !c->split) rc = plan_split(cost, c->shape.L, head, c->n_stages, part, e);
    for (uint32_t i = 0; !rc && i < c->n_stages; i++) c->by_stage[i]->part = part[i];
    return rc;
}

/* *at: the stage that cannot be reached, if that is what is wrong. */
static err_code plan_all(coordinator *c, member **at, err *e)
{
    text addrs = { 0 };
    c->epoch++;
    pump_plan(c);
    probe_reset(c);
    err_code rc = split(c, e);
    for (uint32_t i = 0; !rc && i < c->n_stages; i++)
        if (!trust_add_line(&addrs, c->by_stage[i])) rc = err_set(e, ERR_NOMEM, "out of memory");
    c->spin_us = may_spin_us(c);
    if (c->first_hop) link_close(&c->first_hop);
    *at = rc ? NULL : c->by_stage[0];
    if (!rc) rc = link_connect_to(&c->first_hop, c->hub, LINK_PUSH, LINK_DATA, c->by_stage[0]->hello.data_addr, c->by_stage[0]->hello.key, e);
    if (!rc) link_trace(c->first_hop, c->trace, "first");
    for (uint32_t i = 0; !rc && i < c->n_stages; i++) *at = c->by_stage[i], rc = send_plan(c, *at, &addrs, e);
    text_free(&addrs);
    return rc;
}

static uint32_t stages_here(const coordinator *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++) n += c->member[i].hello_seen && !c->member[i].rag;
    return n;
}

static void make_plan(coordinator *c)
{
    err e;
    if (!c->plan_due || stages_here(c) < c->n_stages || seat(c) < c->n_stages) return;
    c->plan_due = false;
    member *at;
    if (!plan_all(c, &at, &e)) return;
    if (at) fleet_lost(c, at, &e); /* it died together with another one: the next plan does without it */
    else coordinator_fail(c, &e);
}

static void on_ready(coordinator *c, member *m)
{
    if (m->rag) m->ready = true, m->t_ready = clock_ns(), m->took = c->in.head.ready, c->rag = m;
    if (c->in.head.ready.epoch != c->epoch || m->stage == STAGE_NONE) return;
    m->ready = true;
    m->t_pong = m->t_ready = clock_ns(); /* not the last word of the one whose place it took */
    m->took = c->in.head.ready;
    LOG(LOG_INFO, "STAGE-READY", "stage=%u name=%s layers=%u-%u ms=%" PRIu64, m->stage, m->name, m->part.first, m->part.last, m->took.load_ms);
}

/* ---- what workers say ---------------------------------------------------------------------------------------------- */

static void on_fail(coordinator *c, member *m)
{
    const msg_fail *f = &c->in.head.fail;
    err e;
    err_set(&e, f->code < ERR_COUNT ? (err_code)f->code : ERR_PROTO, "%s: %s", m->name, f->text);
    LOG(c->state == COORD_STARTING ? LOG_INFO : LOG_WARN, "WORKER-FAIL", "name=%s session=%" PRIu64 " step=%" PRIu64 " text=\"%s\"", m->name, f->session, f->step, f->text);
    if (f->step) { /* stages have taken different steps now */
        if (f->epoch == c->epoch && pump_step_failed(c, f->step, &e)) fleet_again(c, &e);
    } else if (f->session == PROBE_SESSION && f->epoch == c->epoch) coordinator_fail(c, &e);
    else if (f->session && (!c->whole || f->epoch != c->epoch)) return; /* of a plan before: the session is opened again */
    else if (f->session) session_failed(c, f->session, &e);
    else if (m->rag ? !m->ready : !c->whole && f->epoch == c->epoch) coordinator_fail(c, &e); /* no corpus, or it cannot take its plan */
}

void fleet_message(coordinator *c, link_t *from)
{
    const message *h = &c->in.head;
    if (h->type == MSG_HELLO) {
        on_hello(c, from);
        return;
    }
    member *m = member_of(c, from, &c->in.from);
    if (!m) {
        LOG(LOG_WARN, "WORKER-UNKNOWN", "message=%s", msg_name(h->type));
        return;
    }
    switch (h->type) {
    case MSG_READY: on_ready(c, m); break;
    case MSG_SESSION_READY:
        if (h->session_ready.epoch != c->epoch) break;
        if (h->session_ready.session == PROBE_SESSION) probe_opened(c);
        else session_opened(c, h->session_ready.session, (uint32_t)h->session_ready.prefix_rows);
        break;
    case MSG_KV_DONE:
        if (h->kv_done.epoch == c->epoch) session_filled(c, h->kv_done.session);
        break;
    case MSG_PASSAGES: retrieve_answer(c); break;
    case MSG_STATS: m->stats = h->stats; break;
    case MSG_FAIL: on_fail(c, m); break;
    case MSG_BYE: leave_asked(c, m); break;
    case MSG_PONG: m->t_pong = clock_ns(); break;
    default: LOG(LOG_WARN, "WORKER-STRAY", "name=%s message=%s", m->name, msg_name(h->type));
    }
}

/* ---- deaths and repair --------------------------------------------------------------------------------------------- */

bool fleet_is_whole(const coordinator *c) { return c->whole; }

void fleet_lost(coordinator *c, member *m, const err *why)
{
    if (c->state == COORD_STOPPED || (!m->hello_seen && !m->pid && m->t_again)) return;
    LOG(c->state == COORD_STARTING ? LOG_INFO : LOG_WARN, "WORKER-LOST", "name=%s stage=%d text=\"%s\"", m->name, (int)m->stage, why->text);
    if (c->state == COORD_STARTING) {
        coordinator_fail(c, why);
        return;
    }
    bool seated = m->stage != STAGE_NONE;
    m->hello_seen = m->ready = false;
    m->control = NULL;
    if (m->rag && c->rag) c->rag = NULL, retrieve_again(c);
    bool child = m->slot != JOINED;
    if (m->pid) kill(m->pid, SIGKILL); /* hung or unreachable: children_reap comes back here when it is gone */
    else if (child) child_again_later(c, m, why);
    if (!seated) return;
    m->stage = STAGE_NONE;
    if (c->whole) c->t_broken = clock_ns(), c->repairs++;
    c->whole = false;
    c->plan_due = true;
    sessions_break(c);
    make_plan(c); /* a spare takes its place at once */
}

void fleet_again(coordinator *c, const err *why)
{
    if (c->state == COORD_STOPPED || c->fatal.code || c->plan_due) return;
    LOG(LOG_WARN, "PLAN-AGAIN", "epoch=%u text=\"%s\"", c->epoch, why->text);
    if (c->whole) c->t_broken = clock_ns(), c->repairs++;
    c->whole = false;
    c->plan_due = true;
    sessions_break(c);
    make_plan(c);
}

/* Nobody came for the place of a lost worker: the others share its layers. */
static void plan_over_survivors(coordinator *c)
{
    uint32_t here = stages_here(c);
    if (c->state == COORD_STARTING || !c->plan_due || clock_ns() - c->t_broken < GRACE_NS || !here || here >= c->n_stages) return;
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].t_again || (c->member[i].pid && !c->member[i].hello_seen)) return; /* a child is on its way */
    LOG(LOG_WARN, "PLAN-SMALLER", "stages=%u was=%u", here, c->n_stages);
    c->n_stages = here;
    make_plan(c);
}

static void check_whole(coordinator *c)
{
    uint32_t ready = 0;
    for (uint32_t i = 0; i < c->n_stages; i++) ready += c->by_stage[i] && c->by_stage[i]->ready;
    if (c->plan_due || ready < c->n_stages) return;
    if (c->probe.state != PROBE_DONE) probe_tick(c);
    if (c->probe.state != PROBE_DONE || (c->set->rag && !c->rag)) return;
    bool repaired = c->repairs > 0;
    c->whole = true;
    if (c->state == COORD_STARTING) c->state = COORD_READY;
    if (!repaired) return;
    LOG(LOG_WARN, "CLUSTER-WHOLE", "epoch=%u ms=%" PRIu64, c->epoch, (clock_ns() - c->t_broken) / 1000000);
    sessions_reopen(c);
}

static void check_time(coordinator *c)
{
    uint64_t since = c->state == COORD_STARTING ? c->t_start : c->t_broken;
    if ((double)(clock_ns() - since) / 1e9 < c->set->start_timeout) return;
    uint32_t ready = 0;
    for (uint32_t i = 0; i < c->n_stages; i++) ready += c->by_stage[i] && c->by_stage[i]->ready;
    err e;
    err_set(&e, ERR_TIMEOUT, "not ready after %g s: %u of %u stages have said hello, %u are ready%s", c->set->start_timeout, stages_here(c), c->n_stages,
            ready, c->set->rag && !c->rag ? ", the rag worker is missing" : "");
    coordinator_fail(c, &e);
}

/* ---- time ---------------------------------------------------------------------------------------------------------- */

void fleet_tick(coordinator *c)
{
    children_reap(c);
    leave_tick(c);
    children_start_due(c);
    if (!c->whole && !c->fatal.code) {
        make_plan(c);
        plan_over_survivors(c);
        check_whole(c);
        if (!c->whole) check_time(c);
    }
    uint64_t now = clock_ns(), dead = (uint64_t)(c->set->stage_timeout * 1e9), every = dead / 4 < PING_NS ? dead / 4 : PING_NS;
    pump_watch(c, c->t_tick && now - c->t_tick > AWAY_NS);
    sessions_watch(c);
    c->t_tick = now;
    if (now - c->t_ping < every) return;
    liveness_ping(c, now - c->t_ping > dead / 2 + LATE_NS);
    c->t_ping = now;
    if (c->sessions.n) fleet_ask_stats(c); /* an idle cluster stays idle */
}

void fleet_stop(coordinator *c)
{
    leave_all(c);
    children_stop(c);
    leave_wait(c);
    free(c->member);
    c->member = NULL;
    c->n_members = 0;
}
