/* Export and import: continuation with the same bits, layer groups, and streams that are not what they should be. */
#include "tests/unit/kv_world.h"
#include <xxhash.h>

static void *export(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to, size_t *len)
{
    err e = { 0 };
    *len = kv_export_bytes(q, l0, l1, from, to);
    cr_assert_gt(*len, 0);
    void *buf = malloc(*len);
    cr_assert_eq(kv_export(q, l0, l1, from, to, buf, *len, &e), ERR_OK, "%s", e.text);
    return buf;
}

static err_code pass_on(const kv_seq *from, kv_seq *to, uint32_t l0, uint32_t l1, uint32_t r0, uint32_t r1, err *e)
{
    size_t len;
    void *buf = export(from, l0, l1, r0, r1, &len);
    err_code rc = kv_import(to, buf, len, e);
    free(buf);
    return rc;
}

Test(kv_stream, an_import_in_the_middle_continues_with_the_same_bits)
{
    for (int f = 0; f < KV_FORMAT_COUNT; f++) {
        kv_geometry g = geometry(4, 2, 16, (kv_format)f);
        uint32_t tokens[120];
        pick_tokens(tokens, 120, 1);
        kv *s = open_store(&g), *other = open_store(&g);
        kv_seq *q = open_seq(s, 1), *whole = open_seq(other, 1), *groups = open_seq(other, 2);
        line(s, &g, q, tokens, 77, 64, NULL);
        err e = { 0 };
        cr_assert_eq(pass_on(q, whole, FIRST, LAST, 0, 40, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(pass_on(q, whole, FIRST, LAST, 40, 40, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(pass_on(q, whole, FIRST, LAST, 40, 77, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(kv_rows(whole), 77);
        cr_assert_eq(kv_last_row(whole), 76);

        cr_assert_eq(pass_on(q, groups, LAST - 1, LAST, 0, 77, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(kv_rows(groups), 0);
        kv_row r = { 77, 77, KV_ROW_NONE, 0, 0, 0 };
        uint32_t slot;
        cr_assert_eq(kv_reserve(groups, &r, 1, &slot, &e), ERR_STATE);
        cr_assert_eq(pass_on(q, groups, LAST - 1, LAST, 0, 77, &e), ERR_INPUT, "twice");
        cr_assert_eq(pass_on(q, groups, FIRST, LAST - 1, 0, 76, &e), ERR_INPUT, "other rows");
        cr_assert_eq(kv_rows(groups), 0);
        cr_assert_eq(pass_on(q, groups, FIRST, LAST - 1, 0, 77, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(kv_rows(groups), 77);
        check_continues(other, &g, whole, tokens, 120, "in two parts");
        check_continues(other, &g, groups, tokens, 120, "by layer groups");
        kv_close(&s);
        kv_close(&other);
    }
}

Test(kv_stream, an_import_that_does_not_continue_the_sequence_is_refused)
{
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    uint32_t tokens[60];
    pick_tokens(tokens, 60, 1);
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1), *to = open_seq(s, 2);
    line(s, &g, q, tokens, 60, 64, NULL);
    line(s, &g, to, tokens, 40, 64, NULL);
    err e = { 0 };
    cr_assert_eq(pass_on(q, to, FIRST, LAST, 41, 60, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "begin at 41") && strstr(e.text, "has 40"), "%s", e.text);
    cr_assert_eq(pass_on(q, to, FIRST, LAST, 39, 60, &e), ERR_INPUT);
    /* the right rows, said to lie one further on */
    size_t len;
    unsigned char *buf = export(q, FIRST, LAST, 40, 60, &len);
    uint32_t range[2] = { 41, 61 };
    memcpy(buf + 32, range, sizeof range);
    uint64_t check = XXH3_64bits(buf, len - 8);
    memcpy(buf + len - 8, &check, 8);
    cr_assert_eq(kv_import(to, buf, len, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "begin at 41"), "%s", e.text);
    cr_assert_eq(kv_rows(to), 40);
    kv_row r = { 40, 40, 39, 0, 0, 0 };
    step_rows(s, &g, to, &r, tokens + 40, 1, false, NULL);
    cr_assert_eq(pass_on(q, to, FIRST, LAST, 40, 60, &e), ERR_STATE, "tentative rows");
    cr_assert_eq(kv_rows_tentative(to), 1);
    free(buf);
    kv_close(&s);
}

Test(kv_stream, a_half_import_can_be_given_up)
{
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    uint32_t tokens[120];
    pick_tokens(tokens, 120, 1);
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1), *half = open_seq(s, 2);
    line(s, &g, q, tokens, 77, 64, NULL);
    line(s, &g, half, tokens, 10, 64, NULL);
    err e = { 0 };
    uint64_t used = kv_bytes(s).pages_used;
    cr_assert_eq(pass_on(q, half, FIRST, FIRST + 1, 10, 77, &e), ERR_OK, "%s", e.text);
    cr_assert_gt(kv_bytes(s).pages_used, used);
    cr_assert_eq(kv_commit(half, 9, &e), ERR_STATE);
    cr_assert_eq(kv_truncate(half, 77, &e), ERR_OK);
    cr_assert_eq(kv_bytes(s).pages_used, used);
    cr_assert_eq(kv_rows(half), 10);
    check_continues(s, &g, half, tokens, 120, "after giving up");
    cr_assert_eq(kv_truncate(half, 0, &e), ERR_OK);
    cr_assert_eq(pass_on(q, half, FIRST, FIRST + 1, 0, 77, &e), ERR_OK, "%s", e.text);
    kv_seq_close(s, 2);
    kv_seq_close(s, 1);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    kv_close(&s);
}

Test(kv_stream, another_geometry_is_refused_with_both_values)
{
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    uint32_t tokens[20];
    pick_tokens(tokens, 20, 1);
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    line(s, &g, q, tokens, 20, 20, NULL);
    kv_geometry other[7] = { g, g, g, g, g, g, g };
    other[0].d = 20;
    other[1].K = 4;
    other[2].format = KV_F32;
    other[3].rope.base = 20000;
    other[4].first = FIRST + 1;
    other[5].n_ctx = 19;
    other[6].look = (kv_look){ .window = 5, .global_every = 6, .local_base = 500 };
    const char *both[7][2] = { { "16", "20" }, { "2", "4" }, { "0", "1" }, { "rotary", "store has" }, { "[3,6)", "[4,6)" },
                               { "20", "19" }, { "rotary", "store has" } };
    for (int i = 0; i < 7; i++) {
        kv *t = open_store(&other[i]);
        kv_seq *to = open_seq(t, 1);
        err e = { 0 };
        cr_assert_eq(pass_on(q, to, FIRST, LAST, 0, 20, &e), ERR_INPUT, "case %d", i);
        cr_assert(strstr(e.text, both[i][0]) && strstr(e.text, both[i][1]), "%s", e.text);
        cr_assert_eq(kv_bytes(t).pages_used, 0);
        kv_close(&t);
    }
    kv_close(&s);
}

/* One change of a good stream; half of them with a checksum that fits again, so that the fields themselves are reached. */
static size_t mutate(unsigned char *buf, size_t len, size_t room, bool fit, dice *d)
{
    uint32_t what = roll(d, 8), fields = 56 + 20 * 16;
    if (what == 0) len = roll(d, (uint32_t)len);
    else if (what == 1) len += 1 + roll(d, (uint32_t)(room - len));
    else if (what == 2) buf[roll(d, (uint32_t)len)] ^= (unsigned char)(1u << roll(d, 8));
    else for (uint32_t n = 1 + roll(d, 2); n; n--) {
        uint32_t at = roll(d, fields / 4) * 4, v = roll(d, 3) ? roll(d, 80) : (uint32_t)rng_u64(d->seed, d->i++);
        memcpy(buf + at, &v, 4);
    }
    if (len >= 8 && fit) {
        uint64_t check = XXH3_64bits(buf, len - 8);
        memcpy(buf + len - 8, &check, 8);
    }
    return len;
}

Test(kv_stream, a_mutated_import_never_crashes_and_changes_nothing)
{
    kv_geometry g = geometry(2, 1, 8, KV_F16);
    uint32_t tokens[60];
    pick_tokens(tokens, 60, 1);
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1), *to = open_seq(s, 2);
    line(s, &g, q, tokens, 60, 60, NULL);
    line(s, &g, to, tokens, 40, 60, NULL);
    size_t len, before_len;
    unsigned char *good = export(q, FIRST, LAST, 40, 60, &len), *buf = malloc(len + 64), *now;
    unsigned char *before = export(to, FIRST, LAST, 0, 40, &before_len);
    dice d = { test_seed(), 0 };
    uint32_t taken = 0, used = (uint32_t)kv_bytes(s).pages_used;
    err e = { 0 };
    for (int i = 0; i < 6000; i++) {
        memset(buf + len, 0, 64);
        memcpy(buf, good, len);
        bool fit = roll(&d, 2);
        size_t n = mutate(buf, len, len + 64, fit, &d);
        unsigned char *exact = malloc(n + 1);      /* so that ASan sees a read past the end */
        memcpy(exact, buf, n);
        err_code rc = n == len && !memcmp(buf, good, len) ? ERR_INPUT : kv_import(to, exact, n, &e);
        free(exact);
        cr_assert(fit || rc == ERR_INPUT, "mutation %d: a wrong checksum was taken", i);
        if (rc == ERR_OK) {                        /* the fields still fit each other: then it is a good stream of other rows */
            taken++;
            cr_assert_eq(kv_truncate(to, 40, &e), ERR_OK);
        }
        cr_assert(rc == ERR_OK || rc == ERR_INPUT, "mutation %d: %s", i, e.text);
        cr_assert_eq(kv_rows(to), 40);
        cr_assert_eq(kv_bytes(s).pages_used, used);
        now = export(to, FIRST, LAST, 0, 40, &n);
        cr_assert(n == before_len && !memcmp(now, before, n), "mutation %d", i);
        free(now);
    }
    fprintf(stderr, "# 6000 mutations, %u of them good streams\n", taken);
    check_continues(s, &g, to, tokens, 60, "after all of them");
    free(good);
    free(buf);
    free(before);
    kv_close(&s);
}
