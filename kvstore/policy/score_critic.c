/* CRITIC, arXiv:2504.01281 appendix A: attention, entropy and gradient of a row, each min-max normalised, weighted .5 .2 .3 (the
 * paper gives no weights).
 * Where the printed formulas cannot work we differ, so this is a variant: attention is the column sum (a row of a softmax sums to
 * 1 for every token); entropy is divided by ln(row + 2), or it would only measure age. The gradient of
 * L = MSE(o_t, o_{t-1}) has a closed form: with D = o_t - o_{t-1} and weights a,
 *   |dL/dv_i| + |dL/dk_i| (1-norms) = (2/d) a_i (|D|_1 + |D.(v_i - o_t)| |q|_1 s), s the scale on q.k. */
#include "core/rope_math.h"
#include "kvstore/policy/steps.h"
#include <math.h>
#include <string.h>

static const float weight_attention = 0.5f, weight_entropy = 0.2f, weight_gradient = 0.3f;

static float norm1(const float *x, uint32_t d)
{
    float s = 0;
    for (uint32_t i = 0; i < d; i++) s += fabsf(x[i]);
    return s;
}

/* o [d] of window query i, its weights into a [n]. */
static void output_of(const kv_work *w, const kv_head_view *v, uint32_t i, uint32_t gi, float *a, float *o)
{
    window_attention(w->view, v, i, gi, a);
    memset(o, 0, v->d * sizeof *o);
    view_vec(w->view)->axpy_rows_f32(a, v->v, v->d * sizeof *v->v, v->n, v->d, o);
}

static void add_gradient(const kv_work *w, const kv_head_view *v, uint32_t gi, float *s)
{
    float *before = w->vec, *now = w->vec + v->d, d1, q1, at_o;
    output_of(w, v, v->w - 2, gi, w->tmp, before);
    output_of(w, v, v->w - 1, gi, w->tmp, now);
    for (uint32_t c = 0; c < v->d; c++) before[c] = now[c] - before[c];
    d1 = norm1(before, v->d);
    q1 = norm1(v->q + ((size_t)(v->w - 1) * v->g + gi) * v->d, v->d) * w->view->scale;
    at_o = view_dot(w->view, before, now, v->d);
    view_dots(w->view, before, v->v, v->n, v->d, w->tmp3);
    for (uint32_t j = 0; j < v->n; j++) {
        float pull = fabsf(w->tmp3[j] - at_o);
        s[j] += 2 / (float)v->d * w->tmp[j] * (d1 + pull * q1);
    }
}

/* s += weight * (x - min) / (max - min) */
static void add_normalised(const float *x, uint32_t n, float weight, float *s)
{
    float lo = INFINITY, hi = -INFINITY;
    for (uint32_t j = 0; j < n; j++) lo = x[j] < lo ? x[j] : lo, hi = x[j] > hi ? x[j] : hi;
    for (uint32_t j = 0; j < n && hi > lo; j++) s[j] += weight * ((x[j] - lo) / (hi - lo));
}

void score_critic(const kv_work *w, uint32_t h, float *s)
{
    const kv_head_view *v = &w->view->head[h];
    float *x = w->tmp2;
    memset(s, 0, v->n * sizeof *s);
    add_normalised(v->sum, v->n, weight_attention, s);
    for (uint32_t j = 0; j < v->n; j++) x[j] = v->entropy[j] / (float)math_log(v->row[j] + 2.0);
    add_normalised(x, v->n, weight_entropy, s);
    memset(x, 0, v->n * sizeof *x);
    for (uint32_t gi = 0; gi < v->g && v->w >= 2; gi++) add_gradient(w, v, gi, x);
    add_normalised(x, v->n, weight_gradient, s);
}
