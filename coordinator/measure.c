#include "coordinator/measure.h"
#include "core/clock.h"
#include "core/isa.h"
#include "core/topo.h"
#include "engine/forward.h"
#include "proto/link.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Owns teams that run layers for the sake of time. What they compute is thrown away. */

enum {
    LAYERS = 6,             /* of a team: more than a cache holds, few enough for many rows in little time */
    ROWS_TOP = 256, CONTEXT = 1024, CROWD_MAX = 64, ROUNDS = 400, WARM_ROUNDS = 50, TIMES_MAX = 4096
};
static const uint32_t row_counts[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256 };
enum { N_ROWS = sizeof row_counts / sizeof *row_counts };

typedef struct {            /* a stage without sockets */
    model *m;
    kv *store;
    kv_seq *seq;
    pool *pool;
    runner *runner;
    topo *where;
    float *h;               /* [ROWS_TOP][D] */
    forward_row *fwd;
    kv_row *rows;
    uint32_t *slots, *ids, *pick;
    row_stats *stats;
} team;

static void team_close(team *t)
{
    runner_close(&t->runner);
    if (t->store) kv_close(&t->store);
    if (t->pool) pool_close(&t->pool);
    model_close(&t->m);
    if (t->where) topo_close(&t->where);
    void *mem[] = { t->h, t->fwd, t->rows, t->slots, t->ids, t->pick, t->stats };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    *t = (team){ 0 };
}

static bool team_memory(team *t, uint32_t D)
{
    t->h = calloc((size_t)ROWS_TOP * D, sizeof *t->h);
    t->fwd = calloc(ROWS_TOP, sizeof *t->fwd);
    t->rows = calloc(ROWS_TOP, sizeof *t->rows);
    t->slots = calloc(ROWS_TOP, sizeof *t->slots);
    t->ids = calloc(ROWS_TOP, sizeof *t->ids);
    t->pick = calloc(ROWS_TOP, sizeof *t->pick);
    t->stats = calloc(ROWS_TOP, sizeof *t->stats);
    return t->h && t->fwd && t->rows && t->slots && t->ids && t->pick && t->stats;
}

typedef struct { const gguf *g; const pack_file *packed; const model_shape *shape; uint32_t threads, part, parts; } team_place;

/* Part `part` of `parts`: its own cores, and layers that no other one reads where there are enough. */
static err_code team_open(team *t, const team_place *p, err *e)
{
    isa use;
    uint32_t L = p->shape->L, first = L * p->part / p->parts, last = first + LAYERS < L ? first + LAYERS : L;
    shard part = { first, last, true, true };
    kv_geometry g = forward_kv(p->shape, first, last);
    *t = (team){ 0 };
    err_code rc = isa_pick(&use, e);
    g.n_ctx = CONTEXT + ROWS_TOP + 1;
    g.isa = use;
    if (!rc) rc = topo_open(&t->where, NULL, p->part, p->parts, e);
    if (!rc) rc = model_open_packed(&t->m, p->g, p->packed, part, e);
    if (!rc) rc = kv_open(&t->store, &g, e);
    if (!rc) rc = kv_seq_open(t->store, 1, &t->seq, e);
    if (!rc) rc = pool_open(&t->pool, p->threads, topo_bind_thread, t->where, e);
    if (!rc) rc = runner_open(&t->runner, t->m, t->store, t->pool, use, ROWS_TOP, e);
    if (!rc && !team_memory(t, p->shape->D)) rc = err_set(e, ERR_NOMEM, "out of memory for measuring");
    return rc;
}

/* n rows in a line behind what is committed, as a prompt chunk. */
static err_code place_rows(team *t, uint32_t n, err *e)
{
    uint32_t at = kv_last_row(t->seq) == KV_ROW_NONE ? 0 : kv_last_row(t->seq) + 1;
    for (uint32_t i = 0; i < n; i++) {
        t->rows[i] = (kv_row){ .row = at + i, .pos = at + i, .parent = i ? at + i - 1 : KV_ROW_NONE, .path = PATH_I8B32 };
        t->ids[i] = (at + i) % t->m->shape.V;
        t->pick[i] = i;
    }
    err_code rc = kv_reserve(t->seq, t->rows, n, t->slots, e);
    for (uint32_t i = 0; !rc && i < n; i++) t->fwd[i] = (forward_row){ .seq = t->seq, .slot = t->slots[i], .path = PATH_I8B32 };
    return rc;
}

static double us_since(uint64_t t) { return (double)(clock_ns() - t) / 1000; }

/* One pass of n rows through the layers; microseconds a layer. */
static err_code pass_layers(team *t, uint32_t n, double *us, err *e)
{
    err_code rc = place_rows(t, n, e);
    if (rc) return rc;
    runner_embed(t->runner, t->ids, n, t->h);
    uint64_t at = clock_ns();
    runner_layers(t->runner, t->fwd, n, t->h);
    *us = us_since(at) / (t->m->part.last - t->m->part.first);
    return kv_truncate(t->seq, t->rows[0].row, e);
}

static err_code pass_head(team *t, uint32_t n, double *us, err *e)
{
    (void)e;
    uint64_t at = clock_ns();
    for (uint32_t i = 0; i < n; i += RUNNER_HEAD_ROWS)
        runner_head(t->runner, t->h, t->pick, t->fwd, n - i < RUNNER_HEAD_ROWS ? n - i : RUNNER_HEAD_ROWS, t->stats);
    *us = us_since(at);
    return ERR_OK;
}

typedef err_code pass(team *t, uint32_t n, double *us, err *e);

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of as many passes as fit the time, two at least; the first one is warm-up. */
static err_code often(team *t, pass *f, uint32_t n, double seconds, double *us, err *e)
{
    double at[TIMES_MAX];
    uint32_t k = 0;
    err_code rc = f(t, n, &at[0], e);
    for (uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9); !rc && k < TIMES_MAX && (k < 2 || clock_ns() < end);) rc = f(t, n, &at[k++], e);
    qsort(at, k, sizeof *at, ascending);
    *us = k ? at[k / 2] : 0;
    return rc;
}

/* ---- a crowd: all teams work, the first one is timed ---------------------------------------------------------------- */

typedef struct { team *t; uint32_t n; atomic_bool *stop; } companion;   /* only one stage has the head: these run layers */

static void *keep_busy(void *arg)
{
    companion *c = arg;
    double us;
    err e;
    topo_bind_thread(c->t->where, 0);
    while (!atomic_load(c->stop) && !pass_layers(c->t, c->n, &us, &e)) continue;
    return NULL;
}

typedef struct { team *at; uint32_t n; } crowd;

static err_code crowded(const crowd *c, pass *f, uint32_t n, double seconds, double *us, err *e)
{
    atomic_bool stop = false;
    pthread_t thread[CROWD_MAX];
    companion with[CROWD_MAX];
    uint32_t k = 1;
    for (; k < c->n; k++) {
        with[k] = (companion){ &c->at[k], n, &stop };
        if (pthread_create(&thread[k], NULL, keep_busy, &with[k])) break;
    }
    err_code rc = k < c->n ? err_set(e, ERR_FULL, "no thread for a team of the crowd") : often(&c->at[0], f, n, seconds, us, e);
    atomic_store(&stop, true);
    while (--k > 0) pthread_join(thread[k], NULL);
    return rc;
}

/* ---- one size of team ------------------------------------------------------------------------------------------------ */

typedef struct { const measure_ask *a; uint64_t done, total; } watch;

static void tick(watch *w)
{
    if (w->a->draw) w->a->draw(w->a->arg, ++w->done, w->total);
}

static err_code measure_rows(const costs *c, cost_team *out, const crowd *all, watch *w, err *e)
{
    const crowd alone = { all->at, 1 };
    const struct { const crowd *who; pass *f; cost_line *to; } lines[] = {
        { &alone, pass_layers, &out->layer }, { all, pass_layers, &out->layer_crowded },
        { &alone, pass_head, &out->head },    { all, pass_head, &out->head_crowded },
    };
    err_code rc = ERR_OK;
    for (int k = 0; k < 4; k++) lines[k].to->n = c->n_rows;
    for (uint32_t i = 0; !rc && i < c->n_rows; i++)
        for (int k = 0; !rc && k < 4; k++) {
            bool same = k % 2 && all->n == 1;
            if (same) lines[k].to->at[i] = lines[k - 1].to->at[i];
            else rc = crowded(lines[k].who, lines[k].f, c->rows[i], w->a->seconds, &lines[k].to->at[i], e);
            tick(w);
        }
    return rc;
}

/* What a row of context costs: one row with many behind it, less one with none. And the embedding of a row. */
static err_code measure_context(costs *c, team *t, double seconds, err *e)
{
    double none = 0, many = 0;
    err_code rc = often(t, pass_layers, 1, seconds, &none, e);
    for (uint32_t at = 0; !rc && at < CONTEXT; at += ROWS_TOP) {
        rc = place_rows(t, ROWS_TOP, e);
        if (!rc) rc = kv_commit(t->seq, t->rows[ROWS_TOP - 1].row, e);
    }
    if (!rc) rc = often(t, pass_layers, 1, seconds, &many, e);
    if (!rc) rc = kv_truncate(t->seq, 0, e);
    double us = (many - none) / CONTEXT * pool_threads(t->pool);
    c->attend_us = us > 0 ? us : 0;
    uint64_t at = clock_ns();
    runner_embed(t->runner, t->ids, ROWS_TOP, t->h);
    c->embed_us = us_since(at) / ROWS_TOP;
    return rc;
}

static err_code measure_team(costs *c, const team_place *p, watch *w, err *e)
{
    cost_team *out = &c->team[c->n_teams++];
    uint32_t n = c->cpus / p->threads;
    if (n > CROWD_MAX) n = CROWD_MAX;
    if (n > c->L) n = c->L;
    if (n < 1) n = 1;
    *out = (cost_team){ .threads = p->threads, .crowd = n };
    crowd all = { calloc(n, sizeof *all.at), n };
    err_code rc = all.at ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for measuring");
    for (uint32_t i = 0; !rc && i < n; i++) {
        team_place at = { p->g, p->packed, p->shape, p->threads, i, n };
        rc = team_open(&all.at[i], &at, e);
    }
    if (!rc) topo_bind_thread(all.at[0].where, 0);
    if (!rc) rc = measure_rows(c, out, &all, w, e);
    if (!rc && c->n_teams == 1) rc = measure_context(c, &all.at[0], w->a->seconds, e);
    for (uint32_t i = 0; all.at && i < n; i++) team_close(&all.at[i]);
    free(all.at);
    return rc;
}

/* ---- a hop ------------------------------------------------------------------------------------------------------------ */

typedef struct { hub *h; const char *in, *out; uint32_t dim; } echo;

static err_code send_row(link_t *to, uint32_t dim, uint64_t step, const float *row, err *e)
{
    const step_row r = { .session = 1 };
    const hop_rec hop = { 0 };
    message m = msg_init(MSG_STEP);
    m.step = (msg_step){ .epoch = 1, .step = step, .n_rows = 1, .n_hops = 1, .n_hidden = 1, .dim = dim, .top = 64 };
    const view f[MSG_FRAMES_MAX] = { [STEP_ROWS] = { &r, sizeof r }, [STEP_HOPS] = { &hop, sizeof hop }, [STEP_HIDDEN] = { row, (size_t)dim * 4 } };
    return link_send(to, NULL, &m, f, 5000, e);
}

static void *echo_thread(void *arg)
{
    const echo *w = arg;
    link_t *in = NULL, *out = NULL;
    packet p = { 0 };
    err e;
    float *row = calloc(w->dim, sizeof *row);
    err_code rc = row ? link_bind(&in, w->h, LINK_PULL, LINK_DATA, w->in, &e) : ERR_NOMEM;
    if (!rc) rc = link_connect(&out, w->h, LINK_PUSH, LINK_DATA, w->out, &e);
    for (uint32_t i = 0; !rc && i < ROUNDS + WARM_ROUNDS; i++) {
        rc = link_recv(in, &p, 10000, &e);
        if (!rc) memcpy(row, p.frame[STEP_HIDDEN].ptr, (size_t)w->dim * 4);
        if (!rc) rc = send_row(out, w->dim, i + 1, row, &e);
    }
    if (!rc) link_recv(in, &p, 10000, &e); /* linger is 0: stay until the other end has everything */
    packet_done(&p);
    if (in) link_close(&in);
    if (out) link_close(&out);
    free(row);
    return NULL;
}

static err_code go_round(link_t *in, link_t *out, uint32_t dim, double *us, err *e)
{
    static const float zero[65536];
    double at[ROUNDS];
    packet p = { 0 };
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < ROUNDS + WARM_ROUNDS; i++) {
        uint64_t t = clock_ns();
        rc = send_row(out, dim, i + 1, zero, e);
        if (!rc) rc = link_recv(in, &p, 10000, e);
        if (i >= WARM_ROUNDS) at[i - WARM_ROUNDS] = us_since(t) / 2;
    }
    packet_done(&p);
    err quiet;
    send_row(out, dim, 1, zero, &quiet); /* the other end may go */
    qsort(at, ROUNDS, sizeof *at, ascending);
    *us = at[ROUNDS / 2];
    return rc;
}

/* Over ipc between two threads with their own sockets: the same path through the kernel as between two processes. */
static err_code measure_hop(uint32_t dim, double *us, err *e)
{
    char dir[] = "/tmp/sluice-hopXXXXXX", a[64], b[64];
    hub *h = NULL;
    link_t *in = NULL, *out = NULL;
    pthread_t t;
    if (!mkdtemp(dir)) return err_set(e, ERR_IO, "no directory under /tmp");
    snprintf(a, sizeof a, "ipc://%s/a", dir);
    snprintf(b, sizeof b, "ipc://%s/b", dir);
    err_code rc = hub_open(&h, e);
    echo other = { h, a, b, dim };
    if (!rc) rc = link_bind(&in, h, LINK_PULL, LINK_DATA, b, e);
    if (!rc) rc = link_connect(&out, h, LINK_PUSH, LINK_DATA, a, e);
    bool started = !rc && !pthread_create(&t, NULL, echo_thread, &other);
    if (!rc) rc = started ? go_round(in, out, dim, us, e) : err_set(e, ERR_FULL, "no thread for measuring a hop");
    if (started) pthread_join(t, NULL);
    if (in) link_close(&in);
    if (out) link_close(&out);
    if (h) hub_close(&h);
    unlink(a + 6);
    unlink(b + 6);
    rmdir(dir);
    return rc;
}

static err_code measure_hops(costs *c, err *e)
{
    double small = 0, large = 0;
    err_code rc = measure_hop(1, &small, e);
    if (!rc) rc = measure_hop(65536, &large, e);
    c->hop_us = small;
    c->hop_us_mb = large > small ? (large - small) / (65536 * 4e-6) : 0;
    c->turn_us = small;         /* the coordinator's turn is a message in and one out, as a stage's without its layers */
    c->turn_row_us = small / 2; /* and for each row one out to its client: a sender's part of a hop */
    return rc;
}

err_code measure_costs(costs *out, const measure_ask *a, err *e)
{
    gguf *g = NULL;
    pack_file *packed = NULL;
    model_shape shape;
    cpu_set_t before;
    bool bound = !sched_getaffinity(0, sizeof before, &before);
    *out = (costs){ .n_rows = N_ROWS, .cpus = bound ? (uint32_t)CPU_COUNT(&before) : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN) };
    memcpy(out->rows, row_counts, sizeof row_counts);
    err_code rc = gguf_open(&g, a->model, e);
    if (!rc) rc = model_shape_read(&shape, g, e);
    if (!rc) rc = costs_of_model(out, g, &shape, e);
    if (!rc) packed = pack_open(g, &a->pack, out->cpus, NULL);
    watch w = { a, 0, (uint64_t)a->n * N_ROWS * 4 };
    for (uint32_t i = 0; !rc && i < a->n && i < COSTS_TEAMS_MAX; i++) {
        team_place p = { g, packed, &shape, a->threads[i], 0, 1 };
        rc = measure_team(out, &p, &w, e);
        if (bound) sched_setaffinity(0, sizeof before, &before);
    }
    if (!rc) rc = measure_hops(out, e);
    pack_close(&packed);
    gguf_close(&g);
    return rc;
}
