/* What a window query paid attention to, computed again from its vector: the building block of scores that look at queries.
 * Refuses to be fast: it runs once a settlement. */
#include "core/rope_math.h"
#include "kvstore/policy/steps.h"
#include <math.h>

/* softmax(scale q.k + ln weight) over rows that are not newer than the query, arXiv:1706.03762 eq. 1. */
void window_attention(const kv_layer_view *l, const kv_head_view *v, uint32_t i, uint32_t gi, float *a)
{
    const vec_ops *vec = view_vec(l);
    float sum, top;
    if (!v->n) return;
    view_dots(l, v->q + ((size_t)i * v->g + gi) * v->d, v->k, v->n, v->d, a);
    vec->scale(a, v->n, l->scale);
    for (uint32_t j = 0; j < v->n; j++) {
        if (v->row[j] > v->q_row[i]) a[j] = -INFINITY;
        else if (v->weight[j] != 1) a[j] += (float)math_log(v->weight[j]);
    }
    top = vec->max(a, v->n);
    sum = vec->exp_sum(a, v->n, top > -INFINITY ? top : 0);      /* it may see no row that is left: then all are 0 */
    if (sum > 0) vec->scale(a, v->n, 1 / sum);
}
