/* Expected attention (arXiv:2510.00636): future queries taken as a Gaussian of the recent ones, turned to the positions to come.
 *   score = mean over the group of softmax_j(s k.m + s^2 k'Ck / 2) * |v|,  m = R mu,  C = R S R',
 * mu and S mean and covariance of the window's queries before RoPE, R the mean rotation of the next 512 positions, s the scale
 * on q.k (the paper writes 1/sqrt(d)). C is never formed: k'Ck = mean of (k.R(x - mu))^2. */
#include "kvstore/policy/steps.h"
#include <math.h>
#include <string.h>

enum { AHEAD = 512 };   /* positions, as in the released code */

/* The mean rotation over [from, from + AHEAD), ends with the table: rot [2 half], cosines and then sines. */
static void mean_rotation(const kv_layer_view *l, uint32_t from, float *rot)
{
    const rope_table *t = l->rope;
    uint32_t end = from + AHEAD < t->n_ctx ? from + AHEAD : t->n_ctx;
    if (from >= end) from = end - 1;
    for (uint32_t i = 0; i < t->half; i++) {
        double c = 0, s = 0;
        for (uint32_t p = from; p < end; p++) c += t->cos[(size_t)p * t->half + i], s += t->sin[(size_t)p * t->half + i];
        rot[i] = (float)(c / (end - from));
        rot[t->half + i] = (float)(s / (end - from));
    }
}

/* y = R x. Dimensions beyond n_rot stay. */
static void turn(const kv_layer_view *l, const float *rot, uint32_t d, const float *x, float *y)
{
    uint32_t half = l->rope->half;
    memcpy(y, x, d * sizeof *y);
    for (uint32_t i = 0; i < half; i++) {
        uint32_t a = l->neox ? i : 2 * i, b = l->neox ? i + half : 2 * i + 1;
        y[a] = x[a] * rot[i] - x[b] * rot[half + i];
        y[b] = x[a] * rot[half + i] + x[b] * rot[i];
    }
}

static uint32_t next_position(const kv_head_view *v)
{
    uint32_t top = 0;
    for (uint32_t i = 0; i < v->n; i++) top = v->pos[i] + 1 > top ? v->pos[i] + 1 : top;
    return top;
}

/* The logits of one query head of the group into a [n]. */
static void expect(const kv_work *w, const kv_head_view *v, uint32_t gi, const float *rot, float *a)
{
    float *mu = w->vec, *turned = w->vec + v->d, *x = w->vec + 2 * v->d, *z = w->tmp2, scale = w->view->scale;
    memset(mu, 0, v->d * sizeof *mu);
    for (uint32_t i = 0; i < v->w; i++) {
        const float *q = v->q_pre + ((size_t)i * v->g + gi) * v->d;
        for (uint32_t c = 0; c < v->d; c++) mu[c] += q[c] / (float)v->w;
    }
    turn(w->view, rot, v->d, mu, turned);
    view_dots(w->view, turned, v->k, v->n, v->d, a);
    view_vec(w->view)->scale(a, v->n, scale);
    for (uint32_t i = 0; i < v->w; i++) {
        const float *q = v->q_pre + ((size_t)i * v->g + gi) * v->d;
        for (uint32_t c = 0; c < v->d; c++) x[c] = q[c] - mu[c];
        turn(w->view, rot, v->d, x, turned);
        view_dots(w->view, turned, v->k, v->n, v->d, z);
        for (uint32_t j = 0; j < v->n; j++) a[j] += z[j] * scale * (z[j] * scale) / (2 * (float)v->w);
    }
}

static void softmax(const kv_layer_view *l, float *a, uint32_t n)
{
    const vec_ops *vec = view_vec(l);
    float sum = n ? vec->exp_sum(a, n, vec->max(a, n)) : 0;
    if (sum > 0) vec->scale(a, n, 1 / sum);
}

void score_expected(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    float *rot = w->vec + 3 * v->d;
    memset(s, 0, v->n * sizeof *s);
    mean_rotation(w->view, next_position(v), rot);
    for (uint32_t gi = 0; gi < v->g && v->w; gi++) {
        expect(w, v, gi, rot, w->tmp);
        softmax(w->view, w->tmp, v->n);
        for (uint32_t j = 0; j < v->n; j++) s[j] += w->tmp[j] / (float)v->g;
    }
    for (uint32_t j = 0; j < v->n; j++) {
        const float *x = v->v + (size_t)j * v->d;
        s[j] *= sqrtf(view_dot(w->view, x, x, v->d));
    }
}
