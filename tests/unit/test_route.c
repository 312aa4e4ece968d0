/* Masks as numbers and as text, and from rules to masks: what is nested stays nested, what would grow is refused. */
#include "coordinator/route_policies.h"
#include "ops/cli/calibrate_exit.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

TestSuite(route, .timeout = 30);

static layer_mask chosen(const char *rule, uint32_t L, uint32_t answer)
{
    skip_rule r;
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(skip_rule_parse(&r, rule, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(route_choose(&m, &r, &(route_world){ .L = L, .answer = answer }, &e), ERR_OK, "%s: %s", rule, e.text);
    return m;
}

static uint32_t left_out(const layer_mask *m, uint32_t row)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < m->n; l++) n += m->at[l].attn <= row;
    return n;
}

/* ---- masks ---------------------------------------------------------------------------------------------------------- */

Test(route, a_mask_is_read_as_it_was_written)
{
    uint64_t seed = support_seed();
    for (uint64_t i = 0; i < 200; i++) {
        uint32_t L = 1 + (uint32_t)support_draw(seed, 4096 * i, 80);
        layer_mask m = mask_none(L), back;
        for (uint32_t l = 0; l < L; l++)
            for (int half = 0; half < 2; half++) {
                uint64_t kind = support_draw(seed, 4096 * i + 2 * l + half + 1, 6), row = support_draw(seed, 4096 * i + 512 + 2 * l + half, 5000);
                uint32_t from = kind == 0 ? 0 : kind == 1 ? MASK_AFTER | (uint32_t)row : kind == 2 ? (uint32_t)row : MASK_NEVER;
                *(half ? &m.at[l].ffn : &m.at[l].attn) = from;
            }
        if (support_draw(seed, 4096 * i + 3000, 2)) {
            uint32_t first = (uint32_t)support_draw(seed, 4096 * i + 3001, L), row = (uint32_t)support_draw(seed, 4096 * i + 3002, 5000);
            m.calm = (mask_calm){ first, first + 1 + (uint32_t)support_draw(seed, 4096 * i + 3003, L - first), 1 + (uint32_t)support_draw(seed, 4096 * i + 3004, MASK_CALM_ALL),
                                  row % 2 ? row : MASK_AFTER | row, (float)support_draw(seed, 4096 * i + 3005, 1 << 24) / (1 << 24) };
        }
        if (!mask_is_none(&m) && i % 3) m.stand = (mask_stand)(i % 3), m.stand_id = 1 + (uint32_t)support_draw(seed, 4096 * i + 3006, UINT32_MAX - 1);
        text t = { 0 };
        err e = { 0 };
        cr_assert(mask_print(&m, &t));
        cr_assert_eq(mask_parse(&back, L, t.ptr, t.len, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(memcmp(back.at, m.at, L * sizeof *m.at), 0, "%s", t.ptr);
        cr_assert_eq(memcmp(&back.calm, &m.calm, sizeof m.calm), 0, "%s", t.ptr);
        cr_assert(back.stand == m.stand && back.stand_id == m.stand_id, "%s", t.ptr);
        text_free(&t);
    }
}

Test(route, what_is_no_mask_is_quoted)
{
    static const char *const wrong[] = { "attn=", "attn=99", "attn=1,,2", "ffn=1+", "both=1", "attn=1 ", "attn=-1", "attn=1@99999999999", "none attn=1",
                                         "calm=", "calm=1.5,2-4,1+0", "calm=0.5,4-4,1+0", "calm=0.5,4-13,1+0", "calm=0.5,2-4,0+0", "calm=0.5,2-4,65535+0", "calm=0.5,2-4,1", "calm=nan,2-4,1+0",
                                         "ffn=1 stand=", "ffn=1 stand=0,5", "ffn=1 stand=3,5", "ffn=1 stand=1", "ffn=1 stand=1,0", "ffn=1 stand=1,4294967296" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        layer_mask m;
        err e = { 0 };
        bool trailing = !strcmp(wrong[i], "attn=1 ");
        cr_expect_eq(mask_parse(&m, 12, wrong[i], strlen(wrong[i]), &e), trailing ? ERR_OK : ERR_INPUT, "\"%s\"", wrong[i]);
        if (!trailing) cr_expect(strstr(e.text, wrong[i]), "%s", e.text);
    }
}

Test(route, a_mask_that_grows_over_rows_that_are_there_is_refused)
{
    err e = { 0 };
    layer_mask on = mask_none(4), off = mask_none(4), later = mask_none(4);
    off.at[2].attn = 0;
    later.at[2].ffn = 10;
    cr_expect_eq(mask_change(&off, &on, 0, &e), ERR_OK);            /* no row is there yet */
    cr_expect_eq(mask_change(&off, &on, 1, &e), ERR_STATE);
    cr_expect(strstr(e.text, "layer 2"), "%s", e.text);
    cr_expect_eq(mask_change(&on, &off, 1, &e), ERR_STATE);         /* nor may a row have run what it should not */
    cr_expect_eq(mask_change(&on, &later, 10, &e), ERR_OK);         /* shrinking from the next row on */
    cr_expect_eq(mask_change(&on, &later, 11, &e), ERR_STATE);
    cr_expect_eq(mask_change(&later, &on, 10, &e), ERR_OK);         /* row 10 has not come */
    cr_expect_eq(mask_change(&later, &on, 11, &e), ERR_STATE);
}

Test(route, a_stage_is_idle_from_the_row_at_which_its_last_half_goes)
{
    layer_mask m = mask_none(6);
    for (uint32_t l = 2; l < 4; l++) m.at[l] = (mask_layer){ 5 * l, 7 };
    cr_expect_eq(mask_idle(&m, 2, 4), 15u);
    cr_expect_eq(mask_idle(&m, 2, 3), 10u);
    cr_expect_eq(mask_idle(&m, 2, 5), MASK_NEVER);
    cr_expect_eq(mask_idle(&m, 3, 3), 0u);
    m.at[2] = m.at[3] = (mask_layer){ 0, 0 };
    cr_expect_eq(mask_idle(&m, 2, 4), 0u);
    m.stand = MASK_SCALED;
    cr_expect_eq(mask_idle(&m, 2, 4), MASK_NEVER, "where something stands in there is work");
    cr_expect_eq(mask_idle(&m, 3, 3), 0u);
}

Test(route, a_calm_ffn_leaves_out_the_next_ones_inside_its_layers)
{
    mask_calm one = { .first = 2, .last = 8, .count = 2, .theta = 0.5f }, all = one;
    mask_row r = { 1, 0 }, q = { 1, 0 }, idle = { 0, 0 };
    all.count = MASK_CALM_ALL;
    bool ran[2][10];
    for (uint32_t l = 0; l < 10; l++) {
        ran[0][l] = !mask_calm_rests(&one, l, &r);
        ran[1][l] = !mask_calm_rests(&all, l, &q);
        cr_expect(!mask_calm_rests(&one, l, &idle), "a row that does not follow it");
        if (ran[0][l]) mask_calm_saw(&one, l, l == 3 ? 0.4f : 0.6f, &r);
        if (ran[1][l]) mask_calm_saw(&all, l, l < 3 ? 0.4f : 0.6f, &q);
        mask_calm_saw(&one, l, 1, &idle);
    }
    static const bool want[2][10] = { { 1, 1, 1, 0, 0, 1, 0, 0, 1, 1 }, { 1, 1, 1, 1, 0, 0, 0, 0, 1, 1 } };
    cr_expect_eq(memcmp(ran, want, sizeof want), 0);
    cr_expect(r.out == 4 && q.out == 4 && !idle.out && !idle.state);
    cr_expect_eq(q.state, MASK_CALM_ALL + 1);
}

/* ---- rules ---------------------------------------------------------------------------------------------------------- */

Test(route, a_rule_that_cannot_be_is_refused_with_its_reason)
{
    static const struct { const char *rule, *says; } wrong[] = {
        { "fist", "none, list" }, { "unified", "how many" }, { "unified:layers=-1", "wants 0" }, { "unified:layers=2.5", "whole" }, { "list:3b", "3b" },
        { "list:600", "600" }, { "unified:colour=2", "colour" }, { "list:1,seed=3", "no setting seed" }, { "random:3,rows=some", "some" },
        { "skipdecode:min=9,max=4", "min=9" }, { "none:3", "3" }, { "ffn-skip", "theta" }, { "ffn-skip:theta=0.9,share=0.2", "theta" }, { "ffn-skip:share=0.2,next=3", "next=1" }, { "ffn-skip:theta=2", "wants 0 to 1" },
        { "duo", "how many" }, { "duo:4,what=attn", "no setting what" }, { "adaskip:2,scale=maybe", "maybe" }, { "unified:2,scale=off", "no setting scale" }, { "ffn-skip:theta=0.9,patch=yes", "yes" },
        { "unified:2,what=all", "all" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        skip_rule r;
        err e = { 0 };
        cr_expect_eq(skip_rule_parse(&r, wrong[i].rule, &e), ERR_CONFIG, "%s was taken", wrong[i].rule);
        cr_expect(strstr(e.text, wrong[i].says), "%s: %s", wrong[i].rule, e.text);
    }
}

Test(route, a_model_without_the_layers_is_an_input_error)
{
    static const char *const rules[] = { "list:12", "unified:11", "random:99", "skipdecode:max=13", "skipdecode:warm=4,min=4,max=8", "ffn-skip:theta=0.9,cold=8,last=4" };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        skip_rule r;
        layer_mask m;
        err e = { 0 };
        cr_assert_eq(skip_rule_parse(&r, rules[i], &e), ERR_OK, "%s", e.text);
        cr_expect_eq(route_choose(&m, &r, &(route_world){ .L = 12, .answer = 64 }, &e), ERR_INPUT, "%s", rules[i]);
    }
}

Test(route, lists_take_halves_and_rows)
{
    layer_mask m = chosen("list:3,7a,9f,rows=decode", 12, 0);
    cr_expect(m.at[3].attn == MASK_AFTER && m.at[3].ffn == MASK_AFTER);
    cr_expect(m.at[7].attn == MASK_AFTER && m.at[7].ffn == MASK_NEVER);
    cr_expect(m.at[9].attn == MASK_NEVER && m.at[9].ffn == MASK_AFTER);
    m = chosen("list:3", 12, 0);
    cr_expect(m.at[3].attn == 0 && m.at[3].ffn == 0 && left_out(&m, 0) == 1);
}

Test(route, random_and_unified_leave_out_so_many_and_keep_both_ends)
{
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < 300; i++) {
        char rule[64];
        uint32_t L = 3 + (uint32_t)support_draw(seed, 4 * i, 60), n = 1 + (uint32_t)support_draw(seed, 4 * i + 1, L - 2);
        snprintf(rule, sizeof rule, i % 2 ? "unified:%u" : "random:%u,seed=%u", n, i);
        layer_mask m = chosen(rule, L, 0);
        cr_assert_eq(left_out(&m, 0), n, "%s of %u layers", rule, L);
        cr_assert(m.at[0].attn == MASK_NEVER && m.at[L - 1].attn == MASK_NEVER, "%s of %u layers", rule, L);
    }
    layer_mask a = chosen("random:4,seed=1", 40, 0), b = chosen("random:4,seed=1", 40, 0), c = chosen("random:4,seed=2", 40, 0);
    cr_expect_eq(memcmp(&a, &b, sizeof a), 0);
    cr_expect_neq(memcmp(&a, &c, sizeof a), 0);
}

/* arXiv:2307.02628: n(t) falls linearly from max to min over N rows; row t runs the lowest `warm` layers and the highest n(t) - warm.
 * So every later row's layers are among every earlier one's. */
Test(route, skipdecode_is_the_papers_schedule_and_nested)
{
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t L = 4 + (uint32_t)support_draw(seed, 8 * i, 60), warm = (uint32_t)support_draw(seed, 8 * i + 1, 3);
        uint32_t least = warm + 1 + (uint32_t)support_draw(seed, 8 * i + 2, L - warm - 1);
        uint32_t most = least + (uint32_t)support_draw(seed, 8 * i + 3, L - least + 1), over = 1 + (uint32_t)support_draw(seed, 8 * i + 4, 200);
        uint32_t n_prompt = 1 + (uint32_t)support_draw(seed, 8 * i + 5, 300), before = L;
        char rule[96];
        snprintf(rule, sizeof rule, "skipdecode:max=%u,min=%u,warm=%u,over=%u", most, least, warm, over);
        layer_mask m = chosen(rule, L, 7), at;
        mask_bind(&at, &m, n_prompt, 0);
        for (uint32_t row = 0; row < n_prompt + over + 3; row++) {
            uint32_t t = row < n_prompt ? 0 : row - n_prompt, on = 0;
            double n = (double)most - (double)(most - least) * (t < over ? t : over) / over;
            uint32_t want = row < n_prompt ? L : (uint32_t)lround(n);
            for (uint32_t l = 0; l < L; l++) {
                bool runs = row < at.at[l].attn, should = l < warm || l >= L - (want - warm);
                cr_assert_eq(runs, should, "%s, %u layers: row %u (t %u), layer %u", rule, L, row, t, l);
                on += runs;
            }
            cr_assert(on == want && on <= before, "%s: row %u runs %u layers, the one before %u", rule, row, on, before);
            before = on;
        }
    }
}

Test(route, a_schedule_goes_on_behind_a_slide)
{
    layer_mask m = chosen("skipdecode:max=8,min=4,over=40", 10, 0), at, slid;
    mask_bind(&at, &m, 100, 0);
    mask_bind(&slid, &m, 60, 25);
    for (uint32_t k = 0; k < 30; k++) cr_assert_eq(left_out(&at, 125 + k), left_out(&slid, 60 + k), "%u rows on", k);
}

Test(route, any_order_of_layers_is_nested)
{
    uint32_t order[10] = { 4, 2, 7, 1, 8, 3, 5, 6, 0, 9 };
    router known = { .L = 10, .order = order };
    skip_rule r;
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(skip_rule_parse(&r, "skipdecode:max=9,min=5,over=16,order=learned", &e), ERR_OK, "%s", e.text);
    cr_expect_eq(route_choose(&m, &r, &(route_world){ .L = 10 }, &e), ERR_CONFIG, "an order that nobody knows");
    cr_assert_eq(route_choose(&m, &r, &(route_world){ .L = 10, .known = &known }, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < 5; i++) cr_expect(m.at[order[i]].attn != MASK_NEVER && (!i || m.at[order[i]].attn >= m.at[order[i - 1]].attn), "layer %u", order[i]);
    for (uint32_t i = 5; i < 10; i++) cr_expect_eq(m.at[order[i]].attn, MASK_NEVER, "layer %u", order[i]);
}

Test(route, the_share_is_what_rows_leave_out)
{
    layer_mask m = mask_none(4);
    m.at[1] = (mask_layer){ 0, 0 };
    cr_expect_float_eq(mask_share(&m, 10, 20, 1, 3), 0.25, 1e-12);
    m.at[2].ffn = 15;
    cr_expect_float_eq(mask_share(&m, 10, 20, 1, 3), 0.25 + 0.25 * 0.75 * 0.5, 1e-12);
    cr_expect_float_eq(mask_share(&m, 10, 10, 1, 3), 0, 0);
}

/* ---- by what calibration found ---------------------------------------------------------------------------------------- */

static double damages[8] = { 9, 0.3, 0.1, 0.2, 0.05, 0.6, 0.01, 9 }, similar[2][8] = { { 1, 0.5, 0.9, 0.4, 0.8, 0.3, 0.2, 1 }, { 1, 0.1, 0.2, 0.95, 0.3, 0.85, 0.1, 1 } };
static uint32_t by_order[8] = { 6, 2, 4, 3, 1, 5, 7, 0 };

static layer_mask learned(const char *rule, double neighbours, const double *damage, uint32_t stages)
{
    static const double cost[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, more[2] = { 0, 3 };
    static const uint32_t parts[2][3] = { { 0, 8, 0 }, { 0, 5, 8 } };
    router known = { .L = 8, .damage = damages, .order = by_order, .sim_attn = similar[0], .sim_ffn = similar[1], .neighbours = neighbours };
    skip_rule r;
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(skip_rule_parse(&r, rule, &e), ERR_OK, "%s", e.text);
    route_world w = { .L = 8, .known = &known, .damage = damage, .cost = cost, .stage = parts[stages - 1], .stage_more = more, .n_stages = stages };
    cr_assert_eq(route_choose(&m, &r, &w, &e), ERR_OK, "%s: %s", rule, e.text);
    return m;
}

static void goes(const layer_mask *m, const char *want)
{
    text t = { 0 };
    cr_assert(mask_print(m, &t));
    cr_expect_str_eq(t.ptr, want);
    text_free(&t);
}

Test(route, fixed_goes_by_the_order_and_first_by_the_prompt)
{
    static const double other[8] = { 0, 0.5, 0.4, 0.01, 0.9, 0.02, 0.8, 0 };
    layer_mask m = learned("fixed:2", 0, NULL, 1);
    goes(&m, "attn=2+0,6+0 ffn=2+0,6+0");
    m = learned("first:2", 0, other, 1);
    goes(&m, "attn=3+0,5+0 ffn=3+0,5+0");
    m = learned("first:2,what=ffn", 0, other, 1);
    goes(&m, "ffn=3+0,5+0");
}

Test(route, neighbours_that_go_together_cost_more)
{
    layer_mask m = learned("first:3", 0, NULL, 1);
    goes(&m, "attn=2+0,4+0,6+0 ffn=2+0,4+0,6+0");
    static const double flat[8] = { 9, 0.2, 0.1, 0.11, 0.12, 0.13, 0.3, 9 };
    m = learned("first:3", 0, flat, 1);
    goes(&m, "attn=2+0,3+0,4+0 ffn=2+0,3+0,4+0");
    m = learned("first:3", 0.5, flat, 1);
    goes(&m, "attn=2+0,4+0,6+0 ffn=2+0,4+0,6+0");
}

/* 2 and 4 stand in for each other: either may go, but not both. */
Test(route, pairs_that_go_together_cost_what_was_measured)
{
    static double pairs[64];
    pairs[2 * 8 + 4] = pairs[4 * 8 + 2] = 0.5;
    pairs[6 * 8 + 2] = pairs[2 * 8 + 6] = -3;    /* that a pair costs less than its parts is no reason to take it */
    router known = { .L = 8, .damage = damages, .order = by_order, .neighbours = 9, .pairs = pairs };
    route_world w = { .L = 8, .known = &known };
    skip_rule r;
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(skip_rule_parse(&r, "first:3", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(route_choose(&m, &r, &w, &e), ERR_OK, "%s", e.text);
    goes(&m, "attn=3+0,4+0,6+0 ffn=3+0,4+0,6+0");
}

static err_code trained(const char *rule, const double *rho, bool any, layer_mask *m, err *e)
{
    static float weights[8];
    router known = { .L = 8, .damage = damages, .order = by_order, .neighbours = 9, .rho_w = any ? weights : NULL };
    route_world w = { .L = 8, .known = &known, .damage = damages, .rho = rho };
    skip_rule r;
    err_code rc = skip_rule_parse(&r, rule, e);
    return rc ? rc : route_choose(m, &r, &w, e);
}

Test(route, trained_routers_keep_what_they_want_to_keep)
{
    static const double rho[8] = { 0, 0.9, 0.45, 0.3, 0.55, 0.1, 0.99, 0 };
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(trained("first:2,routers=trained", rho, true, &m, &e), ERR_OK, "%s", e.text);
    goes(&m, "attn=3+0,5+0 ffn=3+0,5+0");
    cr_assert_eq(trained("first:rho=0.5,routers=trained", rho, true, &m, &e), ERR_OK, "%s", e.text);
    goes(&m, "attn=2+0,3+0,5+0 ffn=2+0,3+0,5+0");
    cr_assert_eq(trained("first:2,routers=trained", NULL, true, &m, &e), ERR_OK, "%s", e.text);
    goes(&m, "none");
    cr_expect_eq(trained("first:2,routers=trained", rho, false, &m, &e), ERR_CONFIG);
    cr_expect(strstr(e.text, "section first"), "%s", e.text);
    cr_expect_eq(trained("first:damage=0.1,routers=trained", rho, true, &m, &e), ERR_CONFIG);
    cr_expect_eq(trained("first:rho=0.5", rho, true, &m, &e), ERR_CONFIG);
    cr_expect(strstr(e.text, "routers=trained"), "%s", e.text);
}

Test(route, a_budget_of_damage_is_kept)
{
    layer_mask m = learned("first:damage=0.2", 0, NULL, 1);       /* 0.01 + 0.05 + 0.1, and 0.2 more is too much */
    goes(&m, "attn=2+0,4+0,6+0 ffn=2+0,4+0,6+0");
    m = learned("fixed:damage=0.005", 0, NULL, 1);
    goes(&m, "none");
}

/* Two stages of 5 and 3 + 3 (the head): the second one is the slower until a layer of it has gone, then both. */
Test(route, a_budget_of_speed_counts_the_slowest_stage)
{
    layer_mask m = learned("first:speed=1.1", 0, NULL, 2);        /* 6 must become 5.45: one of layers 5 to 7 */
    goes(&m, "attn=6+0 ffn=6+0");
    m = learned("first:speed=1.3", 0, NULL, 2);                   /* 4.6: two there, and one of the first stage */
    goes(&m, "attn=4+0,5+0,6+0 ffn=4+0,5+0,6+0");
    skip_rule r;
    err e = { 0 };
    cr_assert_eq(skip_rule_parse(&r, "first:speed=9", &e), ERR_OK);
}

Test(route, adaskip_takes_the_halves_that_change_least)
{
    layer_mask m = learned("adaskip:2,scale=off", 0, NULL, 1);
    goes(&m, "attn=2,4 ffn=3,5");
}

/* What the profile says leaves out a twentieth, two of them, ...; between them in proportion. */
Test(route, a_share_over_prompts_goes_by_the_profiles_limits)
{
    double at[ROUTER_LIMITS][ROUTER_CALM], bias[8] = { 0 }, slope[8] = { 0 }, entropy = 1;
    double damage[8] = { 9, 0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 9 }, rho[8] = { 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0 };
    static float weights[8];
    for (uint32_t i = 0; i < ROUTER_CALM; i++) at[LIMIT_DAMAGE][i] = 0.1 * (i + 1), at[LIMIT_RHO][i] = 0.05 * (i + 1), at[LIMIT_EXIT][i] = 1 - 0.1 * (i + 1);
    router known = { .L = 8, .damage = damage, .order = by_order, .exits = true, .exit_bias = bias, .exit_slope = slope, .rho_w = weights,
                     .limit = { at[0], at[1], at[2] } };
    route_world w = { .L = 8, .known = &known, .damage = damage, .rho = rho, .entropy = &entropy };
    static const struct { const char *rule, *mask; } want[] = {
        { "first:mean=0.16", "attn=1+0,2+0 ffn=1+0,2+0" },                       /* 0.32 nats: a tenth and two */
        { "first:mean=0.325", "attn=1+0,2+0,3+0 ffn=1+0,2+0,3+0" },              /* 0.65 */
        { "first:mean=0.25,routers=trained", "attn=1+0,2+0 ffn=1+0,2+0" },       /* below 0.25 */
        { "exit:share=0.25", "attn=1+0,2+0,3+0,4+0,5+0,6+0 ffn=1+0,2+0,3+0,4+0,5+0,6+0" },   /* q 0.5: each hazard is a half */
        { "exit:share=0.05", "attn=4+0,5+0,6+0 ffn=4+0,5+0,6+0" },               /* q 0.9: the fourth */
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        skip_rule r;
        layer_mask m;
        err e = { 0 };
        cr_assert_eq(skip_rule_parse(&r, want[i].rule, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(route_choose(&m, &r, &w, &e), ERR_OK, "%s: %s", want[i].rule, e.text);
        goes(&m, want[i].mask);
        known.limit[LIMIT_EXIT] = known.limit[LIMIT_DAMAGE] = known.limit[LIMIT_RHO] = NULL;
        cr_expect_eq(route_choose(&m, &r, &w, &e), ERR_CONFIG, "%s", want[i].rule);
        cr_expect(strstr(e.text, "--only limits"), "%s", e.text);
        for (int k = 0; k < ROUTER_LIMITS; k++) known.limit[k] = at[k];
    }
}

/* ---- what stands in --------------------------------------------------------------------------------------------------- */

static err_code standing(const char *rule, const uint32_t *order, uint32_t low, uint32_t scaled, layer_mask *m, err *e)
{
    double theta[2 * ROUTER_CALM] = { 0 };
    router known = { .L = 8, .damage = damages, .order = by_order, .sim_attn = similar[0], .sim_ffn = similar[1], .n_calm = ROUTER_CALM, .calm = theta, .calm_all = theta };
    route_world w = { .L = 8, .known = &known, .low_order = order, .stand_id = { [MASK_LOW_RANK] = low, [MASK_SCALED] = scaled } };
    skip_rule r;
    err_code rc = skip_rule_parse(&r, rule, e);
    return rc ? rc : route_choose(m, &r, &w, e);
}

Test(route, a_mask_names_the_stand_ins_that_it_wants)
{
    static const uint32_t order[8] = { 5, 3, 6, 1, 2, 4, 7, 0 };
    layer_mask m;
    err e = { 0 };
    cr_assert_eq(standing("duo:3", order, 77, 88, &m, &e), ERR_OK, "%s", e.text);
    goes(&m, "ffn=3+0,5+0,6+0 stand=1,77");
    cr_assert_eq(standing("adaskip:2", order, 77, 88, &m, &e), ERR_OK, "%s", e.text);
    goes(&m, "attn=2,4 ffn=3,5 stand=2,88");
    cr_assert_eq(standing("ffn-skip:theta=0.5,patch=on", order, 77, 88, &m, &e), ERR_OK, "%s", e.text);
    cr_expect(m.stand == MASK_LOW_RANK && m.stand_id == 77);
    cr_assert_eq(standing("ffn-skip:theta=0.5", order, 77, 88, &m, &e), ERR_OK, "%s", e.text);
    cr_expect(m.stand == MASK_BARE && !m.stand_id);
    cr_expect_eq(standing("duo:7", order, 77, 88, &m, &e), ERR_INPUT, "the ends stay");
    static const struct { const char *rule, *says; } lacking[] = { { "duo:3", "section stand" }, { "ffn-skip:theta=0.5,patch=on", "section stand" }, { "adaskip:2", "scale=off" } };
    for (size_t i = 0; i < sizeof lacking / sizeof *lacking; i++) {
        cr_expect_eq(standing(lacking[i].rule, NULL, 0, 0, &m, &e), ERR_CONFIG, "%s", lacking[i].rule);
        cr_expect(strstr(e.text, lacking[i].says), "%s", e.text);
    }
}

/* ---- depth ---------------------------------------------------------------------------------------------------------- */

Test(route, a_session_is_deep_enough_where_the_cumulated_hazard_reaches_q)
{
    double bias[6] = { -15, 0, 0, 0, 0, 0 }, slope[6] = { 0, 0, 0, -10, 0, 0 }, low = 0, high = 3;
    router known = { .L = 6, .exits = true, .exit_bias = bias, .exit_slope = slope };
    route_world w = { .L = 6, .known = &known, .entropy = &low };
    const struct { const char *rule; double *entropy; uint32_t from; } want[] = {
        { "exit:q=0.49", &low, 2 }, { "exit:q=0.74", &low, 3 }, { "exit:q=0.87", &low, 4 }, { "exit:q=0.87", &high, 5 }, { "exit:q=0.99", &low, 5 },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        skip_rule r;
        layer_mask m;
        err e = { 0 };
        cr_assert_eq(skip_rule_parse(&r, want[i].rule, &e), ERR_OK, "%s", e.text);
        w.entropy = want[i].entropy;
        cr_assert_eq(route_choose(&m, &r, &w, &e), ERR_OK, "%s", e.text);
        for (uint32_t l = 0; l < 6; l++) cr_expect_eq(m.at[l].attn == MASK_AFTER && m.at[l].ffn == MASK_AFTER, l >= want[i].from && l < 5, "%s, layer %u", want[i].rule, l);
    }
}

/* Documents of low entropy come out at layer 1, the others at layer 3. */
Test(route, hazards_are_learned_from_where_documents_come_out)
{
    enum { DOCS = 60, DEEP = 6 };
    double damage[DOCS][DEEP], entropy[DOCS], bias[DEEP], slope[DEEP], share[DEEP];
    err e = { 0 };
    for (uint32_t i = 0; i < DOCS; i++) {
        entropy[i] = (double)support_draw(support_seed(), i, 1000) / 250;
        for (uint32_t l = 0; l < DEEP; l++) damage[i][l] = l >= (entropy[i] < 2 ? 1u : 3u) ? EXIT_DELTA / 2 : EXIT_DELTA * 2;
    }
    cr_assert_eq(calibrate_exit(&damage[0][0], entropy, DOCS, DEEP, bias, slope, share, &e), ERR_OK, "%s", e.text);
    router known = { .L = DEEP, .exits = true, .exit_bias = bias, .exit_slope = slope };
    cr_expect_float_eq(share[1] + share[3], 1, 1e-9);
    cr_expect_lt(slope[1], 0, "the surer, the sooner");
    cr_expect_eq(router_exit(&known, 0.2, 0.5), 1u);
    cr_expect_eq(router_exit(&known, 3.8, 0.5), 3u);
}
