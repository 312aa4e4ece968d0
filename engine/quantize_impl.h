#ifndef ENGINE_QUANTIZE_IMPL_H
#define ENGINE_QUANTIZE_IMPL_H
/* The K types' part of engine/quantize.h (engine/quantize_k.c); private to engine/quantize*.c. x: 256 finite values. */
#include "core/vec.h"
#include "engine/quantize.h"
#include <string.h>

void quantize_q4_k_block(const float *x, uint8_t *out);
void quantize_q5_k_block(const float *x, uint8_t *out);
void quantize_q6_k_block(const float *x, uint8_t *out);

/* Below this a block is zero: no half is that small, and its inverse stays finite. */
#define QUANTIZE_TINY 1e-30f

/* Store x as a half; returns what it became, since the levels have to fit that. */
static inline float quantize_put_half(uint8_t *p, float x)
{
    f16 h = vec_f16(x);
    memcpy(p, &h, sizeof h);
    return vec_f32(h);
}
#endif
