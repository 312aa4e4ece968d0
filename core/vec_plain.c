/* The reference of core/vec.h in plain C: one lane array, one tree. Uses no intrinsics. */
#include "core/vec_impl.h"
#include <assert.h>

typedef struct { float v[VEC_LANES]; } lanes;

static float lanes_sum(lanes *l)
{
    for (unsigned w = VEC_LANES / 2; w; w /= 2)
        for (unsigned j = 0; j < w; j++) l->v[j] += l->v[j + w];
    return l->v[0];
}

static float dot_f32(const float *q, const float *row, uint32_t d)
{
    lanes l = { 0 };
    for (uint32_t i = 0; i < d; i++) l.v[i % VEC_LANES] = fmaf(q[i], row[i], l.v[i % VEC_LANES]);
    return lanes_sum(&l);
}

static float dot_f16(const float *q, const f16 *row, uint32_t d)
{
    lanes l = { 0 };
    for (uint32_t i = 0; i < d; i++) l.v[i % VEC_LANES] = fmaf(q[i], vec_f32_inline(row[i]), l.v[i % VEC_LANES]);
    return lanes_sum(&l);
}

static const void *row_at(const void *rows, size_t stride, uint32_t j)
{
    return (const char *)rows + (size_t)j * stride;
}

static void dot_rows_f32(const float *q, const float *rows, size_t stride, uint32_t n, uint32_t d, float *out)
{
    for (uint32_t j = 0; j < n; j++) out[j] = dot_f32(q, row_at(rows, stride, j), d);
}

static void dot_rows_f16(const float *q, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *out)
{
    for (uint32_t j = 0; j < n; j++) out[j] = dot_f16(q, row_at(rows, stride, j), d);
}

static void axpy_rows_f32(const float *p, const float *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    for (uint32_t j = 0; j < n; j++) {
        const float *row = row_at(rows, stride, j);
        for (uint32_t i = 0; i < d; i++) acc[i] = fmaf(p[j], row[i], acc[i]);
    }
}

static void axpy_rows_f16(const float *p, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    for (uint32_t j = 0; j < n; j++) {
        const f16 *row = row_at(rows, stride, j);
        for (uint32_t i = 0; i < d; i++) acc[i] = fmaf(p[j], vec_f32_inline(row[i]), acc[i]);
    }
}

static float max_of(float a, float b)
{
    return a > b ? a : b;
}

static float max(const float *x, uint32_t n)
{
    assert(n > 0);
    lanes l;
    for (unsigned j = 0; j < VEC_LANES; j++) l.v[j] = -INFINITY;
    for (uint32_t i = 0; i < n; i++) l.v[i % VEC_LANES] = max_of(x[i], l.v[i % VEC_LANES]);
    for (unsigned w = VEC_LANES / 2; w; w /= 2)
        for (unsigned j = 0; j < w; j++) l.v[j] = max_of(l.v[j], l.v[j + w]);
    return l.v[0];
}

static float sum_sq(const float *x, uint32_t n)
{
    lanes l = { 0 };
    for (uint32_t i = 0; i < n; i++) l.v[i % VEC_LANES] = fmaf(x[i], x[i], l.v[i % VEC_LANES]);
    return lanes_sum(&l);
}

static float exp_sum(float *x, uint32_t n, float m)
{
    lanes l = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        x[i] = vec_exp_inline(x[i] - m);
        l.v[i % VEC_LANES] += x[i];
    }
    return lanes_sum(&l);
}

/* Below EXP_LO the exponential is 0 and so is its product: the clamp only keeps 0 * -inf out of the sum. */
static float exp_stats(const float *x, uint32_t n, float m, float *xs)
{
    lanes s = { 0 }, t = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        float z = x[i] - m, e = vec_exp_inline(z);
        z = EXP_LO > z ? EXP_LO : z;
        s.v[i % VEC_LANES] += e;
        t.v[i % VEC_LANES] = fmaf(e, z, t.v[i % VEC_LANES]);
    }
    *xs = lanes_sum(&t);
    return lanes_sum(&s);
}

static void scale(float *x, uint32_t n, float s)
{
    for (uint32_t i = 0; i < n; i++) x[i] *= s;
}

static void add(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] += x[i];
}

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    float inv = 1.0f / sqrtf(sum_sq(x, n) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) y[i] = (x[i] * inv) * w[i];
}

static void silu_mul(float *y, const float *g, const float *u, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = (g[i] / (1.0f + vec_exp_inline(-g[i]))) * u[i];
}

static void gelu_mul(float *y, const float *g, const float *u, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = vec_gelu_inline(g[i]) * u[i];
}

static void soft_cap(float *x, uint32_t n, float cap)
{
    float inv = 1.0f / cap;
    for (uint32_t i = 0; i < n; i++) x[i] = cap * vec_tanh_inline(x[i] * inv);
}

static void rope(float *x, const float *c, const float *s, uint32_t n_rot, int neox)
{
    uint32_t half = n_rot / 2, step = neox ? 1 : 2, away = neox ? half : 1;
    for (uint32_t i = 0; i < half; i++) {
        float *a = x + (size_t)i * step, *b = a + away, x1 = *a, x2 = *b;
        *a = fmaf(x1, c[i], -(x2 * s[i]));
        *b = fmaf(x1, s[i], x2 * c[i]);
    }
}

static void to_f16(f16 *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = vec_f16_inline(x[i]);
}

static void from_f16(float *y, const f16 *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = vec_f32_inline(x[i]);
}

const vec_ops vec_plain_ops = {
    .dot_rows_f32 = dot_rows_f32, .dot_rows_f16 = dot_rows_f16, .axpy_rows_f32 = axpy_rows_f32,
    .axpy_rows_f16 = axpy_rows_f16, .max = max, .sum_sq = sum_sq, .exp_sum = exp_sum, .exp_stats = exp_stats,
    .scale = scale, .add = add, .rms_norm = rms_norm, .silu_mul = silu_mul, .gelu_mul = gelu_mul, .soft_cap = soft_cap,
    .rope = rope, .to_f16 = to_f16, .from_f16 = from_f16,
};
