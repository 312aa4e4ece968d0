#ifndef TESTS_UNIT_KV_WORLD_H
#define TESTS_UNIT_KV_WORLD_H
/* The small world of the KV tests: tokens whose q, k and v are a function of the token, and lines of them through the door.
 * A row's row index and position are equal unless a test says otherwise. Refuses to look behind the door. */
#include "core/rng.h"
#include "kvstore/kv.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 320, FIRST = 3, LAST = 6, LAYERS = LAST - FIRST };

typedef struct { uint64_t seed, i; } dice;
static inline uint32_t roll(dice *d, uint32_t n) { return (uint32_t)(rng_u64(d->seed, d->i++) % n); }

static inline uint64_t test_seed(void)
{
    const char *s = getenv("SLUICE_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 0) : 20240611;
    fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- a small world: what a token's q, k and v are in a layer is a function of the token ---- */

static inline kv_geometry geometry(uint32_t H, uint32_t K, uint32_t d, kv_format f)
{
    kv_geometry g = { .first = FIRST, .last = LAST, .H = H, .K = K, .d = d, .format = f, .n_ctx = CTX, .isa = ISA_PLAIN };
    g.rope = (rope_config){ .n_rot = d, .base = 10000, .factor = 1 };
    return g;
}

static inline kv *open_store(const kv_geometry *g)
{
    err e = { 0 };
    kv *s;
    cr_assert_eq(kv_open(&s, g, &e), ERR_OK, "%s", e.text);
    return s;
}

static inline kv_seq *open_seq(kv *s, uint64_t id)
{
    err e = { 0 };
    kv_seq *q;
    cr_assert_eq(kv_seq_open(s, id, &q, &e), ERR_OK, "%s", e.text);
    return q;
}

static inline void fill(float *x, uint32_t n, uint32_t token, uint32_t layer, uint32_t what)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)(rng_unit(token, ((uint64_t)layer << 32) + what * 100000 + i) * 4 - 2);
}

static inline uint32_t width(const kv_geometry *g) { return g->H * g->d; }
static inline size_t out_floats(const kv_geometry *g) { return (size_t)LAYERS * width(g); }

static inline float *scratch_of(const kv *s)
{
    float *x = malloc(kv_scratch_floats(s) * sizeof *x);    /* just as large, so that ASan sees one float more */
    cr_assert(x);
    return x;
}

static inline void append_rows(const kv_geometry *g, kv_seq *q, uint32_t layer, const uint32_t *slots, const uint32_t *tokens, uint32_t n)
{
    float *k = malloc(2 * g->K * g->d * sizeof *k);
    for (uint32_t i = 0; i < n; i++) {
        fill(k, g->K * g->d, tokens[i], layer, 1);
        fill(k + g->K * g->d, g->K * g->d, tokens[i], layer, 2);
        kv_append(q, layer, slots[i], k, k + g->K * g->d, 0, g->K);
    }
    free(k);
}

/* Append, then attend, every row in every layer: what a runner does in a step. together: the rows are a line, and attend as one.
 * out [n][LAYERS][H*d], NULL: append only. */
static inline void compute(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *slots, const uint32_t *tokens, uint32_t n,
                           bool together, float *out)
{
    float *x = scratch_of(s), *query = malloc(n * width(g) * sizeof *query);
    for (uint32_t l = FIRST; l < LAST; l++) {
        append_rows(g, q, l, slots, tokens, n);
        for (uint32_t i = 0; out && i < n; i++) fill(query + i * width(g), width(g), tokens[i], l, 3);
        float *to = out ? out + (l - FIRST) * width(g) : NULL;
        if (together && out) kv_attend_rows(q, l, slots[0], n, query, width(g), to, out_floats(g), 0, g->K, x);
        for (uint32_t i = 0; out && !together && i < n; i++)
            kv_attend(q, l, slots[i], query + i * width(g), to + i * out_floats(g), 0, g->K, x);
    }
    free(x);
    free(query);
}

static inline void step_rows(kv *s, const kv_geometry *g, kv_seq *q, const kv_row *rows, const uint32_t *tokens, uint32_t n,
                             bool together, float *out)
{
    uint32_t slots[CTX];
    err e = { 0 };
    cr_assert_eq(kv_reserve(q, rows, n, slots, &e), ERR_OK, "%s", e.text);
    compute(s, g, q, slots, tokens, n, together, out);
}

/* A line of n tokens after what q has, row = position, in chunks; committed. */
static inline void line(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *tokens, uint32_t n, uint32_t chunk, float *out)
{
    err e = { 0 };
    for (uint32_t i = 0, m; i < n; i += m) {
        kv_row rows[CTX];
        m = n - i < chunk ? n - i : chunk;
        uint32_t at = kv_rows(q);
        for (uint32_t j = 0; j < m; j++) rows[j] = (kv_row){ at + j, at + j, at + j ? at + j - 1 : KV_ROW_NONE, 0, 0, 0 };
        step_rows(s, g, q, rows, tokens + i, m, true, out ? out + i * out_floats(g) : NULL);
        cr_assert_eq(kv_commit(q, at + m - 1, &e), ERR_OK, "%s", e.text);
    }
}

static inline void pick_tokens(uint32_t *t, uint32_t n, uint32_t from)
{
    for (uint32_t i = 0; i < n; i++) t[i] = from + i;
}

static inline bool same(const float *a, const float *b, size_t n) { return !memcmp(a, b, n * sizeof *a); }

static inline float *new_out(const kv_geometry *g, uint32_t n)
{
    float *x = calloc(n * out_floats(g), sizeof *x);
    cr_assert(x);
    return x;
}

/* The outputs of `tokens` in a fresh store, one step a token. */
static inline float *singles(const kv_geometry *g, const uint32_t *tokens, uint32_t n)
{
    kv *s = open_store(g);
    float *out = new_out(g, n);
    line(s, g, open_seq(s, 1), tokens, n, 1, out);
    kv_close(&s);
    return out;
}

/* q continues like the line `tokens`, of which it has committed kv_rows() already. */
static inline void check_continues(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *tokens, uint32_t n, const char *why)
{
    uint32_t have = kv_rows(q);
    float *want = singles(g, tokens, n), *got = new_out(g, n);
    line(s, g, q, tokens + have, n - have, 7, got);
    cr_assert(same(got, want + have * out_floats(g), (n - have) * out_floats(g)), "%s", why);
    free(want);
    free(got);
}
#endif
