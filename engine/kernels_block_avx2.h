#ifndef ENGINE_KERNELS_BLOCK_AVX2_H
#define ENGINE_KERNELS_BLOCK_AVX2_H
/* The product of unpacked blocks of 8 outputs with rows of x in AVX2, for weights in file order and packed ones alike:
 * register j of a block holds bytes 4j..4j+3 of each output, so four q, broadcast, meet all 8 and nothing is left to fold.
 * Private to engine/kernels_avx2.c and engine/kernels_packed_avx2.c. */
#include "engine/kernels_types_avx2.h"

enum {
    BLOCKS = CHUNK / KERNELS_BLOCK,                  /* of a panel */
    TALL = 6,                                        /* rows of x that share a loaded register where a block needs few others */
};

/* acc after the block's own FMA, and the one of the minimum: I, d and dmin as the header names them. */
INLINE __m256 step(__m256i I, __m256 d, __m256 dx, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(I), _mm256_mul_ps(d, dx), acc);
}

INLINE __m256i two_sums(const int16_t *s)
{
    int32_t v;
    memcpy(&v, s, sizeof v);
    return _mm256_set1_epi32(v);
}

/* The integer of the minimum's FMA, for types that have one. */
INLINE __m256i min_sum(wtype t, __m256i corr, const int16_t *s)
{
    if (is(t, ADDS_MIN)) return _mm256_set1_epi32(s[0] + s[1]);
    if (is(t, MIN)) return _mm256_mullo_epi32(corr, _mm256_set1_epi32(-(s[0] + s[1])));
    return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_madd_epi16(corr, two_sums(s)));
}

/* I without what the offset of unsigned weights put into it (HALVES: scales and all). */
INLINE __m256i less_offset(wtype t, __m256i I, __m256i corr, const int16_t *s)
{
    int offset = traits[t].offset;
    if (!offset) return I;
    if (!is(t, HALVES)) return _mm256_sub_epi32(I, _mm256_set1_epi32(offset * (s[0] + s[1])));
    return _mm256_sub_epi32(I, _mm256_slli_epi32(_mm256_madd_epi16(corr, two_sums(s)), t == WTYPE_Q6_K ? 5 : 2));
}

typedef struct {
    __m256i w[8];            /* register j: bytes 4j..4j+3 of every row */
    __m256i abs[8];          /* SIGNED: |w| */
    block_scales s;
    __m256 d, dmin;
} qblock;
typedef struct { qblock b[BLOCKS]; } qpanel;

INLINE __m256i quad(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm256_set1_epi32(v);
}

/* gcc reorders integer sums and then runs out of registers; this names the value as needed here and now. */
INLINE void pin(__m256i *v)
{
    __asm__("" : "+x"(*v));
}

/* Registers whose products fit a sum of 16 bits together: a maddubs pair is at most 15*127*2 = 3810 (four bits, and less of two
 * and three), 31*127*2 = 7874 (five bits) or 63*127*2 = 16002 (Q6_K); halves of a block stay apart where each has a scale. */
INLINE uint32_t sum16(wtype t) { return t == WTYPE_Q6_K ? 2 : is(t, HALVES | FIVE_BITS) ? 4 : 8; }

/* I of nt rows, still with the offset. */
INLINE void dots_many(wtype t, const qblock *b, xrows x, uint32_t at, __m256i I[TALL], uint32_t nt)
{
    __m256i J[TALL], one = _mm256_set1_epi16(1);
    UNROLL for (uint32_t r = 0; r < nt; r++) I[r] = _mm256_setzero_si256();
    UNROLL for (uint32_t i = 0; i < 8; i++)
        UNROLL for (uint32_t r = 0; r < nt; r++) {
            __m256i q = quad(x.q + r * x.ld + (size_t)at * KERNELS_BLOCK + 4 * i), v;
            if (is(t, SIGNED)) {                     /* a pair is up to 128*127*2 = 32512: widened at once */
                v = _mm256_madd_epi16(_mm256_maddubs_epi16(b->abs[i], _mm256_sign_epi8(q, b->w[i])), one);
                I[r] = _mm256_add_epi32(I[r], v);
                pin(&I[r]);
                continue;
            }
            v = _mm256_maddubs_epi16(b->w[i], q);
            J[r] = i % sum16(t) ? _mm256_add_epi16(J[r], v) : v;
            pin(&J[r]);
            if ((i + 1) % sum16(t)) continue;
            v = _mm256_madd_epi16(J[r], b->s.scale[i / 4]);
            I[r] = i < sum16(t) ? v : _mm256_add_epi32(I[r], v);
        }
}

/* -8 sum(q) times what makes it the type's offset. */
INLINE __m256i offset_sum(wtype t, int32_t z)
{
    __m256i v = _mm256_set1_epi32(z);
    return t == WTYPE_Q5_0 ? _mm256_slli_epi32(v, 1) : v;
}

INLINE __m256 step_ps(__m256 I, __m256 d, __m256 dx, __m256 acc)
{
    return _mm256_fmadd_ps(I, _mm256_mul_ps(d, dx), acc);
}

/* min_sum as floats: exact, all of it is below 2^24. -8 sum(q) fits 16 bits. */
INLINE __m256 min_ps(wtype t, __m256i corr, const act_sums *z, const int16_t *s)
{
    if (is(t, ADDS_MIN)) return _mm256_set1_ps(-z->minus);
    if (is(t, MIN)) return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_madd_epi16(corr, _mm256_set1_epi32(z->all)), 3));
    return _mm256_cvtepi32_ps(min_sum(t, corr, s));
}

INLINE void block_many(wtype t, const qblock *b, xrows x, uint32_t at, __m256 *acc, uint32_t step_of, uint32_t nt)
{
    __m256i I[TALL];
    dots_many(t, b, x, at, I, nt);
    UNROLL for (uint32_t r = 0; r < nt; r++) {
        size_t row = r * x.ld / KERNELS_BLOCK + at;
        __m256 dx = _mm256_broadcast_ss(x.d + row), *to = acc + r * step_of;
        const int16_t *s = x.s + 2 * row;
        if (is(t, HALVES)) I[r] = less_offset(t, I[r], b->s.corr, s);
        else if (traits[t].offset) I[r] = _mm256_add_epi32(I[r], offset_sum(t, x.z[row].all));
        *to = step(I[r], b->d, dx, *to);
        if (is(t, ANY_MIN)) *to = step_ps(min_ps(t, b->s.corr, &x.z[row], s), b->dmin, dx, *to);
    }
}

/* acc[r * step_of] of nt rows: n blocks more. */
INLINE void group_many(wtype t, const qpanel *p, uint32_t n, xrows x, __m256 *acc, uint32_t step_of, uint32_t nt)
{
    __m256 s[TALL];
    UNROLL for (uint32_t r = 0; r < nt; r++) s[r] = acc[r * step_of];
    for (uint32_t b = 0; b < n; b++) block_many(t, &p->b[b], x, b, s, 1, nt);
    UNROLL for (uint32_t r = 0; r < nt; r++) acc[r * step_of] = s[r];
}
#endif
