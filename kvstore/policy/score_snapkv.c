/* SnapKV, arXiv:2404.14469: what the last queries of the prompt looked at. Pooling over neighbours is the policy's `pool`. */
#include "kvstore/policy/steps.h"
#include <string.h>

/* Mean over the window's queries and the heads of the group. */
void score_snapkv(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    uint32_t count = v->w * v->g;
    memset(s, 0, v->n * sizeof *s);
    for (uint32_t i = 0; i < v->w; i++)
        for (uint32_t gi = 0; gi < v->g; gi++) {
            window_attention(w->view, v, i, gi, w->tmp);
            for (uint32_t j = 0; j < v->n; j++) s[j] += w->tmp[j];
        }
    for (uint32_t j = 0; j < v->n && count; j++) s[j] /= (float)count;
}
