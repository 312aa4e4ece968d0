/* How fast a model's layers and head are in one process, without coordinator and messages: prompts, one session's tokens, many
 * sessions' tokens. Wall time and CPU time of the thread that waits for no one else's turn: on a busy machine the second one
 * says what the first would be. Prints a table; checks nothing.
 *
 * Usage: bench_step FILE [THREADS [nopack]]; packed weights come from the cache (sluice model pack). */
#include "engine/forward.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PROMPT = 512, ROUNDS = 5, TOKENS = 16, MANY = 16, N_CTX = 4096 };

typedef struct {
    gguf *file;
    model *m;
    kv *store;
    pool *team;
    runner *run;
    float *h;
    forward_row *rows;
    kv_row *ids;
    uint32_t *slots, *picks;
    row_stats *stats;
} rig;

typedef struct { double wall, cpu; } span;

static double clock_of(clockid_t c)
{
    struct timespec t;
    clock_gettime(c, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static span now(void) { return (span){ clock_of(CLOCK_MONOTONIC), clock_of(CLOCK_THREAD_CPUTIME_ID) }; }

static void must(err_code rc, const err *e)
{
    if (!rc) return;
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static void open_rig(rig *r, const char *file, uint32_t threads, bool packed)
{
    err e;
    isa use;
    pack_options o = { .on = packed };
    must(gguf_open(&r->file, file, &e), &e);
    must(isa_pick(&use, &e), &e);
    model_shape s;
    must(model_shape_read(&s, r->file, &e), &e);
    pack_file *p = pack_open(r->file, &o, threads, NULL);
    double at = now().wall;
    must(model_open_packed(&r->m, r->file, p, (shard){ 0, s.L, true, true }, &e), &e);
    printf("%s, %u threads, %s weights%s, opened in %.0f ms\n", isa_name(use), threads, p ? "packed" : "file's",
           r->m->head.packed ? "" : " (head as in the file)", 1e3 * (now().wall - at));
    pack_close(&p);
    kv_geometry g = forward_kv(&s, 0, s.L);
    g.n_ctx = N_CTX;
    g.isa = use;
    must(kv_open(&r->store, &g, &e), &e);
    must(pool_open(&r->team, threads, NULL, NULL, &e), &e);
    must(runner_open(&r->run, r->m, r->store, r->team, use, PROMPT, &e), &e);
    r->h = calloc((size_t)PROMPT * s.D, sizeof *r->h);
    r->rows = calloc(PROMPT, sizeof *r->rows);
    r->ids = calloc(PROMPT, sizeof *r->ids);
    r->slots = calloc(PROMPT, sizeof *r->slots);
    r->picks = calloc(PROMPT, sizeof *r->picks);
    r->stats = calloc(RUNNER_HEAD_ROWS, sizeof *r->stats);
}

/* n more rows of a sequence to r->rows[at..]. */
static void add_rows(rig *r, kv_seq *q, uint32_t at, uint32_t n)
{
    err e;
    uint32_t have = kv_rows(q);
    for (uint32_t i = 0; i < n; i++)
        r->ids[i] = (kv_row){ .row = have + i, .pos = have + i, .parent = i ? have + i - 1 : KV_ROW_NONE };
    must(kv_reserve(q, r->ids, n, r->slots, &e), &e);
    for (uint32_t i = 0; i < n; i++) r->rows[at + i] = (forward_row){ .seq = q, .slot = r->slots[i], .path = PATH_I8B32 };
}

static void step(rig *r, uint32_t T, uint32_t heads)
{
    uint32_t tokens[PROMPT];
    for (uint32_t i = 0; i < T; i++) tokens[i] = (i * 7919 + 13) % r->m->shape.V;
    runner_embed(r->run, tokens, T, r->h);
    runner_layers(r->run, r->rows, T, r->h);
    for (uint32_t i = 0; i < heads; i++) r->picks[i] = T - heads + i;
    runner_head(r->run, r->h, r->picks, r->rows, heads, r->stats);
}

static void commit(kv_seq *q, uint32_t n)
{
    err e;
    must(kv_commit(q, kv_rows(q) + n - 1, &e), &e);
}

static void prompt(rig *r, kv_seq *q, uint32_t n, uint32_t chunk)
{
    for (uint32_t at = 0, k; at < n; at += k) {
        k = n - at < chunk ? n - at : chunk;
        add_rows(r, q, 0, k);
        step(r, k, at + k == n);
        commit(q, k);
    }
}

static kv_seq *fresh(rig *r, uint64_t id)
{
    err e;
    kv_seq *q;
    if (kv_seq_find(r->store, id)) kv_seq_close(r->store, id);
    must(kv_seq_open(r->store, id, &q, &e), &e);
    return q;
}

static void show(const char *what, double tokens, span best)
{
    printf("%-24s  %9.1f  %9.1f\n", what, tokens / best.wall, tokens / best.cpu);
    fflush(stdout);
}

static span least(span a, span from)
{
    span n = now(), d = { n.wall - from.wall, n.cpu - from.cpu };
    return (span){ d.wall < a.wall ? d.wall : a.wall, d.cpu < a.cpu ? d.cpu : a.cpu };
}

static void bench_prompt(rig *r, uint32_t depth, uint32_t chunk)
{
    span best = { 1e9, 1e9 };
    char what[40];
    for (int i = 0; i < ROUNDS; i++) {
        kv_seq *q = fresh(r, 1);
        if (depth) prompt(r, q, depth, PROMPT);
        span at = now();
        prompt(r, q, PROMPT, chunk);
        best = least(best, at);
        if (depth && i) break;
    }
    snprintf(what, sizeof what, "pp%d @%u, chunk %u", PROMPT, depth, chunk);
    show(what, PROMPT, best);
}

static void bench_tokens(rig *r, uint32_t sessions, uint32_t depth)
{
    span best = { 1e9, 1e9 };
    char what[40];
    kv_seq *q[MANY];
    for (uint32_t s = 0; s < sessions; s++) prompt(r, q[s] = fresh(r, 10 + s), depth, PROMPT);
    for (int i = 0; i < ROUNDS * TOKENS; i++) {
        span at = now();
        for (uint32_t s = 0; s < sessions; s++) add_rows(r, q[s], s, 1);
        step(r, sessions, sessions);
        for (uint32_t s = 0; s < sessions; s++) commit(q[s], 1);
        best = least(best, at);
    }
    for (uint32_t s = 0; s < sessions; s++) kv_seq_close(r->store, 10 + s);
    snprintf(what, sizeof what, "tg, %u sessions @%u", sessions, depth);
    show(what, sessions, best);
}

int main(int argc, char **argv)
{
    rig r;
    if (argc < 2) {
        puts("bench_step FILE [THREADS [nopack]]: no file given, nothing measured");
        return 0;
    }
    open_rig(&r, argv[1], argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1, argc < 4);
    printf("%-24s  %9s  %9s\n", "tokens a second", "wall", "CPU");
    bench_prompt(&r, 0, 64);
    bench_prompt(&r, 0, 512);
    bench_prompt(&r, 2048, 512);
    bench_tokens(&r, 1, 128);
    bench_tokens(&r, 1, 2048);
    bench_tokens(&r, 4, 128);
    bench_tokens(&r, MANY, 128);
    runner_close(&r.run);
    kv_close(&r.store);
    model_close(&r.m);
    pool_close(&r.team);
    gguf_close(&r.file);
    return 0;
}
