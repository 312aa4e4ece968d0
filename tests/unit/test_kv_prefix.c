/* Shared prompt rows: who takes them goes on with the same bits, and they cost nobody the room that a session needs. */
#include "tests/unit/kv_world.h"

enum { BLOCK = 64 };

/* A line of n tokens whose blocks are kept under ids base + 1, base + 2, ... */
static void line_kept(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *tokens, uint32_t n, uint64_t base)
{
    for (uint32_t at = 0; at < n; at += BLOCK) {
        line(s, g, q, tokens + at, n - at < BLOCK ? n - at : BLOCK, 17, NULL);
        if (at + BLOCK <= n) kv_prefix_keep(q, base + at / BLOCK + 1, at + BLOCK);
    }
}

static kv_geometry shared_geometry(uint64_t blocks)
{
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    g.prefix_bytes = blocks * LAYERS * 2 * 2 * 2 * 32 * 16 * 2;     /* layers, pages, sides, heads, rows, elements, bytes */
    return g;
}

Test(kv_prefix, rows_of_another_session_are_as_good_as_computed_ones)
{
    kv_geometry g = shared_geometry(10);
    uint32_t a[CTX], b[CTX];
    err e = { 0 };
    pick_tokens(a, CTX, 1);
    pick_tokens(b, CTX, 1);
    for (uint32_t i = 130; i < CTX; i++) b[i] += 5000;
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1), *r = open_seq(s, 2), *t = open_seq(s, 3);
    line_kept(s, &g, q, a, 200, 0);
    uint64_t used = kv_bytes(s).pages_used;
    cr_assert_eq(kv_prefix_take(r, 2), 128);
    cr_assert_eq(kv_bytes(s).pages_used, used, "taking takes no page");
    cr_assert_eq(kv_prefix_take(t, 3), 192);
    kv_seq_close(s, 1);
    cr_assert_eq(kv_prefix_take(r, 2), 0, "only an empty sequence takes");
    check_continues(s, &g, r, b, 250, "the first two blocks");
    cr_assert_eq(kv_truncate(t, 150, &e), ERR_OK);
    check_continues(s, &g, t, a, 250, "three blocks, cut");
    kv_seq *u = open_seq(s, 4);
    cr_assert_eq(kv_prefix_take(u, 3), 192, "nobody wrote into them");
    check_continues(s, &g, u, a, 200, "again");
    kv_usage x = kv_bytes(s);
    cr_assert_eq(x.prefix_hits, 128 + 192 + 192);
    cr_assert_eq(x.prefix, g.prefix_bytes / 10 * 3);
    cr_assert_eq(kv_prefix_take(open_seq(s, 5), 77), 0);
    cr_assert_eq(kv_bytes(s).prefix_misses, 1);
    kv_close(&s);
}

Test(kv_prefix, the_least_recently_used_go_first_and_parents_last)
{
    kv_geometry g = shared_geometry(4);
    uint32_t a[CTX], b[CTX];
    pick_tokens(a, CTX, 1);
    pick_tokens(b, CTX, 5000);
    kv *s = open_store(&g);
    line_kept(s, &g, open_seq(s, 1), a, 128, 0);
    line_kept(s, &g, open_seq(s, 2), b, 128, 10);
    cr_assert_eq(kv_prefix_take(open_seq(s, 3), 2), 128);
    line_kept(s, &g, open_seq(s, 4), b + 150, 64, 20);      /* room for one more: the leaf of the older chain goes */
    cr_assert_eq(kv_prefix_take(open_seq(s, 5), 2), 128);
    cr_assert_eq(kv_prefix_take(open_seq(s, 6), 12), 0);
    cr_assert_eq(kv_prefix_take(open_seq(s, 7), 11), 64);
    cr_assert_eq(kv_prefix_take(open_seq(s, 8), 21), 64);
    for (uint64_t i = 1; i < 9; i++) kv_seq_close(s, i);
    cr_assert_eq(kv_bytes(s).data, kv_bytes(s).prefix, "all that is left is shared blocks");
    kv_close(&s);
}

Test(kv_prefix, sessions_get_the_room_that_blocks_have)
{
    kv_geometry g = shared_geometry(100);
    g.max_bytes = g.prefix_bytes / 100 * 5;
    uint32_t tokens[CTX];
    pick_tokens(tokens, CTX, 1);
    kv *s = open_store(&g);
    line_kept(s, &g, open_seq(s, 1), tokens, 256, 0);
    kv_seq_close(s, 1);
    cr_assert_eq(kv_bytes(s).prefix, g.max_bytes / 5 * 4);
    kv_seq *q = open_seq(s, 2);
    pick_tokens(tokens, CTX, 3000);
    kv_geometry free_of = g;
    free_of.max_bytes = 0;
    check_continues(s, &free_of, q, tokens, 300, "in the room of four blocks");
    cr_assert_lt(kv_bytes(s).prefix, g.max_bytes / 5 * 2);
    kv_close(&s);
}

/* Raw rows are exact until they settle, so a policy that does not look may begin with them, and may leave them. */
Test(kv_prefix, policies_that_do_not_look_share_exact_rows)
{
    kv_geometry g = shared_geometry(10);
    uint32_t tokens[CTX];
    kv_policy packs, looks;
    err e = { 0 };
    kv_seq *q, *r;
    static const char p[] = "[format]\nk=kivi4\nv=kivi4\n", l[] = "[keep]\nscore=h2o\nrows=64\nwindow=8\n";
    cr_assert_eq(kv_policy_parse(&packs, p, sizeof p - 1, "p", &e), ERR_OK);
    cr_assert_eq(kv_policy_parse(&looks, l, sizeof l - 1, "l", &e), ERR_OK);
    pick_tokens(tokens, CTX, 1);
    kv *s = open_store(&g);
    line_kept(s, &g, open_seq(s, 1), tokens, 200, 0);
    cr_assert_eq(kv_seq_open_policy(s, 2, &looks, 150, &q, &e), ERR_OK);
    cr_assert_eq(kv_prefix_take(q, 2), 0, "it has seen nothing of them");
    cr_assert_eq(kv_seq_open_policy(s, 3, &packs, 150, &q, &e), ERR_OK);
    cr_assert_eq(kv_seq_open_policy(s, 4, &packs, 150, &r, &e), ERR_OK);
    cr_assert_eq(kv_prefix_take(q, 2), 128);
    float *want = new_out(&g, 100), *got = new_out(&g, 100);
    line(s, &g, r, tokens, 128, 50, NULL);
    line(s, &g, q, tokens + 128, 22, 22, got);
    line(s, &g, r, tokens + 128, 22, 22, want);
    line(s, &g, q, tokens + 150, 50, 25, got + 22 * out_floats(&g));
    line(s, &g, r, tokens + 150, 50, 25, want + 22 * out_floats(&g));
    cr_assert(same(got, want, 72 * out_floats(&g)));
    cr_assert_eq(kv_prefix_take(open_seq(s, 5), 2), 128, "and they are whole");
    free(want);
    free(got);
    kv_close(&s);
}
