/* Budgets, selection, roles, merging, pruning and retrieval against naive versions, and with planted answers. */
#include "tests/unit/policy_world.h"

static uint32_t kept_rows(const policy_world *p, uint32_t h) { return p->keep[h].n_keep; }

/* Naive: sort candidates by score, descending, ties by index. */
static void naive_keep(const float *s, const uint8_t *held, uint32_t n, uint32_t quota, uint8_t *out)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) have += out[i] = held[i];
    while (have < quota && have < n) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++)
            if (!out[i] && (best == UINT32_MAX || s[i] > s[best])) best = i;
        out[best] = 1;
        have++;
    }
}

Test(kv_decide, the_best_are_those_of_a_sort)
{
    for (uint64_t t = 0; t < 300; t++) {
        float x[64];
        uint8_t skip[64], want[64], got[64];
        uint32_t n = 1 + (uint32_t)support_draw(support_seed(), t * 3, 64), k = (uint32_t)support_draw(support_seed(), t * 3 + 1, 70);
        for (uint32_t i = 0; i < n; i++) {
            x[i] = (float)support_draw(support_seed() + t, i, t % 3 ? 1000000 : 5) - 2;          /* every third: many ties */
            skip[i] = support_draw(support_seed() - t, i, 6) == 0;
        }
        top_cut c = top_find(x, skip, n, k);
        memset(want, 0, sizeof want);
        uint32_t held = held_count(skip, n);
        naive_keep(x, skip, n, held + k, want);
        for (uint32_t i = 0; i < n; i++) got[i] = skip[i] || top_takes(&c, x[i]);
        cr_assert_arr_eq(got, want, n, "trial %llu n %u k %u", (unsigned long long)t, n, k);
    }
}

Test(kv_decide, not_a_number_is_the_worst)
{
    float x[3] = { NAN, -INFINITY, 1 };
    top_cut c = top_find(x, NULL, 3, 2);
    cr_assert(!top_takes(&c, x[0]));
    cr_assert(top_takes(&c, x[1]));
    cr_assert(top_takes(&c, x[2]));
}

Test(kv_decide, a_policy_that_evicts_nothing_keeps_every_row)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++) cr_assert_eq(kept_rows(p, h), PW_N);
    pw_close(p);
}

Test(kv_decide, sinks_window_and_the_best_fill_a_uniform_budget)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.rows = 20;
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        uint8_t held[PW_N], want[PW_N];
        for (uint32_t i = 0; i < PW_N; i++) held[i] = i < 2 || i >= PW_N - 4;
        naive_keep(p->sum[h], held, PW_N, 20, want);
        cr_assert_eq(kept_rows(p, h), 20);
        for (uint32_t i = 0; i < PW_N; i++) cr_assert_eq(pw_kept(p, h, i), want[i], "head %u row %u", h, i);
    }
    pw_close(p);
}

Test(kv_decide, a_budget_below_what_is_held_keeps_what_is_held)
{
    policy_world *p = pw_open(support_seed());
    p->policy.rows = 3;
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++) cr_assert_eq(kept_rows(p, h), 6);
    pw_close(p);
}

Test(kv_decide, streaming_is_sinks_and_the_newest)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_POSITION;
    p->policy.rows = 30;
    pw_decide(p);
    for (uint32_t i = 0; i < PW_N; i++) cr_assert_eq(pw_kept(p, 1, i), i < 2 || i >= PW_N - 28);
    pw_close(p);
}

Test(kv_decide, a_share_counts_the_rows_seen)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_KNORM;
    p->policy.share = 0.25f;
    p->view.seen = 200;
    pw_decide(p);
    cr_assert_eq(kept_rows(p, 0), 50);
    pw_close(p);
}

Test(kv_decide, the_pyramid_narrows_and_keeps_its_mean)
{
    policy_world *p = pw_open(support_seed());
    uint32_t sum = 0, before = PW_N;
    p->policy.score = KV_SCORE_H2O;
    p->policy.budget = KV_BUDGET_PYRAMID;
    p->policy.rows = 40;
    p->policy.alpha = 1 / 20.0f;
    for (p->view.rank = 0; p->view.rank < p->view.active; p->view.rank++) {
        pw_decide(p);
        cr_assert_leq(kept_rows(p, 0), before);
        before = kept_rows(p, 0);
        sum += before;
        if (!p->view.rank) cr_assert_eq(before, 4 + 70, "first layer: window and 2*36 - 1.8, not %u", before);
    }
    cr_assert_eq(before, 4 + 2, "last layer: window and 36/20, not %u", before);
    cr_assert_leq(abs((int)sum - 8 * 40), 8, "%u rows in 8 layers", sum);
    pw_close(p);
}

/* Head 2 holds what matters, so it takes the room of the others, who keep their floor. */
Test(kv_decide, adakv_gives_room_to_the_head_that_needs_it)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.budget = KV_BUDGET_ADAKV;
    p->policy.rows = 20;
    p->policy.alpha = 0.5f;
    for (uint32_t i = 0; i < PW_N; i++) p->sum[2][i] += 100;
    pw_decide(p);
    cr_assert_eq(kept_rows(p, 0), 10);
    cr_assert_eq(kept_rows(p, 1), 10);
    cr_assert_eq(kept_rows(p, 2), 60 - 12);
    pw_close(p);
}

Test(kv_decide, mass_keeps_as_many_rows_as_hold_it)
{
    policy_world *p = pw_open(support_seed());
    double want = 0;
    p->policy.score = KV_SCORE_H2O;
    p->policy.budget = KV_BUDGET_MASS;
    p->policy.tau = 0.6f;
    p->policy.share = 0.99f;
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        double all = 0, got = 0;
        uint8_t none[PW_N] = { 0 }, take[PW_N];
        uint32_t k = 0;
        for (uint32_t i = 0; i < PW_N; i++) all += p->sum[h][i];
        while (got < all * (double)p->policy.tau) {
            naive_keep(p->sum[h], none, PW_N, ++k, take);
            got = 0;
            for (uint32_t i = 0; i < PW_N; i++) got += take[i] ? p->sum[h][i] : 0;
        }
        want += k;
    }
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++) cr_assert_eq(kept_rows(p, h), (uint32_t)ceil(want / PW_HEADS));
    pw_close(p);
}

Test(kv_decide, a_layer_that_suffers_gets_more)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.budget = KV_BUDGET_LAYER_ERROR;
    p->policy.rows = 24;                     /* floor 6, 18 a layer to share out, at most 72 */
    p->view.layer_error = 0.25f;
    pw_decide(p);
    cr_assert_eq(kept_rows(p, 0), 6 + 36);
    p->view.layer_error = 0;
    pw_decide(p);
    cr_assert_eq(kept_rows(p, 0), 6);
    p->view.layer_error = 1;
    pw_decide(p);
    cr_assert_eq(kept_rows(p, 0), 72);
    pw_close(p);
}

Test(kv_decide, a_full_memory_evicts_more)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.budget = KV_BUDGET_PRESSURE;
    p->policy.rows = 10;
    p->policy.share = 0.9f;
    p->policy.alpha = 0.3f;
    p->policy.tau = 0.35f;
    p->policy.evicts = true;
    p->view.budget = 1000;
    uint32_t used[3] = { 0, 500, 1000 }, want[3] = { 81, (uint32_t)(0.75 * 90), (uint32_t)(0.65 * 90) };
    for (int i = 0; i < 3; i++) {
        p->view.used = used[i];
        pw_decide(p);
        cr_assert_leq(abs((int)kept_rows(p, 0) - (int)want[i]), 1, "%u of 1000 used: %u rows, not %u", used[i], kept_rows(p, 0), want[i]);
    }
    pw_close(p);
}

Test(kv_decide, two_stages_let_values_speak)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.select = KV_SELECT_TWO_STAGE;
    p->policy.rows = 6 + 8;
    for (uint32_t i = 0; i < PW_N; i++) p->sum[0][i] = 1 + 0.001f * (float)(PW_N - i);
    for (uint32_t i = 40; i < 44; i++)
        for (int c = 0; c < PW_D; c++) p->v[0][i][c] = 30;
    pw_decide(p);
    for (uint32_t i = 40; i < 44; i++) cr_assert(pw_kept(p, 0, i), "row %u", i);
    for (uint32_t i = 2; i < 6; i++) cr_assert(pw_kept(p, 0, i), "row %u", i);
    cr_assert_eq(kept_rows(p, 0), 14);
    pw_close(p);
}

Test(kv_decide, with_a_second_tier_nothing_is_evicted)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.rows = 20;
    p->policy.k2 = (kv_pack){ .kind = KV_PACK_TOKEN, .bits = 2 };
    pw_decide(p);
    uint32_t low = 0;
    for (uint32_t i = 0; i < PW_N; i++) low += p->tier[0][i] == 1;
    cr_assert_eq(kept_rows(p, 0), PW_N);
    cr_assert_eq(low, PW_N - 20);
    pw_close(p);
}

Test(kv_decide, evicted_rows_join_the_nearest_kept_one)
{
    policy_world *p = pw_open(support_seed()), *q = pw_open(support_seed());
    p->policy.score = KV_SCORE_H2O;
    p->policy.merge = KV_MERGE_NEAREST;
    p->policy.rows = 25;
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t i = 0; i < PW_N; i++) {
            double mean[PW_D], count = 1;
            if (!pw_kept(p, h, i)) continue;
            for (int c = 0; c < PW_D; c++) mean[c] = q->k[h][i][c];
            for (uint32_t j = 0; j < PW_N; j++) {
                uint32_t best = UINT32_MAX;
                if (pw_kept(p, h, j)) continue;
                for (uint32_t t = 0; t < PW_N; t++)
                    if (pw_kept(p, h, t) && (best == UINT32_MAX || abs((int)t - (int)j) <= abs((int)best - (int)j))) best = t;
                if (best != i || p->fixed[i]) continue;
                for (int c = 0; c < PW_D; c++) mean[c] += q->k[h][j][c];
                count++;
            }
            for (int c = 0; c < PW_D; c++) cr_assert_float_eq(p->k[h][i][c], mean[c] / count, 1e-5, "head %u row %u", h, i);
            cr_assert_eq(p->touched[h][i], count > 1);
            cr_assert_eq(p->weight[h][i], 1);
        }
    pw_close(p);
    pw_close(q);
}

/* The planted answer: all dropped keys equal, so attention with one row of weight N is exact. */
Test(kv_decide, one_row_of_weight_n_stands_for_equal_keys)
{
    policy_world *p = pw_open(support_seed());
    p->policy.roles = KV_ROLES_RAZOR;
    p->policy.merge = KV_MERGE_COMPENSATE;
    for (uint32_t i = 2; i < PW_N - PW_N / 5; i++) memcpy(p->k[1][i], p->k[1][2], sizeof p->k[1][2]);
    for (uint32_t h = 0; h < PW_HEADS; h++) pw_head(p, h);
    p->head[1].local = true;
    p->policy.evicts = false;
    double want[PW_D] = { 0 }, got[PW_D] = { 0 }, ws = 0, gs = 0;
    for (uint32_t i = 0; i < PW_N; i++) {
        double w = 0;
        for (int c = 0; c < PW_D; c++) w += (double)p->q[1][PW_W - 1][0][c] * p->k[1][i][c];
        w = exp(w * p->view.scale);
        ws += w;
        for (int c = 0; c < PW_D; c++) want[c] += w * p->v[1][i][c];
    }
    kv_decide(&p->view, p->keep, p->scratch);
    cr_assert_eq(kept_rows(p, 0), PW_N, "a retrieval head loses nothing");
    cr_assert_eq(kept_rows(p, 1), 2 + PW_N / 5 + 1);
    cr_assert(p->keep[1].extra);
    cr_assert_eq(p->weight[1][PW_N], PW_N - 2 - PW_N / 5);
    for (uint32_t t = 0; t < p->keep[1].n_keep; t++) {
        uint32_t i = p->keep[1].keep[t];
        double w = 0;
        for (int c = 0; c < PW_D; c++) w += (double)p->q[1][PW_W - 1][0][c] * p->k[1][i][c];
        w = p->weight[1][i] * exp(w * p->view.scale);
        gs += w;
        for (int c = 0; c < PW_D; c++) got[c] += w * p->v[1][i][c];
    }
    for (int c = 0; c < PW_D; c++) want[c] /= ws, got[c] /= gs;
    for (int c = 0; c < PW_D; c++) cr_assert_float_eq(got[c], want[c], 1e-5);
    pw_close(p);
}

Test(kv_decide, an_earlier_compensation_row_is_taken_in_with_its_weight)
{
    policy_world *p = pw_open(support_seed());
    p->policy.roles = KV_ROLES_RAZOR;
    p->policy.merge = KV_MERGE_COMPENSATE;
    p->head[0].local = true;
    p->weight[0][50] = 30;
    kv_decide(&p->view, p->keep, p->scratch);
    cr_assert_eq(p->weight[0][PW_N], PW_N - 2 - PW_N / 5 - 1 + 30);
    cr_assert(!pw_kept(p, 0, 50));
    pw_close(p);
}

Test(kv_decide, a_low_role_score_makes_a_head_local)
{
    policy_world *p = pw_open(support_seed());
    p->policy.roles = KV_ROLES_ALPHA;
    p->policy.alpha = 0.5f;
    p->head[2].alpha = 0.4f;
    kv_decide(&p->view, p->keep, p->scratch);
    cr_assert_eq(kept_rows(p, 0), PW_N);
    cr_assert_eq(kept_rows(p, 2), 6);
    pw_close(p);
}

/* Channels 3 and 7 carry the keys and are asked for; with 14 of 16 gone those two are left. */
Test(kv_decide, think_keeps_the_channels_that_matter)
{
    policy_world *p = pw_open(support_seed());
    p->policy.prune = KV_PRUNE_THINK;
    p->policy.prune_share = 14.0f / 16;
    for (uint32_t i = 0; i < PW_N; i++) p->k[1][i][3] *= 20, p->k[1][i][7] *= 20;
    p->view.prompt_end = false;
    pw_decide(p);
    cr_assert_eq(p->keep[1].n_drop, 0, "only a prompt's end prunes");
    p->keep[1].n_drop = 0;
    p->view.prompt_end = true;
    pw_decide(p);
    cr_assert_eq(p->keep[1].n_drop, 14);
    cr_assert(!p->drop[1][3] && !p->drop[1][7]);
    pw_close(p);
}

Test(kv_decide, channels_go_in_the_order_of_their_product_of_norms)
{
    policy_world *p = pw_open(support_seed());
    double s[PW_D];
    p->policy.prune = KV_PRUNE_THINK;
    p->policy.prune_share = 0.4f;
    for (int c = 0; c < PW_D; c++) {
        double q = 0, k = 0;
        for (uint32_t i = 0; i < PW_W; i++)
            for (uint32_t gi = 0; gi < PW_G; gi++) q += (double)p->q[0][i][gi][c] * p->q[0][i][gi][c];
        for (uint32_t i = 0; i < PW_N; i++) k += (double)p->k[0][i][c] * p->k[0][i][c];
        s[c] = q * k;
    }
    pw_decide(p);
    cr_assert_eq(p->keep[0].n_drop, 6);
    for (int a = 0; a < PW_D; a++)
        for (int b = 0; b < PW_D; b++) cr_assert(!(p->drop[0][a] && !p->drop[0][b] && s[a] > s[b] * 1.0001), "%d went, %d stayed", a, b);
    pw_close(p);
}

Test(kv_decide, retrieval_picks_sinks_window_and_the_most_looked_at)
{
    kv_policy p = { .sinks = 3, .window = 5, .retrieve_rows = 20 };
    for (uint64_t t = 0; t < 200; t++) {
        uint64_t total[200];
        float as_float[200];
        uint8_t held[200], want[200];
        uint32_t pick[200], n_pick, n = 1 + (uint32_t)support_draw(support_seed(), t, 200), at = 0;
        for (uint32_t i = 0; i < n; i++) {
            total[i] = support_draw(support_seed() + t, i, t % 2 ? 7 : 1 << 22) << (t % 5 * 8);
            as_float[i] = (float)total[i];
            held[i] = i < 3 || i + 5 >= n;
        }
        naive_keep(as_float, held, n, 20, want);
        kv_select_rows(&p, total, n, pick, &n_pick);
        for (uint32_t i = 0; i < n; i++) {
            bool in = at < n_pick && pick[at] == i;
            at += in;
            cr_assert_eq(in, want[i], "trial %llu: row %u of %u", (unsigned long long)t, i, n);
        }
        cr_assert_eq(at, n_pick);
    }
}
