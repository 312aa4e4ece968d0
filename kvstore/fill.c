/* Random rows for measurements. Owns their numbers; refuses to pass for rows of a model. */
#include "core/rng.h"
#include "kvstore/lossy.h"
#include <stdlib.h>

enum { TOGETHER = 64 };        /* rows of one reservation */

/* n floats from `at` on of the stream: four of 16 bits a draw, uniform in [-sqrt 3, sqrt 3). */
static void draw(uint64_t seed, uint64_t at, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t word = rng_u64(seed, at + i / 4);
        out[i] = (float)(int16_t)(uint16_t)(word >> (i % 4 * 16)) * (1.7320508f / 32768);
    }
}

static void fill_row(kv_seq *q, uint32_t slot, uint64_t seed, float *k, float *v)
{
    const kv *s = q->store;
    uint32_t width = s->g.K * s->g.d, L = kv_model_layers(s);
    uint64_t words = (width + 3) / 4;
    for (uint32_t l = s->g.first; l < s->g.last; l++) {
        uint64_t at = ((uint64_t)slot * L + l) * 2 * words;
        if (!kv_has_row(q, l, slot)) continue;
        draw(seed, at, k, width);
        draw(seed, at + words, v, width);
        kv_append(q, l, slot, k, v, 0, s->g.K);
    }
}

static err_code fill_some(kv_seq *q, uint32_t from, uint32_t n, uint64_t seed, float *k, float *v, err *e)
{
    kv_row rows[TOGETHER] = { 0 };
    uint32_t slots[TOGETHER];
    for (uint32_t i = 0; i < n; i++) rows[i] = (kv_row){ .row = from + i, .pos = from + i, .parent = i ? from + i - 1 : KV_ROW_NONE };
    err_code rc = kv_reserve(q, rows, n, slots, e);
    for (uint32_t i = 0; rc == ERR_OK && i < n; i++) fill_row(q, slots[i], seed, k, v);
    return rc == ERR_OK ? kv_commit(q, from + n - 1, e) : rc;
}

err_code kv_fill(kv_seq *q, uint32_t n, uint64_t seed, err *e)
{
    size_t width = (size_t)q->store->g.K * q->store->g.d;
    if (q->cells.used || n >= kv_boundary(q))
        return err_set(e, ERR_STATE, "%u random rows: the sequence holds %u and settles at %u", n, q->cells.used, kv_boundary(q));
    float *x = malloc(2 * width * sizeof *x);
    err_code rc = x ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for random rows");
    for (uint32_t at = 0, m; rc == ERR_OK && at < n; at += m) {
        m = n - at < TOGETHER ? n - at : TOGETHER;
        rc = fill_some(q, at, m, seed, x, x + width, e);
    }
    free(x);
    return rc;
}
