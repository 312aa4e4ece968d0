/* Owns: the sampler against an independent, slow calculation, and candidates against rows. Refuses to share code with the
 * sampler other than forward_top. */
#include "coordinator/sample.h"
#include "core/rng.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_V 5000u
#define MAX_HISTORY 64u
#define DRAWS 100000u

typedef struct { uint64_t seed, at; } dice;
static uint32_t roll(dice *d, uint32_t n) { return (uint32_t)(rng_u64(d->seed, d->at++) % n); }
static double unit(dice *d) { return rng_unit(d->seed, d->at++); }

typedef struct {
    uint32_t V, n, n_history;
    float row[MAX_V], lse;
    candidate cand[MAX_V];
    uint32_t history[MAX_HISTORY];
    sample_bias bias[8];
    sample_params p;
} scene;
static scene sc;
static const sample_params PLAIN = { .temperature = 1, .top_p = 1, .repeat_penalty = 1 };

static float row_lse(const float *x, uint32_t V)
{
    double m = -INFINITY, s = 0;
    for (uint32_t i = 0; i < V; i++)
        if (x[i] > m) m = x[i];
    for (uint32_t i = 0; i < V; i++) s += exp((double)x[i] - m);
    return (float)(m + log(s));
}

static void scene_done(scene *s, uint32_t n)
{
    s->lse = row_lse(s->row, s->V);
    s->n = forward_top(s->row, s->V, s->cand, n);
}

static sample_status pick(const scene *s, bool row, uint32_t draw, sample_scratch *scratch, sample_choice *out)
{
    sample_input in = { s->cand, s->n, s->lse, row ? s->row : NULL, s->V };
    if (row) in.cand = NULL, in.n = 0;
    return sample_pick(&s->p, &in, s->history, s->n_history, draw, scratch, out);
}

/* ---- the slow calculation: a list of (id, probability) in the order of the draw ---- */

typedef struct { uint32_t id; double l, p; } token;
static token tokens[MAX_V];

static int by_rank(const void *a, const void *b)
{
    const token *x = a, *y = b;
    if (x->l != y->l) return x->l > y->l ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void soften(uint32_t n, double T)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += tokens[i].p = exp((tokens[i].l - tokens[0].l) / T);
    for (uint32_t i = 0; i < n; i++) tokens[i].p /= sum;
}

static void edit_tokens(const scene *s)
{
    const sample_params *p = &s->p;
    for (uint32_t i = 0; i < s->V; i++) {
        bool seen = false;
        double l = s->row[i];
        for (uint32_t k = 0; k < p->n_bias; k++)
            if (p->bias[k].id == i) l += p->bias[k].bias;
        for (uint32_t k = 0; k < s->n_history && k < p->repeat_last; k++) seen |= s->history[s->n_history - 1 - k] == i;
        if (seen) l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        tokens[i] = (token){ i, (float)l, 0 };
    }
    qsort(tokens, s->V, sizeof *tokens, by_rank);
}

static uint32_t oracle(const scene *s)
{
    const sample_params *p = &s->p;
    uint32_t n = s->V;
    edit_tokens(s);
    if (p->temperature == 0) n = 1;
    if (p->top_k && p->top_k < n) n = p->top_k;
    soften(n, 1);
    if (p->top_p < 1) {
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            if ((sum += tokens[i].p) >= p->top_p) n = i + 1;
    }
    if (p->min_p > 0)
        for (uint32_t i = 0; i < n; i++)
            if (tokens[i].p < p->min_p * tokens[0].p) n = i;
    soften(n, p->temperature > 0 ? p->temperature : 1);
    return n;
}

/* ---- distributions ---- */

/* Upper tail of chi-square by Wilson and Hilferty's cube root; good to a few percent even far out. */
static double chi2_tail(double x, double df)
{
    double v = 2 / (9 * df), z = (cbrt(x / df) - (1 - v)) / sqrt(v);
    return 0.5 * erfc(z / sqrt(2));
}

static uint32_t hits[MAX_V];

/* Tokens expected less than 5 times share a bin. */
static double fit(uint32_t n, double *df)
{
    double x = 0, rest_want = 0, rest_got = 0;
    *df = -1;
    for (uint32_t i = 0; i < n; i++) {
        double want = tokens[i].p * DRAWS, got = hits[tokens[i].id];
        hits[tokens[i].id] = 0;
        if (want >= 5) x += (got - want) * (got - want) / want, ++*df;
        else rest_want += want, rest_got += got;
    }
    if (rest_want >= 1) x += (rest_got - rest_want) * (rest_got - rest_want) / rest_want, ++*df;
    return *df < 1 ? 1 : chi2_tail(x, *df);
}

/* peaked: a few likely tokens and a long tail, as language has; else nearly flat. */
static void fill(scene *s, uint32_t V, bool peaked, uint64_t seed)
{
    s->V = V;
    for (uint32_t i = 0; i < V; i++) {
        double u = rng_unit(seed, i);
        s->row[i] = (float)(peaked ? 8 - 1.5 * log(1 + u * V) : 2 * u);
    }
    scene_done(s, sample_wants_top(&s->p));
}

/* Returns how many draws of DRAWS needed the row. */
static uint32_t check_fit(const char *name, scene *s, bool peaked)
{
    sample_scratch scratch = { 0 };
    sample_choice c;
    uint32_t rows = 0;
    double df;
    bool row_first = sample_wants_row(&s->p);
    memset(hits, 0, sizeof hits);
    for (uint32_t i = 0; i < DRAWS; i++) {
        if (row_first || pick(s, false, i, &scratch, &c) == SAMPLE_NEED_ROW) {
            rows++;
            cr_assert_eq(pick(s, true, i, &scratch, &c), SAMPLE_OK);
        }
        hits[c.id]++;
    }
    sample_scratch_free(&scratch);
    uint32_t n = oracle(s);
    double p = fit(n, &df);
    fprintf(stderr, "%-26s seed %lu V %u %-6s survivors %4u df %4.0f p %.3g rows %u of %u\n", name, (unsigned long)s->p.seed, s->V,
            peaked ? "peaked" : "flat", n, df, p, rows, DRAWS);
    cr_assert(p > 1e-6, "%s: p = %g", name, p);
    for (uint32_t i = 0; i < s->V; i++) cr_assert_eq(hits[i], 0, "%s: token %u is no survivor but was drawn", name, i);
    return rows;
}

static uint32_t check_both(const char *name, sample_params p, uint32_t V_flat, uint32_t V_peaked)
{
    p.seed = 20260101 + strlen(name);   /* not the same draws for every set */
    sc.p = p;
    for (uint32_t i = 0; i < sc.n_history; i++) sc.history[i] = i * 7;
    fill(&sc, V_flat, false, 11);
    check_fit(name, &sc, false);
    fill(&sc, V_peaked, true, 12);
    if (sc.n_history) /* the likely tokens are the ones that repeat */
        for (uint32_t i = 0; i < sc.n_history; i++) sc.history[i] = sc.cand[i * 2].id;
    return check_fit(name, &sc, true);
}

Test(sample, draws_follow_softmax)
{
    cr_assert_lt(check_both("T=1", PLAIN, 500, 5000), DRAWS / 3);
}

Test(sample, draws_follow_softmax_with_temperature)
{
    sample_params p = PLAIN;
    p.temperature = 0.7;
    sc.p = p;
    sc.p.seed = 5;
    fill(&sc, 500, true, 13);
    cr_assert_eq(check_fit("T=0.7", &sc, true), DRAWS);
}

Test(sample, draws_follow_top_k_with_temperature)
{
    sample_params p = PLAIN;
    p.temperature = 0.7;
    p.top_k = 40;
    cr_assert_eq(check_both("T=0.7 top_k=40", p, 2000, 5000), 0);
}

Test(sample, draws_follow_top_p)
{
    sample_params p = PLAIN;
    p.top_p = 0.9;
    check_both("top_p=0.9", p, 500, 1000);
    p.top_p = 0.5;
    p.temperature = 1.3;
    cr_assert_eq(check_both("T=1.3 top_p=0.5", p, 500, 5000), 0);
    p.top_k = 50;
    cr_assert_eq(check_both("T=1.3 top_k=50 top_p=0.5", p, 500, 5000), 0);
}

Test(sample, draws_follow_min_p)
{
    sample_params p = PLAIN;
    p.min_p = 0.05;
    cr_assert_eq(check_both("min_p=0.05", p, 500, 5000), 0);
    p.min_p = 0.9;
    p.temperature = 0.7;
    cr_assert_eq(check_both("T=0.7 min_p=0.9", p, 500, 5000), 0);
}

Test(sample, draws_follow_penalties)
{
    sample_params p = PLAIN;
    p.repeat_penalty = 1.3;
    p.repeat_last = 32;
    sc.n_history = 32;
    cr_assert_lt(check_both("penalty=1.3", p, 500, 5000), DRAWS / 3);
    p.top_k = 40;
    cr_assert_eq(check_both("penalty=1.3 top_k=40", p, 500, 5000), 0);
    p.top_k = 0;
    p.repeat_penalty = 0.8;
    check_both("penalty=0.8", p, 500, 500);
}

Test(sample, draws_follow_biases)
{
    static const sample_bias b[] = { { 3, 2 }, { 400, -INFINITY }, { 77, -1.5f }, { 3, 1 } };
    sample_params p = PLAIN;
    p.bias = b;
    p.n_bias = 4;
    check_both("bias", p, 500, 500);
}

/* ---- candidates against the row ---- */

/* kind 0: smooth, 1: few values (ties), 2: peaked, 3: ties with NaN and inf, 4: all the same, 5: finite and forbidden. */
static void random_row(scene *s, dice *d, uint32_t kind)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, -0.0f, 3e38f, -3e38f };
    for (uint32_t i = 0; i < s->V; i++) {
        double u = unit(d);
        s->row[i] = (float)(kind == 0 ? 12 * u - 6 : kind == 2 ? 10 - 4 * log(1 + u * s->V) : kind == 4 ? 1.5 : (int)(8 * u) - 4);
        if (kind == 3 && roll(d, 4) == 0) s->row[i] = odd[roll(d, 6)];
        if (kind == 5 && roll(d, 2)) s->row[i] = -INFINITY;
    }
}

static uint32_t some_id(const scene *s, dice *d)
{
    return s->n && roll(d, 2) ? s->cand[roll(d, s->n)].id : roll(d, s->V);
}

static void random_params(scene *s, dice *d)
{
    static const float biases[] = { -INFINITY, -1, -2, 0, 0.5f, 2, -100, 100 };
    static const double temperatures[] = { 0, 1, 1, 1, 0.7, 1.5 }, penalties[] = { 1, 1, 1, 1.1, 1.5, 0.8 };
    sample_params *p = &s->p;
    *p = (sample_params){ .top_p = 1, .bias = s->bias };
    p->temperature = temperatures[roll(d, 6)];
    p->repeat_penalty = penalties[roll(d, 6)];
    if (roll(d, 3) == 0) p->top_k = 1 + roll(d, 40);
    if (roll(d, 3) == 0) p->top_p = roll(d, 4) ? unit(d) : 0.25 * roll(d, 4);
    if (roll(d, 3) == 0) p->min_p = roll(d, 4) ? unit(d) * unit(d) : 1;
    p->repeat_last = roll(d, MAX_HISTORY);
    p->seed = rng_u64(d->seed, d->at++);
    if (roll(d, 2)) p->n_bias = roll(d, 8);
    bool no_raise = roll(d, 3);
    for (uint32_t i = 0; i < p->n_bias; i++)
        s->bias[i] = (sample_bias){ some_id(s, d), biases[no_raise ? roll(d, 4) : roll(d, 8)] };
    s->n_history = roll(d, MAX_HISTORY);
    for (uint32_t i = 0; i < s->n_history; i++) s->history[i] = some_id(s, d);
}

static void random_scene(scene *s, uint64_t seed, uint32_t kind)
{
    dice d = { seed, 0 };
    s->V = 1 + roll(&d, seed % 100 ? 120 : MAX_V);
    random_row(s, &d, kind);
    scene_done(s, roll(&d, 8) ? roll(&d, 70) : s->V);
    if (roll(&d, 100) == 0) s->lse = roll(&d, 2) ? NAN : s->lse + (float)(20 * unit(&d) - 10);
    random_params(s, &d);
}

Test(sample, candidates_and_row_choose_the_same)
{
    sample_scratch a = { 0 }, b = { 0 };
    uint32_t settled = 0, by_kind[6] = { 0 };
    const uint32_t N = 150000;
    for (uint64_t seed = 1; seed <= N; seed++) {
        uint32_t kind = (uint32_t)(seed % 6);
        sample_choice x = { 0, 0 }, y = { 0, 0 };
        random_scene(&sc, seed, kind);
        cr_assert_eq(pick(&sc, true, 0, &a, &y), SAMPLE_OK, "seed %lu", seed);
        cr_assert_lt(y.id, sc.V);
        if (pick(&sc, false, 0, &b, &x) == SAMPLE_NEED_ROW) {
            cr_assert_lt(sc.n, sc.V, "seed %lu: all tokens sent, and still the row is asked for", seed);
            continue;
        }
        settled++;
        by_kind[kind]++;
        cr_assert_eq(x.id, y.id, "seed %lu: candidates give %u, the row %u", seed, x.id, y.id);
        cr_assert(!memcmp(&x.logprob, &y.logprob, 4) && x.logprob == x.logprob, "seed %lu", seed);
    }
    fprintf(stderr, "seeds 1..%u: settled without the row %u (by kind %u %u %u %u %u %u)\n", N, settled, by_kind[0], by_kind[1],
            by_kind[2], by_kind[3], by_kind[4], by_kind[5]);
    for (int k = 0; k < 6; k++) cr_assert_gt(by_kind[k], N / 6 / 4);
    sample_scratch_free(&a);
    sample_scratch_free(&b);
}

/* The choice's interval of the slow calculation's CDF must hold the draw; 1e-4 is far above lse's rounding (1e-6, times 4
 * where edits have taken mass away). */
Test(sample, the_row_chooses_what_the_slow_calculation_chooses)
{
    sample_scratch a = { 0 };
    for (uint64_t seed = 1; seed <= 30000; seed++) {
        random_scene(&sc, seed * 1000003, seed % 2 ? 0 : 2);
        sc.lse = row_lse(sc.row, sc.V);
        sample_choice y = { 0, 0 };
        cr_assert_eq(pick(&sc, true, 5, &a, &y), SAMPLE_OK);
        double u = rng_unit(sc.p.seed, 5), lo = 0;
        uint32_t n = oracle(&sc), i = 0;
        if (tokens[0].l == -INFINITY) continue;
        for (; i < n && tokens[i].id != y.id; i++) lo += tokens[i].p;
        cr_assert_lt(i, n, "seed %lu: %u is no survivor", seed, y.id);
        cr_assert(u > lo - 1e-4 && u < lo + tokens[i].p + 1e-4, "seed %lu: %g not in [%g, %g]", seed, u, lo, lo + tokens[i].p);
        cr_assert_float_eq(y.logprob, sc.row[y.id] - sc.lse, 1e-6);
    }
    sample_scratch_free(&a);
}

/* ---- single cases ---- */

static sample_status pick_from(const float *row, uint32_t V, uint32_t n, sample_params p, const uint32_t *history, size_t n_history,
                               uint32_t *id)
{
    sample_scratch s = { 0 };
    sample_choice c = { UINT32_MAX, 0 };
    candidate cand[16];
    sample_input in = { cand, forward_top(row, V, cand, n), row_lse(row, V), n ? NULL : row, V };
    sample_status rc = sample_pick(&p, &in, history, n_history, 0, &s, &c);
    *id = c.id;
    sample_scratch_free(&s);
    return rc;
}

static sample_params greedy_with(const sample_bias *b, uint32_t n)
{
    sample_params p = PLAIN;
    p.temperature = 0;
    p.bias = b;
    p.n_bias = n;
    return p;
}

Test(sample, greedy_takes_the_lower_id_of_a_tie)
{
    const float row[] = { 1, 4, 4, 2 };
    uint32_t id;
    cr_assert_eq(pick_from(row, 4, 1, greedy_with(NULL, 0), NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 1);
    const sample_bias tie = { 2, -2 };   /* token 2 sinks to token 3's logit */
    cr_assert_eq(pick_from(row, 4, 0, greedy_with(&tie, 1), NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 1);
}

Test(sample, greedy_asks_for_the_row_when_its_best_sinks_below_the_border)
{
    const float row[] = { 3, 5, 3, 1 };
    uint32_t id;
    const sample_bias small = { 1, -2 }, large = { 1, -2.5f };
    cr_assert_eq(pick_from(row, 4, 2, greedy_with(&small, 1), NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 0);
    cr_assert_eq(pick_from(row, 4, 1, greedy_with(&small, 1), NULL, 0, &id), SAMPLE_NEED_ROW);
    cr_assert_eq(pick_from(row, 4, 2, greedy_with(&large, 1), NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 0);
    const sample_bias up = { 3, 1 };
    cr_assert_eq(pick_from(row, 4, 2, greedy_with(&up, 1), NULL, 0, &id), SAMPLE_NEED_ROW);
}

Test(sample, penalty_reaches_back_repeat_last_tokens_and_counts_once)
{
    const float row[] = { 4, 3.5f, 3, -1 };
    const uint32_t history[] = { 0, 1, 1, 3 };
    sample_params p = greedy_with(NULL, 0);
    uint32_t id;
    p.repeat_penalty = 1.25;
    p.repeat_last = 3;   /* 1 sinks to 2.8, 0 is out of reach */
    pick_from(row, 4, 0, p, history, 4, &id);
    cr_assert_eq(id, 0);
    p.repeat_last = 1000;   /* 0 sinks to 3.2, once: above 3 */
    pick_from(row, 4, 0, p, history, 4, &id);
    cr_assert_eq(id, 0);
    p.repeat_penalty = 1.5;   /* 4 / 1.5 < 3 */
    pick_from(row, 4, 0, p, history, 4, &id);
    cr_assert_eq(id, 2);
}

Test(sample, a_forbidden_token_is_never_drawn_and_all_forbidden_gives_the_raw_arg_max)
{
    const float row[] = { 1, 9, 2 };
    const sample_bias b[] = { { 1, -INFINITY }, { 0, -INFINITY }, { 2, -INFINITY } };
    sample_params p = PLAIN;
    p.bias = b;
    uint32_t id;
    p.n_bias = 2;
    for (p.seed = 0; p.seed < 1000; p.seed++) {
        cr_assert_eq(pick_from(row, 3, 0, p, NULL, 0, &id), SAMPLE_OK);
        cr_assert_eq(id, 2);
    }
    p.n_bias = 3;
    cr_assert_eq(pick_from(row, 3, 0, p, NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 1);
    cr_assert_eq(pick_from(row, 3, 3, p, NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 1);
    cr_assert_eq(pick_from(row, 3, 2, p, NULL, 0, &id), SAMPLE_NEED_ROW);
}

Test(sample, a_row_of_nothing_but_nan_gives_token_0)
{
    const float row[] = { NAN, NAN, NAN };
    uint32_t id;
    cr_assert_eq(pick_from(row, 3, 0, PLAIN, NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 0);
    cr_assert_eq(pick_from(row, 3, 2, PLAIN, NULL, 0, &id), SAMPLE_OK);
    cr_assert_eq(id, 0);
}

Test(sample, draws_are_a_function_of_seed_and_row)
{
    sample_scratch s = { 0 };
    sample_choice c;
    uint32_t same_seed = 0, same_row = 0, again = 0, first[300];
    sc.p = PLAIN;
    fill(&sc, 1000, false, 17);
    for (uint32_t i = 0; i < 300; i++) pick(&sc, true, i, &s, &c), first[i] = c.id;
    for (uint32_t i = 0; i < 300; i++) {
        pick(&sc, true, i, &s, &c), again += c.id == first[i];
        same_seed += i && first[i] == first[i - 1];
        sc.p.seed = 1;
        pick(&sc, true, i, &s, &c), same_row += c.id == first[i];
        sc.p.seed = 0;
    }
    sample_scratch_free(&s);
    cr_assert_eq(again, 300);
    cr_assert_lt(same_seed, 10);
    cr_assert_lt(same_row, 10);
}

Test(sample, check_quotes_the_bad_value)
{
    static const sample_bias far = { 100, 1 }, inf = { 7, INFINITY }, nan_bias = { 7, NAN };
    static const struct { sample_params p; const char *say; } bad[] = {
        { { .temperature = -0.5, .top_p = 1, .repeat_penalty = 1 }, "temperature is -0.5" },
        { { .temperature = NAN, .top_p = 1, .repeat_penalty = 1 }, "temperature is nan" },
        { { .top_p = 1.5, .repeat_penalty = 1 }, "top_p is 1.5" },
        { { .top_p = 1, .min_p = -1, .repeat_penalty = 1 }, "min_p is -1" },
        { { .top_p = 1, .repeat_penalty = 0 }, "repeat_penalty is 0" },
        { { .top_p = 1, .repeat_penalty = INFINITY }, "repeat_penalty is inf" },
        { { .top_p = 1, .repeat_penalty = 1, .bias = &far, .n_bias = 1 }, "token 100, the vocabulary has 100" },
        { { .top_p = 1, .repeat_penalty = 1, .bias = &inf, .n_bias = 1 }, "token 7 is inf" },
        { { .top_p = 1, .repeat_penalty = 1, .bias = &nan_bias, .n_bias = 1 }, "token 7 is nan" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        cr_assert_eq(sample_check(&bad[i].p, 100, &e), ERR_INPUT, "%s", bad[i].say);
        cr_assert(strstr(e.text, bad[i].say), "%s: %s", bad[i].say, e.text);
    }
    sample_params ok = PLAIN;
    ok.bias = &(sample_bias){ 7, -INFINITY };
    ok.n_bias = 1;
    cr_assert_eq(sample_check(&ok, 100, NULL), ERR_OK);
}

Test(sample, unchecked_values_do_not_crash)
{
    static const double odd[] = { NAN, INFINITY, -INFINITY, -1, 0, 1e-320, 1e300 };
    sample_scratch s = { 0 };
    sample_choice c;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        dice d = { seed, 1u << 20 };
        random_scene(&sc, seed, (uint32_t)(seed % 6));
        double *field[] = { &sc.p.temperature, &sc.p.top_p, &sc.p.min_p, &sc.p.repeat_penalty };
        *field[roll(&d, 4)] = odd[roll(&d, 7)];
        if (roll(&d, 4) == 0) sc.lse = (float)odd[roll(&d, 5)];
        if (roll(&d, 4) == 0 && sc.n) sc.cand[roll(&d, sc.n)] = (candidate){ roll(&d, 2) ? UINT32_MAX : roll(&d, sc.V), NAN };
        pick(&sc, false, 0, &s, &c);
        cr_assert_eq(pick(&sc, true, 0, &s, &c), SAMPLE_OK, "seed %lu", seed);
        cr_assert_lt(c.id, sc.V);
    }
    sample_scratch_free(&s);
}

Test(sample, asks_for_the_row_at_once_where_candidates_do_not_help)
{
    sample_params p = PLAIN;
    cr_assert(!sample_wants_row(&p));
    cr_assert_eq(sample_wants_top(&p), 64);
    p.temperature = 0.7;
    cr_assert(sample_wants_row(&p));
    p.min_p = 0.05;
    cr_assert(!sample_wants_row(&p));
    p = PLAIN;
    p.top_k = 100;
    p.repeat_penalty = 1.1;
    p.repeat_last = 64;
    cr_assert(!sample_wants_row(&p));
    cr_assert_eq(sample_wants_top(&p), 164);
    p.repeat_last = UINT32_MAX;
    cr_assert_eq(sample_wants_top(&p), 1024);
    p.repeat_penalty = 0.9;
    cr_assert(sample_wants_row(&p));
    p = PLAIN;
    p.top_k = 5000;
    cr_assert(sample_wants_row(&p));
    p = greedy_with(&(sample_bias){ 1, 0.5f }, 1);
    cr_assert(sample_wants_row(&p));
}
