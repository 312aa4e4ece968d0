/* The merge heap against the definition: look at all neighbours, join the best, again. */
#include "core/clock.h"
#include "engine/merge.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A random rule: whether, how early and to what (l, r) merge is a function of the two ids. */
typedef struct { uint64_t seed, one_in, orders; } rule;

static bool random_rule(const void *ctx, const merge_symbol *l, const merge_symbol *r, uint32_t *order, uint32_t *id)
{
    const rule *u = ctx;
    uint64_t pair = (uint64_t)l->id << 32 | r->id;
    if (support_draw(u->seed, pair, u->one_in)) return false;
    *order = (uint32_t)support_draw(u->seed + 1, pair, u->orders);     /* few orders: ties are common */
    *id = (uint32_t)support_draw(u->seed + 2, pair, 64);
    return true;
}

typedef struct { uint32_t at, len, id; } piece;

static size_t slow_merge(piece *p, size_t n, const rule *u)
{
    for (;;) {
        size_t best = n;
        uint32_t order, id, best_order = 0, best_id = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            merge_symbol l = { p[i].at, p[i].len, p[i].id, 0, 0 }, r = { p[i + 1].at, p[i + 1].len, p[i + 1].id, 0, 0 };
            if (!random_rule(u, &l, &r, &order, &id) || (best < n && order >= best_order)) continue;
            best = i;
            best_order = order;
            best_id = id;
        }
        if (best == n) return n;
        p[best].len += p[best + 1].len;
        p[best].id = best_id;
        memmove(p + best + 1, p + best + 2, (n - best - 2) * sizeof *p);
        n--;
    }
}

Test(merge, the_heap_joins_what_the_definition_joins_in_that_order)
{
    uint64_t seed = support_seed();
    merger m = { 0 };
    size_t joined = 0;
    for (uint64_t round = 0; round < 2000; round++) {
        rule u = { seed + 10 * round, 1 + support_draw(seed, 4 * round, 6), 1 + support_draw(seed, 4 * round + 1, 9) };
        size_t n = (size_t)support_draw(seed, 4 * round + 2, 60);
        uint64_t kinds = 1 + support_draw(seed, 4 * round + 3, 5);
        piece p[64];
        merger_clear(&m);
        for (size_t i = 0; i < n; i++) {
            p[i] = (piece){ (uint32_t)i, 1, (uint32_t)support_draw(u.seed + 3, i, kinds) };
            cr_assert(merger_add(&m, p[i].at, 1, p[i].id));
        }
        cr_assert(merger_run(&m, random_rule, &u));
        size_t k = 0, want = slow_merge(p, n, &u);
        joined += n - want;
        for (uint32_t i = n ? 0 : MERGE_END; i != MERGE_END; i = m.sym[i].next, k++)
            cr_assert(k < want && m.sym[i].at == p[k].at && m.sym[i].len == p[k].len && m.sym[i].id == p[k].id,
                      "round %llu: symbol %zu of %zu differs", (unsigned long long)round, k, want);
        cr_assert_eq(k, want);
    }
    cr_assert_gt(joined, 10000);
    merger_free(&m);
}

Test(merge, a_million_equal_symbols_take_no_quadratic_time)
{
    merger m = { 0 };
    rule u = { 7, 1, 3 };                                  /* everything merges */
    for (uint32_t i = 0; i < 1000000; i++) cr_assert(merger_add(&m, i, 1, 0));
    uint64_t start = clock_ns();
    cr_assert(merger_run(&m, random_rule, &u));
    printf("# merge of 1000000 symbols: %.0f ms\n", (double)(clock_ns() - start) / 1e6);
    cr_assert_eq(m.sym[0].len, 1000000);
    cr_assert_eq(m.sym[0].next, MERGE_END);
    merger_free(&m);
}
