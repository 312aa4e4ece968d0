#include "tests/flow/rig.h"
#include "coordinator/coordinator.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct rig {
    rig_options o;
    char dir[96];
    hub *hub;
    settings set;
    atomic_bool stop;
    pthread_t coordinator;
    int notify;                 /* write end, the coordinator's */
    err_code rc;
    err why;
    rig_stage *stage;
    uint32_t n_stages;
    link_t *client;
    packet in;
    rig_job *jobs;
};

link_t *rig_client(rig *r) { return r->client; }
packet *rig_packet(rig *r) { return &r->in; }
rig_job **rig_jobs(rig *r) { return &r->jobs; }
const char *rig_dir(const rig *r) { return r->dir; }

/* ---- open ---------------------------------------------------------------------------------------------------------- */

static void *coordinator_thread(void *arg)
{
    rig *r = arg;
    r->rc = coordinator_run(&r->set, r->hub, &r->stop, r->notify, &r->why);
    return NULL;
}

static void make_dir(rig *r)
{
    static unsigned n;
    const char *tmp = support_tmpdir();
    cr_assert_not_null(tmp, "no folder under /tmp");
    snprintf(r->dir, sizeof r->dir, "%s/r%u", tmp, n++);
    cr_assert_eq(mkdir(r->dir, 0700), 0, "%s", r->dir);
}

static void give(char **at, const char *value)
{
    if (value) *at = strdup(value);
}

static void set_up(rig *r)
{
    const rig_options *o = &r->o;
    settings *s = &r->set;
    char path[128];
    settings_init(s, CMD_COORDINATOR);
    s->stages = 0;
    s->join = r->n_stages;
    give(&s->dir, r->dir);
    give(&s->model, o->model);
    give(&s->kv, o->kv);
    give(&s->arith, o->arith);
    give(&s->prompt_arith, o->prompt_arith);
    give(&s->prefill, o->prefill);
    give(&s->aux, o->aux);
    give(&s->profile, o->profile);
    give(&s->journal, "none");
    snprintf(path, sizeof path, "%s/trace", r->dir);
    if (o->trace) give(&s->trace, path);
    if (o->chunk) s->chunk = o->chunk;
    if (o->in_flight) s->in_flight = o->in_flight;
    if (o->ctx) s->ctx = o->ctx;
    if (o->max_rows) s->max_rows = o->max_rows;
    if (o->max_sessions) s->max_sessions = o->max_sessions;
    s->kv_mem = o->kv_mem;
    s->threads = o->threads ? o->threads : 1;   /* of local prefill */
    s->no_pack = !o->packed;
    give(&s->pack_dir, rig_stage_pack_dir());
}

static void start_all(rig *r, int *ready)
{
    int fd[2];
    char control[128], file[128];
    cr_assert_eq(pipe(fd), 0);
    *ready = fd[0];
    r->notify = fd[1];
    cr_assert_eq(pthread_create(&r->coordinator, NULL, coordinator_thread, r), 0, "no thread for the coordinator");
    snprintf(control, sizeof control, "ipc://%s/control", r->dir);
    for (uint32_t i = 0; i < r->n_stages; i++) {
        snprintf(file, sizeof file, "%s/trace.s%u", r->dir, i);
        rig_stage_start(&r->stage[i], r->hub, i, control, r->o.model, r->o.isas ? r->o.isas[i] : r->o.use, r->o.threads, r->o.trace ? file : NULL,
                        r->o.packed);
    }
}

/* The coordinator's last line: READY, or ERROR code text. Those before say how far it is. */
static bool is_ready(int fd, err *e)
{
    char all[4096], *line = all;
    size_t n = 0;
    for (ssize_t got; n < sizeof all - 1 && (got = read(fd, all + n, sizeof all - 1 - n)) > 0;) n += (size_t)got;
    all[n] = 0;
    close(fd);
    for (char *nl; !strncmp(line, "LOADING ", 8) && (nl = strchr(line, '\n')); n -= (size_t)(nl + 1 - line), line = nl + 1) continue;
    if (!strncmp(line, "READY ", 6)) return true;
    int code = 0, at = 0;
    if (sscanf(line, "ERROR %d %n", &code, &at) < 1 || code <= 0 || code >= ERR_COUNT) code = ERR_STATE;
    if (n && line[n - 1] == '\n') line[n - 1] = 0;
    err_set(e, (err_code)code, "%s", line + at);
    return false;
}

/* All stages share the work, not only those that came first. */
static void check_stages(rig *r)
{
    json_t *o = rig_status(r);
    cr_assert_eq(json_array_size(json_object_get(o, "stages")), r->n_stages, "the plan has other stages than the %u of the rig", r->n_stages);
    json_decref(o);
}

rig *rig_try_open(const rig_options *o, err *e)
{
    err le;
    rig *r = calloc(1, sizeof *r);
    cr_assert_not_null(r);
    r->o = *o;
    r->n_stages = o->stages ? o->stages : 1;
    r->stage = calloc(r->n_stages, sizeof *r->stage);
    cr_assert_not_null(r->stage);
    make_dir(r);
    cr_assert_eq(hub_open(&r->hub, &le), ERR_OK, "%s", le.text);
    set_up(r);
    int ready;
    start_all(r, &ready);
    if (!is_ready(ready, e)) {
        rig_close(&r);
        return NULL;
    }
    char client[128];
    snprintf(client, sizeof client, "ipc://%s/client", r->dir);
    cr_assert_eq(link_connect(&r->client, r->hub, LINK_DEALER, LINK_CLIENT, client, &le), ERR_OK, "%s", le.text);
    check_stages(r);
    return r;
}

rig *rig_open(const rig_options *o)
{
    err e;
    rig *r = rig_try_open(o, &e);
    cr_assert(r, "no cluster of %s: %s", o->model, e.text);
    return r;
}

/* ---- close --------------------------------------------------------------------------------------------------------- */

static void check_empty(const rig *r)
{
    DIR *d = opendir(r->dir);
    cr_assert_not_null(d);
    for (const struct dirent *f; (f = readdir(d));)
        cr_expect(f->d_name[0] == '.' || !strncmp(f->d_name, "trace", 5), "%s was left behind", f->d_name);
    closedir(d);
    if (!r->o.trace) cr_expect_eq(rmdir(r->dir), 0, "%s was not empty", r->dir);
}

static void tell_stop(rig *r)
{
    err e;
    message m = msg_init(MSG_STOP);
    m.stop.now = true;
    if (r->client) cr_expect_eq(link_send(r->client, NULL, &m, NULL, 1000, &e), ERR_OK, "%s", e.text);
}

void rig_close(rig **rp)
{
    rig *r = *rp;
    if (!r) return;
    bool served = r->client != NULL;
    tell_stop(r);
    pthread_join(r->coordinator, NULL);
    if (served) cr_expect_eq(r->rc, ERR_OK, "the coordinator ended with: %s", r->why.text);
    for (uint32_t i = 0; i < r->n_stages; i++) rig_stage_stop(&r->stage[i]);
    packet_done(&r->in);
    if (r->client) link_close(&r->client);
    for (rig_job *j = r->jobs; j; j = j->next) j->over = true;
    rig_forget(r);
    hub_close(&r->hub);
    check_empty(r);
    settings_free(&r->set);
    free(r->stage);
    free(r);
    *rp = NULL;
}
