/* The event loop: opens what a cluster needs, then waits for clients, workers and results, one message at a time. */
#include "coordinator/coordinator.h"
#include "coordinator/front.h"
#include "coordinator/handover.h"
#include "coordinator/journal.h"
#include "coordinator/plan_file.h"
#include "coordinator/predict.h"
#include "coordinator/prefill.h"
#include "coordinator/prefix.h"
#include "coordinator/prompt_cache.h"
#include "coordinator/refresh.h"
#include "coordinator/record.h"
#include "coordinator/route.h"
#include "coordinator/trust.h"
#include "core/clock.h"
#include "kvstore/preset.h"
#include "core/log.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MS 100              /* how soon a dead child or a stop flag is seen */
#define CHECK_MS 5               /* and an adapter that has been read */
#define HURRIED_MAX 64           /* messages of peers that talk too fast, refused in a row */
#define UNSENT_MS 2              /* how soon a step whose first hop was not there is tried again */
#define DRAIN_NS 30000000000u    /* a drain lasts this long at most; then jobs that somebody waits for are cancelled */

/* ---- what a cluster is --------------------------------------------------------------------------------------------- */

static err_code choose_kv(coordinator *c, err *e)
{
    c->kv = KV_F16;
    c->kv_policy = kv_policy_identity();
    if (!c->set->kv || !kv_format_parse(c->set->kv, &c->kv, NULL)) return ERR_OK;
    return kv_policy_load(&c->kv_policy, c->set->kv, e);
}

static err_code choose_path(coordinator *c, err *e)
{
    const char *rows = c->set->arith, *prompt = c->set->prompt_arith;
    c->path = PATH_I8B32;
    if (rows && (!path_named(rows, &c->path) || c->path == PATH_BF16AMX))
        return err_set(e, ERR_CONFIG, "--arith %.40s: want i8b32 or f32", rows);
    c->prompt_path = c->path;
    if (prompt && !path_named(prompt, &c->prompt_path))
        return err_set(e, ERR_CONFIG, "--prompt-arith %.40s: want i8b32, f32 or bf16amx", prompt);
    return ERR_OK;
}

/* And whether the cluster's own KV policy finds in it what it needs. */
static err_code choose_profile(coordinator *c, err *e)
{
    profile_binding want = { .model = gguf_digest(c->file), .path = path_name(c->path) };
    err_code rc = profile_choose(&c->profile, c->set->profile, c->set->model, &want, e);
    if (!rc && c->profile) rc = profile_kv_open(&c->profile_kv, c->profile, &c->shape, 0, c->shape.L, e);
    return rc ? rc : profile_fits(c, &c->kv_policy, e);
}

err_code profile_fits(const coordinator *c, const kv_policy *p, err *e)
{
    const char *lack = kv_tables_lack(profile_kv_tables(c->profile_kv), 0, c->shape.L, p);
    if (!lack) return ERR_OK;
    if (!c->profile)
        return err_set(e, ERR_CONFIG, "KV policy %s needs %s, and the cluster has no profile of the model (sluice calibrate --only kv makes one)",
                       p->name, lack);
    return err_set(e, ERR_CONFIG, "KV policy %s needs %s, and %s has none (sluice calibrate --only kv)", p->name, lack, profile_file(c->profile));
}

static err_code load(coordinator *c, err *e)
{
    if (!c->set->model) return err_set(e, ERR_USAGE, "--model FILE is missing");
    err_code rc = gguf_open(&c->file, c->set->model, e);
    if (!rc) rc = model_shape_read(&c->shape, c->file, e);
    if (!rc) rc = tokenizer_open(&c->tok, c->file, e);
    if (!rc) rc = choose_kv(c, e);
    if (!rc) rc = choose_path(c, e);
    if (!rc) rc = choose_profile(c, e);
    if (!rc && c->set->skip) rc = skip_rule_load(c->skip, c->set->skip, e);
    if (!rc) rc = predict_check(c, e);
    if (!rc) rc = route_open(c, e);
    if (rc) return rc;
    c->adapters.shape = &c->shape;
    c->n_ctx = c->set->ctx ? (uint32_t)c->set->ctx : c->shape.n_ctx;
    c->max_rows = (uint32_t)c->set->max_rows;
    c->chunk = (uint32_t)(c->set->chunk < c->set->max_rows ? c->set->chunk : c->set->max_rows);
    c->n_stages = (uint32_t)(c->set->stages + c->set->join);
    if (!c->n_stages || c->n_stages > c->shape.L || c->n_stages > 512)
        return err_set(e, ERR_CONFIG, "%u stages for a model of %u layers: want 1 to %u", c->n_stages, c->shape.L, c->shape.L);
    return ERR_OK;
}

static err_code read_plan(coordinator *c, err *e)
{
    if (!c->set->plan) return ERR_OK;
    c->split = calloc(1, sizeof *c->split);
    if (!c->split) return err_set(e, ERR_NOMEM, "out of memory for a plan");
    return plan_file_read(c->split, c->set->plan, c->shape.digest, e);
}

static err_code bind_one(coordinator *c, link_t **l, link_kind k, link_lane lane, const char *name, err *e)
{
    char addr[256];
    snprintf(addr, sizeof addr, "ipc://%s/%s", c->dir, name);
    err_code rc = link_bind(l, c->hub, k, lane, addr, e);
    if (!rc) link_trace(*l, c->trace, name);
    return rc;
}

static err_code write_pid(const coordinator *c, err *e)
{
    char path[256];
    snprintf(path, sizeof path, "%s/pid", c->dir);
    FILE *f = fopen(path, "we");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    fprintf(f, "%d\n", (int)getpid());
    return fclose(f) ? err_set(e, ERR_IO, "%s: %s", path, strerror(errno)) : ERR_OK;
}

static err_code bind_all(coordinator *c, err *e)
{
    const char *dir = c->set->dir;
    if (!dir) return err_set(e, ERR_USAGE, "--dir DIR is missing");
    if (mkdir(dir, 0700) && errno != EEXIST) return err_set(e, ERR_IO, "%s: %s", dir, strerror(errno));
    if (strlen(dir) >= 80) return err_set(e, ERR_CONFIG, "run directory %s is too long for unix sockets (80 bytes)", dir);
    snprintf(c->dir, sizeof c->dir, "%s", dir);
    err_code rc = c->set->trace ? trace_open(&c->trace, c->set->trace, e) : ERR_OK;
    if (!rc) rc = bind_one(c, &c->client, LINK_ROUTER, LINK_CLIENT, "client", e);
    if (!rc) rc = bind_one(c, &c->control, LINK_ROUTER, LINK_CONTROL, "control", e);
    if (!rc) rc = bind_one(c, &c->result, LINK_PULL, LINK_DATA, "result", e);
    if (!rc) rc = trust_listen(c, e);
    char inbox[64];
    snprintf(inbox, sizeof inbox, "inproc://prefill-%p", (void *)c);
    if (!rc) rc = link_bind(&c->inbox, c->hub, LINK_PULL, LINK_CONTROL, inbox, e);
    return rc ? rc : write_pid(c, e);
}

static void unlink_in(const coordinator *c, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", c->dir, name);
    unlink(path);
}

/* Sockets of stages: a stage that was stopped while it started has not told us that it has some. */
static void unlink_stages(const coordinator *c)
{
    DIR *d = opendir(c->dir);
    struct dirent *f;
    while (d && (f = readdir(d))) {
        const char *dot = strrchr(f->d_name, '.');
        if (dot && !strncmp(f->d_name, "stage-", 6) && (!strcmp(dot, ".data") || !strcmp(dot, ".bulk"))) unlink_in(c, f->d_name);
    }
    if (d) closedir(d);
}

static void close_all(coordinator *c)
{
    prefill_close(c);
    prompt_cache_break(c);
    fleet_stop(c);
    prefill_reap(&c->leaving, true);
    link_t **links[] = { &c->client, &c->control, &c->control_tcp, &c->result, &c->result_tcp, &c->first_hop, &c->inbox };
    static const char *const files[] = { "client", "control", "result", "pid" };
    bool ours = c->client != NULL; /* else the directory belongs to a cluster that is up */
    packet_done(&c->in);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (*links[i]) link_close(links[i]);
    for (size_t i = 0; ours && i < sizeof files / sizeof *files; i++) unlink_in(c, files[i]);
    if (ours) unlink_stages(c);
    if (c->set->die_with_parent && c->set->dir) rmdir(c->set->dir); /* a private one; its starter may be dead */
    while (c->sessions.head) {
        prompt_cache_drop(c->sessions.head);
        handover_drop(c->sessions.head);
        session_free(&c->sessions, c->sessions.head);
    }
    pump_close(c);
    adapters_close(&c->adapters);
    if (c->journal) journal_close(&c->journal);
    job_list_free(&c->jobs);
    prefix_close(&c->prefixes);
    if (c->trace) trace_close(&c->trace);
    route_close(c);
    if (c->tok) tokenizer_close(&c->tok);
    free(c->split);
    profile_kv_close(&c->profile_kv);
    profile_close(&c->profile);
    if (c->file) gguf_close(&c->file);
}

/* ---- local prefill, opened when it is first wanted ----------------------------------------------------------------- */

/* Local prefill leaves the cores to stages that decode; a prediction is what everybody waits for. */
static uint32_t prefill_threads(const coordinator *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (c->set->threads) return (uint32_t)c->set->threads;
    return c->can_predict && cores > 1 ? (uint32_t)(cores < 256 ? cores : 256) : 1;
}

static err_code open_prefill(coordinator *c, err *e)
{
    prefill_stage st[512];
    if (c->prefill) return ERR_OK;
    for (uint32_t i = 0; i < c->n_stages; i++) {
        st[i] = (prefill_stage){ c->by_stage[i]->part.first, c->by_stage[i]->part.last, "", "" };
        snprintf(st[i].bulk_addr, sizeof st[i].bulk_addr, "%s", c->by_stage[i]->hello.bulk_addr);
        snprintf(st[i].key, sizeof st[i].key, "%s", c->by_stage[i]->hello.key);
    }
    prefill_options o = { .hub = c->hub, .model = gguf_path(c->file), .inbox = link_addr(c->inbox), .n_ctx = c->n_ctx, .max_rows = c->max_rows,
                          .pack = { !c->set->no_pack, c->set->pack_dir, c->set->pack_cap << 20 },
                          .aux = c->can_predict ? c->set->aux : NULL, .profile = c->set->profile,
                          .threads = prefill_threads(c), .format = c->kv, .path = c->prompt_path, .aux_path = c->path, .epoch = c->epoch,
                          .n_stages = c->n_stages, .stage = st, .tables = profile_kv_tables(c->profile_kv) };
    return prefill_open(&c->prefill, &o, e);
}

void prefill_get_ready(coordinator *c)
{
    err e;
    if (c->can_predict && !c->prefill && open_prefill(c, &e)) LOG(LOG_WARN, "PREFILL-LATE", "text=\"%s\"", e.text); /* the job that needs it says so */
}

err_code prefill_start(coordinator *c, session *s, err *e)
{
    err_code rc = open_prefill(c, e);
    if (rc) return rc;
    s->filled = s->n_prompt - (s->exact ? 1 : s->job->newest);
    uint32_t chunk = s->job->ask.chunk && s->job->ask.chunk < c->chunk ? (uint32_t)s->job->ask.chunk : c->chunk;
    return prefill_add(c->prefill, &(prefill_work){ s->id, s->tokens.id, s->filled, chunk, session_prompt_rows(s), session_policy(s), s->mask,
                                                    !s->exact, s->job->sinks, s->job->route_due }, e);
}

void prefill_cancel(coordinator *c, uint64_t id)
{
    if (c->prefill) prefill_drop(c->prefill, id);
}

void prefill_close(coordinator *c)
{
    prefill_leave(&c->prefill, &c->leaving);
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

void coordinator_fail(coordinator *c, const err *why)
{
    if (c->fatal.code || c->state == COORD_STOPPED) return;
    /* a starter that waits for READY, or whose own cluster this is, says it to the user */
    LOG(c->state == COORD_STARTING || c->set->die_with_parent ? LOG_INFO : LOG_ERROR, "CLUSTER-FAILED", "text=\"%s\"", why->text);
    c->fatal = *why;
    if (!c->fatal.code) c->fatal.code = ERR_STATE;
    for (job *j = c->jobs.head; j; j = j->next) job_fail(c, j, why);
}

static void on_inbox(coordinator *c)
{
    const msg_fail *f = &c->in.head.fail;
    err e;
    if (c->in.head.type == MSG_KV_DONE && c->in.head.kv_done.epoch == c->epoch) session_pushed(c, c->in.head.kv_done.session);
    /* of a plan before: the session is opened again */
    if (c->in.head.type != MSG_FAIL || f->epoch != c->epoch || !c->whole) return;
    err_set(&e, f->code < ERR_COUNT ? (err_code)f->code : ERR_STATE, "%s", f->text);
    session_failed(c, f->session, &e);
}

static err_code take(coordinator *c, link_t *l)
{
    err e;
    err_code rc = link_recv(l, &c->in, 0, &e);
    if (rc == ERR_PROTO) {
        LOG(LOG_WARN, "BAD-MESSAGE", "text=\"%s\"", e.text);
        if (l == c->client || l == c->control || l == c->control_tcp) {
            message m = msg_init(MSG_FAIL);
            m.fail.code = ERR_PROTO;
            snprintf(m.fail.text, sizeof m.fail.text, "%s", e.text);
            link_send(l, &c->in.from, &m, NULL, 0, &e);
        }
    }
    if (rc == ERR_DENIED) trust_refused(c, l, &e);
    if (rc == ERR_FULL) trust_hurried(c, l, &e);
    if (rc) return rc;
    if (l == c->client) front_message(c);
    else if ((l == c->result || l == c->result_tcp) && c->in.head.type == MSG_KV_ROWS) prompt_cache_rows(c), handover_rows(c);
    else if ((l == c->result || l == c->result_tcp || l == c->inbox) && c->in.head.type == MSG_POOLED) route_pooled(c);
    else if (l == c->result || l == c->result_tcp) pump_result(c);
    else if (l == c->inbox) on_inbox(c);
    else fleet_message(c, l);
    packet_done(&c->in);
    return ERR_OK;
}

/* One message, so that everybody has a turn; what is refused for its speed must not cost a round of work each. */
static void take_turn(coordinator *c, link_t *l)
{
    for (int i = 0; i < HURRIED_MAX && take(c, l) == ERR_FULL; i++) continue;
}

static void wait_and_take(coordinator *c)
{
    link_t *all[] = { c->result, c->control, c->client, c->inbox, c->result_tcp, c->control_tcp };
    uint32_t n = c->control_tcp ? 6 : 4;
    bool ready[6] = { false };
    err e;
    int wait_ms = c->caching ? 0 : c->pump.unsent ? UNSENT_MS : adapter_busy(&c->adapters) ? CHECK_MS : POLL_MS;
    if (link_poll(all, n, ready, wait_ms, c->pump.n ? c->spin_us : 0, &e)) return;
    for (uint32_t i = 0; i < n; i++)
        if (ready[i]) take_turn(c, all[i]);
}

static void tell(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(int fd, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (fd < 0) return;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof line - 1) n = (int)sizeof line - 1;
    ssize_t w = write(fd, line, (size_t)n);
    (void)w;
}

/* Whoever waits for READY sees how far it is: a line whenever another stage has its weights. */
static void tell_loading(const coordinator *c, int fd, uint32_t *before)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++) n += c->member[i].ready;
    if (n != *before) tell(fd, "LOADING %u %u\n", n, c->n_stages);
    *before = n;
}

static bool idle(const coordinator *c)
{
    if (c->sessions.n || c->pump.n) return false;
    for (const job *j = c->jobs.head; j; j = j->next) {
        if (j->state != JOB_DONE || !j->recorded || j->watch) return false;
    }
    return true;
}

/* Detached jobs of a journal are left for the next coordinator, unless they are to end now. */
static void cancel_all(coordinator *c)
{
    for (job *j = c->jobs.head; j; j = j->next)
        if (c->stop_now || !c->journal || !j->ask.detach) job_cancel(c, j);
}

static void round_of_work(coordinator *c)
{
    wait_and_take(c);
    trust_tick(c);
    fleet_tick(c);
    jobs_advance(c);
    prompt_cache_tick(c);
    c->caching |= handover_tick(c);
    refresh_tick(c);
    pump_fill(c);
    sessions_sweep(c);
    prefill_reap(&c->leaving, false);
    front_flush(c);
}

static void drain_step(coordinator *c, uint64_t *since)
{
    if (c->stop && atomic_exchange(c->stop, false)) { /* the second signal in a drain means now */
        if (c->state == COORD_DRAINING || c->state == COORD_STARTING) c->stop_now = true;
        c->state = COORD_DRAINING;
    }
    if (c->state != COORD_DRAINING) return;
    if (!*since) *since = clock_ns();
    if (c->stop_now || clock_ns() - *since > DRAIN_NS) cancel_all(c);
    if (idle(c) || clock_ns() - *since > DRAIN_NS + 2000000000u) c->state = COORD_STOPPED;
}

static err_code serve(coordinator *c, int fd, err *e)
{
    bool told = false;
    uint64_t draining = 0, failed = 0;
    uint32_t loaded = UINT32_MAX;
    while (c->state != COORD_STOPPED) {
        round_of_work(c);
        if (!told && c->state == COORD_STARTING) tell_loading(c, fd, &loaded);
        if (c->state == COORD_READY && !told) {
            LOG(LOG_INFO, "CLUSTER-READY", "stages=%u ms=%" PRIu64, c->n_stages, (clock_ns() - c->t_start) / 1000000);
            tell(fd, "READY {\"dir\":\"%s\",\"control\":\"%s\"}\n", c->dir, link_addr(c->control_tcp ? c->control_tcp : c->control));
            told = true;
            if (fd >= 0) close(fd);
        }
        if (c->fatal.code) { /* clients hear of it, for a moment, then it is over */
            if (!failed) failed = clock_ns();
            front_flush(c);
            if (!told || clock_ns() - failed > 200000000u) break;
        }
        drain_step(c, &draining);
    }
    if (!told) tell(fd, "ERROR %d %s\n", c->fatal.code ? c->fatal.code : ERR_CANCELLED, c->fatal.code ? c->fatal.text : "stopped before it was ready");
    if (!told && fd >= 0) close(fd);
    if (c->fatal.code && e) *e = c->fatal;
    return c->fatal.code;
}

err_code coordinator_run(const settings *s, hub *h, atomic_bool *stop, int notify_fd, err *e)
{
    coordinator *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory");
    c->set = s;
    c->hub = h;
    c->stop = stop;
    c->t_start = clock_ns();
    /* plans of different coordinators never have the same number: a worker may outlive one and meet the next */
    c->epoch = ((uint32_t)(clock_wall_ms() / 64) ^ (uint32_t)getpid()) % (1u << 19) << EPOCH_BITS;
    err_code rc = load(c, e);
    if (!rc) rc = read_plan(c, e);
    if (!rc) rc = bind_all(c, e);
    if (!rc) rc = record_open(c, e);
    if (!rc) rc = prefix_open(&c->prefixes, e);
    if (!rc) rc = pump_open(c, e);
    if (!rc) rc = fleet_start(c, e);
    if (rc) {
        tell(notify_fd, "ERROR %d %s\n", rc, e->text);
        if (notify_fd >= 0) close(notify_fd);
    } else rc = serve(c, notify_fd, e);
    c->state = COORD_STOPPED;
    close_all(c);
    free(c);
    return rc;
}
