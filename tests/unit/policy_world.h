#ifndef TESTS_UNIT_POLICY_WORLD_H
#define TESTS_UNIT_POLICY_WORLD_H
/* One layer of a small cache as plain arrays, filled at random, and the settlement of it. Refuses to open a store. */
#include "core/rng.h"
#include "kvstore/policy/steps.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PW_HEADS = 3, PW_G = 2, PW_D = 16, PW_N = 90, PW_W = 8, PW_CTX = 1024 };

typedef struct {
    kv_policy policy;
    kv_layer_view view;
    kv_head_view head[PW_HEADS];
    kv_keep keep[PW_HEADS];
    float k[PW_HEADS][PW_N + 1][PW_D], k_pre[PW_HEADS][PW_N + 1][PW_D], v[PW_HEADS][PW_N + 1][PW_D], weight[PW_HEADS][PW_N + 1];
    float sum[PW_HEADS][PW_N], last[PW_HEADS][PW_N], entropy[PW_HEADS][PW_N];
    float q[PW_HEADS][PW_W][PW_G][PW_D], q_pre[PW_HEADS][PW_W][PW_G][PW_D];
    uint32_t row[PW_N], q_row[PW_W], kept[PW_HEADS][PW_N + 1];
    uint16_t segment[PW_N];
    uint8_t fixed[PW_N], fresh[PW_N], provenance[PW_N];
    uint8_t tier[PW_HEADS][PW_N + 1], touched[PW_HEADS][PW_N + 1], drop[PW_HEADS][PW_D], semantic[4];
    rope_table rope;
    float *scratch;
    kv_work work;              /* of the last score() */
} policy_world;

static inline void pw_head(policy_world *p, uint32_t h)
{
    p->head[h] = (kv_head_view){ .n = PW_N, .d = PW_D, .g = PW_G, .head = h, .k = p->k[h][0], .k_pre = p->k_pre[h][0],
        .v = p->v[h][0], .weight = p->weight[h], .row = p->row, .pos = p->row, .segment = p->segment, .provenance = p->provenance,
        .fixed = p->fixed, .fresh = p->fresh, .sum = p->sum[h], .last = p->last[h], .entropy = p->entropy[h], .w = PW_W,
        .q_pre = p->q_pre[h][0][0], .q = p->q[h][0][0], .q_row = p->q_row, .alpha = 1 };
    p->keep[h] = (kv_keep){ .keep = p->kept[h], .tier = p->tier[h], .touched = p->touched[h], .drop = p->drop[h] };
}

/* Random K, V, queries and observations; all rows merged from one token, sinks fixed. */
static inline policy_world *pw_open(uint64_t seed)
{
    policy_world *p = calloc(1, sizeof *p);
    err e = { 0 };
    cr_assert_not_null(p);
    p->policy = (kv_policy){ .share = 1, .window = 4, .sinks = 2, .pool = 1, .seed = 7, .tau = 0.9f, .alpha = 0.2f, .window_queries = PW_W };
    support_fill(p->k[0][0], sizeof p->k / sizeof(float), seed, -1, 1);
    support_fill(p->k_pre[0][0], sizeof p->k_pre / sizeof(float), seed + 1, -1, 1);
    support_fill(p->v[0][0], sizeof p->v / sizeof(float), seed + 2, -1, 1);
    support_fill(p->sum[0], sizeof p->sum / sizeof(float), seed + 3, 0, 5);
    support_fill(p->last[0], sizeof p->last / sizeof(float), seed + 4, 0, 1);
    support_fill(p->entropy[0], sizeof p->entropy / sizeof(float), seed + 5, 0, 4);
    support_fill(p->q[0][0][0], sizeof p->q / sizeof(float), seed + 6, -2, 2);
    support_fill(p->q_pre[0][0][0], sizeof p->q_pre / sizeof(float), seed + 7, -2, 2);
    for (uint32_t i = 0; i < PW_N; i++) p->row[i] = i, p->fresh[i] = 1, p->fixed[i] = i < p->policy.sinks;
    for (uint32_t i = 0; i < PW_W; i++) p->q_row[i] = PW_N - PW_W + i;
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        for (uint32_t i = 0; i < PW_N; i++) p->weight[h][i] = 1;
        pw_head(p, h);
    }
    rope_config c = { .n_rot = PW_D, .neox = true, .base = 10000, .factor = 1 };
    cr_assert_eq(rope_table_open(&p->rope, &c, PW_CTX, &e), ERR_OK, "%s", e.text);
    p->view = (kv_layer_view){ .policy = &p->policy, .layers = 8, .active = 8, .heads = PW_HEADS, .head = p->head, .seen = PW_N,
        .prompt_end = true, .scale = 1 / sqrtf(PW_D), .rope = &p->rope, .neox = true, .layer_error = 1.0f / 8 };
    p->scratch = malloc(kv_decide_floats(&p->view) * sizeof(float));
    cr_assert_not_null(p->scratch);
    return p;
}

static inline void pw_close(policy_world *p)
{
    rope_table_close(&p->rope);
    free(p->scratch);
    free(p);
}

static inline void pw_decide(policy_world *p)
{
    p->policy.evicts = p->policy.rows || p->policy.share < 1;
    for (uint32_t h = 0; h < PW_HEADS; h++) pw_head(p, h);
    for (uint32_t h = 0; h < PW_HEADS; h++) {
        memset(p->tier[h], 0, sizeof p->tier[h]);
        memset(p->touched[h], 0, sizeof p->touched[h]);
        memset(p->drop[h], 0, sizeof p->drop[h]);
    }
    kv_decide(&p->view, p->keep, p->scratch);
}

static inline bool pw_kept(const policy_world *p, uint32_t h, uint32_t i)
{
    for (uint32_t j = 0; j < p->keep[h].n_keep; j++)
        if (p->keep[h].keep[j] == i) return true;
    return false;
}

/* The scores of head h under the policy's rule, as the steps after it see them: valid until the next call. */
static inline const float *pw_score(policy_world *p, uint32_t h)
{
    static float score[PW_HEADS * PW_N], tmp[PW_N], tmp2[PW_N], tmp3[PW_N], vec[4 * PW_D];
    static uint32_t start[PW_HEADS + 1] = { 0, PW_N, 2 * PW_N, 3 * PW_N };
    p->work = (kv_work){ .view = &p->view, .score = score, .start = start, .tmp = tmp, .tmp2 = tmp2, .tmp3 = tmp3, .vec = vec };
    kv_score_layer(&p->work);
    return work_score(&p->work, h);
}
#endif
