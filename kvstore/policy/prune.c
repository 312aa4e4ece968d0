/* ThinK, arXiv:2407.21018: key channels that the recent queries and the keys hardly use go. Values are left alone. */
#include "kvstore/policy/steps.h"
#include <math.h>

/* score_c = sum over the window's queries and the group of q_c^2, times sum over rows of k_c^2: the squared Frobenius norm of
 * channel c's part of Q K'. */
static void score_channels(const kv_head_view *v, float *s)
{
    uint32_t queries = v->w * v->g;
    for (uint32_t c = 0; c < v->d; c++) {
        float q = 0, k = 0;
        for (uint32_t i = 0; i < queries; i++) q = fmaf(v->q[(size_t)i * v->d + c], v->q[(size_t)i * v->d + c], q);
        for (uint32_t i = 0; i < v->n; i++) k = fmaf(v->k[(size_t)i * v->d + c], v->k[(size_t)i * v->d + c], k);
        s[c] = q * k;
    }
}

void kv_prune_head(const kv_work *w, uint32_t h, kv_keep *out)
{
    const kv_head_view *v = &w->view->head[h];
    uint32_t stay = v->d - (uint32_t)(w->view->policy->prune_share * (float)v->d);
    top_cut cut;
    if (w->view->policy->prune == KV_PRUNE_NONE || !w->view->prompt_end || !v->w) return;
    score_channels(v, w->vec);
    cut = top_find(w->vec, NULL, v->d, stay);
    for (uint32_t c = 0; c < v->d; c++) {
        out->drop[c] = !top_takes(&cut, w->vec[c]);
        out->n_drop += out->drop[c];
    }
}
