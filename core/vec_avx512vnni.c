/* core/vec.h in AVX-512: the 16 virtual lanes are one register, and absent elements are masked out. What is rare (rope, soft caps, to
 * halves) is AVX2's. Rounds nothing that the plain file does not round, so the bits are the same. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "core/unroll.h"
#include "core/vec_impl.h"
#include <assert.h>
#include <immintrin.h>
#include <stdbool.h>

enum { ROWS = 4 };   /* dots at once, to keep enough FMAs in flight */

/* All of 16 elements, or the first k of them. */
INLINE __mmask16 first(uint32_t k) { return (__mmask16)(k < VEC_LANES ? (1u << k) - 1 : 0xffff); }

/* A step for every 16 of n elements from i on, m those that are there: all of them, known to the compiler, but in the last one. */
#define EACH(i, m, n, step)                                             \
    do {                                                                \
        uint32_t i = 0;                                                 \
        for (; i + VEC_LANES <= (n); i += VEC_LANES) {                  \
            const __mmask16 m = 0xffff;                                 \
            step;                                                       \
        }                                                               \
        if (i < (n)) {                                                  \
            const __mmask16 m = first((n) - i);                         \
            step;                                                       \
        }                                                               \
    } while (0)

/* Elements [i, i+16) of a row of floats or halves; those that are not in m are 0 and not read. */
INLINE __m512 load(__mmask16 m, const void *row, uint32_t i, bool half)
{
    if (half) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, (const f16 *)row + i));
    return _mm512_maskz_loadu_ps(m, (const float *)row + i);
}

INLINE const void *row_at(const void *rows, size_t stride, uint32_t j) { return (const char *)rows + (size_t)j * stride; }

/* Folds 16 lanes to 4: j += j+8, then j += j+4. */
INLINE __m128 fold4(__m512 l)
{
    __m256 v = _mm256_add_ps(_mm512_castps512_ps256(l), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(l), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

INLINE float lanes_sum(__m512 l)
{
    __m128 v = fold4(l);
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

/* ---- rows ------------------------------------------------------------------------------------------------------------- */

INLINE void dot_block(const float *q, const void *rows, size_t stride, uint32_t d, bool half, uint32_t nr, __m512 *l)
{
    UNROLL for (uint32_t r = 0; r < nr; r++) l[r] = _mm512_setzero_ps();
    uint32_t i = 0;
    for (; i + VEC_LANES <= d; i += VEC_LANES)
        UNROLL for (uint32_t r = 0; r < nr; r++)
            l[r] = _mm512_fmadd_ps(_mm512_loadu_ps(q + i), load(0xffff, row_at(rows, stride, r), i, half), l[r]);
    __mmask16 m = first(d - i);
    UNROLL for (uint32_t r = 0; m && r < nr; r++)
        l[r] = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(m, q + i), load(m, row_at(rows, stride, r), i, half), l[r], m);
}

INLINE void dot_rows(const float *q, const void *rows, size_t stride, uint32_t n, uint32_t d, float *out, bool half)
{
    __m512 l[ROWS];
    uint32_t j = 0;
    for (; j + ROWS <= n; j += ROWS) {
        dot_block(q, row_at(rows, stride, j), stride, d, half, ROWS, l);
        __m128 a = fold4(l[0]), b = fold4(l[1]), c = fold4(l[2]), e = fold4(l[3]);
        _MM_TRANSPOSE4_PS(a, b, c, e);
        _mm_storeu_ps(out + j, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, e)));
    }
    for (; j < n; j++) {
        dot_block(q, row_at(rows, stride, j), stride, d, half, 1, l);
        out[j] = lanes_sum(l[0]);
    }
}

static void dot_rows_f32(const float *q, const float *rows, size_t stride, uint32_t n, uint32_t d, float *out)
{
    dot_rows(q, rows, stride, n, d, out, false);
}

static void dot_rows_f16(const float *q, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *out)
{
    dot_rows(q, rows, stride, n, d, out, true);
}

/* acc [16 nv], of which the last register has the elements of m: the accumulators stay in registers while all rows pass. */
INLINE void axpy_strip(const float *p, const void *rows, size_t stride, uint32_t n, uint32_t i, float *acc, bool half, uint32_t nv, __mmask16 m)
{
    __m512 a[8];
    UNROLL for (uint32_t v = 0; v < nv; v++) a[v] = _mm512_maskz_loadu_ps(v + 1 < nv ? 0xffff : m, acc + i + 16 * v);
    for (uint32_t j = 0; j < n; j++) {
        const void *row = row_at(rows, stride, j);
        __m512 w = _mm512_set1_ps(p[j]);
        UNROLL for (uint32_t v = 0; v < nv; v++) a[v] = _mm512_fmadd_ps(w, load(v + 1 < nv ? 0xffff : m, row, i + 16 * v, half), a[v]);
    }
    UNROLL for (uint32_t v = 0; v < nv; v++) _mm512_mask_storeu_ps(acc + i + 16 * v, v + 1 < nv ? 0xffff : m, a[v]);
}

INLINE void axpy_rows(const float *p, const void *rows, size_t stride, uint32_t n, uint32_t d, float *acc, bool half)
{
    uint32_t i = 0;
    for (; i + 128 <= d; i += 128) axpy_strip(p, rows, stride, n, i, acc, half, 8, 0xffff);
    for (; i + 64 <= d; i += 64) axpy_strip(p, rows, stride, n, i, acc, half, 4, 0xffff);
    for (; i + 32 <= d; i += 32) axpy_strip(p, rows, stride, n, i, acc, half, 2, 0xffff);
    for (; i < d; i += 16) axpy_strip(p, rows, stride, n, i, acc, half, 1, first(d - i));
}

static void axpy_rows_f32(const float *p, const float *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    axpy_rows(p, rows, stride, n, d, acc, false);
}

static void axpy_rows_f16(const float *p, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    axpy_rows(p, rows, stride, n, d, acc, true);
}

/* ---- reductions --------------------------------------------------------------------------------------------------------- */

static float max(const float *x, uint32_t n)
{
    assert(n > 0);
    __m512 l = _mm512_set1_ps(-INFINITY);
    EACH(i, m, n, l = _mm512_mask_max_ps(l, m, _mm512_maskz_loadu_ps(m, x + i), l));
    __m256 v = _mm256_max_ps(_mm512_castps512_ps256(l), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(l), 1)));
    __m128 u = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    u = _mm_max_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_max_ss(u, _mm_shuffle_ps(u, u, 1)));
}

INLINE __m512 add_square(__m512 l, __mmask16 m, const float *x)
{
    __m512 v = _mm512_maskz_loadu_ps(m, x);
    return _mm512_mask3_fmadd_ps(v, v, l, m);
}

static float sum_sq(const float *x, uint32_t n)
{
    __m512 l = _mm512_setzero_ps();
    EACH(i, m, n, l = add_square(l, m, x + i));
    return lanes_sum(l);
}

/* vec_exp_inline, step by step, on 16 lanes. */
INLINE __m512 exp16(__m512 x)
{
    __m512 magic = _mm512_set1_ps(EXP_MAGIC);
    __mmask16 under = _mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_LO), _CMP_LT_OQ);
    x = _mm512_min_ps(_mm512_set1_ps(EXP_HI), x);
    __m512 t = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(EXP_LOG2E)), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(EXP_C6), r, _mm512_set1_ps(EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i i = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_castps_si512(magic)), one = _mm512_set1_epi32(127);
    __m512i a = _mm512_srai_epi32(i, 1), b = _mm512_sub_epi32(i, a);
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, one), 23)));
    return _mm512_maskz_mul_ps((__mmask16)~under, p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(b, one), 23)));
}

INLINE __m512 add_exp(__m512 s, __mmask16 m, float *x, __m512 most)
{
    __m512 e = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x), most));
    _mm512_mask_storeu_ps(x, m, e);
    return _mm512_mask_add_ps(s, m, s, e);
}

static float exp_sum(float *x, uint32_t n, float most)
{
    __m512 s = _mm512_setzero_ps(), v = _mm512_set1_ps(most);
    EACH(i, m, n, s = add_exp(s, m, x + i, v));
    return lanes_sum(s);
}

INLINE void add_stats(__m512 *s, __m512 *t, __mmask16 m, const float *x, __m512 most)
{
    __m512 z = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, x), most), e = exp16(z);
    *s = _mm512_mask_add_ps(*s, m, *s, e);
    *t = _mm512_mask3_fmadd_ps(e, _mm512_max_ps(_mm512_set1_ps(EXP_LO), z), *t, m);
}

static float exp_stats(const float *x, uint32_t n, float most, float *xs)
{
    __m512 s = _mm512_setzero_ps(), t = s, v = _mm512_set1_ps(most);
    EACH(i, m, n, add_stats(&s, &t, m, x + i, v));
    *xs = lanes_sum(t);
    return lanes_sum(s);
}

/* ---- element by element ---------------------------------------------------------------------------------------------------- */

static void scale(float *x, uint32_t n, float s)
{
    __m512 v = _mm512_set1_ps(s);
    EACH(i, m, n, _mm512_mask_storeu_ps(x + i, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), v)));
}

static void add(float *y, const float *x, uint32_t n)
{
    EACH(i, m, n, _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + i), _mm512_maskz_loadu_ps(m, x + i))));
}

INLINE void norm(float *y, __mmask16 m, const float *x, const float *w, __m512 inv)
{
    _mm512_mask_storeu_ps(y, m, _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(m, x), inv), _mm512_maskz_loadu_ps(m, w)));
}

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    __m512 inv = _mm512_set1_ps(1.0f / sqrtf(sum_sq(x, n) / (float)n + eps));
    EACH(i, m, n, norm(y + i, m, x + i, w + i, inv));
}

/* g / (1 + exp(z)) * u */
INLINE void gate(float *y, __mmask16 m, __m512 g, __m512 z, const float *u)
{
    __m512 q = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(z)));
    _mm512_mask_storeu_ps(y, m, _mm512_mul_ps(q, _mm512_maskz_loadu_ps(m, u)));
}

INLINE void silu(float *y, __mmask16 m, const float *g, const float *u)
{
    __m512 v = _mm512_maskz_loadu_ps(m, g);
    gate(y, m, v, _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi32((int)0x80000000u))), u);
}

static void silu_mul(float *y, const float *g, const float *u, uint32_t n) { EACH(i, m, n, silu(y + i, m, g + i, u + i)); }

INLINE void gelu(float *y, __mmask16 m, const float *g, const float *u)
{
    __m512 v = _mm512_maskz_loadu_ps(m, g), w = _mm512_fmadd_ps(_mm512_mul_ps(v, v), _mm512_set1_ps(GELU_C3), _mm512_set1_ps(GELU_C1));
    gate(y, m, v, _mm512_mul_ps(v, w), u);
}

static void gelu_mul(float *y, const float *g, const float *u, uint32_t n) { EACH(i, m, n, gelu(y + i, m, g + i, u + i)); }

static void from_f16(float *y, const f16 *x, uint32_t n) { EACH(i, m, n, _mm512_mask_storeu_ps(y + i, m, load(m, x, i, true))); }

static void soft_cap(float *x, uint32_t n, float cap) { vec_avx2_ops.soft_cap(x, n, cap); }
static void rope(float *x, const float *c, const float *s, uint32_t n_rot, int neox) { vec_avx2_ops.rope(x, c, s, n_rot, neox); }
static void to_f16(f16 *y, const float *x, uint32_t n) { vec_avx2_ops.to_f16(y, x, n); }

const vec_ops vec_avx512vnni_ops = {
    .dot_rows_f32 = dot_rows_f32, .dot_rows_f16 = dot_rows_f16, .axpy_rows_f32 = axpy_rows_f32,
    .axpy_rows_f16 = axpy_rows_f16, .max = max, .sum_sq = sum_sq, .exp_sum = exp_sum, .exp_stats = exp_stats,
    .scale = scale, .add = add, .rms_norm = rms_norm, .silu_mul = silu_mul, .gelu_mul = gelu_mul, .soft_cap = soft_cap,
    .rope = rope, .to_f16 = to_f16, .from_f16 = from_f16,
};
#else
typedef int vec_avx512vnni_absent;   /* a translation unit may not be empty */
#endif
