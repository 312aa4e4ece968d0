/* The order of the steps: hold, score, budget, roles, select, merge, prune. Every step is in a file of its own. */
#include "kvstore/policy/steps.h"
#include <string.h>

/* Rows of a head that is none for retrieval (RazorAttention, arXiv:2407.15891) or whose role score is low (RLKV,
 * arXiv:2510.08525): the fixed ones and a window. Razor's window is a fifth of the text at least (N/5, without the paper's floor
 * of 4000, which a short context never passes). */
static bool is_local(const kv_work *w, const kv_head_view *v)
{
    const kv_policy *p = w->view->policy;
    if (p->roles == KV_ROLES_RAZOR) return v->local;
    return p->roles == KV_ROLES_ALPHA && v->alpha < p->alpha;
}

static uint32_t local_window(const kv_work *w)
{
    const kv_policy *p = w->view->policy;
    uint32_t fifth = w->view->seen / 5;
    return p->roles == KV_ROLES_RAZOR && fifth > p->window ? fifth : p->window;
}

static void hold_rows(kv_work *w)
{
    const kv_layer_view *l = w->view;
    for (uint32_t h = 0; h < l->heads; h++) {
        const kv_head_view *v = &l->head[h];
        uint8_t *held = work_held(w, h);
        for (uint32_t i = 0; i < v->n; i++) held[i] = v->fixed[i];
        hold_newest(v, is_local(w, v) ? local_window(w) : l->policy->window, held);
    }
}

static void apply_roles(kv_work *w)
{
    const kv_layer_view *l = w->view;
    for (uint32_t h = 0; h < l->heads && l->policy->roles != KV_ROLES_NONE; h++)
        if (is_local(w, &l->head[h])) w->quota[h] = 0;
}

/* A policy that evicts nothing keeps all, whatever its scores say. */
static void keep_everything(kv_work *w)
{
    for (uint32_t h = 0; h < w->view->heads; h++) w->quota[h] = w->view->head[h].n;
}

static uint32_t widest(const kv_layer_view *l)
{
    uint32_t n = 0;
    for (uint32_t h = 0; h < l->heads; h++) n = l->head[h].n > n ? l->head[h].n : n;
    return n;
}

static size_t rows_of(const kv_layer_view *l)
{
    size_t n = 0;
    for (uint32_t h = 0; h < l->heads; h++) n += l->head[h].n;
    return n;
}

/* Floats for bytes: rounded up to whole ones. */
static size_t in_floats(size_t bytes) { return (bytes + sizeof(float) - 1) / sizeof(float); }

size_t kv_decide_floats(const kv_layer_view *l)
{
    size_t rows = rows_of(l), d = l->heads ? l->head[0].d : 0;
    return rows + 3 * (size_t)widest(l) + 4 * d + (2 * (size_t)l->heads + 1) + in_floats(rows);
}

static kv_work cut_scratch(const kv_layer_view *l, float *f)
{
    size_t rows = rows_of(l), n = widest(l), d = l->heads ? l->head[0].d : 0;
    kv_work w = { .view = l, .score = f, .tmp = f + rows, .tmp2 = f + rows + n, .tmp3 = f + rows + 2 * n,
                  .vec = f + rows + 3 * n };
    w.start = (uint32_t *)(w.vec + 4 * d);
    w.quota = w.start + l->heads + 1;
    w.held = (uint8_t *)(w.quota + l->heads);
    w.start[0] = 0;
    for (uint32_t h = 0; h < l->heads; h++) w.start[h + 1] = w.start[h] + l->head[h].n;
    return w;
}

void kv_decide(const kv_layer_view *l, kv_keep *out, float *scratch)
{
    kv_work w = cut_scratch(l, scratch);
    hold_rows(&w);
    kv_score_layer(&w);
    if (l->policy->evicts || l->policy->budget == KV_BUDGET_MASS) kv_budget_layer(&w);
    else keep_everything(&w);
    apply_roles(&w);
    for (uint32_t h = 0; h < l->heads; h++) {
        kv_select_head(&w, h, &out[h]);
        kv_merge_head(&w, h, &out[h]);
        kv_prune_head(&w, h, &out[h]);
    }
}
