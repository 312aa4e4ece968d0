/* Every score against its formula in double, written again from the papers, and against a cache in which the right rows are known.
 * Refuses to look at keep lists; those are test_kv_decide.c's. */
#include "tests/unit/policy_world.h"

typedef double oracle(const policy_world *p, uint32_t h, uint32_t j);

static double dot(const float *a, const float *b)
{
    double s = 0;
    for (int c = 0; c < PW_D; c++) s += (double)a[c] * b[c];
    return s;
}

static double norm(const float *a) { return sqrt(dot(a, a)); }

/* Weight of row j for window query i of head gi, and the output's channel c. */
static double attention(const policy_world *p, uint32_t h, uint32_t i, uint32_t gi, uint32_t j)
{
    double sum = 0;
    if (p->row[j] > p->q_row[i]) return 0;
    for (uint32_t t = 0; t < PW_N; t++)
        if (p->row[t] <= p->q_row[i]) sum += p->weight[h][t] * exp(dot(p->q[h][i][gi], p->k[h][t]) * p->view.scale);
    return p->weight[h][j] * exp(dot(p->q[h][i][gi], p->k[h][j]) * p->view.scale) / sum;
}

static double knorm(const policy_world *p, uint32_t h, uint32_t j) { return -norm(p->k[h][j]); }

static double keydiff(const policy_world *p, uint32_t h, uint32_t j)
{
    double mean[PW_D] = { 0 }, d = 0, m = 0;
    for (uint32_t t = 0; t < PW_N; t++)
        for (int c = 0; c < PW_D; c++) mean[c] += p->k[h][t][c] / norm(p->k[h][t]);
    for (int c = 0; c < PW_D; c++) d += mean[c] * p->k[h][j][c], m += mean[c] * mean[c];
    return -d / (sqrt(m) * norm(p->k[h][j]));
}

static double h2o(const policy_world *p, uint32_t h, uint32_t j) { return p->sum[h][j]; }

static double tova(const policy_world *p, uint32_t h, uint32_t j)
{
    (void)h;
    return (double)p->last[0][j] + p->last[1][j] + p->last[2][j];
}

static double snapkv(const policy_world *p, uint32_t h, uint32_t j)
{
    double s = 0;
    for (uint32_t i = 0; i < PW_W; i++)
        for (uint32_t gi = 0; gi < PW_G; gi++) s += attention(p, h, i, gi, j);
    return s / (PW_W * PW_G);
}

static double semantic(const policy_world *p, uint32_t h, uint32_t j)
{
    double s = 0;
    (void)h;
    for (int k = 0; k < 4; k++)
        for (uint32_t i = 0; i < PW_W; i++) s += attention(p, p->semantic[k] / PW_G, i, p->semantic[k] % PW_G, j);
    return s;
}

/* The covariance is formed here, and the rotation is a matrix. */
static void mean_matrix(const policy_world *p, double m[PW_D][PW_D])
{
    memset(m, 0, sizeof(double) * PW_D * PW_D);
    for (int i = 0; i < PW_D / 2; i++)
        for (uint32_t t = PW_N; t < PW_N + 512; t++) {
            double c = p->rope.cos[t * (PW_D / 2) + (uint32_t)i] / 512.0, s = p->rope.sin[t * (PW_D / 2) + (uint32_t)i] / 512.0;
            m[i][i] += c, m[i][i + PW_D / 2] -= s, m[i + PW_D / 2][i] += s, m[i + PW_D / 2][i + PW_D / 2] += c;
        }
}

static double expected_logit(const policy_world *p, uint32_t h, uint32_t gi, uint32_t j, double m[PW_D][PW_D])
{
    double mu[PW_D] = { 0 }, cov[PW_D][PW_D] = { { 0 } }, rk[PW_D] = { 0 }, lin = 0, quad = 0;
    for (int i = 0; i < PW_W; i++)
        for (int c = 0; c < PW_D; c++) mu[c] += p->q_pre[h][i][gi][c] / (double)PW_W;
    for (int i = 0; i < PW_W; i++)
        for (int a = 0; a < PW_D; a++)
            for (int b = 0; b < PW_D; b++)
                cov[a][b] += (p->q_pre[h][i][gi][a] - mu[a]) * (p->q_pre[h][i][gi][b] - mu[b]) / (double)PW_W;
    for (int a = 0; a < PW_D; a++)
        for (int b = 0; b < PW_D; b++) rk[b] += p->k[h][j][a] * m[a][b];              /* k'R */
    for (int a = 0; a < PW_D; a++) lin += rk[a] * mu[a];
    for (int a = 0; a < PW_D; a++)
        for (int b = 0; b < PW_D; b++) quad += rk[a] * cov[a][b] * rk[b];
    return lin * p->view.scale + quad * p->view.scale * p->view.scale / 2;
}

static double expected(const policy_world *p, uint32_t h, uint32_t j)
{
    double m[PW_D][PW_D], s = 0;
    mean_matrix(p, m);
    for (uint32_t gi = 0; gi < PW_G; gi++) {
        double sum = 0;
        for (uint32_t t = 0; t < PW_N; t++) sum += exp(expected_logit(p, h, gi, t, m));
        s += exp(expected_logit(p, h, gi, j, m)) / sum / PW_G;
    }
    return s * norm(p->v[h][j]);
}

/* The gradient by finite differences of the loss itself, not by the closed form. */
static double loss(const policy_world *p, uint32_t h, uint32_t gi, const double before[PW_D], uint32_t j, int side, int c, double eps)
{
    double w[PW_N], sum = 0, l = 0;
    const float *q = p->q[h][PW_W - 1][gi];
    for (uint32_t t = 0; t < PW_N; t++) {
        double x = dot(q, p->k[h][t]) + (t == j && side == 0 ? eps * q[c] : 0);
        sum += w[t] = exp(x * p->view.scale);
    }
    for (int a = 0; a < PW_D; a++) {
        double o = 0;
        for (uint32_t t = 0; t < PW_N; t++) o += w[t] / sum * (p->v[h][t][a] + (t == j && side == 1 && a == c ? eps : 0));
        l += (o - before[a]) * (o - before[a]) / PW_D;
    }
    return l;
}

static double gradient(const policy_world *p, uint32_t h, uint32_t j)
{
    double s = 0;
    for (uint32_t gi = 0; gi < PW_G; gi++) {
        double before[PW_D] = { 0 };
        for (uint32_t t = 0; t < PW_N; t++)
            for (int c = 0; c < PW_D; c++) before[c] += attention(p, h, PW_W - 2, gi, t) * p->v[h][t][c];
        for (int side = 0; side < 2; side++)
            for (int c = 0; c < PW_D; c++)
                s += fabs(loss(p, h, gi, before, j, side, c, 1e-5) - loss(p, h, gi, before, j, side, c, -1e-5)) / 2e-5;
    }
    return s;
}

static double unit_range(double (*f)(const policy_world *, uint32_t, uint32_t), const policy_world *p, uint32_t h, uint32_t j)
{
    static double cache[PW_N];
    static const void *whose;
    double lo = INFINITY, hi = -INFINITY;
    if (whose != (const void *)f || !j)
        for (uint32_t t = 0; t < PW_N; t++) cache[t] = f(p, h, t);
    whose = (const void *)f;
    for (uint32_t t = 0; t < PW_N; t++) lo = fmin(lo, cache[t]), hi = fmax(hi, cache[t]);
    return (cache[j] - lo) / (hi - lo);
}

static double aged_entropy(const policy_world *p, uint32_t h, uint32_t j) { return p->entropy[h][j] / log(p->row[j] + 2.0); }

static double critic(const policy_world *p, uint32_t h, uint32_t j)
{
    static double grad[PW_N], lo, hi;
    if (!j) {
        lo = INFINITY, hi = -INFINITY;
        for (uint32_t t = 0; t < PW_N; t++) grad[t] = gradient(p, h, t), lo = fmin(lo, grad[t]), hi = fmax(hi, grad[t]);
    }
    return 0.5 * unit_range(h2o, p, h, j) + 0.2 * unit_range(aged_entropy, p, h, j) + 0.3 * (grad[j] - lo) / (hi - lo);
}

static void compare(kv_score_kind kind, oracle *f, const char *what)
{
    policy_world *p = pw_open(support_seed());
    double worst = 0;
    p->policy.score = kind;
    p->view.semantic = memcpy(p->semantic, (uint8_t[4]){ 5, 0, 3, 2 }, 4);
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        const float *s = pw_score(p, h);
        for (uint32_t j = 0; j < PW_N; j++) {
            double want = f(p, h, j), off = fabs(s[j] - want) / (fabs(want) + 1e-3);
            worst = fmax(worst, off);
            cr_assert_lt(off, 1e-4, "%s: head %u row %u: %g, not %g", what, h, j, s[j], want);
        }
    }
    printf("# %s: largest relative difference %.1e\n", what, worst);
    pw_close(p);
}

Test(kv_score, knorm_is_its_formula) { compare(KV_SCORE_KNORM, knorm, "knorm"); }
Test(kv_score, keydiff_is_its_formula) { compare(KV_SCORE_KEYDIFF, keydiff, "keydiff"); }
Test(kv_score, h2o_is_its_formula) { compare(KV_SCORE_H2O, h2o, "h2o"); }
Test(kv_score, tova_is_its_formula) { compare(KV_SCORE_TOVA, tova, "tova"); }
Test(kv_score, snapkv_is_its_formula) { compare(KV_SCORE_SNAPKV, snapkv, "snapkv"); }
Test(kv_score, semantic_heads_choose_for_all_heads) { compare(KV_SCORE_SEMANTIC, semantic, "semantic"); }
Test(kv_score, expected_attention_is_its_formula) { compare(KV_SCORE_EXPECTED, expected, "expected"); }
Test(kv_score, critic_is_its_formula_with_the_gradient_by_differences) { compare(KV_SCORE_CRITIC, critic, "critic"); }

Test(kv_score, a_merged_row_counts_as_often_as_it_stands_for)
{
    policy_world *p = pw_open(support_seed());
    p->policy.score = KV_SCORE_SNAPKV;
    p->weight[1][17] = 12;
    const float *s = pw_score(p, 1);
    for (uint32_t j = 0; j < PW_N; j++) cr_assert_float_eq(s[j], snapkv(p, 1, j), 1e-5);
    pw_close(p);
}

Test(kv_score, pooling_spreads_a_score_over_its_neighbours)
{
    policy_world *p = pw_open(support_seed());
    float plain[PW_N];
    p->policy.score = KV_SCORE_H2O;
    memcpy(plain, pw_score(p, 0), sizeof plain);
    p->policy.pool = 5;
    const float *s = pw_score(p, 0);
    for (int j = 0; j < PW_N; j++) {
        double want = 0;
        for (int t = j - 2; t <= j + 2; t++) want += t >= 0 && t < PW_N ? plain[t] / 5.0 : 0;
        cr_assert_float_eq(s[j], want, 1e-5);
    }
    pw_close(p);
}

Test(kv_score, random_draws_stay_with_the_row)
{
    policy_world *p = pw_open(support_seed());
    float before[PW_N];
    p->policy.score = KV_SCORE_RANDOM;
    memcpy(before, pw_score(p, 2), sizeof before);
    for (uint32_t i = 0; i < PW_N; i++) p->row[i] = i + 1;
    const float *after = pw_score(p, 2);
    for (uint32_t i = 0; i + 1 < PW_N; i++) cr_assert_eq(after[i], before[i + 1]);
    cr_assert_neq(memcmp(pw_score(p, 0), pw_score(p, 0) + PW_N, PW_N * sizeof(float)), 0, "two heads drew alike");
    pw_close(p);
}

/* ---- planted signals: nine rows that matter, in a cache where everything else is noise ---- */

static bool planted(uint32_t j) { return j >= 8 && j < 80 && j % 8 == 3; }

static void plant_key(policy_world *p, float size)
{
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t j = 0; j < PW_N; j++)
            for (int c = 0; c < PW_D; c++) p->k[h][j][c] = (planted(j) ? size : 0) * (c == 0) + 0.05f * p->k[h][j][c];
}

/* All queries, before and after RoPE, look for what the planted keys hold. */
static void plant_query(policy_world *p)
{
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t i = 0; i < PW_W; i++)
            for (uint32_t gi = 0; gi < PW_G; gi++) p->q[h][i][gi][0] = 8, p->q_pre[h][i][gi][0] = 8;
}

static void finds(policy_world *p, kv_score_kind kind, const char *what)
{
    p->policy.score = kind;
    p->policy.sinks = 0;
    p->policy.window = 0;
    p->policy.rows = 9;
    memset(p->fixed, 0, sizeof p->fixed);
    pw_decide(p);
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t j = 0; j < PW_N; j++)
            cr_assert_eq(pw_kept(p, h, j), planted(j), "%s: head %u row %u is %s", what, h, j, planted(j) ? "lost" : "kept");
}

Test(kv_score, queries_find_the_keys_planted_for_them)
{
    static const kv_score_kind kinds[] = { KV_SCORE_SNAPKV, KV_SCORE_SEMANTIC };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        policy_world *p = pw_open(support_seed());
        p->view.semantic = memcpy(p->semantic, (uint8_t[4]){ 5, 0, 3, 2 }, 4);
        plant_key(p, 4);
        plant_query(p);
        finds(p, kinds[i], i ? "semantic" : "snapkv");
        pw_close(p);
    }
}

/* The slowest pair of RoPE hardly turns in 512 positions, so a key there is what future queries will look for. */
Test(kv_score, expected_attention_finds_what_future_queries_look_for)
{
    policy_world *p = pw_open(support_seed());
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        for (uint32_t j = 0; j < PW_N; j++)
            for (int c = 0; c < PW_D; c++) p->k[h][j][c] = (planted(j) && c == PW_D / 2 - 1 ? 4.0f : 0) + 0.02f * p->k[h][j][c];
        for (uint32_t i = 0; i < PW_W; i++)
            for (uint32_t gi = 0; gi < PW_G; gi++) p->q_pre[h][i][gi][PW_D / 2 - 1] = 8;
    }
    finds(p, KV_SCORE_EXPECTED, "expected");
    pw_close(p);
}

Test(kv_score, small_keys_and_odd_keys_are_found_without_queries)
{
    policy_world *p = pw_open(support_seed());
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t j = 0; j < PW_N; j++)
            for (int c = 0; c < PW_D; c++) p->k[h][j][c] = (planted(j) ? 0.1f : 1.0f) * (c == 1 ? 3.0f : 0.1f) + 0.01f * p->k[h][j][c];
    finds(p, KV_SCORE_KNORM, "knorm");
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t j = 0; j < PW_N; j++) p->k[h][j][1] = planted(j) ? -3.0f : 3.0f;
    finds(p, KV_SCORE_KEYDIFF, "keydiff");
    pw_close(p);
}

Test(kv_score, what_was_looked_at_stays)
{
    policy_world *p = pw_open(support_seed());
    for (uint32_t h = 0; h < PW_HEADS; h++)
        for (uint32_t j = 0; j < PW_N; j++)
            p->sum[h][j] = planted(j) ? 9 : 0.1f, p->last[h][j] = planted(j) ? 0.1f : 0.001f, p->entropy[h][j] = planted(j) ? 4 : 1;
    finds(p, KV_SCORE_H2O, "h2o");
    finds(p, KV_SCORE_TOVA, "tova");
    finds(p, KV_SCORE_CRITIC, "critic");
    pw_close(p);
}
