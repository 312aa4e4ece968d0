/* Scores of rows: which rule a policy names, and the rules that need no queries. Higher is better. Decides nothing. */
#include "core/rng.h"
#include "kvstore/policy/steps.h"
#include <math.h>
#include <string.h>

/* A draw that a row keeps for life: two settlements agree about it. */
static void score_random(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    uint64_t lane = (uint64_t)w->view->layer << 42 | (uint64_t)v->head << 32;
    for (uint32_t i = 0; i < v->n; i++) s[i] = (float)rng_unit(w->view->policy->seed, lane | v->row[i]);
}

/* The newest: with sinks, StreamingLLM, arXiv:2309.17453. Variant: positions stay the text's, not the cache's. */
static void score_position(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    for (uint32_t i = 0; i < v->n; i++) s[i] = (float)v->row[i];
}

/* -|k|: arXiv:2406.11430. */
static void score_knorm(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    for (uint32_t i = 0; i < v->n; i++) {
        const float *k = v->k + (size_t)i * v->d;
        s[i] = -sqrtf(view_dot(w->view, k, k, v->d));
    }
}

static float inverse_norm(const kv_layer_view *l, const float *x, uint32_t d)
{
    float n = sqrtf(view_dot(l, x, x, d));
    return n > 0 ? 1 / n : 0;
}

/* -cos(k, mean of the normalised keys): KeyDiff, arXiv:2504.15364. */
static void score_keydiff(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    float *mean = w->vec, r;
    memset(mean, 0, v->d * sizeof *mean);
    for (uint32_t i = 0; i < v->n; i++) {
        const float *k = v->k + (size_t)i * v->d;
        float inv = inverse_norm(w->view, k, v->d);
        for (uint32_t c = 0; c < v->d; c++) mean[c] = fmaf(k[c], inv, mean[c]);
    }
    r = inverse_norm(w->view, mean, v->d);
    for (uint32_t i = 0; i < v->n; i++) {
        const float *k = v->k + (size_t)i * v->d;
        s[i] = -view_dot(w->view, k, mean, v->d) * inverse_norm(w->view, k, v->d) * r;
    }
}

/* Attention received so far: H2O, arXiv:2306.14048. With a budget by mass it is divided by the number of queries that could see
 * the row, as ZipVL does (arXiv:2410.08584), or early rows would win by age. */
static void score_h2o(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    bool per_query = w->view->policy->budget == KV_BUDGET_MASS;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t could = w->view->seen > v->row[i] ? w->view->seen - v->row[i] : 1;
        s[i] = per_query ? v->sum[i] / (float)could : v->sum[i];
    }
}

/* The last query's attention, meant over the heads of the layer: TOVA, arXiv:2401.06104. A row that another head has evicted
 * counts there as 0. */
static void score_tova(const kv_work *w, uint32_t h, float *s)
{
    const kv_layer_view *l = w->view;
    const kv_head_view *v = &l->head[h];
    memset(s, 0, v->n * sizeof *s);
    for (uint32_t o = 0; o < l->heads; o++) {
        const kv_head_view *u = &l->head[o];
        for (uint32_t i = 0, j = 0; i < v->n; i++) {
            if (o == h) j = i;
            else while (j < u->n && u->row[j] < v->row[i]) j++;
            if (j < u->n && u->row[j] == v->row[i]) s[i] += u->last[j];
        }
    }
}

static void score_none(const kv_work *w, uint32_t h, float *s) { memset(s, 0, w->view->head[h].n * sizeof *s); }

static void (*const rules[KV_SCORE_COUNT])(const kv_work *, uint32_t, float *) = {
    [KV_SCORE_NONE] = score_none, [KV_SCORE_RANDOM] = score_random, [KV_SCORE_POSITION] = score_position,
    [KV_SCORE_KNORM] = score_knorm, [KV_SCORE_KEYDIFF] = score_keydiff, [KV_SCORE_H2O] = score_h2o, [KV_SCORE_TOVA] = score_tova,
    [KV_SCORE_SNAPKV] = score_snapkv, [KV_SCORE_EXPECTED] = score_expected, [KV_SCORE_CRITIC] = score_critic,
};

/* Average over `width` neighbours, zeros beyond the ends counted, as in SnapKV (arXiv:2404.14469, its released code). */
static void pool(const kv_work *w, uint32_t n, uint32_t width, float *s)
{
    int32_t half = (int32_t)(width / 2);
    memcpy(w->tmp, s, n * sizeof *s);
    for (int32_t i = 0; i < (int32_t)n; i++) {
        float sum = 0;
        for (int32_t j = i - half; j <= i + half; j++)
            if (j >= 0 && j < (int32_t)n) sum += w->tmp[j];
        s[i] = sum / (float)width;
    }
}

void kv_score_layer(kv_work *w)
{
    const kv_policy *p = w->view->policy;
    if (p->score == KV_SCORE_SEMANTIC) score_semantic(w);
    for (uint32_t h = 0; h < w->view->heads; h++) {
        if (p->score != KV_SCORE_SEMANTIC) rules[p->score](w, h, work_score(w, h));
        if (p->pool > 1) pool(w, w->view->head[h].n, p->pool, work_score(w, h));
    }
}
