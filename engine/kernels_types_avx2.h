#ifndef ENGINE_KERNELS_TYPES_AVX2_H
#define ENGINE_KERNELS_TYPES_AVX2_H
/* What differs between quantised weight types in AVX2: how a block's 32 weights and its scales are unpacked, and what the
 * products in engine/kernels_avx2.c must know about their size and sign. One inlined function serves all types: `t` is
 * a constant wherever it is called. Multiplies nothing. Private to engine/kernels_avx2.c and engine/kernels_avx512vnni.c. */
#include "engine/kernels_avx2.h"

enum {
    SIGNED = 1,          /* weights are signed bytes, up to 128 */
    FIVE_BITS = 2,       /* up to 31 */
    SCALED = 4,          /* an integer scale for the block of 32 */
    HALVES = 8,          /* one for each half of it */
    ADDS_MIN = 16,       /* + m sum(q) */
    MIN = 32,            /* - dmin m sum(q), an integer m for the block */
    MIN_HALVES = 64,     /* one for each half */
    ANY_MIN = ADDS_MIN | MIN | MIN_HALVES,
};
/* Unsigned weights stand for w - offset. */
static const struct { uint8_t is, offset; } traits[WTYPE_COUNT] = {
    [WTYPE_Q8_0] = { SIGNED, 0 },      [WTYPE_IQ4_NL] = { SIGNED, 0 },
    [WTYPE_Q4_0] = { 0, 8 },           [WTYPE_Q4_1] = { ADDS_MIN, 0 },
    [WTYPE_Q5_0] = { FIVE_BITS, 16 },  [WTYPE_Q5_1] = { FIVE_BITS | ADDS_MIN, 0 },
    [WTYPE_Q4_K] = { SCALED | MIN, 0 }, [WTYPE_Q5_K] = { FIVE_BITS | SCALED | MIN, 0 },
    [WTYPE_Q2_K] = { HALVES | MIN_HALVES, 0 },
    [WTYPE_Q3_K] = { HALVES, 4 },      [WTYPE_Q6_K] = { HALVES, 32 },
};

INLINE bool is(wtype t, uint32_t what)
{
    return (traits[t].is & what) != 0;
}

/* ---- scales ---- */

/* Scales of one unit (a block of 32, or the 8 blocks of a K block) of 8 rows; bytes of a row in its lane.
 * Q4_K, Q5_K: b has scales 0-3, 4-7, minima 0-3, 4-7. Q3_K, Q6_K: b[i] has scales 4i..4i+3. Q2_K: so too, scale in the low
 * and minimum in the high nibble. */
typedef struct {
    __m256 d, dmin;
    __m256i b[4];
} scales;

INLINE const uint8_t *unit_at(wtype t, const uint8_t *row, uint32_t u)
{
    return row + (size_t)u * unit_bytes[t];
}

/* A half of each of 8 rows, `at` bytes into the unit. */
INLINE __m256 halves(wtype t, const tile *rows, uint32_t u, uint32_t at)
{
    uint16_t h[TILE];
    UNROLL for (int r = 0; r < TILE; r++) memcpy(&h[r], unit_at(t, rows->row[r], u) + at, 2);
    __m128i lo = _mm_setr_epi16(h[0], h[1], h[2], h[3], 0, 0, 0, 0), hi = _mm_setr_epi16(h[4], h[5], h[6], h[7], 0, 0, 0, 0);
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(lo, hi));
}

/* Four bytes of each of 8 rows. */
INLINE __m256i bytes4(wtype t, const tile *rows, uint32_t u, uint32_t at)
{
    int32_t v[TILE];
    UNROLL for (int r = 0; r < TILE; r++) memcpy(&v[r], unit_at(t, rows->row[r], u) + at, 4);
    return _mm256_setr_epi32(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
}

/* 16 bytes of each of 8 rows, turned: out[i] has bytes 4i..4i+3 of row r in lane r. */
INLINE void bytes16(wtype t, const tile *rows, uint32_t u, uint32_t at, __m256i out[4])
{
    __m256i v[4];
    UNROLL for (int r = 0; r < 4; r++) v[r] = load2x128(unit_at(t, rows->row[r], u) + at, unit_at(t, rows->row[r + 4], u) + at);
    __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
    __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

/* Lanes whose low (from = 0) or high 16 bits are a half, to floats. */
INLINE __m256 lane_halves(__m256i v, int from)
{
    v = from ? _mm256_srli_epi32(v, 16) : _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    v = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(v));
}

/* Q4_K and Q5_K: the 12 scale bytes as three words of every row. */
INLINE void scales_k_words(__m256i a, __m256i m, __m256i c, __m256i b[4])
{
    __m256i low6 = _mm256_set1_epi8(63), low4 = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    b[0] = _mm256_and_si256(a, low6);
    b[2] = _mm256_and_si256(m, low6);
    b[1] = _mm256_or_si256(_mm256_and_si256(c, low4), _mm256_and_si256(_mm256_srli_epi32(a, 2), top));
    b[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(c, 4), low4), _mm256_and_si256(_mm256_srli_epi32(m, 2), top));
}

/* d and dmin stand in front of them. */
INLINE void scales_k(wtype t, const tile *rows, uint32_t u, scales *s)
{
    __m256i h[4];
    bytes16(t, rows, u, 0, h);
    s->d = lane_halves(h[0], 0);
    s->dmin = lane_halves(h[0], 1);
    scales_k_words(h[1], h[2], h[3], s->b);
}

/* Low four bits from v, two bits from hi at 0x30, less 32. */
INLINE __m256i scale_q3_k(__m256i v, __m256i hi)
{
    v = _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi8(15)), _mm256_and_si256(hi, _mm256_set1_epi8(0x30)));
    return _mm256_sub_epi8(v, _mm256_set1_epi8(32));
}

INLINE void scales_q3_k_words(__m256i a0, __m256i a1, __m256i a2, __m256i b[4])
{
    b[0] = scale_q3_k(a0, _mm256_slli_epi32(a2, 4));
    b[1] = scale_q3_k(a1, _mm256_slli_epi32(a2, 2));
    b[2] = scale_q3_k(_mm256_srli_epi32(a0, 4), a2);
    b[3] = scale_q3_k(_mm256_srli_epi32(a1, 4), _mm256_srli_epi32(a2, 2));
}

/* The 12 scale bytes and d end the block, so the 16 bytes are loaded that end with it: two of q stand in front. */
INLINE void scales_q3_k(const tile *rows, uint32_t u, scales *s)
{
    __m256i h[4], a[3];
    bytes16(WTYPE_Q3_K, rows, u, 94, h);
    UNROLL for (int i = 0; i < 3; i++) a[i] = _mm256_or_si256(_mm256_srli_epi32(h[i], 16), _mm256_slli_epi32(h[i + 1], 16));
    s->d = lane_halves(h[3], 1);
    scales_q3_k_words(a[0], a[1], a[2], s->b);
}

INLINE void scales_of(wtype t, const tile *rows, uint32_t u, scales *s)
{
    if (is(t, MIN)) {
        scales_k(t, rows, u, s);
    } else if (t == WTYPE_Q3_K) {
        scales_q3_k(rows, u, s);
    } else if (is(t, ADDS_MIN | MIN_HALVES)) {
        __m256i d = bytes4(t, rows, u, t == WTYPE_Q2_K ? 80 : 0);
        s->d = lane_halves(d, 0);
        s->dmin = lane_halves(d, 1);
    } else {
        s->d = halves(t, rows, u, t == WTYPE_Q6_K ? 208 : 0);
    }
    if (t == WTYPE_Q2_K) bytes16(t, rows, u, 0, s->b);
    if (t == WTYPE_Q6_K) bytes16(t, rows, u, 192, s->b);
}

/* Shuffle masks: lane r of four gets r * 4 in the bytes that `ones` names, plus `base`; 0x80 makes a byte 0. */
INLINE __m256i lane_mask(uint32_t ones, uint32_t base)
{
    int32_t a = (int32_t)base, b = (int32_t)(base + 4 * ones), c = (int32_t)(base + 8 * ones), d = (int32_t)(base + 12 * ones);
    return _mm256_setr_epi32(a, b, c, d, a, b, c, d);
}

/* Byte i of every lane: unsigned as 32 bits, unsigned in both 16-bit halves, signed in both. */
INLINE __m256i lane_u32(__m256i v, uint32_t i)
{
    return _mm256_shuffle_epi8(v, lane_mask(1u, 0x80808000u + i));
}

INLINE __m256i lane_u16x2(__m256i v, uint32_t i)
{
    return _mm256_shuffle_epi8(v, lane_mask(0x00010001u, 0x80008000u + 0x00010001u * i));
}

INLINE __m256i lane_s16x2(__m256i v, uint32_t i)
{
    return _mm256_srai_epi16(_mm256_shuffle_epi8(v, lane_mask(0x01000100u, 0x00800080u + 0x01000100u * i)), 8);
}

/* Bytes i and i + 1 in the two 16-bit halves, unsigned. */
INLINE __m256i lane_two(__m256i v, uint32_t i)
{
    return _mm256_shuffle_epi8(v, lane_mask(0x00010001u, 0x80018000u + 0x00010001u * i));
}

/* Block j of a unit. scale: of each half block, in both 16-bit halves (SCALED: one). corr: what I is corrected with; for
 * HALVES with an offset scale 0 in the low and scale 1 in the high half, for MIN_HALVES the minima so, for MIN the
 * minimum as 32 bits. */
typedef struct { __m256i scale[2], corr; } block_scales;

INLINE block_scales block_scales_of(wtype t, const scales *sc, uint32_t j)
{
    block_scales s;
    s.scale[0] = s.scale[1] = _mm256_set1_epi16(1);
    s.corr = _mm256_setzero_si256();
    if (is(t, SCALED)) s.scale[0] = s.scale[1] = lane_u16x2(sc->b[j / 4], j % 4);
    if (is(t, MIN)) s.corr = lane_u32(sc->b[2 + j / 4], j % 4);
    if (!is(t, HALVES)) return s;
    __m256i v = sc->b[j / 2], low4 = _mm256_set1_epi16(15);
    uint32_t i = j % 2 * 2;
    if (is(t, MIN_HALVES)) {
        UNROLL for (uint32_t h = 0; h < 2; h++) s.scale[h] = _mm256_and_si256(lane_u16x2(v, i + h), low4);
        s.corr = _mm256_srli_epi16(lane_two(v, i), 4);
        return s;
    }
    UNROLL for (uint32_t h = 0; h < 2; h++) s.scale[h] = lane_s16x2(v, i + h);
    s.corr = _mm256_blend_epi16(s.scale[0], s.scale[1], 0xaa);
    return s;
}

/* ---- weights ---- */

INLINE __m256i nibbles(__m256i v, int high)
{
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

/* 16 bytes to 32 nibbles, low ones first. */
INLINE __m256i nibbles32(const uint8_t *p)
{
    __m256i v = _mm256_broadcastsi128_si256(load128(p));
    v = _mm256_srlv_epi64(v, _mm256_setr_epi64x(0, 0, 4, 4));
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

/* Bit i of four bytes, as 16 in byte i. */
INLINE __m256i fifth_bits(const uint8_t *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    __m256i at = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i mask = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), at), mask);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, mask), _mm256_set1_epi8(16));
}

/* Bit j of every byte, moved to bit `to`. */
INLINE __m256i plane(const uint8_t *p, uint32_t j, uint32_t to)
{
    __m256i v = load256(p);
    v = j < to ? _mm256_slli_epi16(v, (int)(to - j)) : _mm256_srli_epi16(v, (int)(j - to));
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(1 << to)));
}

/* Two bits of 64 bytes, for block j: a run of 32 bytes serves four blocks. */
INLINE __m256i crumbs(const uint8_t *p, uint32_t j)
{
    return _mm256_and_si256(_mm256_srli_epi16(load256(p + j / 4 * 32), (int)(j % 4 * 2)), _mm256_set1_epi8(3));
}

INLINE __m256i weights_q6_k(const uint8_t *p, uint32_t j)
{
    uint32_t half = j / 4, run = j % 4;
    __m256i lo = nibbles(load256(p + 64 * half + run % 2 * 32), run / 2), hi = load256(p + 128 + 32 * half);
    hi = run == 0 ? _mm256_slli_epi16(hi, 4) : run == 1 ? _mm256_slli_epi16(hi, 2) : run == 3 ? _mm256_srli_epi16(hi, 2) : hi;
    return _mm256_or_si256(lo, _mm256_and_si256(hi, _mm256_set1_epi8(0x30)));
}

INLINE __m256i weights_iq4_nl(const uint8_t *p)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load128(wtype_iq4_nl)), nibbles32(p + 2));
}

/* 32 weights of block j of a unit, as the traits say. */
INLINE __m256i weights(wtype t, const uint8_t *p, uint32_t j)
{
    switch (t) {
    case WTYPE_Q8_0: return load256(p + 2);
    case WTYPE_Q4_0: return nibbles32(p + 2);
    case WTYPE_Q4_1: return nibbles32(p + 4);
    case WTYPE_Q5_0: return _mm256_or_si256(nibbles32(p + 6), fifth_bits(p + 2));
    case WTYPE_Q5_1: return _mm256_or_si256(nibbles32(p + 8), fifth_bits(p + 4));
    case WTYPE_Q2_K: return crumbs(p + 16, j);
    case WTYPE_Q3_K: return _mm256_or_si256(crumbs(p + 32, j), plane(p, j, 2));
    case WTYPE_Q4_K: return nibbles(load256(p + 16 + 32 * (j / 2)), j & 1);
    case WTYPE_Q5_K: return _mm256_or_si256(nibbles(load256(p + 48 + 32 * (j / 2)), j & 1), plane(p + 16, j, 4));
    case WTYPE_Q6_K: return weights_q6_k(p, j);
    default:         return weights_iq4_nl(p);
    }
}

/* ---- what every quantised product needs ---- */

/* The quantised types, one kernel made special for each. */
#define QUANT_MAP(X) X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL)

/* 8x8 transpose of 32-bit lanes. */
INLINE void transpose(__m256i v[8])
{
    __m256i a[8];
    UNROLL for (int i = 0; i < 4; i++) {
        a[i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[i + 4] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int h = 0; h < 2; h++) {                          /* columns 0, 1, 4, 5 and then 2, 3, 6, 7 */
        __m256i lo0 = _mm256_unpacklo_epi64(a[4 * h], a[4 * h + 1]), lo1 = _mm256_unpacklo_epi64(a[4 * h + 2], a[4 * h + 3]);
        __m256i hi0 = _mm256_unpackhi_epi64(a[4 * h], a[4 * h + 1]), hi1 = _mm256_unpackhi_epi64(a[4 * h + 2], a[4 * h + 3]);
        v[2 * h] = _mm256_permute2x128_si256(lo0, lo1, 0x20);
        v[2 * h + 1] = _mm256_permute2x128_si256(hi0, hi1, 0x20);
        v[2 * h + 4] = _mm256_permute2x128_si256(lo0, lo1, 0x31);
        v[2 * h + 5] = _mm256_permute2x128_si256(hi0, hi1, 0x31);
    }
}

/* The rows of x of one group: nt of them, ld elements apart. */
typedef struct { const int8_t *q; const float *d; const int16_t *s; const act_sums *z; size_t ld; } xrows;

INLINE xrows xrows_at(const act *a, uint32_t t, uint32_t b)
{
    size_t at = t * a->ld + (size_t)b * KERNELS_BLOCK;
    return (xrows){ a->q + at, a->d + at / KERNELS_BLOCK, a->s + at / 16, a->z + at / KERNELS_BLOCK, a->ld };
}
#endif
