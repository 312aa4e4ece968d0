#include "ops/cli/bench.h"
#include "ops/cli/samples.h"
#include <stdio.h>
#include <string.h>

/* sluice bench pp/tg: one session alone. Prompt tokens a second until the first token is here, and tokens a second
 * between the first token and the last. */

static double per_second(uint32_t tokens, uint64_t ns) { return ns ? (double)tokens * 1e9 / (double)ns : 0; }

/* One job, alone; what is known of it afterwards. */
static err_code one(bench *b, uint32_t n_prompt, uint32_t n_gen, load_job *out, err *e)
{
    err_code rc = load_submit(&b->load, n_prompt, n_gen, e);
    if (rc == ERR_OK) rc = load_drain(&b->load, e);
    if (rc == ERR_OK) *out = b->load.job[0];
    if (rc == ERR_OK && out->got != n_gen) rc = err_set(e, ERR_PROTO, "%u tokens came instead of %u", out->got, n_gen);
    load_forget(&b->load);
    b->load.fill = 0;
    return rc;
}

/* Behind a context of d tokens. Of a random one the last rows are computed all the same: policies look at what these see. */
enum { FILL_COMPUTED = 64 };

static void set_fill(bench *b, uint32_t d)
{
    b->load.fill = b->s->bench_fill && d > FILL_COMPUTED ? d - FILL_COMPUTED : 0;
}

static err_code prompt_ns(bench *b, uint32_t n, uint64_t *ns, err *e)
{
    load_job j;
    err_code rc = one(b, n, 1, &j, e);
    if (rc == ERR_OK) *ns = j.t_first - j.t_sent;
    return rc;
}

static err_code measure_filled(bench *b, uint32_t n, uint32_t d, double *rate, err *e)
{
    load_job j = { 0 };
    b->load.fill = d;
    err_code rc = one(b, d + n, 1, &j, e);
    *rate = per_second(n, j.prefill_ns);
    return rc;
}

/* At a depth: what the prompt costs behind `d` tokens is the longer prompt less the shorter one. */
static err_code measure_pp(bench *b, uint32_t n, uint32_t d, double *rate, err *e)
{
    uint64_t before = 0, all = 0;
    if (b->s->bench_fill && d) return measure_filled(b, n, d, rate, e);
    err_code rc = d ? prompt_ns(b, d, &before, e) : ERR_OK;
    if (rc == ERR_OK) rc = prompt_ns(b, d + n, &all, e);
    *rate = all > before ? per_second(n, all - before) : 0;
    return rc;
}

/* Behind a made-up context the second token is the first that counts: in front of it a KV policy settles all rows of the prompt. */
static err_code measure_tg(bench *b, uint32_t n, uint32_t d, double *rate, err *e)
{
    load_job j = { 0 };
    bool filled = b->s->bench_fill && d;
    set_fill(b, d);
    err_code rc = one(b, d ? d : 1, n + 1 + filled, &j, e);
    if (filled) return *rate = per_second(j.got - j.before, j.t_last - j.t_second), rc;
    uint64_t here = j.t_last - j.t_first; /* tokens that come while we wait for a cpu arrive all at once */
    *rate = per_second(n, here > j.decode_ns ? here : j.decode_ns);
    return rc;
}

typedef err_code measure(bench *b, uint32_t n, uint32_t d, double *rate, err *e);

static err_code line(bench *b, const char *name, measure *f, uint32_t n, uint32_t d, err *e)
{
    char test[64];
    double rate;
    samples s = { 0 };
    err_code rc = bench_fits(b, (uint64_t)n + d + 1, e);
    if (rc == ERR_OK && !b->s->bench_cold) rc = f(b, n, d, &rate, e);
    for (uint64_t i = 0; rc == ERR_OK && i < b->s->bench_reps; i++) {
        rc = f(b, n, d, &rate, e);
        if (rc == ERR_OK && !samples_add(&s, rate)) rc = err_set(e, ERR_NOMEM, "out of memory");
        bench_step(b);
    }
    snprintf(test, sizeof test, d ? "%s%u @ d%u" : "%s%u", name, n, d);
    if (rc == ERR_OK)
        rc = bench_row(b, json_pack("{s:s, s:f, s:f, s:f}", "test", test, "t/s", samples_mean(&s), "t/s_sd", samples_sd(&s), "median",
                                    samples_quantile(&s, 0.5)), e);
    samples_free(&s);
    return rc;
}

static uint64_t count(const bench_list *l)
{
    uint64_t n = 0;
    for (size_t i = 0; i < l->n; i++) n += l->at[i] > 0;
    return n;
}

static err_code lines(bench *b, const bench_list *pp, const bench_list *tg, const bench_list *depth, err *e)
{
    err_code rc = ERR_OK;
    b->steps = (count(pp) + count(tg)) * depth->n * b->s->bench_reps;
    progress_set(&b->bar, 0, b->steps);
    for (size_t k = 0; k < depth->n; k++) {
        for (size_t i = 0; rc == ERR_OK && i < pp->n; i++)
            if (pp->at[i]) rc = line(b, "pp", measure_pp, pp->at[i], depth->at[k], e);
        for (size_t i = 0; rc == ERR_OK && i < tg->n; i++)
            if (tg->at[i]) rc = line(b, "tg", measure_tg, tg->at[i], depth->at[k], e);
    }
    return rc;
}

err_code bench_single(settings *s, err *e)
{
    bench b = { 0 };
    bench_list pp, tg, depth;
    err_code rc = bench_list_read(&pp, s->bench_prompt, "512", "-p", e);
    if (rc == ERR_OK) rc = bench_list_read(&tg, s->bench_gen, "128", "-n", e);
    if (rc == ERR_OK) rc = bench_list_read(&depth, s->bench_depth, "0", "-d", e);
    if (rc == ERR_OK && s->bench_fill && strcmp(s->bench_fill, "random"))
        rc = err_set(e, ERR_USAGE, "--fill random, not \"%.60s\"", s->bench_fill);
    if (rc == ERR_OK) rc = bench_open(&b, s, "pp/tg", e);
    if (rc == ERR_OK) rc = lines(&b, &pp, &tg, &depth, e);
    if (rc == ERR_OK) rc = bench_print(&b, NULL, e);
    return bench_close(&b, rc, e);
}
