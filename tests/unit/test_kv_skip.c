/* Layers that a sequence leaves out take no page, come back to no row that was there before, and change nothing for the others. */
#include "kvstore/kv.h"
#include "kvstore/preset.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(kv_skip, .timeout = 60);

enum { LAYERS = 4, H = 4, K = 2, D = 16, N_CTX = 512 };
#define NONE UINT32_MAX

static kv *store_open(void)
{
    kv *s;
    err e = { 0 };
    kv_geometry g = { .first = 2, .last = 2 + LAYERS, .H = H, .K = K, .d = D, .format = KV_F32, .n_ctx = N_CTX, .n_layers = 8, .isa = ISA_PLAIN,
                      .prefix_bytes = 1 << 20, .rope = { .n_rot = D, .base = 10000 } };
    cr_assert_eq(kv_open(&s, &g, &e), ERR_OK, "%s", e.text);
    return s;
}

static kv_seq *seq_open(kv *s, uint64_t id, const char *policy, uint32_t n_prompt, const uint32_t from[8])
{
    kv_seq *q;
    err e = { 0 };
    kv_policy p = kv_policy_identity();
    if (policy) cr_assert_eq(kv_policy_parse(&p, policy, strlen(policy), "test", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_seq_open_skipping(s, id, &p, n_prompt, from, &q, &e), ERR_OK, "%s", e.text);
    return q;
}

static float value(uint32_t layer, uint32_t row, uint32_t i) { return (float)support_draw(77, layer * 100000 + row * 100 + i, 2000) / 1000 - 1; }

/* Row `row`, committed: appended where it has a place. */
static err_code add_row(kv_seq *q, uint32_t row, const uint32_t from[8], err *e)
{
    float k[K * D], v[K * D];
    uint32_t slot;
    kv_row r = { .row = row, .pos = row, .parent = KV_ROW_NONE };
    err_code rc = kv_reserve(q, &r, 1, &slot, e);
    for (uint32_t l = 2; !rc && l < 2 + LAYERS; l++) {
        for (uint32_t i = 0; i < K * D; i++) k[i] = value(l, row, i), v[i] = value(l, row, 50 + i);
        if (!from || row < from[l]) kv_append(q, l, slot, k, v, 0, K);
    }
    return rc ? rc : kv_commit(q, row, e);
}

static void add_rows(kv_seq *q, uint32_t first, uint32_t last, const uint32_t from[8])
{
    err e = { 0 };
    for (uint32_t r = first; r < last; r++) cr_assert_eq(add_row(q, r, from, &e), ERR_OK, "row %u: %s", r, e.text);
}

/* What a new row's attention gives in a layer. */
static void look(kv *s, kv_seq *q, uint32_t layer, uint32_t row, float out[H * D])
{
    err e = { 0 };
    uint32_t slot;
    float x[H * D], k[K * D];
    kv_row r = { .row = row, .pos = row, .parent = KV_ROW_NONE };
    float *scratch = malloc(kv_scratch_floats(s) * sizeof *scratch);
    cr_assert_eq(kv_reserve(q, &r, 1, &slot, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < H * D; i++) x[i] = value(99, row, i);
    for (uint32_t i = 0; i < K * D; i++) k[i] = value(layer, row, i);
    kv_append(q, layer, slot, k, k, 0, K);
    kv_attend(q, layer, slot, x, out, 0, K, scratch);
    cr_assert_eq(kv_commit(q, kv_last_row(q), &e), ERR_OK, "%s", e.text);
    free(scratch);
}

Test(kv_skip, a_layer_that_is_left_out_has_no_byte)
{
    static const uint32_t some[8] = { NONE, NONE, NONE, 0, 0, NONE, NONE, NONE }, all[8] = { 0 };
    kv *s = store_open();
    kv_seq *q = seq_open(s, 1, NULL, 0, some);
    add_rows(q, 0, 70, some);                                   /* 3 pages a layer */
    cr_expect_eq(kv_bytes(s).pages_used, 3u * 2);
    kv_seq *none = seq_open(s, 2, NULL, 0, all);
    add_rows(none, 0, 70, all);
    cr_expect_eq(kv_bytes(s).pages_used, 3u * 2);
    kv_seq *full = seq_open(s, 3, NULL, 0, NULL);
    add_rows(full, 0, 70, NULL);
    cr_expect_eq(kv_bytes(s).pages_used, 3u * 2 + 3 * 4);
    float a[H * D], b[H * D];
    for (uint32_t l = 2; l < 6; l += 3) {                       /* layers 2 and 5 are those of the sequence that has them all */
        look(s, q, l, 70, a);
        look(s, full, l, 70, b);
        cr_expect(support_same(a, b, H * D, "attention beside a layer that is left out"));
    }
    for (uint64_t id = 1; id <= 3; id++) kv_seq_close(s, id);
    cr_expect_eq(kv_bytes(s).pages_used, 0u);
    kv_close(&s);
}

Test(kv_skip, what_no_later_row_reads_is_given_back)
{
    static const uint32_t from[8] = { NONE, NONE, NONE, 40, 64, NONE, NONE, NONE };
    err e = { 0 };
    kv *s = store_open();
    kv_seq *q = seq_open(s, 1, NULL, 0, from);
    add_rows(q, 0, 40, from);
    cr_expect_eq(kv_bytes(s).pages_used, 2u * 4);
    add_rows(q, 40, 41, from);
    cr_expect_eq(kv_bytes(s).pages_used, 2u * 3);               /* layer 3 has gone */
    add_rows(q, 41, 64, from);
    kv_release(q, 64);
    cr_expect_eq(kv_bytes(s).pages_used, 2u * 2);
    add_rows(q, 64, 65, from);
    cr_expect_eq(kv_bytes(s).pages_used, 3u * 2);
    cr_expect_eq(kv_truncate(q, 30, &e), ERR_STATE, "row 30 would need layer 3");
    cr_expect_eq(kv_truncate(q, 64, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_truncate(q, 0, &e), ERR_OK, "%s", e.text);
    add_rows(q, 0, 32, from);
    cr_expect_eq(kv_bytes(s).pages_used, 4u);
    kv_close(&s);
}

Test(kv_skip, a_layer_comes_back_to_no_row_that_was_without_it)
{
    static const uint32_t none[8] = { NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE }, off[8] = { NONE, NONE, NONE, 0, NONE, NONE, NONE, NONE },
                          later[8] = { NONE, NONE, NONE, 10, NONE, NONE, NONE, NONE };
    err e = { 0 };
    kv *s = store_open();
    kv_seq *q = seq_open(s, 1, NULL, 0, off);
    cr_expect_eq(kv_skip(q, none, &e), ERR_OK, "an empty sequence may grow: %s", e.text);
    add_rows(q, 0, 8, none);
    cr_expect_eq(kv_skip(q, off, &e), ERR_STATE);               /* rows 0 to 7 have it */
    cr_expect_eq(kv_skip(q, later, &e), ERR_OK, "shrinking at row 10: %s", e.text);
    cr_expect_eq(kv_skip(q, none, &e), ERR_OK, "and back before it: %s", e.text);
    cr_expect_eq(kv_skip(q, later, &e), ERR_OK, "%s", e.text);
    add_rows(q, 8, 12, later);
    cr_expect_eq(kv_skip(q, none, &e), ERR_STATE);
    cr_expect(strstr(e.text, "layer 3"), "%s", e.text);
    cr_expect_eq(kv_truncate(q, 0, &e), ERR_OK);
    cr_expect_eq(kv_skip(q, none, &e), ERR_OK, "%s", e.text);
    kv_close(&s);
}

Test(kv_skip, forks_streams_and_shared_blocks_follow)
{
    static const uint32_t off[8] = { NONE, NONE, 0, NONE, 0, NONE, NONE, NONE };
    err e = { 0 };
    kv *s = store_open();
    kv_seq *q = seq_open(s, 1, NULL, 0, off), *plain = seq_open(s, 4, NULL, 0, NULL), *got = seq_open(s, 3, NULL, 0, off);
    add_rows(q, 0, 64, off);
    kv_prefix_keep(q, 9, 64);
    cr_expect_eq(kv_bytes(s).prefix_pages, 2u * 2);
    cr_expect_eq(kv_prefix_take(plain, 9), 0u, "a session with all layers was given rows of two");
    cr_expect_eq(kv_prefix_take(got, 9), 64u);
    cr_expect_eq(kv_fork(q, 2, &e), ERR_OK, "%s", e.text);
    float a[H * D], b[H * D];
    look(s, q, 3, 64, a);
    look(s, kv_seq_find(s, 2), 3, 64, b);
    cr_expect(support_same(b, a, H * D, "fork"));
    look(s, got, 3, 64, b);
    cr_expect(support_same(b, a, H * D, "shared block"));
    size_t n = kv_export_bytes(q, 2, 6, 0, 64), all;
    char *buf = malloc(n);
    cr_assert_eq(kv_export(q, 2, 6, 0, 64, buf, n, &e), ERR_OK, "%s", e.text);
    add_rows(plain, 0, 64, NULL);
    all = kv_export_bytes(plain, 2, 6, 0, 64);
    cr_expect_lt(n, all * 6 / 10, "%zu bytes for half the layers, %zu for all", n, all);
    kv_seq *in = seq_open(s, 5, NULL, 0, off);
    cr_assert_eq(kv_import(in, buf, n, &e), ERR_OK, "%s", e.text);
    look(s, in, 3, 64, b);
    cr_expect(support_same(b, a, H * D, "stream"));
    kv_seq *other = seq_open(s, 6, NULL, 0, (const uint32_t[8]){ NONE, NONE, NONE, 0, 0, NONE, NONE, NONE });
    cr_expect_eq(kv_import(other, buf, n, &e), ERR_INPUT, "rows of other layers were taken");
    free(buf);
    kv_close(&s);
}

/* A lossy sequence settles only what it has. */
Test(kv_skip, policies_settle_the_layers_that_are_there)
{
    static const char window[] = "[policy]\nname = w\n[format]\nk = kivi4\nv = kivi4\n";
    static const uint32_t off[8] = { NONE, NONE, 0, NONE, 300, NONE, NONE, NONE };
    kv_policy p = kv_policy_identity();
    err e = { 0 };
    if (kv_policy_parse(&p, window, sizeof window - 1, "test", &e)) cr_assert_eq(kv_policy_load(&p, "kivi4", &e), ERR_OK, "%s", e.text);
    kv *s = store_open();
    kv_seq *q, *plain;
    cr_assert_eq(kv_seq_open_skipping(s, 1, &p, 100, off, &q, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_seq_open_policy(s, 2, &p, 100, &plain, &e), ERR_OK, "%s", e.text);
    add_rows(q, 0, 290, off);
    add_rows(plain, 0, 290, NULL);
    float a[H * D], b[H * D];
    for (uint32_t l = 3; l < 6; l++) {
        look(s, q, l, 290, a);
        look(s, plain, l, 290, b);
        cr_expect(support_same(a, b, H * D, "packed rows beside a layer that is left out"), "layer %u", l);
    }
    add_rows(q, 290, 310, off);
    kv_seq_close(s, 1);
    kv_seq_close(s, 2);
    cr_expect_eq(kv_bytes(s).pages_used, 0u);
    kv_close(&s);
}
