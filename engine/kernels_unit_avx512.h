#ifndef ENGINE_KERNELS_UNIT_AVX512_H
#define ENGINE_KERNELS_UNIT_AVX512_H
/* A unit of 16 packed outputs (engine/packed.h) in AVX-512 registers: weights as unsigned bytes, four columns of all outputs in a
 * register, and scales as floats, one output a lane. Multiplies nothing but scales. Private to engine/kernels_packed_avx512vnni.c
 * and engine/kernels_packed_amx.c. */
#include "engine/kernels_types_avx2.h"
#include "engine/packed.h"

enum { PANEL = CHUNK / KERNELS_BLOCK };      /* blocks that are unpacked before they are used */

typedef struct {
    __m512i w[8];                            /* register j: bytes 4j..4j+3 of every output, unsigned */
    __m512i corr;                            /* HALVES: both scales, MIN_HALVES: both minima, as pairs of 16 bits */
    __m512 scale[2], min, d, dmin;
} wblock;

/* ---- a unit of 16 outputs, unpacked ---- */

INLINE __m512i word(wtype t, const uint8_t *unit, uint32_t i)
{
    return _mm512_loadu_si512(unit + 2 * PACKED_GROUP * (is(t, ANY_MIN) ? 2 : 1) + 4 * PACKED_GROUP * i);
}

INLINE __m512 half16(const uint8_t *unit, uint32_t i) { return _mm512_cvtph_ps(load256(unit + 2 * PACKED_GROUP * i)); }

INLINE __m512i nib(__m512i v, uint32_t high)
{
    return _mm512_and_si512(high ? _mm512_srli_epi32(v, 4) : v, _mm512_set1_epi8(15));
}

/* Bits of v that `from` holds, moved to `to`; one bit or two of every byte. */
INLINE __m512i moved(__m512i v, uint32_t from, uint32_t to, int mask)
{
    v = from < to ? _mm512_slli_epi32(v, to - from) : _mm512_srli_epi32(v, from - to);
    return _mm512_and_si512(v, _mm512_set1_epi8((char)(mask << to)));
}

INLINE __m512i weights_of(wtype t, const uint8_t *u, uint32_t j, uint32_t i)
{
    switch (t) {
    case WTYPE_Q8_0: return _mm512_xor_si512(word(t, u, i), _mm512_set1_epi8((char)0x80));
    case WTYPE_Q4_0:
    case WTYPE_Q4_1: return nib(word(t, u, i % 4), i / 4);
    case WTYPE_Q5_0:
    case WTYPE_Q5_1: return _mm512_or_si512(nib(word(t, u, 1 + i % 4), i / 4), moved(word(t, u, 0), i, 4, 1));
    case WTYPE_Q2_K: return moved(word(t, u, 4 + j / 4 * 8 + i), j % 4 * 2, 0, 3);
    case WTYPE_Q3_K: return _mm512_or_si512(moved(word(t, u, 8 + j / 4 * 8 + i), j % 4 * 2, 0, 3), moved(word(t, u, i), j, 2, 1));
    case WTYPE_Q4_K: return nib(word(t, u, 3 + j / 2 * 8 + i), j & 1);
    case WTYPE_Q5_K: return _mm512_or_si512(nib(word(t, u, 11 + j / 2 * 8 + i), j & 1), moved(word(t, u, 3 + i), j, 4, 1));
    case WTYPE_Q6_K: return _mm512_or_si512(nib(word(t, u, j / 4 * 16 + j % 2 * 8 + i), j % 4 / 2),
                                            moved(word(t, u, 32 + j / 4 * 8 + i), j % 4 * 2, 4, 3));
    default: {
        __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(load128(wtype_iq4_nl), _mm_set1_epi8((char)0x80)));
        return _mm512_shuffle_epi8(table, nib(word(t, u, i % 4), i / 4));
    }
    }
}

/* Byte i of every lane. */
INLINE __m512i byte_of(__m512i v, uint32_t i) { return _mm512_and_si512(_mm512_srli_epi32(v, 8 * i), _mm512_set1_epi32(255)); }
INLINE __m512i signed_byte(__m512i v, uint32_t i) { return _mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * i), 24); }
INLINE __m512 byte_ps(__m512i v, uint32_t i) { return _mm512_cvtepi32_ps(byte_of(v, i)); }

/* Scales of a unit: words as engine/kernels_types_avx2.h names them (scales.b). */
typedef struct { __m512 d, dmin; __m512i b[4]; } wscales;

INLINE __m512i both(__m512i a, int mask, __m512i b, int top)
{
    return _mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi8((char)mask)), _mm512_and_si512(b, _mm512_set1_epi8((char)top)));
}

INLINE void scales_q3(const uint8_t *u, __m512i b[4])
{
    __m512i a0 = word(WTYPE_Q3_K, u, 24), a1 = word(WTYPE_Q3_K, u, 25), a2 = word(WTYPE_Q3_K, u, 26), off = _mm512_set1_epi8(32);
    b[0] = _mm512_sub_epi8(both(a0, 15, _mm512_slli_epi32(a2, 4), 0x30), off);
    b[1] = _mm512_sub_epi8(both(a1, 15, _mm512_slli_epi32(a2, 2), 0x30), off);
    b[2] = _mm512_sub_epi8(both(_mm512_srli_epi32(a0, 4), 15, a2, 0x30), off);
    b[3] = _mm512_sub_epi8(both(_mm512_srli_epi32(a1, 4), 15, _mm512_srli_epi32(a2, 2), 0x30), off);
}

INLINE void unit_scales(wtype t, const uint8_t *u, wscales *s)
{
    s->d = half16(u, 0);
    if (is(t, ANY_MIN)) s->dmin = half16(u, 1);
    if (is(t, MIN)) {
        __m512i a = word(t, u, 0), m = word(t, u, 1), c = word(t, u, 2), low = _mm512_set1_epi8(63);
        s->b[0] = _mm512_and_si512(a, low);
        s->b[2] = _mm512_and_si512(m, low);
        s->b[1] = both(c, 15, _mm512_srli_epi32(a, 2), 0x30);
        s->b[3] = both(_mm512_srli_epi32(c, 4), 15, _mm512_srli_epi32(m, 2), 0x30);
    }
    if (t == WTYPE_Q3_K) scales_q3(u, s->b);
    if (t == WTYPE_Q2_K || t == WTYPE_Q6_K)
        UNROLL for (uint32_t i = 0; i < 4; i++) s->b[i] = word(t, u, (t == WTYPE_Q6_K ? 48 : 0) + i);
}

INLINE void block_scale(wtype t, const wscales *s, uint32_t j, wblock *out)
{
    out->d = s->d;
    if (is(t, ANY_MIN)) out->dmin = s->dmin;
    if (is(t, SCALED)) out->scale[0] = byte_ps(s->b[j / 4], j % 4);
    if (is(t, MIN)) out->min = byte_ps(s->b[2 + j / 4], j % 4);
    if (!is(t, HALVES)) return;
    __m512i v = s->b[j / 2], low = _mm512_set1_epi8(15);
    uint32_t i = j % 2 * 2;
    if (is(t, MIN_HALVES)) {
        __m512i sc = _mm512_and_si512(v, low), m = _mm512_and_si512(_mm512_srli_epi32(v, 4), low);
        UNROLL for (uint32_t h = 0; h < 2; h++) out->scale[h] = byte_ps(sc, i + h);
        out->corr = _mm512_or_si512(byte_of(m, i), _mm512_slli_epi32(byte_of(m, i + 1), 16));
        return;
    }
    UNROLL for (uint32_t h = 0; h < 2; h++) out->scale[h] = _mm512_cvtepi32_ps(signed_byte(v, i + h));
}

INLINE void unpack_block(wtype t, const uint8_t *u, uint32_t j, const wscales *s, wblock *out)
{
    UNROLL for (uint32_t i = 0; i < 8; i++) out->w[i] = weights_of(t, u, j, i);
    block_scale(t, s, j, out);
}

/* ---- what a block adds besides its dots ---- */

INLINE __m512 min_sums(wtype t, const wblock *b, const act_sums *z, const int16_t *s)
{
    if (is(t, ADDS_MIN)) return _mm512_set1_ps(-z->minus);
    if (is(t, MIN)) return _mm512_mul_ps(b->min, _mm512_set1_ps(z->minus));
    int32_t pair;
    memcpy(&pair, s, sizeof pair);
    __m512i sum = _mm512_madd_epi16(b->corr, _mm512_set1_epi32(pair));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

INLINE __m512 fma16(__m512 I, __m512 d, float dx, __m512 acc)
{
    return _mm512_fmadd_ps(I, _mm512_mul_ps(d, _mm512_set1_ps(dx)), acc);
}

/* ---- panels ---- */

/* Units that make blocks [b0, b0 + n) of a group. Units of the pair after this one are hinted at. */
INLINE void unpack_panel(wtype t, const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wblock *p)
{
    uint32_t size = PACKED_GROUP * unit_bytes[t];
    for (uint32_t i = 0; i < n; i += unit_blocks[t]) {
        const uint8_t *u = group + (size_t)((b0 + i) / unit_blocks[t]) * size;
        wscales s;
        prefetch(u, next, size);
        unit_scales(t, u, &s);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) unpack_block(t, u, j, &s, &p[i + j]);
    }
}
#endif
