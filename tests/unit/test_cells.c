/* Row bookkeeping against a naive model that keeps every row in one array and follows parents one by one. */
#include "kvstore/cells.h"
#include "core/rng.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 300, OPS = 40000 };

/* The model: rows in slot order. `mark` is a stand-in for the row's data, which moves must carry along. */
typedef struct { kv_row row; uint32_t mark; } cell;
typedef struct { cell at[CTX]; uint32_t committed, used; } model;
typedef struct { cells c; model m; uint32_t data[CTX]; } side;   /* data: what a page would hold */

typedef struct { uint64_t seed, i; } dice;
static uint32_t roll(dice *d, uint32_t n) { return (uint32_t)(rng_u64(d->seed, d->i++) % n); }

static uint64_t test_seed(void)
{
    const char *s = getenv("SLUICE_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 0) : 20240611;
    fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
    return seed;
}

static uint32_t model_last(const model *m) { return m->committed ? m->at[m->committed - 1].row.row : KV_ROW_NONE; }

static uint32_t model_find(const model *m, uint32_t lo, uint32_t row)
{
    for (uint32_t i = lo; i < m->used; i++)
        if (m->at[i].row.row == row) return i;
    return CELL_NONE;
}

/* Slots that `slot` sees, ascending; returns how many. */
static uint32_t model_sees(const model *m, uint32_t slot, uint32_t *out)
{
    uint32_t up[CTX], n = 0, seen = 0, committed = slot < m->committed ? slot + 1 : m->committed;
    while (slot != CELL_NONE && slot >= m->committed) {
        up[n++] = slot;
        slot = model_find(m, m->committed, m->at[slot].row.parent);
    }
    for (uint32_t i = 0; i < committed; i++) out[seen++] = i;
    while (n) out[seen++] = up[--n];
    return seen;
}

static void check_sees(const side *s, uint32_t slot)
{
    uint32_t want[CTX], n = model_sees(&s->m, slot, want);
    uint32_t end = n;
    for (cell_run r = cells_run(&s->c, slot);; r = cells_run(&s->c, r.prev)) {
        cr_assert_eq(r.at + r.n, end, "runs meet");
        for (uint32_t i = 0; i < r.n; i++) cr_assert_eq(want[r.at + i], r.first + i, "slot %u sees %u", slot, want[r.at + i]);
        end = r.at;
        if (r.prev == CELL_NONE) break;
    }
    cr_assert_eq(end, 0);
}

static void check_side(const side *s, dice *d)
{
    cr_assert_eq(s->c.committed, s->m.committed);
    cr_assert_eq(s->c.used, s->m.used);
    cr_assert_eq(cells_last(&s->c), model_last(&s->m));
    for (uint32_t i = 0; i < s->m.used; i++) {
        cr_assert(!memcmp(&s->c.row[i], &s->m.at[i].row, sizeof(kv_row)), "identity of slot %u", i);
        cr_assert_eq(s->data[i], s->m.at[i].mark, "data of slot %u", i);
        cr_assert_eq(cells_find(&s->c, s->m.at[i].row.row), i);
    }
    for (uint32_t i = 0; i < 4 && s->m.used; i++) check_sees(s, roll(d, s->m.used));
    if (s->m.used) check_sees(s, s->m.used - 1);
}

/* A parent among the tentative rows, the batch before row n, or the root (as NONE or by name). */
static uint32_t pick_parent(const side *s, const kv_row *rows, uint32_t n, dice *d)
{
    uint32_t tent = s->m.used - s->m.committed;
    if (n && roll(d, 4)) return rows[n - 1].row;
    if (tent + n == 0 || roll(d, 6) == 0) return roll(d, 2) ? KV_ROW_NONE : model_last(&s->m);
    uint32_t i = roll(d, tent + n);
    return i < tent ? s->m.at[s->m.committed + i].row.row : rows[i - tent].row;
}

static uint32_t pick_rows(const side *s, kv_row *rows, dice *d)
{
    uint32_t n = roll(d, 3) ? roll(d, 5) : roll(d, 70);
    uint32_t next = s->m.used ? s->m.at[s->m.used - 1].row.row + 1 : roll(d, 3);
    for (uint32_t i = 0; i < n; i++) {
        next += roll(d, 3);
        uint32_t parent = pick_parent(s, rows, i, d);
        rows[i] = (kv_row){ next++, roll(d, CTX), parent, (uint16_t)roll(d, 9), (uint8_t)roll(d, 3), (uint8_t)roll(d, 4) };
    }
    return n;
}

static void do_reserve(side *s, dice *d)
{
    kv_row rows[70];
    uint32_t slots[70], n = pick_rows(s, rows, d);
    err e = { 0 };
    err_code rc = cells_stage(&s->c, rows, n, &e);
    if (s->m.used + n > CTX) {
        cr_assert_eq(rc, ERR_FULL);
        return;
    }
    cr_assert_eq(rc, ERR_OK, "%s", e.text);
    cells_add(&s->c, slots);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(slots[i], s->m.used);
        if (rows[i].parent == KV_ROW_NONE) rows[i].parent = model_last(&s->m);
        uint32_t mark = roll(d, UINT32_MAX);
        s->data[s->m.used] = mark;
        s->m.at[s->m.used++] = (cell){ rows[i], mark };
    }
}

/* One thing wrong in an else good batch: refused, and nothing moves. */
static void do_bad_reserve(side *s, dice *d)
{
    kv_row rows[70];
    uint32_t n = pick_rows(s, rows, d), i = n ? roll(d, n) : 0, what = roll(d, 6);
    if (!n || s->m.used + n > CTX) return;
    switch (what) {
    case 0: rows[i].pos = CTX + roll(d, 3); break;
    case 1: rows[i].provenance = 3; break;
    case 2: rows[i].row = KV_ROW_NONE; break;
    case 3: rows[i].parent = rows[i].row; break;
    case 4: if (!s->m.used) return; rows[0].row = s->m.at[s->m.used - 1].row.row; break;
    case 5: if (s->m.committed < 2) return; rows[i].parent = s->m.at[roll(d, s->m.committed - 1)].row.row; break;
    }
    err e = { 0 };
    cr_assert_eq(cells_stage(&s->c, rows, n, &e), ERR_INPUT, "case %u", what);
}

static void do_commit(side *s, dice *d)
{
    const cell_move *m;
    uint32_t n, row, seen[CTX], slot = CELL_NONE;
    err e = { 0 };
    if (roll(d, 8) == 0) {
        row = (s->m.used ? s->m.at[s->m.used - 1].row.row : 0) + 1 + roll(d, 3);
        cr_assert_eq(cells_commit(&s->c, row, &m, &n, &e), ERR_INPUT);
        return;
    }
    if (s->m.used > s->m.committed && roll(d, 6)) slot = s->m.committed + roll(d, s->m.used - s->m.committed);
    row = slot == CELL_NONE ? model_last(&s->m) : s->m.at[slot].row.row;
    cr_assert_eq(cells_commit(&s->c, row, &m, &n, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_lt(m[i].to, m[i].from);
        for (uint32_t k = 0; k < m[i].n; k++) s->data[m[i].to + k] = s->data[m[i].from + k];
    }
    uint32_t keep = slot == CELL_NONE ? s->m.committed : model_sees(&s->m, slot, seen);
    for (uint32_t i = s->m.committed; i < keep; i++) s->m.at[i] = s->m.at[seen[i]];
    s->m.committed = s->m.used = keep;
}

static void do_truncate(side *s, dice *d)
{
    uint32_t top = model_last(&s->m), row = top == KV_ROW_NONE ? roll(d, 5) : top + 2 - roll(d, top < 6 ? top + 2 : 8);
    if (roll(d, 40) == 0) row = roll(d, 20);
    cells_truncate(&s->c, row);
    while (s->m.committed && s->m.at[s->m.committed - 1].row.row >= row) s->m.committed--;
    s->m.used = s->m.committed;
}

static void do_fork(side *child, const side *s)
{
    cells_close(&child->c);
    err e = { 0 };
    cr_assert_eq(cells_fork(&child->c, &s->c, &e), ERR_OK);
    child->m = s->m;
    child->m.used = child->m.committed;
    memcpy(child->data, s->data, sizeof s->data);
}

Test(cells, random_operations_agree_with_a_naive_model)
{
    static side s[3];
    dice d = { test_seed(), 0 };
    for (int i = 0; i < 3; i++) cells_open(&s[i].c, CTX);
    for (int op = 0; op < OPS; op++) {
        side *x = &s[roll(&d, 3)];
        uint32_t what = roll(&d, 20);
        if (what < 9) do_reserve(x, &d);
        else if (what < 11) do_bad_reserve(x, &d);
        else if (what < 17) do_commit(x, &d);
        else if (what < 19) do_truncate(x, &d);
        else if (x != &s[0]) do_fork(x, &s[0]);
        check_side(x, &d);
    }
    for (int i = 0; i < 3; i++) cells_close(&s[i].c);
}

static void line(cells *c, uint32_t first, uint32_t n)
{
    kv_row rows[CTX];
    uint32_t slots[CTX];
    err e = { 0 };
    for (uint32_t i = 0; i < n; i++) rows[i] = (kv_row){ first + i, first + i, i ? first + i - 1 : KV_ROW_NONE, 0, 0, 0 };
    cr_assert_eq(cells_stage(c, rows, n, &e), ERR_OK, "%s", e.text);
    cells_add(c, slots);
}

Test(cells, a_line_is_one_run_and_commits_without_a_move)
{
    cells c;
    cells_open(&c, CTX);
    const cell_move *m;
    uint32_t n;
    err e;
    line(&c, 0, 64);
    cr_assert_eq(cells_commit(&c, 63, &m, &n, &e), ERR_OK);
    cr_assert_eq(n, 0);
    line(&c, 64, 64);
    cell_run r = cells_run(&c, 100);
    cr_assert(r.first == 0 && r.n == 101 && r.at == 0 && r.prev == CELL_NONE);
    cr_assert_eq(cells_commit(&c, 127, &m, &n, &e), ERR_OK);
    cr_assert_eq(n, 0);
    cr_assert_eq(c.committed, 128);
    cells_close(&c);
}

Test(cells, a_second_line_beside_the_first_is_two_runs_and_one_move)
{
    cells c;
    cells_open(&c, CTX);
    const cell_move *m;
    uint32_t n;
    err e;
    line(&c, 0, 10);
    cr_assert_eq(cells_commit(&c, 9, &m, &n, &e), ERR_OK);
    line(&c, 10, 20);
    line(&c, 30, 20);
    cell_run r = cells_run(&c, 49);
    cr_assert(r.first == 30 && r.n == 20 && r.at == 10 && r.prev == 9);
    cr_assert_eq(cells_commit(&c, 49, &m, &n, &e), ERR_OK);
    cr_assert_eq(n, 1);
    cr_assert(m[0].from == 30 && m[0].to == 10 && m[0].n == 20);
    cells_close(&c);
}

Test(cells, a_refused_row_is_named_with_its_value)
{
    cells c;
    cells_open(&c, CTX);
    err e = { 0 };
    kv_row r = { 7, CTX, KV_ROW_NONE, 0, 0, 0 };
    cr_assert_eq(cells_stage(&c, &r, 1, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "row 7") && strstr(e.text, "300"), "%s", e.text);
    const cell_move *m;
    uint32_t n;
    cr_assert_eq(cells_commit(&c, 7, &m, &n, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "row 7"), "%s", e.text);
    cells_close(&c);
}

Test(cells, a_pending_import_refuses_other_rows_until_it_is_whole)
{
    cells c;
    cells_open(&c, CTX);
    err e = { 0 };
    kv_row rows[2] = { { 3, 0, KV_ROW_NONE, 0, 0, 0 }, { 5, 1, 3, 0, 0, 0 } }, other = { 9, 2, KV_ROW_NONE, 0, 0, 0 };
    cr_assert_eq(cells_check_chain(&c, rows, 2, &e), ERR_OK, "%s", e.text);
    cells_pend(&c, rows, 2);
    const cell_move *m;
    uint32_t n;
    cr_assert_eq(cells_stage(&c, &other, 1, &e), ERR_STATE);
    cr_assert_eq(cells_commit(&c, KV_ROW_NONE, &m, &n, &e), ERR_STATE);
    cr_assert_eq(cells_check_chain(&c, rows, 1, &e), ERR_INPUT);
    cr_assert_eq(cells_check_chain(&c, rows, 2, &e), ERR_OK);
    rows[1].segment = 1;
    cr_assert_eq(cells_check_chain(&c, rows, 2, &e), ERR_INPUT);
    cells_pend_commit(&c);
    cr_assert_eq(c.committed, 2);
    cr_assert_eq(cells_stage(&c, &other, 1, &e), ERR_OK, "%s", e.text);
    rows[0] = (kv_row){ 6, 3, 3, 0, 0, 0 };
    cr_assert_eq(cells_check_chain(&c, rows, 1, &e), ERR_INPUT, "its parent is not the last row");
    cells_close(&c);
}
