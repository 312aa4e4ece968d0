/* Decode speed of llama.cpp behind a long context that it has not computed: ops/bench/compare.py --only depth builds it against the
 * peer's own headers and libraries. 512 random tokens are computed once; their rows, over and over, become a context of any depth by
 * way of the peer's saved states. The rows' values do not change what attention costs. Refuses to know anything of ours. */
#define _POSIX_C_SOURCE 200809L
#include "llama.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SEED_ROWS = 512 };

static void die(const char *what)
{
    fprintf(stderr, "peer_depth: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

typedef struct { uint8_t *at; size_t n; } bytes;
typedef struct { const bytes *from; size_t read; uint8_t *to; } copy;

static void put(copy *c, const void *x, size_t n)
{
    memcpy(c->to, x, n);
    c->to += n;
}

static void take(copy *c, void *x, size_t n)
{
    if (c->from->n - c->read < n) die("the saved state is not laid out as expected");
    memcpy(x, c->from->at + c->read, n);
    c->read += n;
}

static void same(copy *c, size_t n)
{
    uint8_t x[64];
    take(c, x, n);
    put(c, x, n);
}

/* One side of one layer: type (4), bytes of a row (8), rows. */
static void layer_rows(copy *c, uint32_t had, uint32_t depth)
{
    uint64_t row;
    same(c, 4);
    take(c, &row, sizeof row);
    put(c, &row, sizeof row);
    if (row > (c->from->n - c->read) / had) die("the saved state is not laid out as expected");
    for (uint32_t i = 0; i < depth; i++) put(c, c->from->at + c->read + i % had * row, row);
    c->read += had * row;
}

/* A saved sequence: cells (4); a position (4) and a count of sequences (4) each; transposed V (4), layers (4), K of all, V of all. */
static bytes deepened(const bytes *s, uint32_t depth)
{
    uint32_t had, v_trans, layers, zero = 0;
    bytes out = { malloc(s->n * (depth / SEED_ROWS + 2)), 0 };
    copy c = { s, 0, out.at };
    if (!out.at) die("out of memory");
    take(&c, &had, 4);
    put(&c, &depth, 4);
    if (!had) die("the saved state is empty");
    c.read += 8 * (size_t)had;
    for (uint32_t i = 0; i < depth; i++) {
        put(&c, &i, 4);
        put(&c, &zero, 4);
    }
    take(&c, &v_trans, 4);
    take(&c, &layers, 4);
    put(&c, &v_trans, 4);
    put(&c, &layers, 4);
    if (v_trans) die("values are transposed: flash attention is off");
    for (uint32_t i = 0; i < 2 * layers; i++) layer_rows(&c, had, depth);
    out.n = (size_t)(c.to - out.at);
    return out;
}

static void decode(struct llama_context *ctx, llama_token *id, int32_t n)
{
    if (llama_decode(ctx, llama_batch_get_one(id, n))) die("decoding failed");
    llama_synchronize(ctx);
}

/* Tokens a second of n tokens behind `depth` rows. */
static double measure(struct llama_context *ctx, const bytes *seed, uint32_t depth, int n)
{
    llama_token id = 1;
    bytes deep = deepened(seed, depth);
    llama_kv_cache_clear(ctx);
    if (!llama_state_seq_set_data(ctx, deep.at, deep.n, 0)) die("the deeper state was refused");
    free(deep.at);
    decode(ctx, &id, 1);
    double t = now();
    for (int i = 0; i < n; i++) decode(ctx, &id, 1);
    return n / (now() - t);
}

static enum ggml_type type_of(const char *name)
{
    const enum ggml_type all[] = { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, ggml_type_name(all[i]))) return all[i];
    die("KV type: f16, q8_0 or q4_0");
    return GGML_TYPE_F16;
}

static struct llama_context *open_model(char **a, uint32_t rows)
{
    struct llama_model_params mp = llama_model_default_params();
    struct llama_model *m = llama_model_load_from_file(a[1], mp);
    if (!m) die("the model cannot be loaded");
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = rows;
    cp.n_threads = cp.n_threads_batch = atoi(a[3]);
    cp.type_k = cp.type_v = type_of(a[2]);
    cp.flash_attn = true;
    cp.no_perf = true;
    struct llama_context *ctx = llama_init_from_model(m, cp);
    if (!ctx) die("no context");
    return ctx;
}

int main(int argc, char **a)
{
    llama_token id[SEED_ROWS];
    uint32_t most = 0;
    if (argc < 6) die("usage: peer_depth MODEL f16|q8_0|q4_0 THREADS TOKENS DEPTH...");
    int n = atoi(a[4]);
    for (int i = 5; i < argc; i++) most = (uint32_t)atoi(a[i]) > most ? (uint32_t)atoi(a[i]) : most;
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_context *ctx = open_model(a, (most + (uint32_t)n + 1 + 255) / 256 * 256);
    srand(1);
    for (int i = 0; i < SEED_ROWS; i++) id[i] = rand() % 30000 + 3;
    decode(ctx, id, SEED_ROWS);
    bytes seed = { NULL, llama_state_seq_get_size(ctx, 0) };
    seed.at = malloc(seed.n);
    if (!seed.at || !llama_state_seq_get_data(ctx, seed.at, seed.n, 0)) die("the state cannot be saved");
    for (int i = 5; i < argc; i++) printf("%s %.3f\n", a[i], measure(ctx, &seed, (uint32_t)atoi(a[i]), n));
    return 0;
}
