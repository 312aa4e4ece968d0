/* kvstore/attend_tile.h through the door: rows together have the bits of rows alone, on every ISA, and those of the walk over
 * the runs of a tree. */
#include "kvstore/format.h"
#include "kvstore/kv.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint32_t H, K, d, rows, window; kv_format format; float soft_cap; } shape;

/* Values depend on the row only, so that two stores with other slots hold the same. */
static void fill(float *x, size_t n, uint64_t salt)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)support_draw(support_seed() + salt, i, 2001) / 500.0f - 2.0f;
}

static kv *store_of(const shape *s, isa use)
{
    kv *out;
    err e;
    kv_geometry g = { .first = 0, .last = 2, .H = s->H, .K = s->K, .d = s->d, .format = s->format, .n_ctx = s->rows + 8, .isa = use,
                      .rope = { .n_rot = s->d / 2 * 2, .base = 10000, .factor = 1 } };
    g.look = (kv_look){ .window = s->window, .global_every = 2, .soft_cap = s->soft_cap };
    cr_assert_eq(kv_open(&out, &g, &e), ERR_OK, "%s", e.text);
    return out;
}

static void append(kv_seq *q, const shape *s, uint32_t slot, uint32_t value)
{
    float *k = malloc(2 * s->K * s->d * sizeof *k);
    fill(k, 2 * s->K * s->d, 1 + value);
    for (uint32_t l = 0; l < 2; l++) kv_append(q, l, slot, k, k + s->K * s->d, 0, s->K);
    free(k);
}

/* n rows, row i the child of i - 1, the first `settled` committed. */
static kv_seq *line_of(kv *st, const shape *s, uint32_t settled)
{
    kv_seq *q;
    err e;
    kv_row *rows = calloc(s->rows, sizeof *rows);
    uint32_t *slots = calloc(s->rows, sizeof *slots);
    cr_assert_eq(kv_seq_open(st, 1, &q, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < s->rows; i++) rows[i] = (kv_row){ .row = i, .pos = i, .parent = i ? i - 1 : KV_ROW_NONE };
    for (uint32_t at = 0; at < s->rows;) {
        uint32_t n = at < settled ? settled - at : s->rows - at;
        if (at) rows[at].parent = KV_ROW_NONE;
        cr_assert_eq(kv_reserve(q, rows + at, n, slots, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < n; i++) append(q, s, slots[i], at + i);
        at += n;
        if (at <= settled) cr_assert_eq(kv_commit(q, at - 1, &e), ERR_OK, "%s", e.text);
    }
    free(rows);
    free(slots);
    return q;
}

/* Out of all rows, n at a time. */
static float *attend_all(const shape *s, isa use, uint32_t settled, uint32_t n, uint32_t layer)
{
    kv *st = store_of(s, use);
    kv_seq *q = line_of(st, s, settled);
    size_t wide = (size_t)s->H * s->d;
    float *query = malloc(s->rows * wide * sizeof *query), *out = calloc(s->rows, wide * sizeof *out);
    float *scratch = malloc(kv_scratch_floats(st) * sizeof *scratch);
    fill(query, s->rows * wide, 77);
    for (uint32_t at = settled; at < s->rows; at += n) {
        uint32_t m = s->rows - at < n ? s->rows - at : n;
        kv_attend_rows(q, layer, at, m, query + at * wide, wide, out + at * wide, wide, 0, s->K, scratch);
    }
    free(query);
    free(scratch);
    kv_close(&st);
    return out;
}

static void check_shape(const shape *s)
{
    uint32_t settled = s->rows / 3;
    for (uint32_t layer = 0; layer < 2; layer++) {
        float *want = attend_all(s, ISA_PLAIN, settled, 1, layer);
        for (isa i = 0; i < ISA_COUNT; i++)
            for (uint32_t n = 1; isa_supported() >> i & 1 && n < 80; n = n * 3 + 2) {
                float *got = attend_all(s, i, settled, n, layer);
                char what[120];
                snprintf(what, sizeof what, "%s, %u rows at a time, %u/%u heads of %u, %u rows, window %u, layer %u", isa_name(i), n,
                         s->H, s->K, s->d, s->rows, s->window, layer);
                size_t all = (size_t)s->rows * s->H * s->d;
                cr_assert(support_same(got, want, all, what));
                free(got);
            }
        free(want);
    }
}

Test(attend, rows_together_have_the_bits_of_rows_alone)
{
    static const shape shapes[] = {
        { 8, 2, 64, 75, 0, KV_F16, 0 },   { 4, 4, 32, 100, 0, KV_F16, 0 },  { 6, 2, 16, 70, 0, KV_F32, 0 },
        { 32, 4, 64, 40, 0, KV_F16, 0 },  { 2, 1, 128, 67, 9, KV_F16, 0 },  { 5, 1, 80, 50, 33, KV_F32, 5 },
        { 8, 4, 8, 66, 0, KV_F16, 0 },    { 4, 2, 24, 97, 40, KV_F16, 3 },  { 3, 3, 48, 35, 1, KV_F16, 0 },
        { 7, 7, 112, 33, 0, KV_F32, 0 },  { 1, 1, 256, 65, 0, KV_F16, 0 },
    };
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i]);
}

/* A row whose line does not lie in one piece goes another way; a line of the same rows must give the same. */
Test(attend, a_branch_has_the_bits_of_a_line)
{
    shape s = { 8, 2, 64, 50, 0, KV_F16, 0 };
    size_t wide = (size_t)s.H * s.d;
    for (isa use = 0; use < ISA_COUNT; use++) {
        if (!(isa_supported() >> use & 1)) continue;
        kv *st = store_of(&s, use), *other = store_of(&s, use);
        kv_seq *line = line_of(st, &s, 48), *tree;
        shape first = s;
        first.rows = 48;
        tree = line_of(other, &first, 48);
        const kv_row rows[] = { { .row = 48, .pos = 48, .parent = 47 }, { .row = 49, .pos = 48, .parent = 47 },
                                { .row = 50, .pos = 49, .parent = 49 } };
        uint32_t slots[3];
        err e;
        cr_assert_eq(kv_reserve(tree, rows, 3, slots, &e), ERR_OK, "%s", e.text);
        append(tree, &s, slots[0], 999);
        append(tree, &s, slots[1], 48);
        append(tree, &s, slots[2], 49);
        float *query = malloc(wide * sizeof *query), *scratch = malloc(kv_scratch_floats(st) * sizeof *scratch);
        float *a = malloc(wide * sizeof *a), *b = malloc(wide * sizeof *b);
        fill(query, wide, 5);
        for (uint32_t layer = 0; layer < 2; layer++) {
            kv_attend(line, layer, 49, query, a, 0, s.K, scratch);
            kv_attend(tree, layer, slots[2], query, b, 0, s.K, scratch);
            cr_assert(support_same(b, a, wide, isa_name(use)));
        }
        free(query);
        free(scratch);
        free(a);
        free(b);
        kv_close(&st);
        kv_close(&other);
    }
}
