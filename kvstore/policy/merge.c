/* What becomes of the rows that are evicted: nothing, part of a neighbour, or one row that stands for all. */
#include "kvstore/policy/steps.h"
#include <math.h>
#include <string.h>

static void mean_into(float *mean, const float *x, uint32_t d, float share)
{
    for (uint32_t c = 0; c < d; c++) mean[c] = fmaf(x[c] - mean[c], share, mean[c]);
}

static bool kept(const kv_keep *k, uint32_t i)
{
    uint32_t lo = 0, hi = k->n_keep;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (k->keep[mid] < i) lo = mid + 1;
        else hi = mid;
    }
    return lo < k->n_keep && k->keep[lo] == i;
}

/* Elastic Cache, arXiv:2407.18121: an evicted row joins the kept one nearest in position (the later of two); a kept row becomes
 * the mean of itself and what joined it. Fixed rows take nothing in: sinks stay exact. Ranks are true ones, not the
 * published argsort. As in the paper attention adds no ln(count). Variant: keys are averaged before RoPE too, for stores that
 * keep them so. */
static void merge_nearest(const kv_work *w, const kv_head_view *v, kv_keep *out)
{
    float *count = w->tmp;
    uint32_t at = 0;
    for (uint32_t i = 0; i < v->n; i++) count[i] = 1;
    for (uint32_t i = 0; i < v->n && out->n_keep; i++) {
        if (at < out->n_keep && out->keep[at] < i) at++;
        if (at < out->n_keep && out->keep[at] == i) continue;
        uint32_t to = at < out->n_keep ? out->keep[at] : out->keep[at - 1];
        if (at && at < out->n_keep && v->pos[i] - v->pos[out->keep[at - 1]] < v->pos[to] - v->pos[i]) to = out->keep[at - 1];
        if (v->fixed[to]) continue;
        count[to] += 1;
        mean_into(v->k + (size_t)to * v->d, v->k + (size_t)i * v->d, v->d, 1 / count[to]);
        mean_into(v->v + (size_t)to * v->d, v->v + (size_t)i * v->d, v->d, 1 / count[to]);
        if (v->k_pre) mean_into(v->k_pre + (size_t)to * v->d, v->k_pre + (size_t)i * v->d, v->d, 1 / count[to]);
        out->touched[to] = 1;
    }
}

/* RazorAttention, arXiv:2407.15891: one row with the mean key (after RoPE) and mean value of all N evicted rows, which attention
 * counts N times. The row of an earlier settlement is taken in with its own N. */
static void compensate(const kv_head_view *v, kv_keep *out)
{
    size_t at = (size_t)v->n * v->d;
    float total = 0;
    memset(v->k + at, 0, v->d * sizeof(float));
    memset(v->v + at, 0, v->d * sizeof(float));
    if (v->k_pre) memset(v->k_pre + at, 0, v->d * sizeof(float));
    for (uint32_t i = 0; i < v->n; i++) {
        if (kept(out, i)) continue;
        total += v->weight[i];
        mean_into(v->k + at, v->k + (size_t)i * v->d, v->d, v->weight[i] / total);
        mean_into(v->v + at, v->v + (size_t)i * v->d, v->d, v->weight[i] / total);
        if (v->k_pre) mean_into(v->k_pre + at, v->k_pre + (size_t)i * v->d, v->d, v->weight[i] / total);
    }
    if (total == 0) return;
    v->weight[v->n] = total;
    out->extra = true;
    out->touched[v->n] = 1;
    out->tier[v->n] = 2;
    out->keep[out->n_keep++] = v->n;
}

void kv_merge_head(const kv_work *w, uint32_t h, kv_keep *out)
{
    const kv_head_view *v = &w->view->head[h];
    if (w->view->policy->merge == KV_MERGE_NEAREST) merge_nearest(w, v, out);
    if (w->view->policy->merge == KV_MERGE_COMPENSATE && v->local) compensate(v, out);
}
