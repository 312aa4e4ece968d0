#include "core/clock.h"
#include "core/rng.h"
#include "ops/cli/bench.h"
#include "ops/cli/samples.h"
#include "ops/cli/stage_times.h"
#include <math.h>
#include <stdio.h>

/* sluice bench serve: requests as a service sees them. A closed loop of clients, or an open one: requests come at random
 * times at a given rate, whether the ones before are answered or not. What a waiting user feels is measured here, at the
 * client; what the stages did comes from their own counters. */

#define SEED_GAPS 0x67617073u       /* streams of random numbers that must not be those of the prompts */
#define SEED_LENGTHS 0x6c656e73u

typedef struct {
    bench *b;
    bench_list prompt, gen;
    uint64_t sent, all, t_start, t_end, t_next;
    uint64_t n_gen, n_prompt, failed;
    samples ttft, tpot, itl;        /* ms */
} serve;

static uint32_t drawn(const serve *v, const bench_list *l, uint64_t stream)
{
    uint32_t n = l->at[rng_u64(v->b->s->seed ^ SEED_LENGTHS, 2 * v->sent + stream) % l->n];
    return n ? n : 1;
}

static err_code send_one(serve *v, err *e)
{
    uint32_t p = drawn(v, &v->prompt, 0), g = drawn(v, &v->gen, 1);
    v->sent++;
    return load_submit(&v->b->load, p, g, e);
}

/* Exponential gaps make a Poisson process (inverse transform of a uniform number). */
static void plan_next(serve *v)
{
    double u = rng_unit(v->b->s->seed ^ SEED_GAPS, v->sent);
    v->t_next += (uint64_t)(-log(1 - u) / v->b->s->bench_rate * 1e9);
}

static bool note(samples *s, double ns) { return samples_add(s, ns * 1e-6); }

static err_code take(serve *v, const load_event *ev, err *e)
{
    const load_job *j = &v->b->load.job[ev->index];
    bool ok = true;
    if (ev->tokens && j->got == ev->tokens) ok = note(&v->ttft, (double)(j->t_first - j->t_sent));
    for (uint32_t i = 0; ok && ev->gap && i < ev->tokens; i++) ok = note(&v->itl, (double)ev->gap / ev->tokens);
    v->n_gen += ev->tokens;
    if (ev->over) {
        v->failed += j->fail.code != ERR_OK;
        v->n_prompt += j->n_prompt;
        v->t_end = ev->t;
        if (j->got > 1) ok = ok && note(&v->tpot, (double)(j->t_last - j->t_first) / (j->got - 1));
        bench_step(v->b);
    }
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

static err_code closed_loop(serve *v, err *e)
{
    load *l = &v->b->load;
    load_event ev;
    err_code rc = ERR_OK;
    while (rc == ERR_OK && (v->sent < v->all || l->live)) {
        while (rc == ERR_OK && v->sent < v->all && l->live < v->b->s->bench_clients) rc = send_one(v, e);
        if (rc == ERR_OK) rc = load_next(l, -1, &ev, e);
        if (rc == ERR_OK) rc = take(v, &ev, e);
    }
    return rc;
}

static err_code open_loop(serve *v, err *e)
{
    load *l = &v->b->load;
    load_event ev;
    err_code rc = ERR_OK;
    plan_next(v);
    while (rc == ERR_OK && (v->sent < v->all || l->live)) {
        for (uint64_t now = clock_ns(); rc == ERR_OK && v->sent < v->all && now >= v->t_next; plan_next(v)) rc = send_one(v, e);
        if (rc == ERR_OK) rc = load_next(l, v->sent < v->all ? clock_left_ms(v->t_next) : -1, &ev, e);
        if (rc == ERR_TIMEOUT) rc = ERR_OK;
        else if (rc == ERR_OK) rc = take(v, &ev, e);
    }
    return rc;
}

static err_code time_row(bench *b, const char *name, samples *s, err *e)
{
    return bench_row(b, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "ms", name, "n", (json_int_t)s->n, "mean", samples_mean(s), "median",
                                  samples_quantile(s, 0.5), "p90", samples_quantile(s, 0.9), "p99", samples_quantile(s, 0.99)), e);
}

static json_t *summary(const serve *v)
{
    double s = (double)(v->t_end - v->t_start) * 1e-9;
    if (!(s > 0)) s = 1e-9;
    return json_pack("[{s:s, s:I, s:I, s:f, s:f, s:f, s:f}]", "loop", v->b->s->bench_rate > 0 ? "open" : "closed", "requests",
                     (json_int_t)v->all, "failed", (json_int_t)v->failed, "seconds", s, "req/s", (double)(v->all - v->failed) / s,
                     "prompt t/s", (double)v->n_prompt / s, "output t/s", (double)v->n_gen / s);
}

static err_code report(serve *v, const json_t *before, err *e)
{
    json_t *now = NULL;
    err_code rc = client_status(v->b->v.c, 0, &now, e);
    if (rc == ERR_OK) rc = time_row(v->b, "TTFT", &v->ttft, e);
    if (rc == ERR_OK) rc = time_row(v->b, "TPOT", &v->tpot, e);
    if (rc == ERR_OK) rc = time_row(v->b, "ITL", &v->itl, e);
    if (rc == ERR_OK)
        rc = bench_print(v->b, json_pack("{s:o*, s:o*}", "summary", summary(v), "stages", stage_times_json(before, now, v->t_end - v->t_start)), e);
    json_decref(now);
    return rc;
}

static err_code run(serve *v, err *e)
{
    bench *b = v->b;
    json_t *before = NULL;
    err_code rc = b->s->bench_cold ? ERR_OK : load_submit(&b->load, 16, 2, e);
    if (rc == ERR_OK) rc = load_drain(&b->load, e);
    load_forget(&b->load);
    if (rc == ERR_OK) rc = client_status(b->v.c, 0, &before, e);
    progress_set(&b->bar, 0, b->steps = v->all);
    v->t_start = v->t_next = v->t_end = clock_ns();
    if (rc == ERR_OK) rc = b->s->bench_rate > 0 ? open_loop(v, e) : closed_loop(v, e);
    if (rc == ERR_OK) rc = report(v, before, e);
    json_decref(before);
    return rc;
}

static err_code check(const serve *v, err *e)
{
    uint64_t p = 0, g = 0;
    for (size_t i = 0; i < v->prompt.n; i++) p = v->prompt.at[i] > p ? v->prompt.at[i] : p;
    for (size_t i = 0; i < v->gen.n; i++) g = v->gen.at[i] > g ? v->gen.at[i] : g;
    return bench_fits(v->b, p + g, e);
}

err_code bench_serve(settings *s, err *e)
{
    bench b = { 0 };
    serve v = { .b = &b, .all = s->bench_requests };
    err_code rc = bench_list_read(&v.prompt, s->bench_prompt, "128", "-p", e);
    if (rc == ERR_OK) rc = bench_list_read(&v.gen, s->bench_gen, "128", "-n", e);
    if (rc == ERR_OK) rc = bench_open(&b, s, "serve", e);
    if (rc == ERR_OK) rc = check(&v, e);
    if (rc == ERR_OK) rc = run(&v, e);
    samples_free(&v.ttft);
    samples_free(&v.tpot);
    samples_free(&v.itl);
    return bench_close(&b, rc, e);
}
