/* CompressKV, arXiv:2508.02401: the few query heads of a layer that look at meaning choose for all of its kv heads. */
#include "kvstore/policy/steps.h"
#include <string.h>

/* Attention of query head `qh` summed over the window, added to s by row index: heads may hold different rows. */
static void add_head(kv_work *w, uint32_t qh, const kv_head_view *to, float *s)
{
    const kv_head_view *from = &w->view->head[qh / w->view->head[0].g];
    for (uint32_t i = 0; i < from->w; i++) {
        window_attention(w->view, from, i, qh % from->g, w->tmp2);
        for (uint32_t a = 0, b = 0; a < to->n; a++) {
            if (from == to) b = a;
            else while (b < from->n && from->row[b] < to->row[a]) b++;
            if (b < from->n && from->row[b] == to->row[a]) s[a] += w->tmp2[b];
        }
    }
}

void score_semantic(kv_work *w)
{
    const kv_layer_view *l = w->view;
    for (uint32_t h = 0; h < l->heads; h++) {
        float *s = work_score(w, h);
        memset(s, 0, l->head[h].n * sizeof *s);
        for (uint32_t i = 0; i < 4 && l->semantic; i++)
            if (l->semantic[i] < l->heads * l->head[0].g) add_head(w, l->semantic[i], &l->head[h], s);
    }
}
