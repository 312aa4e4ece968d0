#ifndef ENGINE_WTYPE_IMPL_H
#define ENGINE_WTYPE_IMPL_H
/* Fields of weight blocks that both engine/wtype.c and the kernels read. Private to those. */
#include "core/vec_impl.h"
#include "engine/wtype.h"

/* The float of a stored half; p need not be aligned. */
static inline float wtype_half(const uint8_t *p)
{
    f16 h;
    memcpy(&h, p, sizeof h);
    return vec_f32_inline(h);
}

/* Q4_K and Q5_K: 6-bit scale and minimum of sub-block j of 8 from its 12 bytes s: the first four lie in the low bits of s[0..8),
 * the other four are the nibbles of s[8..12) with the top bits of s[0..8) above them. */
static inline void wtype_q4_k_scale(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
        return;
    }
    *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

/* Q3_K: scale j of 16, in [-32, 31], from its 12 bytes s: low nibbles of 0-7 and then high nibbles hold the low four bits,
 * two bits of s[8 + j % 4] the others. */
static inline int wtype_q3_k_scale(const uint8_t *s, int j)
{
    return ((s[j % 8] >> (j / 8 * 4) & 15) | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
}

/* Bit i of four bytes. */
static inline int wtype_bit32(const uint8_t *p, int i)
{
    return p[i / 8] >> (i % 8) & 1;
}

/* The 16 values of IQ4_NL, closer together near zero. */
static const int8_t wtype_iq4_nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
#endif
