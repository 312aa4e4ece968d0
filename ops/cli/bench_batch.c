#include "core/clock.h"
#include "ops/cli/bench.h"
#include <stdlib.h>

/* sluice bench batch: B sessions at once, in the columns of llama-batched-bench. The two phases are measured apart: prompts
 * of jobs that want one token, then the rate of B sessions while all of them generate. */

typedef struct { uint32_t pp, tg, B; double t_pp, s_tg; } batch_line;

static double seconds(uint64_t from, uint64_t to) { return (double)(to - from) * 1e-9; }

static err_code submit_all(bench *b, const batch_line *l, uint32_t n_gen, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0; rc == ERR_OK && i < l->B; i++) rc = load_submit(&b->load, l->pp, n_gen, e);
    return rc;
}

static err_code prompts(bench *b, batch_line *l, err *e)
{
    uint64_t start = clock_ns(), last = start;
    err_code rc = submit_all(b, l, 1, e);
    if (rc == ERR_OK) rc = load_drain(&b->load, e);
    for (uint32_t i = 0; i < b->load.n; i++)
        if (b->load.job[i].t_first > last) last = b->load.job[i].t_first;
    l->t_pp = seconds(start, last);
    load_forget(&b->load);
    return rc;
}

/* A shorter one says little: while we wait for a cpu, tokens gather and arrive all at once. */
#define WINDOW_NS 500000000u

/* The window: from the first token of the last session on, until each has had tg more and the least time has passed. All are
 * live throughout. */
typedef struct { uint32_t started, ready; uint64_t from, to, tokens; uint32_t *at; bool ended; } window;

static bool is_enough(const window *w, const batch_line *l)
{
    return w->ready == l->B && (w->ended || w->to - w->from >= WINDOW_NS);
}

static void window_take(window *w, const batch_line *l, const load_job *j, const load_event *ev, const load *all)
{
    if (ev->tokens && j->got == ev->tokens) w->started++;
    if (w->started == l->B && !w->from) {
        w->from = ev->t;
        for (uint32_t i = 0; i < l->B; i++) w->at[i] = all->job[i].got;
        return;
    }
    if (!w->from || !ev->tokens) return;
    w->tokens += ev->tokens;
    uint32_t had = j->got - ev->tokens - w->at[ev->index], has = j->got - w->at[ev->index];
    if (had < l->tg && has >= l->tg) w->ready++;
    w->to = ev->t;
}

static err_code generate(bench *b, batch_line *l, uint32_t most, err *e)
{
    window w = { .at = calloc(l->B, sizeof *w.at) };
    load_event ev;
    err_code rc = w.at ? submit_all(b, l, most, e) : err_set(e, ERR_NOMEM, "out of memory");
    while (rc == ERR_OK && !is_enough(&w, l)) {
        rc = load_next(&b->load, -1, &ev, e);
        if (rc != ERR_OK) break;
        const load_job *j = &b->load.job[ev.index];
        if (ev.over && j->fail.code) rc = (*e = j->fail, j->fail.code);
        else if (ev.over && w.ready == l->B) w.ended = true;
        else if (ev.over) rc = err_set(e, ERR_INPUT, "a session ended before all had generated %u tokens: the context is too small (--ctx)", l->tg);
        window_take(&w, l, j, &ev, &b->load);
    }
    l->s_tg = w.to > w.from ? (double)w.tokens / seconds(w.from, w.to) : 0;
    for (uint32_t i = 0; rc == ERR_OK && i < b->load.n; i++) rc = load_cancel(&b->load, i, e);
    if (rc == ERR_OK) rc = load_drain(&b->load, e);
    load_forget(&b->load);
    free(w.at);
    return rc;
}

static err_code line(bench *b, batch_line *l, err *e)
{
    uint64_t most = b->v.n_ctx > l->pp ? b->v.n_ctx - l->pp : 0;
    err_code rc = bench_fits(b, (uint64_t)l->pp + l->tg + 1, e);
    if (rc == ERR_OK) rc = prompts(b, l, e);
    if (rc == ERR_OK && l->tg) rc = generate(b, l, (uint32_t)most, e);
    if (rc != ERR_OK) return rc;
    double n_pp = (double)l->pp * l->B, n_tg = (double)l->tg * l->B, t_tg = l->s_tg > 0 ? n_tg / l->s_tg : 0;
    return bench_row(b, json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "PP", (json_int_t)l->pp, "TG", (json_int_t)l->tg,
                                  "B", (json_int_t)l->B, "N_KV", (json_int_t)((l->pp + l->tg) * (uint64_t)l->B), "T_PP s", l->t_pp,
                                  "S_PP t/s", n_pp / l->t_pp, "T_TG s", t_tg, "S_TG t/s", l->s_tg, "T s", l->t_pp + t_tg, "S t/s",
                                  (n_pp + n_tg) / (l->t_pp + t_tg)), e);
}

static err_code lines(bench *b, const bench_list *pp, const bench_list *tg, const bench_list *B, err *e)
{
    batch_line warm = { 16, 0, 1, 0, 0 };
    err_code rc = b->s->bench_cold ? ERR_OK : prompts(b, &warm, e);
    b->steps = pp->n * tg->n * B->n;
    progress_set(&b->bar, 0, b->steps);
    for (size_t i = 0; i < pp->n; i++)
        for (size_t j = 0; j < tg->n; j++)
            for (size_t k = 0; rc == ERR_OK && k < B->n; k++) {
                batch_line l = { pp->at[i] ? pp->at[i] : 1, tg->at[j], B->at[k] ? B->at[k] : 1, 0, 0 };
                rc = line(b, &l, e);
                bench_step(b);
            }
    return rc;
}

/* More sessions than the cluster runs at once would wait for each other for ever. */
static void raise_sessions(settings *s, const bench_list *B)
{
    for (size_t i = 0; i < B->n; i++)
        if (s->max_sessions < B->at[i]) s->max_sessions = B->at[i];
}

err_code bench_batch(settings *s, err *e)
{
    bench b = { 0 };
    bench_list pp, tg, B;
    err_code rc = bench_list_read(&pp, s->bench_prompt, "128", "-p", e);
    if (rc == ERR_OK) rc = bench_list_read(&tg, s->bench_gen, "128", "-n", e);
    if (rc == ERR_OK) rc = bench_list_read(&B, s->bench_batch, "1,2,4,8,16", "-b", e);
    if (rc == ERR_OK) raise_sessions(s, &B);
    if (rc == ERR_OK) rc = bench_open(&b, s, "batch", e);
    if (rc == ERR_OK) rc = lines(&b, &pp, &tg, &B, e);
    if (rc == ERR_OK) rc = bench_print(&b, NULL, e);
    return bench_close(&b, rc, e);
}
