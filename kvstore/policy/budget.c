/* How many rows each head of a layer may keep. Knows no row but by score. */
#include "kvstore/policy/steps.h"
#include <math.h>

static uint32_t clamp_rows(double x, uint32_t lo, uint32_t hi)
{
    if (!(x > lo)) return lo;
    return x < hi ? (uint32_t)x : hi;
}

uint32_t policy_rows(const kv_layer_view *l)
{
    const kv_policy *p = l->policy;
    return p->rows ? p->rows : clamp_rows(ceil((double)p->share * l->seen), 1, l->seen);
}

static void each(kv_work *w, uint32_t rows)
{
    for (uint32_t h = 0; h < w->view->heads; h++) w->quota[h] = rows;
}

static void budget_uniform(kv_work *w) { each(w, policy_rows(w->view)); }

/* PyramidKV, arXiv:2406.02069: with C rows on average, W of them the window, the last layer keeps (C - W)/beta beside it and the
 * first 2 (C - W) less that, linear between; layers that the mask leaves on count. alpha is 1/beta. */
static void budget_pyramid(kv_work *w)
{
    const kv_layer_view *l = w->view;
    uint32_t c = policy_rows(l), win = l->policy->window < c ? l->policy->window : c;
    double low = (double)(c - win) * l->policy->alpha, high = 2.0 * (c - win) - low;
    double at = l->active > 1 ? (double)l->rank / (l->active - 1) : 0.5;
    each(w, win + clamp_rows(high - (high - low) * at + 0.5, 0, l->seen));
}

/* Ada-KV, arXiv:2407.11550: the best heads*B rows of the layer wherever they are, but no head below alpha*B. */
static void budget_adakv(kv_work *w)
{
    const kv_layer_view *l = w->view;
    uint32_t b = policy_rows(l), floor = clamp_rows((double)l->policy->alpha * b, 1, b), held = 0, all = w->start[l->heads];
    for (uint32_t i = 0; i < all; i++) held += w->held[i];
    uint64_t total = (uint64_t)b * l->heads;
    top_cut cut = top_find(w->score, w->held, all, total > held ? (uint32_t)(total - held < all ? total - held : all) : 0);
    for (uint32_t h = 0; h < l->heads; h++) {
        uint32_t n = held_count(work_held(w, h), l->head[h].n);
        for (uint32_t i = 0; i < l->head[h].n; i++) n += !work_held(w, h)[i] && top_takes(&cut, work_score(w, h)[i]);
        w->quota[h] = n > floor ? n : floor;
    }
}

/* The fewest of n weights, best first, that sum to `want`; among equal ones the first count first. */
static uint32_t rows_for_mass(const float *a, uint32_t n, double want)
{
    uint32_t lo = 1, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        top_cut cut = top_find(a, NULL, n, mid);
        double got = 0;
        for (uint32_t i = 0; i < n; i++) got += top_takes(&cut, a[i]) ? a[i] : 0;
        if (got >= want) hi = mid;
        else lo = mid + 1;
    }
    return lo;
}

/* ZipVL, arXiv:2410.08584: the fewest rows whose attention is tau of the whole, one number for the layer. Variant: counted a head
 * and averaged, because the heads of a layer keep different rows. */
static void budget_mass(kv_work *w)
{
    const kv_layer_view *l = w->view;
    uint64_t count = 0;
    for (uint32_t h = 0; h < l->heads; h++) {
        double all = 0;
        for (uint32_t i = 0; i < l->head[h].n; i++) all += l->head[h].sum[i];
        count += l->head[h].n ? rows_for_mass(l->head[h].sum, l->head[h].n, all * l->policy->tau) : 0;
    }
    each(w, (uint32_t)((count + l->heads - 1) / l->heads));
}

/* CompressKV, arXiv:2508.02401: B_l = f + e_l (L B - f L), clipped to [f, 3 B], f = 32; for budgets below 128 f is B/4. Variant:
 * the paper's last correction by single rows, so that the sum is exact, needs all layers and is left out. */
static void budget_layer_error(kv_work *w)
{
    const kv_layer_view *l = w->view;
    uint32_t b = policy_rows(l), f = b >= 128 ? 32 : b / 4;
    each(w, clamp_rows(f + (double)l->layer_error * l->layers * (b - f) + 0.5, f ? f : 1, 3 * b));
}

/* CRITIC, arXiv:2504.01281 appendix A: r = min(r_base + alpha * used/total, r_max); max(m, (1 - r) n) rows stay. r_base is
 * 1 - share, m is `rows` (64 when none is given), r_max is tau. */
static void budget_pressure(kv_work *w)
{
    const kv_layer_view *l = w->view;
    const kv_policy *p = l->policy;
    double r = 1 - (double)p->share + (l->budget ? p->alpha * ((double)l->used / (double)l->budget) : 0);
    if (r > p->tau) r = p->tau;
    each(w, clamp_rows((1 - r) * l->seen, p->rows ? p->rows : 64, l->seen > 64 ? l->seen : 64));
}

void kv_budget_layer(kv_work *w)
{
    static void (*const rules[KV_BUDGET_COUNT])(kv_work *) = {
        [KV_BUDGET_UNIFORM] = budget_uniform, [KV_BUDGET_PYRAMID] = budget_pyramid, [KV_BUDGET_ADAKV] = budget_adakv,
        [KV_BUDGET_MASS] = budget_mass, [KV_BUDGET_LAYER_ERROR] = budget_layer_error, [KV_BUDGET_PRESSURE] = budget_pressure,
    };
    rules[w->view->policy->budget](w);
}
