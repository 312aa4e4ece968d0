/* Decoding with AVX-512: as AVX2, with two registers of floats a group and a codebook in one register. */
#include "kvstore/pane_impl.h"
#if defined __AVX512F__ && defined __AVX512BW__ && defined __AVX512VL__
#include <immintrin.h>
#include <string.h>

static inline __m256i codes_of(const uint8_t *g, uint32_t bits)
{
    if (bits == 8) return _mm256_loadu_si256((const __m256i *)(const void *)g);
    if (bits == 4) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)g), low = _mm_set1_epi8(15);
        return _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(x, 4), low), _mm_and_si128(x, low));
    }
    long long x;
    memcpy(&x, g, 8);
    __m256i two = _mm256_and_si256(_mm256_srlv_epi64(_mm256_set1_epi64x(x), _mm256_setr_epi64x(0, 2, 4, 6)), _mm256_set1_epi8(3));
    if (bits == 2) return two;
    __mmask32 third;
    memcpy(&third, g + 8, 4);
    return _mm256_or_si256(two, _mm256_maskz_set1_epi8(third, 4));
}

static inline __attribute__((always_inline)) void rows(const pane_codes *c, uint32_t bits, bool book, bool by_channel, float *out)
{
    __m512 table = book ? _mm512_loadu_ps(c->book) : _mm512_setzero_ps();
    for (uint32_t r = 0; r < c->n; r++)
        for (uint32_t g = 0; g < c->groups; g++, out += PANE_GROUP) {
            __m256i bytes = codes_of(c->codes + r * c->stride + (size_t)g * 4 * bits, bits);
            size_t at = by_channel ? (size_t)g * PANE_GROUP : (size_t)r * c->groups + g;
            for (int i = 0; i < 2; i++) {
                __m512i code = _mm512_cvtepu8_epi32(i ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes));
                __m512 x = book ? _mm512_permutexvar_ps(code, table) : _mm512_cvtepi32_ps(code);
                __m512 s = by_channel ? _mm512_loadu_ps(c->s + at + 16 * i) : _mm512_set1_ps(c->s[at]);
                __m512 m = by_channel ? _mm512_loadu_ps(c->m + at + 16 * i) : _mm512_set1_ps(c->m[at]);
                _mm512_storeu_ps(out + 16 * i, _mm512_fmadd_ps(x, s, m));
            }
        }
}

static inline __attribute__((always_inline)) void any(const pane_codes *c, uint32_t bits, float *out)
{
    if (c->book) rows(c, bits, true, c->by_channel, out);
    else if (c->by_channel) rows(c, bits, false, true, out);
    else rows(c, bits, false, false, out);
}

void pane_decode_avx512vnni(const pane_codes *c, float *out)
{
    switch (c->bits) {
    case 8: any(c, 8, out); break;
    case 4: any(c, 4, out); break;
    case 3: any(c, 3, out); break;
    default: any(c, 2, out); break;
    }
}
#endif
