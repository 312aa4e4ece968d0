#include "coordinator/measure.h"
#include "ops/cli/cluster_ini.h"
#include "ops/cli/command.h"
#include "ops/cli/packing.h"
#include "ops/cli/paths.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* sluice plan: what the model's parts cost, how its layers are best split, and what a cluster that is not there would do.
 * Figures of a split or a simulation are predictions and are called so. */

#define MEASURE_SECONDS 0.1     /* for each number; a median of many short passes is steadier than one long one */

typedef struct {
    const settings *s;
    costs costs;
    cluster_spec spec;
    sim_cluster cluster;
    plan_seat seat[SIM_STAGES_MAX];
    plan_part part[SIM_STAGES_MAX];
    double layer[MODEL_MAX_LAYERS], slowest;
    uint32_t cpus, rows;
    json_t *stages, *fewer, *simulated;
} plan;

static uint32_t cpus_here(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
    return n > 0 ? (uint32_t)n : 1;
}

/* ---- costs -------------------------------------------------------------------------------------------------------------- */

/* A file of costs, or of a plan, which has them inside. */
static err_code read_costs(plan *p, const char *path, err *e)
{
    text in = { 0 };
    json_error_t je;
    err_code rc = text_read_file(&in, path, 1 << 24, e);
    json_t *o = rc ? NULL : json_loadb(in.ptr, in.len, 0, &je);
    if (!rc && !o) rc = err_set(e, ERR_CONFIG, "%s:%d: %s", path, je.line, je.text);
    const json_t *inside = json_object_get(o, "costs");
    if (!rc && (rc = costs_read(&p->costs, inside ? inside : o, e))) err_wrap(e, "%s", path);
    json_decref(o);
    text_free(&in);
    return rc;
}

static bool add_team(uint32_t *teams, uint32_t *n, uint32_t threads)
{
    for (uint32_t i = 0; i < *n; i++)
        if (teams[i] == threads) return true;
    if (*n == COSTS_TEAMS_MAX) return false;
    uint32_t i = (*n)++;
    for (; i && teams[i - 1] < threads; i--) teams[i] = teams[i - 1];
    teams[i] = threads;
    return true;
}

static uint32_t threads_for(const plan *p, uint32_t stages)
{
    uint32_t t = p->s->threads ? (uint32_t)p->s->threads : p->cpus / stages;
    return t ? t : 1;
}

static void draw(void *arg, uint64_t done, uint64_t total) { progress_set(arg, done, total); }

static err_code measure(plan *p, err *e)
{
    uint32_t teams[COSTS_TEAMS_MAX], n = 0;
    packing_before_start(p->s);
    progress bar = progress_open("measuring");
    for (uint32_t i = 0; i < p->spec.n; i++)
        if (p->spec.node[i].threads <= p->cpus) add_team(teams, &n, p->spec.node[i].threads);
    for (uint32_t k = 1; !p->s->nodes && !p->s->simulate && k <= p->s->stages; k++) add_team(teams, &n, threads_for(p, k));
    if (!n) add_team(teams, &n, p->cpus);
    measure_ask a = { .model = p->s->model, .pack = packing_options(p->s), .threads = teams, .n = n, .seconds = MEASURE_SECONDS, .draw = draw, .arg = &bar };
    err_code rc = measure_costs(&p->costs, &a, e);
    progress_close(&bar);
    return rc;
}

/* ---- splits --------------------------------------------------------------------------------------------------------------- */

/* One token alone through all of them: the others idle, so nobody shares. */
static double alone_us(const plan *p)
{
    const costs *k = &p->costs;
    double us = p->cluster.first_us + k->turn_us + k->turn_row_us;
    for (uint32_t i = 0; i < p->cluster.n; i++) {
        const sim_stage *g = &p->cluster.stage[i];
        const cost_team *t = cost_team_of(k, g->threads);
        double own = (p->part[i].embed ? k->embed_us : 0) + (p->part[i].head ? cost_at(k, &t->head, 1) : 0);
        for (uint32_t l = p->part[i].first; l < p->part[i].last; l++) own += k->weight[l] * cost_at(k, &t->layer, 1);
        us += own * t->threads / g->threads / g->speed + g->latency_us + g->mb_us * k->D * 4e-6;
    }
    return us;
}

static err_code split(plan *p, const cluster_spec *spec, bool all, err *e)
{
    plan_work w = cluster_spec_work(&p->costs, p->rows, p->layer);
    err_code rc = cluster_spec_stages(spec, &p->costs, p->rows, &p->cluster, p->seat, e);
    if (!rc) rc = plan_seats(&w, p->seat, p->cluster.n, all, p->part, &p->slowest, e);
    for (uint32_t i = 0; !rc && i < p->cluster.n; i++) p->cluster.stage[i].part = p->part[i];
    return rc;
}

static double full_rate(const plan *p) { return p->slowest > 0 ? p->rows * 1e6 / p->slowest : 0; }

static json_t *stages_json(const plan *p)
{
    json_t *out = json_array();
    const plan_work w = { .layer = p->layer, .hop = p->costs.hop_us };
    for (uint32_t i = 0; out && i < p->cluster.n; i++) {
        const plan_part *q = &p->part[i];
        double us = q->first == q->last ? 0 : w.hop;
        uint64_t bytes = (q->embed ? p->costs.embed_bytes : 0) + (q->head ? p->costs.head_bytes : 0);
        double sum = (q->embed ? p->costs.embed_us * p->rows : 0) + (q->head ? cost_at(&p->costs, &p->costs.team[0].head, p->rows) : 0);
        for (uint32_t l = q->first; l < q->last; l++) sum += w.layer[l], bytes += p->costs.layer_bytes[l];
        us += sum / p->seat[i].speed;
        json_array_append_new(out, json_pack("{s:I, s:I, s:I, s:I, s:b, s:b, s:f, s:f}", "stage", (json_int_t)i, "threads",
                                             (json_int_t)p->cluster.stage[i].threads, "first", (json_int_t)q->first, "last", (json_int_t)q->last,
                                             "embed", q->embed, "head", q->head, "ms", us * 1e-3, "MB", (double)bytes * 1e-6));
    }
    return out;
}

static json_t *choice_json(const plan *p)
{
    return json_pack("{s:I, s:I, s:f, s:f, s:f}", "stages", (json_int_t)p->cluster.n, "threads", (json_int_t)p->cluster.stage[0].threads,
                     "slowest ms", p->slowest * 1e-3, "1 session t/s", 1e6 / alone_us(p), "full t/s", full_rate(p));
}

/* This machine: every number of stages up to the one asked for; the last one is the plan. */
static err_code plan_here(plan *p, err *e)
{
    err_code rc = ERR_OK;
    uint32_t n = (uint32_t)p->s->stages;
    if (!n || n > p->costs.L) return err_set(e, ERR_CONFIG, "%u stages for a model of %u layers: want 1 to %u", n, p->costs.L, p->costs.L);
    for (uint32_t k = 1; !rc && k <= n; k++) {
        cluster_spec one;
        rc = cluster_spec_local(&one, k, threads_for(p, k), p->cpus, e);
        if (!rc) rc = split(p, &one, true, e);
        cluster_spec_free(&one);
        if (!rc) json_array_append_new(p->fewer, choice_json(p));
    }
    return rc;
}

/* Nodes of a file: seats may stay empty where that is faster. */
static err_code plan_nodes(plan *p, err *e)
{
    err_code rc = split(p, &p->spec, false, e);
    if (!rc) json_array_append_new(p->fewer, choice_json(p));
    return rc;
}

/* What is better than what was asked for, in words; NULL when nothing is. */
static bool advice(const plan *p, char *out, size_t cap)
{
    json_t *last = json_array_get(p->fewer, json_array_size(p->fewer) - 1), *o;
    double best = json_number_value(json_object_get(last, "full t/s"));
    uint32_t empty = 0;
    size_t i;
    *out = 0;
    for (uint32_t k = 0; k < p->cluster.n; k++) empty += p->part[k].first == p->part[k].last;
    if (empty) return snprintf(out, cap, "%u of %u stages stay empty: the pipeline is faster without them", empty, p->cluster.n) > 0;
    json_array_foreach(p->fewer, i, o) {
        double rate = json_number_value(json_object_get(o, "full t/s"));
        if (rate <= best || o == last) continue;
        best = rate;
        snprintf(out, cap, "fewer stages are faster: %lld would give %.1f tokens/s, %u give %.1f", (long long)json_integer_value(json_object_get(o, "stages")), rate,
                 p->cluster.n, json_number_value(json_object_get(last, "full t/s")));
    }
    return *out;
}

/* ---- simulation ------------------------------------------------------------------------------------------------------------- */

static json_t *ms_json(samples *s)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "mean", samples_mean(s), "median", samples_quantile(s, 0.5), "p90", samples_quantile(s, 0.9), "p99",
                     samples_quantile(s, 0.99));
}

static err_code simulate_it(plan *p, err *e)
{
    sim_result *r = calloc(1, sizeof *r);
    err_code rc = r ? simulate(&p->cluster, &p->spec.load, r, e) : err_set(e, ERR_NOMEM, "out of memory");
    json_t *busy = json_array();
    for (uint32_t i = 0; !rc && i < p->cluster.n; i++) json_array_append_new(busy, json_real(r->busy[i]));
    if (!rc)
        p->simulated = json_pack("{s:f, s:f, s:f, s:f, s:o, s:o, s:o, s:o, s:I}", "seconds", r->seconds, "req/s", r->req_s, "prompt t/s", r->prompt_s,
                                 "output t/s", r->gen_s, "TTFT ms", ms_json(&r->ttft), "ITL ms", ms_json(&r->itl), "TPOT ms", ms_json(&r->tpot), "busy",
                                 json_incref(busy), "steps", (json_int_t)r->steps);
    if (!rc && !p->simulated) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (r) simulate_free(r);
    free(r);
    json_decref(busy);
    return rc;
}

/* Seats that stay empty are no stages. */
static void drop_empty(plan *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->cluster.n; i++)
        if (p->part[i].first < p->part[i].last) p->cluster.stage[n++] = p->cluster.stage[i];
    p->cluster.n = n;
}

/* ---- output ------------------------------------------------------------------------------------------------------------------ */

static void print_simulated(const json_t *o)
{
    static const char *const times[] = { "TTFT ms", "TPOT ms", "ITL ms" };
    json_t *busy = json_object_get(o, "busy"), *v;
    double lo = 1, hi = 0, sum = 0;
    size_t i;
    json_array_foreach(busy, i, v) {
        double x = json_number_value(v);
        lo = x < lo ? x : lo;
        hi = x > hi ? x : hi;
        sum += x;
    }
    printf("\nsimulated (not measured): %.1f tokens/s, %.1f prompt tokens/s, %.2f requests/s in %.1f s\n", json_number_value(json_object_get(o, "output t/s")),
           json_number_value(json_object_get(o, "prompt t/s")), json_number_value(json_object_get(o, "req/s")), json_number_value(json_object_get(o, "seconds")));
    for (int k = 0; k < 3; k++) {
        const json_t *t = json_object_get(o, times[k]);
        printf("  %-8s mean %.1f  median %.1f  p90 %.1f  p99 %.1f\n", times[k], json_number_value(json_object_get(t, "mean")),
               json_number_value(json_object_get(t, "median")), json_number_value(json_object_get(t, "p90")), json_number_value(json_object_get(t, "p99")));
    }
    printf("  stages busy: mean %.0f %%, least %.0f %%, most %.0f %%\n", 100 * sum / (double)(json_array_size(busy) ? json_array_size(busy) : 1), 100 * lo, 100 * hi);
}

static void print_plan(const plan *p)
{
    json_t *o;
    size_t i;
    char words[200];
    const char *sep = p->rows == 1 ? "1 row" : "rows";
    printf("%s, %u layers; predictions from costs, steps of %u %s\n\n", p->costs.digest, p->costs.L, p->rows, p->rows == 1 ? "row" : sep);
    printf("| stages | threads | slowest ms | 1 session t/s | full t/s |\n|---:|---:|---:|---:|---:|\n");
    json_array_foreach(p->fewer, i, o)
        printf("| %lld | %lld | %.3f | %.2f | %.1f |\n", (long long)json_integer_value(json_object_get(o, "stages")),
               (long long)json_integer_value(json_object_get(o, "threads")), json_number_value(json_object_get(o, "slowest ms")),
               json_number_value(json_object_get(o, "1 session t/s")), json_number_value(json_object_get(o, "full t/s")));
    printf("\n| stage | layers | ms | MB |\n|---:|---|---:|---:|\n");
    json_array_foreach(p->stages, i, o) {
        if (i == 40) return (void)printf("| ... | %zu more | | |\n", json_array_size(p->stages) - 40);
        long long first = json_integer_value(json_object_get(o, "first")), last = json_integer_value(json_object_get(o, "last"));
        printf("| %zu | %s%lld-%lld%s | %.3f | %.1f |\n", i, json_is_true(json_object_get(o, "embed")) ? "embed " : "", first, last,
               json_is_true(json_object_get(o, "head")) ? " head" : "", json_number_value(json_object_get(o, "ms")), json_number_value(json_object_get(o, "MB")));
    }
    if (advice(p, words, sizeof words)) printf("\n%s\n", words);
}

static json_t *plan_json(const plan *p)
{
    char words[200];
    advice(p, words, sizeof words);
    return json_pack("{s:s, s:s, s:I, s:O, s:O, s:s*, s:O*, s:o}", "schema", "sluice.plan/1", "digest", p->costs.digest, "rows", (json_int_t)p->rows,
                     "stages", p->stages, "choices", p->fewer, "advice", *words ? words : NULL, "simulated", p->simulated, "costs", costs_json(&p->costs));
}

static err_code write_out(const plan *p, err *e)
{
    json_t *o = plan_json(p);
    err_code rc = o ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc && p->s->out && json_dump_file(o, p->s->out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)))
        rc = err_set(e, ERR_IO, "%s: %s", p->s->out, strerror(errno));
    if (!rc && p->s->json) return show_json(o, e);
    json_decref(o);
    if (rc) return rc;
    print_plan(p);
    if (p->simulated) print_simulated(p->simulated);
    return show_write("", 0, e);
}

static err_code open_spec(plan *p, err *e)
{
    const char *file = p->s->simulate ? p->s->simulate : p->s->nodes;
    if (p->s->args.n) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", p->s->args.at[0]);
    if (p->s->simulate && p->s->nodes) return err_set(e, ERR_USAGE, "--simulate and --nodes are two ways to say which nodes: choose one");
    if (file) return cluster_spec_read(&p->spec, file, e);
    return cluster_spec_local(&p->spec, (uint32_t)(p->s->stages ? p->s->stages : 1), threads_for(p, (uint32_t)(p->s->stages ? p->s->stages : 1)), p->cpus, e);
}

/* Steps of the full pipeline: as many rows as each of the places in flight gets of the clients. */
static uint32_t rows_of(const plan *p)
{
    uint32_t n = 0;
    if (p->s->plan_rows) return (uint32_t)p->s->plan_rows;
    for (uint32_t i = 0; i < p->spec.n; i++) n += p->spec.node[i].count * p->spec.node[i].stages;
    return !p->s->simulate || p->spec.load.rate > 0 || p->spec.load.clients < 2 * n ? 1 : p->spec.load.clients / n;
}

static err_code run(plan *p, settings *s, err *e)
{
    err_code rc = open_spec(p, e);
    if (!rc && s->costs) rc = read_costs(p, s->costs, e);
    else if (!rc && !(rc = path_default_model(s, e))) rc = measure(p, e);
    p->rows = rows_of(p);
    if (!rc) rc = s->nodes ? plan_nodes(p, e) : s->simulate ? split(p, &p->spec, true, e) : plan_here(p, e);
    if (!rc && s->simulate) json_array_append_new(p->fewer, choice_json(p));
    if (!rc && !(p->stages = stages_json(p))) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (!rc && s->simulate) {
        drop_empty(p);
        rc = simulate_it(p, e);
    }
    return rc ? rc : write_out(p, e);
}

err_code cmd_plan(settings *s, err *e)
{
    plan *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory");
    p->s = s;
    p->cpus = cpus_here();
    p->fewer = json_array();
    err_code rc = run(p, s, e);
    cluster_spec_free(&p->spec);
    json_decref(p->fewer);
    json_decref(p->stages);
    json_decref(p->simulated);
    free(p);
    return rc;
}
