#ifndef CORE_VEC_IMPL_H
#define CORE_VEC_IMPL_H
/* What the ISA files of core/vec.h share: the tables, and scalar arithmetic that is inlined, so that each file's own
 * FMA instruction is used. Private to core/vec*.c and engine/kernels*.c. */
#include "core/vec.h"
#include <math.h>
#include <string.h>

extern const vec_ops vec_plain_ops;
extern const vec_ops vec_avx2_ops, vec_avx512vnni_ops;   /* x86-64 only */

enum { VEC_LANES = 16 };             /* the virtual lanes of a reduction */

/* exp: range, reduction and polynomial. 2^n for n in [-126, 128] is made of two halves, so that every factor is a
 * normal float. EXP_LN2_HI is ln 2 rounded to f32: n * EXP_LN2_HI has at most 31 bits and x - n * EXP_LN2_HI is a
 * multiple of 2^-24 below 0.35, so the first FMA of the reduction is exact. */
#define EXP_LO (-87.3f)
#define EXP_HI 88.7f
#define EXP_LOG2E 0x1.715476p+0f
#define EXP_LN2_HI 0x1.62e430p-1f
#define EXP_LN2_LO (-0x1.05c610p-29f)
#define EXP_MAGIC 0x1.8p23f          /* adding it rounds to an integer and leaves that in the low bits */
/* e^r = 1 + r + C2 r^2 + ... + C6 r^6: minimax for the relative error on |r| <= ln2/2 (3.2e-9), each coefficient
 * rounded to f32 before the next was fitted. */
#define EXP_C2 0x1.fffffcp-2f
#define EXP_C3 0x1.555492p-3f
#define EXP_C4 0x1.5558b6p-5f
#define EXP_C5 0x1.1239a2p-7f
#define EXP_C6 0x1.6a4748p-10f

static inline uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float vec_exp_inline(float x)
{
    if (x < EXP_LO) return 0;
    x = EXP_HI < x ? EXP_HI : x;                       /* a NaN stays */
    float t = x * EXP_LOG2E + EXP_MAGIC;               /* two roundings on purpose: n = rint(x * log2e) */
    float n = t - EXP_MAGIC;
    float r = fmaf(n, -EXP_LN2_LO, fmaf(n, -EXP_LN2_HI, x));
    float p = fmaf(EXP_C6, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t i = float_bits(t) - float_bits(EXP_MAGIC);             /* n as two's complement */
    uint32_t a = (i >> 1) | (i & 0x80000000u), b = i - a;           /* n = a + b, halves */
    return p * bits_float((a + 127u) << 23) * bits_float((b + 127u) << 23);
}

/* tanh: (tanh x / x - 1) / x^2 as a polynomial in x^2 below TANH_SPLIT, fitted for the relative error (4.4e-9) and then
 * rounded to f32; above it the exponential loses nothing. */
#define TANH_SPLIT 0.625f
#define TANH_C0 (-0x1.555534p-2f)
#define TANH_C1 0x1.110768p-3f
#define TANH_C2 (-0x1.b8444ap-5f)
#define TANH_C3 0x1.5256dap-6f
#define TANH_C4 (-0x1.76ac24p-8f)

static inline float vec_tanh_inline(float x)
{
    float z = x * x, a = fabsf(x);
    float p = fmaf(TANH_C4, z, TANH_C3);
    p = fmaf(p, z, TANH_C2);
    p = fmaf(p, z, TANH_C1);
    p = fmaf(p, z, TANH_C0);
    float big = 1.0f - 2.0f / (vec_exp_inline(a + a) + 1.0f);
    return a < TANH_SPLIT ? fmaf(x * z, p, x) : copysignf(big, x);
}

/* gelu: -2 sqrt(2/pi), and that times 0.044715, each rounded to f32. */
#define GELU_C1 (-0x1.988454p+0f)
#define GELU_C3 (-0x1.2444f2p-4f)

static inline float vec_gelu_inline(float x)
{
    return x / (1.0f + vec_exp_inline(x * fmaf(x * x, GELU_C3, GELU_C1)));
}

/* IEEE half to float: exact; a signalling NaN turns quiet, as vcvtph2ps does it. */
static inline float vec_f32_inline(f16 h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
    if (e == 31) return bits_float(sign | 0x7f800000u | (m << 13) | (m ? 0x400000u : 0));
    if (e) return bits_float(sign | ((e + 112u) << 23) | (m << 13));
    return bits_float(sign | float_bits((float)m * 0x1p-24f));
}

/* Float to half, nearest even, as vcvtps2ph does it: subnormal halves kept, overflow to inf, NaN quiet. */
static inline f16 vec_f16_inline(float x)
{
    uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (f16)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) return (f16)(sign | 0x7c00u);                       /* 65520 and above round to inf */
    if (a < 0x38800000u)                                                      /* below 2^-14: count units of 2^-24 */
        return (f16)(sign | (float_bits(bits_float(a) + 0.5f) - float_bits(0.5f)));
    return (f16)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}
#endif
