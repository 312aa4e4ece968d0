#ifndef CORE_VEC_H
#define CORE_VEC_H
/* Fixed-order vector arithmetic: the same bits on every ISA, host, thread count and batch size.
 *
 * The order. A reduction over n elements uses 16 virtual lanes: element i goes to lane i mod 16, ascending, by one
 * FMA (or add, or max); lanes start at +0 (max: -inf). The lanes are then folded by one fixed tree: lane j += lane j+8 (j<8),
 * j += j+4 (j<4), j += j+2 (j<2), lane 0 += lane 1. Every a*b+c is an explicit FMA; nothing else is contracted.
 * exp is our own (VEC_EXP below), because libm differs between hosts; division and sqrt are IEEE.
 *
 * Any thread; no state. rows_* functions take n rows that start `stride` bytes apart; f16 rows are IEEE half. */
#include "core/isa.h"
#include <stddef.h>
#include <stdint.h>

typedef uint16_t f16;

typedef struct vec_ops {
    /* out[j] = dot(q[d], row j [d]) for j < n. */
    void (*dot_rows_f32)(const float *q, const float *rows, size_t stride, uint32_t n, uint32_t d, float *out);
    void (*dot_rows_f16)(const float *q, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *out);
    /* acc[i] = fma(p[j], row j [i], acc[i]) for j ascending: lanes lie across i, so no tree. */
    void (*axpy_rows_f32)(const float *p, const float *rows, size_t stride, uint32_t n, uint32_t d, float *acc);
    void (*axpy_rows_f16)(const float *p, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *acc);
    float (*max)(const float *x, uint32_t n);                      /* n >= 1; no NaN promise */
    float (*sum_sq)(const float *x, uint32_t n);                   /* fma(x,x,lane) */
    /* x[i] = exp(x[i] - m) in place; returns the sum in the fixed order. */
    float (*exp_sum)(float *x, uint32_t n, float m);
    /* s = sum exp(x[i]-m) and *xs = sum fma(exp(x[i]-m), x[i]-m, .): for log-sum-exp and entropy; x is kept. Where the
     * exponential is 0 nothing is added, also for x[i] = -inf. */
    float (*exp_stats)(const float *x, uint32_t n, float m, float *xs);
    void (*scale)(float *x, uint32_t n, float s);                  /* x *= s */
    void (*add)(float *y, const float *x, uint32_t n);             /* y += x */
    /* y[i] = (x[i] * inv) * w[i], inv = 1/sqrt(sum_sq/n + eps); y may be x. RMSNorm, arXiv:1910.07467 eq. 4. */
    void (*rms_norm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* y[i] = silu(g[i]) * u[i], silu(g) = g / (1 + exp(-g)). SwiGLU, arXiv:2002.05202 eq. 5. */
    void (*silu_mul)(float *y, const float *g, const float *u, uint32_t n);
    /* y[i] = gelu(g[i]) * u[i], gelu(g) = g/2 (1 + tanh(c (g + 0.044715 g^3))), c = sqrt(2/pi): arXiv:1606.08415 section 2.
     * Since (1 + tanh t) / 2 = 1 / (1 + exp(-2t)), it is g / (1 + exp(g * fma(g*g, -2c*0.044715, -2c))). */
    void (*gelu_mul)(float *y, const float *g, const float *u, uint32_t n);
    /* x[i] = cap * VEC_TANH(x[i] * (1/cap)): arXiv:2408.00118 section 2. */
    void (*soft_cap)(float *x, uint32_t n, float cap);
    /* Rotate x[0..n_rot) in place by tables c,s [n_rot/2]. neox: pairs (i, i+n_rot/2); else (2i, 2i+1).
     * y1 = fma(x1, c, -(x2*s)), y2 = fma(x1, s, x2*c), the products in parentheses rounded. arXiv:2104.09864 eq. 34. */
    void (*rope)(float *x, const float *c, const float *s, uint32_t n_rot, int neox);
    void (*to_f16)(f16 *y, const float *x, uint32_t n);            /* round to nearest even, overflow to inf */
    void (*from_f16)(float *y, const f16 *x, uint32_t n);          /* exact */
} vec_ops;

/* The table of one ISA; never NULL for a supported one. */
const vec_ops *vec_for(isa i);

/* Scalar versions of the same arithmetic. VEC_EXP: x clamped to [-87.3, 88.7] (below: 0), n = rint(x*log2e),
 * r = fma(n,-ln2_hi,x) then fma(n,-ln2_lo,r), degree-6 polynomial in r by FMA (Horner), times 2^n. Max error < 2 ulp.
 * VEC_TANH: |x| < 0.625: fma(x*z, P(z), x), z = x*x, P of degree 4 by FMA; else 1 - 2/(VEC_EXP(2|x|) + 1) with x's sign.
 * Max error < 2 ulp. */
float vec_exp(float x);
float vec_tanh(float x);
f16 vec_f16(float x);
float vec_f32(f16 h);
#endif
