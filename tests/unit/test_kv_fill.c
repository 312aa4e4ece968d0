/* Random rows for measurements: a function of seed, layer and row, whoever holds the layer, and in front of anything else. */
#include "tests/unit/kv_world.h"

TestSuite(kv_fill, .timeout = 60);

enum { N = 150 };

static void filled(kv_geometry *g, uint32_t first, uint32_t last, uint64_t seed, void **out, size_t *len)
{
    err e = { 0 };
    g->first = first;
    g->last = last;
    g->n_layers = LAST;
    kv *s = open_store(g);
    kv_seq *q = open_seq(s, 1);
    cr_assert_eq(kv_fill(q, N, seed, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_rows(q), N);
    *len = kv_export_bytes(q, LAST - 1, LAST, 0, N);
    *out = malloc(*len);
    cr_assert_eq(kv_export(q, LAST - 1, LAST, 0, N, *out, *len, &e), ERR_OK, "%s", e.text);
    kv_close(&s);
}

Test(kv_fill, random_rows_depend_on_the_seed_and_not_on_the_stages)
{
    kv_geometry g = geometry(4, 2, 32, KV_F16);
    void *a, *b, *c;
    size_t n, m;
    filled(&g, FIRST, LAST, 5, &a, &n);
    filled(&g, LAST - 1, LAST, 5, &b, &m);
    cr_expect(n == m && !memcmp(a, b, n), "another stage, other rows");
    filled(&g, LAST - 1, LAST, 6, &c, &m);
    cr_expect(n == m && memcmp(a, c, n), "another seed, the same rows");
    free(a), free(b), free(c);
}

Test(kv_fill, rows_under_a_policy_settle_behind_them_and_nothing_goes_before_them)
{
    kv_geometry g = geometry(4, 2, 32, KV_F16);
    kv_policy p;
    err e = { 0 };
    kv *s = open_store(&g);
    kv_seq *q;
    const char text[] = "[format]\nk=kivi2\nv=kivi2\n";
    uint32_t tokens[2] = { 7, 8 };
    cr_assert_eq(kv_policy_parse(&p, text, strlen(text), "test", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_seq_open_policy(s, 1, &p, N + 1, &q, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_fill(q, N + 1, 5, &e), ERR_STATE, "the prompt's last row is computed");
    cr_assert_eq(kv_fill(q, N, 5, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_bytes(s).packed, 0);
    line(s, &g, q, tokens, 2, 1, NULL);
    cr_expect_gt(kv_bytes(s).by_kind[KV_PACK_CHANNEL], 0);
    cr_expect_eq(kv_fill(q, N, 5, &e), ERR_STATE, "there are rows");
    kv_close(&s);
}
