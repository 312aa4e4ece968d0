/* Owns: forward_top against a full sort. Refuses to time anything. */
#include "core/rng.h"
#include "engine/forward.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#define MAX_V 5000u

static candidate want[MAX_V], got[MAX_V];
static float row[MAX_V];

static int by_rank(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static float odd_logit(uint64_t r)
{
    static const float odd[] = { NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f };
    return odd[r % 6];
}

/* kind 0: smooth, 1: many ties, 2: ascending (every one replaces the worst), 3: NaN and inf among ties. */
static void fill(uint32_t V, uint64_t seed, unsigned kind)
{
    for (uint32_t i = 0; i < V; i++) {
        double u = rng_unit(seed, i);
        row[i] = kind == 0 ? (float)(20 * u - 10) : kind == 2 ? (float)i : (float)(int)(9 * u) - 4;
        if (kind == 3 && u < 0.3) row[i] = odd_logit(rng_u64(seed + 1, i));
    }
}

static void compare(uint32_t V, uint32_t n, uint64_t seed, unsigned kind)
{
    fill(V, seed, kind);
    for (uint32_t i = 0; i < V; i++) want[i] = (candidate){ i, isnan(row[i]) ? -INFINITY : row[i] };
    qsort(want, V, sizeof *want, by_rank);
    uint32_t m = forward_top(row, V, got, n);
    cr_assert_eq(m, n < V ? n : V, "seed %lu kind %u V %u n %u: %u", seed, kind, V, n, m);
    for (uint32_t i = 0; i < m; i++)
        cr_assert(got[i].id == want[i].id && got[i].logit == want[i].logit, "seed %lu kind %u V %u n %u: place %u is %u, not %u",
                  seed, kind, V, n, i, got[i].id, want[i].id);
}

Test(top, equals_a_full_sort)
{
    for (uint64_t seed = 1; seed <= 4000; seed++) {
        uint32_t V = 1 + (uint32_t)(rng_u64(seed, 1) % (seed % 20 ? 150 : MAX_V)), n = (uint32_t)(rng_u64(seed, 2) % 130);
        compare(V, n, seed, (unsigned)(seed % 4));
    }
}

Test(top, gives_the_whole_row_when_asked_for_more)
{
    for (unsigned kind = 0; kind < 4; kind++) compare(777, 1000, 3, kind);
}

Test(top, gives_nothing_for_nothing)
{
    cr_assert_eq(forward_top(row, 0, got, 5), 0);
    cr_assert_eq(forward_top(row, 5, got, 0), 0);
}

Test(top, breaks_ties_by_lower_id_and_puts_nan_last)
{
    const float x[] = { NAN, 1, -0.0f, 1, 0.0f, -INFINITY };
    const uint32_t order[] = { 1, 3, 2, 4, 0, 5 };
    cr_assert_eq(forward_top(x, 6, got, 6), 6);
    for (uint32_t i = 0; i < 6; i++) cr_assert_eq(got[i].id, order[i], "place %u: %u", i, got[i].id);
    cr_assert_eq(got[4].logit, -INFINITY);
}
