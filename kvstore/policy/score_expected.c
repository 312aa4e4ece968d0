/* Expected attention (arXiv:2510.00636): future queries taken as a Gaussian of the recent ones, turned to the positions to come.
 *   score = mean over the group of softmax_j(s k.m + s^2 k'Ck / 2) * |v|,  m = R mu,  C = R S R',
 * mu and S mean and covariance of the window's queries before RoPE, R the mean rotation of the next 512 positions, s the scale
 * on q.k (the paper writes 1/sqrt(d)). C is never formed: k'Ck = mean of (k.R(x - mu))^2. */
#include "core/vec.h"
#include "kvstore/policy/steps.h"
#include <math.h>
#include <string.h>

enum { AHEAD = 512 };   /* positions, as in the released code */

/* y = R x for the mean rotation over [from, from + AHEAD), ends with the table. Dimensions beyond n_rot stay. */
static void mean_rotation(const kv_layer_view *l, uint32_t from, uint32_t d, const float *x, float *y)
{
    const rope_table *t = l->rope;
    uint32_t end = from + AHEAD < t->n_ctx ? from + AHEAD : t->n_ctx;
    if (from >= end) from = end - 1;
    memcpy(y, x, d * sizeof *y);
    for (uint32_t i = 0; i < t->half; i++) {
        double c = 0, s = 0;
        uint32_t a = l->neox ? i : 2 * i, b = l->neox ? i + t->half : 2 * i + 1;
        for (uint32_t p = from; p < end; p++) c += t->cos[(size_t)p * t->half + i], s += t->sin[(size_t)p * t->half + i];
        c /= end - from, s /= end - from;
        y[a] = (float)(x[a] * c - x[b] * s);
        y[b] = (float)(x[a] * s + x[b] * c);
    }
}

static uint32_t next_position(const kv_head_view *v)
{
    uint32_t top = 0;
    for (uint32_t i = 0; i < v->n; i++) top = v->pos[i] + 1 > top ? v->pos[i] + 1 : top;
    return top;
}

/* The logits of one query head of the group into a [n]. */
static void expect(const kv_work *w, const kv_head_view *v, uint32_t gi, uint32_t next, float *a)
{
    float *mu = w->vec, *turned = w->vec + v->d, *x = w->vec + 2 * v->d, scale = w->view->scale;
    memset(mu, 0, v->d * sizeof *mu);
    for (uint32_t i = 0; i < v->w; i++) {
        const float *q = v->q_pre + ((size_t)i * v->g + gi) * v->d;
        for (uint32_t c = 0; c < v->d; c++) mu[c] += q[c] / (float)v->w;
    }
    mean_rotation(w->view, next, v->d, mu, turned);
    for (uint32_t j = 0; j < v->n; j++) a[j] = plain_dot(v->k + (size_t)j * v->d, turned, v->d) * scale;
    for (uint32_t i = 0; i < v->w; i++) {
        const float *q = v->q_pre + ((size_t)i * v->g + gi) * v->d;
        for (uint32_t c = 0; c < v->d; c++) x[c] = q[c] - mu[c];
        mean_rotation(w->view, next, v->d, x, turned);
        for (uint32_t j = 0; j < v->n; j++) {
            float z = plain_dot(v->k + (size_t)j * v->d, turned, v->d) * scale;
            a[j] = fmaf(z, z / (2 * (float)v->w), a[j]);
        }
    }
}

static void softmax(float *a, uint32_t n)
{
    float top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < n; j++) top = a[j] > top ? a[j] : top;
    for (uint32_t j = 0; j < n; j++) sum += a[j] = vec_exp(a[j] - top);
    for (uint32_t j = 0; j < n && sum > 0; j++) a[j] /= sum;
}

void score_expected(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    uint32_t next = next_position(v);
    memset(s, 0, v->n * sizeof *s);
    for (uint32_t gi = 0; gi < v->g && v->w; gi++) {
        expect(w, v, gi, next, w->tmp);
        softmax(w->tmp, v->n);
        for (uint32_t j = 0; j < v->n; j++) s[j] += w->tmp[j] / (float)v->g;
    }
    for (uint32_t j = 0; j < v->n; j++) {
        const float *x = v->v + (size_t)j * v->d;
        s[j] *= sqrtf(plain_dot(x, x, v->d));
    }
}
