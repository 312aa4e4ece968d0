#ifndef ENGINE_KERNELS_BF16_PANEL_H
#define ENGINE_KERNELS_BF16_PANEL_H
/* Weights as pairs of bf16, 16 outputs in a register, from packed units and from rows as in the file: the floats of wtype_to_f32,
 * and then one rounding. Multiplies nothing but scales. Private to engine/kernels_bf16_avx512bf16.c and engine/kernels_bf16_amx.c.
 *
 * Two orders of the columns in a block's 16 registers, for two instructions:
 *   plain    register i: columns 2i (low half of a lane) and 2i + 1, as TDPBF16PS wants them
 *   turned   registers 2j and 2j + 1: columns 4j + 2 and 4j, columns 4j + 3 and 4j + 1. VDPBF16PS adds first the product of the
 *            high halves and then that of the low ones to one sum, so registers of even number make the sum of even columns, the
 *            others the odd one */
#include "engine/bf16.h"
#include "engine/kernels_unit_avx512.h"

typedef struct { __m512i p[16]; } pairs;

INLINE __m512i pair_of(__m512 low, __m512 high)
{
    const __m512i sides = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(sides, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Of each half block: scale, minimum, and -(256 + offset) d. */
typedef struct { __m512 d[2], m[2], back[2]; } fscales;

INLINE int offset_of(wtype t) { return is(t, SIGNED) ? 128 : traits[t].offset; }

INLINE fscales fscales_of(wtype t, const wblock *b)
{
    fscales s;
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        s.d[h] = b->d;
        if (is(t, SCALED | HALVES)) s.d[h] = _mm512_mul_ps(b->d, b->scale[is(t, HALVES) ? h : 0]);
        if (is(t, ADDS_MIN)) s.m[h] = b->dmin;
        if (is(t, MIN)) s.m[h] = _mm512_mul_ps(b->dmin, b->min);
        if (is(t, MIN_HALVES)) {
            __m512i m = _mm512_and_si512(h ? _mm512_srli_epi32(b->corr, 16) : b->corr, _mm512_set1_epi32(0xffff));
            s.m[h] = _mm512_mul_ps(b->dmin, _mm512_cvtepi32_ps(m));
        }
        s.back[h] = _mm512_mul_ps(s.d[h], _mm512_set1_ps((float)-(256 + offset_of(t))));
    }
    return s;
}

INLINE bool all_finite(wtype t, const fscales *s)
{
    __m512 v = _mm512_add_ps(_mm512_sub_ps(s->d[0], s->d[0]), _mm512_sub_ps(s->d[1], s->d[1]));
    if (is(t, ANY_MIN)) v = _mm512_add_ps(v, _mm512_add_ps(_mm512_sub_ps(s->m[0], s->m[0]), _mm512_sub_ps(s->m[1], s->m[1])));
    return !_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
}

/* d (w - offset) for column 4j + c. Byte w in the upper fraction of 256 is 256 + w; the scale times that, less what is too much, is
 * exact in all types, and +0 where it is zero. That needs a finite scale; others go step by step. */
INLINE __m512 scaled(wtype t, const wblock *b, const fscales *s, uint32_t j, uint32_t c, bool finite)
{
    if (!finite) {
        __m512i q = _mm512_sub_epi32(byte_of(b->w[j], c), _mm512_set1_epi32(offset_of(t)));
        return _mm512_add_ps(_mm512_mul_ps(s->d[j / 4], _mm512_cvtepi32_ps(q)), _mm512_setzero_ps());
    }
    enum { AND_OR = 0xea };                      /* (a & b) | c */
    __m512i w = c < 2 ? _mm512_slli_epi32(b->w[j], 15 - 8 * c) : _mm512_srli_epi32(b->w[j], 8 * c - 15);
    w = _mm512_ternarylogic_epi32(w, _mm512_set1_epi32(0x7f8000), _mm512_set1_epi32(0x43800000), AND_OR);
    return _mm512_fmadd_ps(s->d[j / 4], _mm512_castsi512_ps(w), s->back[j / 4]);
}

INLINE __m512 column(wtype t, const wblock *b, const fscales *s, uint32_t j, uint32_t c, bool finite)
{
    __m512 v = scaled(t, b, s, j, c, finite);
    if (is(t, ADDS_MIN)) return _mm512_add_ps(v, s->m[j / 4]);
    return is(t, MIN | MIN_HALVES) ? _mm512_sub_ps(v, s->m[j / 4]) : v;
}

INLINE void columns_pairs(wtype t, const wblock *b, const fscales *s, bool turned, bool finite, pairs *out)
{
    UNROLL for (uint32_t j = 0; j < 8; j++) {
        __m512 v[4];
        UNROLL for (uint32_t c = 0; c < 4; c++) v[c] = column(t, b, s, j, c, finite);
        out->p[2 * j] = turned ? pair_of(v[2], v[0]) : pair_of(v[0], v[1]);
        out->p[2 * j + 1] = turned ? pair_of(v[3], v[1]) : pair_of(v[2], v[3]);
    }
}

INLINE void block_pairs(wtype t, const wblock *b, bool turned, pairs *out)
{
    fscales s = fscales_of(t, b);
    if (all_finite(t, &s)) columns_pairs(t, b, &s, turned, true, out);
    else columns_pairs(t, b, &s, turned, false, out);
}

/* Blocks [b0, b0 + n) of a packed group; b0 is a multiple of PANEL. */
INLINE void group_pairs(wtype t, const uint8_t *group, size_t next, uint32_t b0, uint32_t n, bool turned, pairs *out)
{
    wblock b[PANEL];
    for (uint32_t i = 0; i < n; i += PANEL) {
        uint32_t m = min_u32(PANEL, n - i);
        unpack_panel(t, group, next, b0 + i, m, b);
        for (uint32_t k = 0; k < m; k++) block_pairs(t, &b[k], turned, &out[i + k]);
    }
}

/* Place of column k of a block in a lane-less list of halves. */
INLINE uint32_t place_of(uint32_t k, bool turned)
{
    static const uint8_t turns[4] = { 1, 3, 0, 2 };
    return turned ? k / 4 * 4 + turns[k % 4] : k;
}

/* The same from rows as in the file; behind the last output it stands in. */
INLINE void file_pairs(const mat *w, uint32_t o, uint32_t b0, uint32_t n, bool turned, pairs *out)
{
    float row[CHUNK];
    const uint32_t blocks = CHUNK / KERNELS_BLOCK;
    for (uint32_t r = 0; r < PACKED_GROUP; r++)
        for (uint32_t b = 0; b < n; b++) {
            uint32_t out_row = min_u32(o + r, w->n_out - 1), columns = min_u32(blocks, n - b) * KERNELS_BLOCK;
            if (b % blocks == 0) mat_row_f32(w, out_row, (b0 + b) * KERNELS_BLOCK, columns, row);
            for (uint32_t k = 0; k < KERNELS_BLOCK; k++) {
                uint32_t at = place_of(k, turned);
                uint16_t h = bf16_weight(row[b % blocks * KERNELS_BLOCK + k]);
                memcpy((uint8_t *)&out[b].p[at / 2] + 4 * r + at % 2 * 2, &h, sizeof h);
            }
        }
}

/* A row of x to bf16: 64 bytes for a block, in the order of the weights. */
INLINE void round_row(const float *x, uint32_t n, bool turned, uint8_t *to)
{
    const __m512i turn = _mm512_set4_epi64(0x0b0a0f0e09080d0c, 0x0302070601000504, 0x0b0a0f0e09080d0c, 0x0302070601000504);
    for (uint32_t k = 0; k < n; k += KERNELS_BLOCK) {
        __m512i v = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + k + 16), _mm512_loadu_ps(x + k));
        _mm512_storeu_si512(to + 2 * (size_t)k, turned ? _mm512_shuffle_epi8(v, turn) : v);
    }
}

INLINE uint8_t *row_of(const act *a, uint32_t t, uint32_t block) { return (uint8_t *)act_row_bf16(a, t) + 64 * (size_t)block; }
#endif
