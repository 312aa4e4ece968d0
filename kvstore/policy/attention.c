/* What a window query paid attention to, computed again from its vector: the building block of scores that look at queries.
 * Refuses to be fast: it runs once a settlement. */
#include "core/rope_math.h"
#include "core/vec.h"
#include "kvstore/policy/steps.h"
#include <math.h>

float plain_dot(const float *a, const float *b, uint32_t n)
{
    float lane[16] = { 0 };
    for (uint32_t i = 0; i < n; i++) lane[i % 16] = fmaf(a[i], b[i], lane[i % 16]);
    for (uint32_t step = 8; step; step /= 2)
        for (uint32_t j = 0; j < step; j++) lane[j] += lane[j + step];
    return lane[0];
}

/* softmax(scale q.k + ln weight) over rows that are not newer than the query, arXiv:1706.03762 eq. 1. */
void window_attention(const kv_layer_view *l, const kv_head_view *v, uint32_t i, uint32_t gi, float *a)
{
    const float *q = v->q + ((size_t)i * v->g + gi) * v->d;
    float top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < v->n; j++) {
        if (v->row[j] > v->q_row[i]) {
            a[j] = -INFINITY;
            continue;
        }
        a[j] = plain_dot(q, v->k + (size_t)j * v->d, v->d) * l->scale;
        if (v->weight[j] != 1) a[j] += (float)math_log(v->weight[j]);
        if (a[j] > top) top = a[j];
    }
    for (uint32_t j = 0; j < v->n; j++) sum += a[j] = a[j] == -INFINITY ? 0 : vec_exp(a[j] - top);
    for (uint32_t j = 0; j < v->n && sum > 0; j++) a[j] /= sum;
}
