/* Forks, pages and the budget: who shares what, and that all of it comes back. */
#include "tests/unit/kv_world.h"

Test(kv_pages, a_fork_and_its_parent_do_not_see_each_other)
{
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    uint32_t a[100], b[100], c[100];
    pick_tokens(a, 100, 1);
    pick_tokens(b, 100, 1);
    pick_tokens(c, 100, 1);
    for (uint32_t i = 45; i < 100; i++) b[i] += 1000;
    for (uint32_t i = 10; i < 100; i++) c[i] += 2000;
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    err e = { 0 };
    line(s, &g, q, a, 45, 45, NULL);
    uint64_t pages = kv_bytes(s).pages_used;
    /* tentative rows in the shared page: the parent's alone */
    kv_row r[2] = { { 45, 45, 44, 0, 0, 0 }, { 46, 46, 45, 0, 0, 0 } };
    step_rows(s, &g, q, r, a + 45, 2, false, NULL);
    cr_assert_eq(kv_fork(q, 2, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_fork(q, 2, &e), ERR_STATE);
    cr_assert_eq(kv_fork(q, 3, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_bytes(s).pages_used, pages, "a fork takes no page");
    kv_seq *f = kv_seq_find(s, 2), *t = kv_seq_find(s, 3);
    cr_assert_eq(kv_rows(f), 45);
    cr_assert_eq(kv_rows_tentative(f), 0);
    cr_assert_eq(kv_truncate(t, 10, &e), ERR_OK);
    check_continues(s, &g, f, b, 80, "the fork");
    cr_assert_eq(kv_commit(q, 46, &e), ERR_OK, "%s", e.text);
    check_continues(s, &g, t, c, 70, "the truncated fork");
    check_continues(s, &g, q, a, 90, "the parent");
    check_continues(s, &g, f, b, 100, "the fork again");
    kv_seq_close(s, 1);
    check_continues(s, &g, t, c, 100, "the truncated fork after its parent is gone");
    kv_seq_close(s, 2);
    kv_seq_close(s, 3);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    kv_close(&s);
}

/* One session of the random lives: the tokens it has committed, by position. */
typedef struct { uint32_t n, token[CTX]; } life;
enum { LIVES = 12 };
typedef struct { kv *s; kv_geometry g; dice d; life life[LIVES]; uint32_t born, full, next; } town;

static void live_append(town *t, uint32_t i)
{
    kv_seq *q = kv_seq_find(t->s, i);
    life *x = &t->life[i];
    kv_row rows[40];
    uint32_t slots[40], tokens[40], up[40], n = 1 + roll(&t->d, 40);
    uint32_t base = kv_last_row(q) == KV_ROW_NONE ? 0 : kv_last_row(q) + 1;
    for (uint32_t j = 0; j < n; j++) {      /* up: index of the parent in the batch, or CTX */
        up[j] = j && roll(&t->d, 5) ? j - 1 : j && roll(&t->d, 3) ? roll(&t->d, j) : CTX;
        rows[j] = (kv_row){ base + j, x->n % CTX, KV_ROW_NONE, 0, 0, 0 };
        if (up[j] != CTX) rows[j].parent = base + up[j], rows[j].pos = (rows[up[j]].pos + 1) % CTX;
        tokens[j] = t->next++;
    }
    err e = { 0 };
    uint64_t used = kv_bytes(t->s).pages_used;
    err_code rc = kv_reserve(q, rows, n, slots, &e);
    if (rc == ERR_FULL) {
        cr_assert_eq(kv_bytes(t->s).pages_used, used);
        t->full++;
        return;
    }
    cr_assert_eq(rc, ERR_OK, "%s", e.text);
    compute(t->s, &t->g, q, slots, tokens, n, false, NULL);
    if (roll(&t->d, 5) == 0) {
        cr_assert_eq(kv_commit(q, kv_last_row(q), &e), ERR_OK, "%s", e.text);
        return;
    }
    uint32_t pick = roll(&t->d, n), chain[40], m = 0;
    cr_assert_eq(kv_commit(q, base + pick, &e), ERR_OK, "%s", e.text);
    for (uint32_t j = pick; j != CTX; j = up[j]) chain[m++] = j;
    while (m) x->token[x->n++] = tokens[chain[--m]];
    cr_assert_eq(kv_rows(q), x->n);
}

static void live_truncate(town *t, uint32_t i)
{
    kv_seq *q = kv_seq_find(t->s, i);
    life *x = &t->life[i];
    if (!x->n) return;
    uint32_t keep = roll(&t->d, x->n + 1);
    err e = { 0 };
    cr_assert_eq(kv_truncate(q, kv_last_row(q) + 1, &e), ERR_OK);
    cr_assert_eq(kv_rows(q), x->n, "an index above all rows drops none");
    while (kv_rows(q) > keep) cr_assert_eq(kv_truncate(q, kv_last_row(q), &e), ERR_OK);
    x->n = keep;
}

static void live_fork(town *t, uint32_t i, uint32_t child)
{
    err e = { 0 };
    if (kv_seq_find(t->s, child)) return;
    cr_assert_eq(kv_fork(kv_seq_find(t->s, i), child, &e), ERR_OK, "%s", e.text);
    t->life[child] = t->life[i];
    t->born++;
}

/* The bytes of its rows are those of the same tokens in a fresh line. */
static void live_check(town *t, uint32_t i)
{
    kv_seq *q = kv_seq_find(t->s, i);
    life *x = &t->life[i];
    if (!x->n) return;
    kv_geometry g = t->g;
    g.max_bytes = 0;
    kv *fresh = open_store(&g);
    kv_seq *f = open_seq(fresh, 1);
    line(fresh, &g, f, x->token, x->n, 64, NULL);
    size_t len = kv_export_bytes(q, FIRST, LAST, 0, x->n), rows = x->n * 16, head = 56;
    unsigned char *a = malloc(len), *b = malloc(len);
    err e = { 0 };
    cr_assert_eq(kv_export(q, FIRST, LAST, 0, x->n, a, len, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_export(f, FIRST, LAST, 0, x->n, b, len, &e), ERR_OK, "%s", e.text);
    cr_assert(!memcmp(a + head + rows, b + head + rows, len - head - rows - 8), "session %u of %u rows", i, x->n);
    free(a);
    free(b);
    kv_close(&fresh);
}

Test(kv_pages, a_thousand_random_lives_give_every_page_back)
{
    static town t;
    t.g = geometry(2, 1, 8, KV_F16);
    t.g.max_bytes = 30000;                    /* 29 pages of 1024 bytes: soon full */
    t.s = open_store(&t.g);
    t.d.seed = test_seed();
    for (uint32_t op = 0; t.born < 1000; op++) {
        uint32_t i = roll(&t.d, LIVES), what = roll(&t.d, 16);
        err e = { 0 };
        kv_seq *q = kv_seq_find(t.s, i);
        if (!q) {
            err_code rc = kv_seq_open(t.s, i, &q, &e);
            cr_assert(rc == ERR_OK || rc == ERR_FULL, "%s", e.text);
            if (rc == ERR_FULL) {
                t.full++;
                kv_seq_close(t.s, roll(&t.d, LIVES));
                continue;
            }
            cr_assert_eq(kv_seq_open(t.s, i, &q, &e), ERR_STATE);
            t.life[i].n = 0;
            t.born++;
        } else if (what < 8) live_append(&t, i);
        else if (what < 10) live_truncate(&t, i);
        else if (what < 13) live_fork(&t, i, roll(&t.d, LIVES));
        else if (what < 15) kv_seq_close(t.s, i);
        else if (op % 3 == 0) live_check(&t, i);
        kv_usage u = kv_bytes(t.s);
        cr_assert(u.arena <= t.g.max_bytes && u.data <= u.arena && (u.pages_used + u.pages_free) * 1024 == u.arena);
    }
    for (uint32_t i = 0; i < LIVES; i++) {
        if (kv_seq_find(t.s, i)) live_check(&t, i);
        kv_seq_close(t.s, i);
    }
    kv_usage u = kv_bytes(t.s);
    cr_assert_eq(u.pages_used, 0);
    cr_assert_eq(u.data, 0);
    cr_assert_eq(u.sequences, 0);
    cr_assert_gt(u.pages_free, 0);
    fprintf(stderr, "# %u sessions, %u refusals for room\n", t.born, t.full);
    cr_assert_gt(t.full, 100);
    kv_close(&t.s);
}

Test(kv_pages, the_budget_refuses_with_bytes_and_breaks_nothing)
{
    kv_geometry g = geometry(2, 1, 8, KV_F16);
    g.max_bytes = 1024 * LAYERS * 3 + 1023;
    kv *s = open_store(&g);
    kv_seq *a = open_seq(s, 1), *b = open_seq(s, 2);
    uint32_t tokens[CTX], slot;
    pick_tokens(tokens, CTX, 1);
    line(s, &g, a, tokens, 40, 8, NULL);
    line(s, &g, b, tokens, 32, 8, NULL);
    err e = { 0 };
    kv_row r = { 32, 32, 31, 0, 0, 0 };
    cr_assert_eq(kv_reserve(b, &r, 1, &slot, &e), ERR_FULL);
    char want[32];
    snprintf(want, sizeof want, "%llu", (unsigned long long)g.max_bytes);
    cr_assert(strstr(e.text, want), "%s", e.text);
    cr_assert_eq(kv_fork(a, 3, &e), ERR_OK);
    kv_row r3 = { 40, 40, 39, 0, 0, 0 };
    cr_assert_eq(kv_reserve(kv_seq_find(s, 3), &r3, 1, &slot, &e), ERR_FULL, "its last page must be copied first");
    kv_seq_close(s, 2);
    check_continues(s, &g, kv_seq_find(s, 3), tokens, 60, "after room was made");
    cr_assert_eq(kv_rows(a), 40);
    kv_seq_close(s, 3);
    check_continues(s, &g, a, tokens, 90, "the other one");
    kv_close(&s);
}
