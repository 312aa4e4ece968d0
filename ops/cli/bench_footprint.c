#include "core/clock.h"
#include "ops/cli/bench.h"
#include "ops/cli/procs.h"
#include "ops/cli/samples.h"
#include "ops/cli/signals.h"
#include <stdio.h>
#include <time.h>

/* sluice bench footprint: what a cluster takes before and beside its work: the time of a start, processor time while it is
 * idle, memory with a session at work. The processes are the coordinator and its stages, as they name their pids. */

enum { PIDS_MAX = 514 };

typedef struct { pid_t pid[PIDS_MAX]; size_t n; } pids;

static void pids_of(const json_t *status, pids *p)
{
    size_t i;
    json_t *s;
    p->pid[0] = (pid_t)json_integer_value(json_object_get(status, "pid"));
    p->n = 1;
    json_array_foreach(json_object_get(status, "stages"), i, s)
        if (p->n < PIDS_MAX) p->pid[p->n++] = (pid_t)json_integer_value(json_object_get(s, "pid"));
}

static err_code sum(const pids *p, err_code (*f)(pid_t, uint64_t *, err *), uint64_t *out, err *e)
{
    err_code rc = ERR_OK;
    *out = 0;
    for (size_t i = 0; rc == ERR_OK && i < p->n; i++) {
        uint64_t x = 0;
        rc = f(p->pid[i], &x, e);
        *out += x;
    }
    return rc;
}

static err_code add(bench *b, const char *what, double value, const char *unit, err *e)
{
    return bench_row(b, json_pack("{s:s, s:f, s:s}", "what", what, "value", value, "unit", unit), e);
}

/* Start and stop, often; the time from the start of the coordinator to READY. The last cluster stays. */
static err_code starts(bench *b, settings *s, err *e)
{
    samples ms = { 0 };
    double first = 0;
    err_code rc = ERR_OK;
    bool ours = true;
    for (uint64_t i = 0; rc == ERR_OK && ours && i <= s->bench_reps; i++) {
        if (i) rc = bench_close(b, ERR_OK, e);
        uint64_t t = clock_ns();
        if (rc == ERR_OK) rc = bench_open(b, s, "footprint", e);
        double took = (double)(clock_ns() - t) * 1e-6;
        ours = b->v.cluster.pid != 0; /* one that was up before has nothing to tell about starts */
        if (!i) first = took;
        else if (!samples_add(&ms, took)) rc = err_set(e, ERR_NOMEM, "out of memory");
        b->done = i;
        progress_set(&b->bar, i, b->steps = s->bench_reps);
    }
    if (rc == ERR_OK && ours) rc = add(b, "first start to READY", first, "ms", e);
    if (rc == ERR_OK && ours) rc = add(b, "start to READY, median", samples_quantile(&ms, 0.5), "ms", e);
    samples_free(&ms);
    return rc;
}

static double stages_sum(const json_t *status, const char *key)
{
    double x = 0;
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(status, "stages"), i, s) x += (double)json_integer_value(json_object_get(s, key));
    return x;
}

/* All weights are read by then, and the session's KV is there. */
static err_code memory_now(bench *b, const pids *p, err *e)
{
    json_t *now = NULL;
    uint64_t pss;
    err_code rc = sum(p, proc_pss, &pss, e);
    if (rc == ERR_OK) rc = client_status(b->v.c, 0, &now, e);
    double weights = stages_sum(now, "weight_bytes"), kv = stages_sum(now, "kv_arena");
    if (rc == ERR_OK) rc = add(b, "PSS of all processes", (double)pss / 1e6, "MB", e);
    if (rc == ERR_OK) rc = add(b, "weights", weights / 1e6, "MB", e);
    if (rc == ERR_OK) rc = add(b, "KV", kv / 1e6, "MB", e);
    if (rc == ERR_OK) rc = add(b, "PSS / (weights + KV)", (double)pss / (weights + kv), "", e);
    json_decref(now);
    if (rc == ERR_OK && (double)pss < weights) /* a page counts less the more processes have it, ours or not */
        fputs("note: the weights are mapped by processes outside this cluster too, so PSS says too little\n", stderr);
    return rc;
}

static err_code memory(bench *b, const pids *p, uint32_t n_prompt, err *e)
{
    load_event ev;
    err_code rc = bench_fits(b, n_prompt + 64u, e);
    if (rc == ERR_OK) rc = load_submit(&b->load, n_prompt, (uint32_t)b->v.n_ctx - n_prompt, e);
    for (uint32_t got = 0; rc == ERR_OK && got < 32; got += ev.tokens) rc = load_next(&b->load, -1, &ev, e);
    if (rc == ERR_OK) rc = memory_now(b, p, e);
    if (rc == ERR_OK) rc = load_cancel(&b->load, 0, e);
    if (rc == ERR_OK) rc = load_drain(&b->load, e);
    return rc;
}

static err_code sleep_for(double s, err *e)
{
    for (uint64_t end = clock_ns() + (uint64_t)(s * 1e9); clock_left_ms(end);) {
        if (signals_caught()) return err_set(e, ERR_CANCELLED, "stopped");
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    }
    return ERR_OK;
}

static err_code idle(bench *b, const pids *p, err *e)
{
    uint64_t before, after, t = clock_ns();
    double s = b->s->bench_idle;
    if (!(s > 0)) return ERR_OK;
    err_code rc = sleep_for(1, e); /* what the load left to do is done by then */
    if (rc == ERR_OK) rc = sum(p, proc_cpu_ns, &before, e);
    t = clock_ns();
    if (rc == ERR_OK) rc = sleep_for(s, e);
    if (rc == ERR_OK) rc = sum(p, proc_cpu_ns, &after, e);
    double wall = (double)(clock_ns() - t);
    return rc == ERR_OK ? add(b, "processor time while idle, of one core", 100 * (double)(after - before) / wall, "%", e) : rc;
}

err_code bench_footprint(settings *s, err *e)
{
    bench b = { 0 };
    pids p;
    bench_list pp;
    err_code rc = bench_list_read(&pp, s->bench_prompt, "512", "-p", e);
    if (rc == ERR_OK) rc = starts(&b, s, e);
    if (rc == ERR_OK) pids_of(b.v.status, &p);
    if (rc == ERR_OK) rc = memory(&b, &p, pp.at[0] ? pp.at[0] : 1, e);
    if (rc == ERR_OK) rc = idle(&b, &p, e);
    if (rc == ERR_OK) rc = bench_print(&b, NULL, e);
    return bench_close(&b, rc, e);
}
