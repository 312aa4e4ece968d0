/* Decoding with AVX2: a group's 32 codes become bytes of one register in element order, then four registers of floats. */
#include "kvstore/pane_impl.h"
#ifdef __AVX2__
#include <immintrin.h>
#include <string.h>

static inline __m256i pairs(const uint8_t *g)
{
    long long x;
    memcpy(&x, g, 8);
    __m256i v = _mm256_srlv_epi64(_mm256_set1_epi64x(x), _mm256_setr_epi64x(0, 2, 4, 6));
    return _mm256_and_si256(v, _mm256_set1_epi8(3));
}

static inline __m256i thirds(const uint8_t *g)
{
    int x;
    memcpy(&x, g + 8, 4);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(x), _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                                                                  0x0303030303030303));
    __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(4));
}

static inline __m256i codes_of(const uint8_t *g, uint32_t bits)
{
    if (bits == 8) return _mm256_loadu_si256((const __m256i *)(const void *)g);
    if (bits == 2) return pairs(g);
    if (bits == 3) return _mm256_or_si256(pairs(g), thirds(g));
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)g), low = _mm_set1_epi8(15);
    return _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(x, 4), low), _mm_and_si128(x, low));
}

static inline __m256 value(__m256i code, const float *book)
{
    if (!book) return _mm256_cvtepi32_ps(code);
    __m256 lo = _mm256_permutevar8x32_ps(_mm256_loadu_ps(book), code);
    __m256 hi = _mm256_permutevar8x32_ps(_mm256_loadu_ps(book + 8), code);
    return _mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}

static inline void group(const pane_codes *c, __m256i bytes, const float *s, const float *m, float *out)
{
    __m128i half[2] = { _mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1) };
    for (int i = 0; i < 4; i++) {
        __m128i b = i % 2 ? _mm_srli_si128(half[i / 2], 8) : half[i / 2];
        __m256 S = c->by_channel ? _mm256_loadu_ps(s + 8 * i) : _mm256_broadcast_ss(s);
        __m256 M = c->by_channel ? _mm256_loadu_ps(m + 8 * i) : _mm256_broadcast_ss(m);
        _mm256_storeu_ps(out + 8 * i, _mm256_fmadd_ps(value(_mm256_cvtepu8_epi32(b), c->book), S, M));
    }
}

static inline __attribute__((always_inline)) void rows(const pane_codes *c, uint32_t bits, float *out)
{
    for (uint32_t r = 0; r < c->n; r++)
        for (uint32_t g = 0; g < c->groups; g++, out += PANE_GROUP) {
            size_t at = c->by_channel ? (size_t)g * PANE_GROUP : (size_t)r * c->groups + g;
            group(c, codes_of(c->codes + r * c->stride + (size_t)g * 4 * bits, bits), c->s + at, c->m + at, out);
        }
}

void pane_decode_avx2(const pane_codes *c, float *out)
{
    switch (c->bits) {
    case 8: rows(c, 8, out); break;
    case 4: rows(c, 4, out); break;
    case 3: rows(c, 3, out); break;
    default: rows(c, 2, out); break;
    }
}
#endif
