#ifndef ENGINE_BF16_H
#define ENGINE_BF16_H
/* The arithmetic of path bf16amx, one number at a time: this defines its bits, and every kernel is tested against it. It is what
 * the manual says of TDPBF16PS (Intel SDM vol. 2, TDPBF16PS and VCVTNEPS2BF16), the instruction that the path is made for:
 *
 * Rounding to bf16 (activations; weights behind wtype_to_f32): the upper half of the float, nearest even. A denormal becomes a
 *   zero of its sign, an inf stays, what is above the largest bf16 rounds to inf, a NaN stays one (its other bits are not part of
 *   the path). A weight that is zero is +0.
 * Product: x and w in blocks of 32, blocks ascending. Within a block two sums begin at +0, one over the even columns and one over
 *   the odd ones, ascending: sum = fma(w, x, sum). Then acc = acc + (even + odd), acc = +0 before the first block.
 * Every fma and every addition is one f32 operation, rounded to nearest even whatever the thread's mode, that takes denormal
 *   inputs as zeros of their sign and gives such a zero for a result that is tiny. Tiny, which the manual leaves open, is meant as
 *   for every other x86 instruction: the result rounded to 24 bits as if exponents had no end is below 2^-126.
 *
 * What the design of paths leaves open is the simplest here: a block is 32 columns whatever the type's own block; only products with
 * quantised weights are of this path, whoever computes them; everything else of a prompt row is as on i8b32.
 *
 * Holds no state, reads no control register. Private to engine/kernels_bf16_*.c and engine/amx.h. */
#include "core/vec_impl.h"
#include <stdint.h>

static inline float bf16_flush(float v)
{
    return fabsf(v) < 0x1p-126f ? copysignf(0, v) : v;
}

static inline float bf16_float(uint16_t h)
{
    return bits_float((uint32_t)h << 16);
}

static inline uint16_t bf16_round(float v)
{
    uint32_t u = float_bits(bf16_flush(v));
    if (isnan(v)) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline uint16_t bf16_weight(float v)
{
    return bf16_round(v + 0.0f);
}

/* Products of two bf16 are exact in f32 where they are neither tiny nor huge. Near 2^-126 f32 itself rounds to fewer bits than 24,
 * so that a tiny result could look like 2^-126: it is computed again 2^64 times as large, which is exact, since a product that
 * small has no factor above 2^25. */
static inline float bf16_fma(float w, float x, float sum)
{
    w = bf16_flush(w);
    x = bf16_flush(x);
    sum = bf16_flush(sum);
    float v = fmaf(w, x, sum);
    if (!(fabsf(v) <= 0x1p-126f)) return v;
    return fabsf(fmaf(w * 0x1p64f, x, sum * 0x1p64f)) < 0x1p-62f ? copysignf(0, v) : v;
}

/* Sums that are tiny are exact. */
static inline float bf16_add(float a, float b)
{
    return bf16_flush(bf16_flush(a) + bf16_flush(b));
}
#endif
