#include "coordinator/costs.h"
#include "coordinator/plan.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The split of layers against every possible split, and costs as a table and as JSON. */

enum { L_MAX = 9, N_MAX = 4, WORLDS = 300 };

typedef struct { plan_work w; double layer[L_MAX]; uint64_t bytes[L_MAX]; plan_seat seat[N_MAX]; uint32_t n; } world;

static double unit(uint64_t seed, uint64_t i) { return (double)support_draw(seed, i, 1000) / 100 + 0.01; }

static void make(world *x, uint64_t seed, bool limits)
{
    *x = (world){ .n = 1 + (uint32_t)support_draw(seed, 0, N_MAX) };
    x->w = (plan_work){ .L = 1 + (uint32_t)support_draw(seed, 1, L_MAX), .layer = x->layer, .layer_bytes = x->bytes, .embed = unit(seed, 2),
                        .head = unit(seed, 3), .hop = unit(seed, 4), .embed_bytes = support_draw(seed, 5, 9), .head_bytes = support_draw(seed, 6, 9) };
    for (uint32_t l = 0; l < x->w.L; l++) x->layer[l] = unit(seed, 10 + l), x->bytes[l] = 1 + support_draw(seed, 30 + l, 9);
    for (uint32_t i = 0; i < x->n; i++) x->seat[i] = (plan_seat){ unit(seed, 50 + i), limits ? 10 + support_draw(seed, 60 + i, 40) : 0 };
}

/* Time of one seat with layers [from, to), infinite when they do not fit. */
static double time_of(const world *x, uint32_t s, uint32_t from, uint32_t to)
{
    const plan_work *w = &x->w;
    double sum = (from ? 0 : w->embed) + (to == w->L ? w->head : 0);
    uint64_t bytes = (from ? 0 : w->embed_bytes) + (to == w->L ? w->head_bytes : 0);
    if (from == to) return 0;
    for (uint32_t l = from; l < to; l++) sum += w->layer[l], bytes += x->bytes[l];
    return x->seat[s].memory && bytes > x->seat[s].memory ? INFINITY : sum / x->seat[s].speed + w->hop;
}

static double try_all(const world *x, uint32_t s, uint32_t from, bool all)
{
    if (s == x->n) return from == x->w.L ? 0 : INFINITY;
    double best = INFINITY;
    for (uint32_t to = from + all; to <= x->w.L; to++) {
        double own = time_of(x, s, from, to), rest = try_all(x, s + 1, to, all), worst = own > rest ? own : rest;
        if (worst < best) best = worst;
    }
    return best;
}

static void check_parts(const world *x, const plan_part *p, bool all, double slowest)
{
    uint32_t at = 0, embeds = 0, heads = 0;
    double worst = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        cr_assert(p[i].first == at && p[i].last >= p[i].first + all);
        at = p[i].last;
        embeds += p[i].embed;
        heads += p[i].head;
        if (p[i].embed) cr_expect(p[i].first == 0 && p[i].last > 0);
        if (p[i].head) cr_expect(p[i].last == x->w.L && p[i].first < p[i].last);
        worst = fmax(worst, time_of(x, i, p[i].first, p[i].last));
    }
    cr_expect(at == x->w.L && embeds == 1 && heads == 1);
    cr_expect_lt(fabs(worst - slowest), 1e-9 * worst);
}

static void against_all(bool all, bool limits)
{
    uint64_t seed = support_seed();
    uint32_t fits = 0, none = 0;
    for (uint64_t i = 0; i < WORLDS; i++) {
        world x;
        plan_part part[N_MAX];
        double slowest = 0;
        err e;
        make(&x, seed + i, limits);
        if (all && x.n > x.w.L) continue;
        double best = try_all(&x, 0, 0, all);
        err_code rc = plan_seats(&x.w, x.seat, x.n, all, part, &slowest, &e);
        cr_assert_eq(rc, isinf(best) ? ERR_CONFIG : ERR_OK, "world %llu: %g", (unsigned long long)i, best);
        none += isinf(best);
        if (rc) continue;
        fits++;
        cr_expect_lt(fabs(slowest - best), 1e-9 * best, "world %llu: %g, every way tried: %g", (unsigned long long)i, slowest, best);
        check_parts(&x, part, all, slowest);
    }
    cr_expect(fits > 50 && (!limits || none > 10), "%u fit, %u do not", fits, none);
}

Test(plan, no_split_is_better_when_every_seat_gets_a_layer) { against_all(true, false); }
Test(plan, no_split_is_better_when_seats_may_stay_empty) { against_all(false, false); }
Test(plan, memory_is_kept) { against_all(true, true); against_all(false, true); }

Test(plan, a_slow_seat_stays_empty_where_that_is_faster)
{
    const double layer[4] = { 1, 1, 1, 1 };
    const plan_work w = { .L = 4, .layer = layer, .hop = 0.1 };
    const plan_seat seat[3] = { { 1, 0 }, { 0.1, 0 }, { 1, 0 } };
    plan_part p[3];
    double slowest;
    err e;
    cr_assert_eq(plan_seats(&w, seat, 3, false, p, &slowest, &e), ERR_OK);
    cr_expect(p[0].last == 2 && p[1].first == 2 && p[1].last == 2 && p[2].first == 2 && p[2].head && p[0].embed && !p[1].embed);
    cr_expect_lt(fabs(slowest - 2.1), 1e-12);
    cr_expect_eq(plan_seats(&w, seat, 0, false, p, &slowest, &e), ERR_CONFIG);
}

/* ---- costs ---------------------------------------------------------------------------------------------------------- */

static costs some(void)
{
    costs c = { .digest = "0123456789abcdef0123456789abcdef", .L = 2, .D = 64, .cpus = 2, .n_rows = 3, .rows = { 1, 4, 16 }, .n_teams = 2,
                .layer_bytes = { 300, 100 }, .embed_bytes = 5, .head_bytes = 6, .kv_row_bytes = 7, .attend_us = 0.5, .embed_us = 0.25,
                .hop_us = 20, .hop_us_mb = 300, .turn_us = 21, .turn_row_us = 10 };
    for (uint32_t t = 0; t < 2; t++)
        c.team[t] = (cost_team){ 2 - t, 1 + t, { 3, { 10, 40, 100 } }, { 3, { 1, 2, 3 } }, { 3, { 20, 80, 200 } }, { 3, { 2, 4, 6 } } };
    c.weight[0] = 1.5;
    c.weight[1] = 0.5;
    return c;
}

Test(plan, a_cost_lies_between_those_that_were_measured)
{
    costs c = some();
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 1), 10);
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 2), 20);
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 4), 40);
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 10), 70);
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 32), 200, "in proportion behind the last");
    cr_expect_eq(cost_at(&c, &c.team[0].layer, 0), 0);
    cr_expect_eq(cost_team_of(&c, 2)->threads, 2);
    cr_expect_eq(cost_team_of(&c, 1)->threads, 1);
    cr_expect_eq(cost_team_of(&c, 8)->threads, 2);
}

Test(plan, costs_come_back_from_their_file)
{
    costs c = some(), back;
    json_t *o = costs_json(&c);
    err e;
    cr_assert(o);
    cr_assert_eq(costs_read(&back, o, &e), ERR_OK, "%s", e.text);
    json_t *again = costs_json(&back);
    cr_expect(json_equal(o, again));
    cr_expect(back.weight[0] == 1.5 && back.weight[1] == 0.5);
    json_decref(again);
    json_decref(o);
}

Test(plan, every_damaged_number_of_a_file_is_named)
{
    static const struct { const char *key; json_type as; } bad[] = { { "digest", JSON_NULL }, { "dim", JSON_NULL }, { "rows", JSON_ARRAY },
        { "teams", JSON_ARRAY }, { "layer_bytes", JSON_ARRAY }, { "hop_us", JSON_STRING }, { "attend_us", JSON_INTEGER }, { "embed_bytes", JSON_INTEGER } };
    costs c = some(), back;
    err e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *o = costs_json(&c), *v = bad[i].as == JSON_ARRAY ? json_array() : bad[i].as == JSON_STRING ? json_string("x") : bad[i].as == JSON_INTEGER ? json_integer(-1) : json_null();
        json_object_set_new(o, bad[i].key, v);
        cr_expect_eq(costs_read(&back, o, &e), ERR_CONFIG, "%s", bad[i].key);
        cr_expect(strstr(e.text, bad[i].key), "%s: %s", bad[i].key, e.text);
        json_decref(o);
    }
}
