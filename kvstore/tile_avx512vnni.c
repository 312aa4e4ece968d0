/* kvstore/tile.h in AVX-512: the 16 virtual lanes of a dot are one register, and the trees of 16 dots are folded together. */
#if defined(__AVX512F__)
#include "kvstore/tile.h"
#include "core/unroll.h"
#include <immintrin.h>

enum { LANES = 16, FOUR = TILE_FOUR, WORTH = 3 };    /* WORTH: queries from which four together are faster than one by one */

/* Lane j += lane j+8 of a and b: [a b], eight lanes each. */
INLINE __m512 fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

/* j += j+4 of two such pairs: four lanes each. */
INLINE __m512 fold4(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

INLINE __m512 fold2(__m512 a, __m512 b)
{
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

INLINE __m512 fold1(__m512 a, __m512 b) { return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)); }

/* l[key][query] to 128-bit lane query, place key. */
INLINE __m512 fold_all(__m512 l[FOUR][FOUR])
{
    __m512 k[FOUR];
    UNROLL for (int j = 0; j < FOUR; j++) k[j] = fold4(fold8(l[j][0], l[j][1]), fold8(l[j][2], l[j][3]));
    return fold1(fold2(k[0], k[1]), fold2(k[2], k[3]));
}

static void dots(const vec_ops *v, const float *q, uint32_t nq, const float *k, uint32_t n, uint32_t d, float *score, size_t stride)
{
    if (nq < WORTH) {
        tile_any.dots(v, q, nq, k, n, d, score, stride);
        return;
    }
    for (uint32_t j = 0; j < n; j += FOUR) {
        __m512 l[FOUR][FOUR];
        UNROLL for (int a = 0; a < FOUR * FOUR; a++) l[a / FOUR][a % FOUR] = _mm512_setzero_ps();
        for (uint32_t i = 0; i < d; i += LANES) {
            __m512 x[FOUR];
            UNROLL for (int b = 0; b < FOUR; b++) x[b] = _mm512_loadu_ps(q + (size_t)b * d + i);
            UNROLL for (int a = 0; a < FOUR; a++) {
                __m512 y = _mm512_loadu_ps(k + (size_t)(j + (uint32_t)a) * d + i);
                UNROLL for (int b = 0; b < FOUR; b++) l[a][b] = _mm512_fmadd_ps(x[b], y, l[a][b]);
            }
        }
        __m512 s = fold_all(l);
        _mm_storeu_ps(score + j, _mm512_castps512_ps128(s));
        _mm_storeu_ps(score + stride + j, _mm512_extractf32x4_ps(s, 1));
        _mm_storeu_ps(score + 2 * stride + j, _mm512_extractf32x4_ps(s, 2));
        _mm_storeu_ps(score + 3 * stride + j, _mm512_extractf32x4_ps(s, 3));
    }
}

/* Floats [i, i + 16 nv) of four sums: they stay in registers while all rows pass. */
INLINE void strip(const float *p, size_t stride, const float *rows, uint32_t n, uint32_t d, float *const acc[4], uint32_t i, int nv)
{
    __m512 s[FOUR][FOUR];
    UNROLL for (int b = 0; b < FOUR; b++)
        UNROLL for (int v = 0; v < nv; v++) s[b][v] = _mm512_loadu_ps(acc[b] + i + LANES * v);
    for (uint32_t j = 0; j < n; j++) {
        const float *row = rows + (size_t)j * d + i;
        __m512 y[FOUR];
        UNROLL for (int v = 0; v < nv; v++) y[v] = _mm512_loadu_ps(row + LANES * v);
        UNROLL for (int b = 0; b < FOUR; b++) {
            __m512 w = _mm512_set1_ps(p[(size_t)b * stride + j]);
            UNROLL for (int v = 0; v < nv; v++) s[b][v] = _mm512_fmadd_ps(w, y[v], s[b][v]);
        }
    }
    UNROLL for (int b = 0; b < FOUR; b++)
        UNROLL for (int v = 0; v < nv; v++) _mm512_storeu_ps(acc[b] + i + LANES * v, s[b][v]);
}

static void sums(const vec_ops *v, const float *p, size_t stride, uint32_t nq, const float *rows, uint32_t n, uint32_t d,
                 float *const acc[4])
{
    uint32_t i = 0;
    if (nq < WORTH) {
        tile_any.sums(v, p, stride, nq, rows, n, d, acc);
        return;
    }
    for (; i + 64 <= d; i += 64) strip(p, stride, rows, n, d, acc, i, 4);
    for (; i + 32 <= d; i += 32) strip(p, stride, rows, n, d, acc, i, 2);
    for (; i < d; i += LANES) strip(p, stride, rows, n, d, acc, i, 1);
}

const tile_ops tile_avx512vnni = { dots, sums };
#else
typedef int kvstore_tile_avx512vnni_absent;   /* a translation unit may not be empty */
#endif
