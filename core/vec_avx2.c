/* core/vec.h in AVX2, FMA and F16C: virtual lanes 0-7 and 8-15 are two registers. Rounds nothing that the plain file
 * does not round, so the bits are the same. */
#ifdef __AVX2__
#include "core/vec_impl.h"
#include <assert.h>
#include <immintrin.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))
/* Loops over registers: -O2 alone would keep the arrays in memory. */
#if !defined(__OPTIMIZE__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* All ones in the first k of 8 elements, k <= 8. */
INLINE __m256i first(uint32_t k)
{
    static const int32_t m[16] = { -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 };
    return _mm256_loadu_si256((const __m256i *)(m + 8 - k));
}

INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Elements [i, i+8) of a row of floats or halves. */
INLINE __m256 load8(const void *row, uint32_t i, bool half)
{
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const f16 *)row + i)));
    return _mm256_loadu_ps((const float *)row + i);
}

/* The first k of them; nothing behind them is read, the other lanes are 0. */
INLINE __m256 load_few(const void *row, uint32_t i, uint32_t k, bool half)
{
    if (!half) return _mm256_maskload_ps((const float *)row + i, first(k));
    f16 h[8] = { 0 };
    for (uint32_t j = 0; j < k; j++) h[j] = ((const f16 *)row)[i + j];
    return load8(h, 0, true);
}

INLINE const void *row_at(const void *rows, size_t stride, uint32_t j)
{
    return (const char *)rows + (size_t)j * stride;
}

/* The 16 virtual lanes of a reduction. */
typedef struct { __m256 lo, hi; } lanes;

/* Lanes of the absent elements keep their value: `next` is taken only in the first k. */
INLINE __m256 keep(__m256 old, __m256 next, uint32_t k)
{
    return _mm256_blendv_ps(old, next, _mm256_castsi256_ps(first(k)));
}

/* Folds 16 lanes to 4: j += j+8, then j += j+4. */
INLINE __m128 fold4(lanes l)
{
    __m256 v = _mm256_add_ps(l.lo, l.hi);
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

INLINE float lanes_sum(lanes l)
{
    __m128 v = fold4(l);
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

INLINE void dot_step(lanes *l, const float *q, const void *row, uint32_t i, bool half)
{
    l->lo = _mm256_fmadd_ps(_mm256_loadu_ps(q + i), load8(row, i, half), l->lo);
    l->hi = _mm256_fmadd_ps(_mm256_loadu_ps(q + i + 8), load8(row, i + 8, half), l->hi);
}

INLINE void dot_tail(lanes *l, const float *q, const void *row, uint32_t i, uint32_t d, bool half)
{
    uint32_t k = min_u32(d - i, 8), k2 = d - i - k;
    l->lo = keep(l->lo, _mm256_fmadd_ps(load_few(q, i, k, false), load_few(row, i, k, half), l->lo), k);
    if (!k2) return;
    l->hi = keep(l->hi, _mm256_fmadd_ps(load_few(q, i + 8, k2, false), load_few(row, i + 8, k2, half), l->hi), k2);
}

/* nr rows at once (1 or 4), to keep enough FMAs in flight. */
INLINE void dot_block(const float *q, const void *rows, size_t stride, uint32_t d, bool half, uint32_t nr, lanes *l)
{
    UNROLL for (uint32_t r = 0; r < nr; r++) l[r].lo = l[r].hi = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + VEC_LANES <= d; i += VEC_LANES)
        UNROLL for (uint32_t r = 0; r < nr; r++) dot_step(&l[r], q, row_at(rows, stride, r), i, half);
    UNROLL for (uint32_t r = 0; i < d && r < nr; r++) dot_tail(&l[r], q, row_at(rows, stride, r), i, d, half);
}

INLINE void dot_rows(const float *q, const void *rows, size_t stride, uint32_t n, uint32_t d, float *out, bool half)
{
    lanes l[4];
    uint32_t j = 0;
    for (; j + 4 <= n; j += 4) {
        dot_block(q, row_at(rows, stride, j), stride, d, half, 4, l);
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

/* acc[i .. i+8*nv): the accumulators stay in registers while all rows pass. */
INLINE void axpy_strip(const float *p, const void *rows, size_t stride, uint32_t n, uint32_t i, float *acc, bool half,
                       uint32_t nv)
{
    __m256 a[8];
    UNROLL for (uint32_t v = 0; v < nv; v++) a[v] = _mm256_loadu_ps(acc + i + 8 * v);
    for (uint32_t j = 0; j < n; j++) {
        const void *row = row_at(rows, stride, j);
        __m256 w = _mm256_broadcast_ss(p + j);
        UNROLL for (uint32_t v = 0; v < nv; v++) a[v] = _mm256_fmadd_ps(w, load8(row, i + 8 * v, half), a[v]);
    }
    UNROLL for (uint32_t v = 0; v < nv; v++) _mm256_storeu_ps(acc + i + 8 * v, a[v]);
}

INLINE void axpy_rows(const float *p, const void *rows, size_t stride, uint32_t n, uint32_t d, float *acc, bool half)
{
    uint32_t i = 0;
    for (; i + 64 <= d; i += 64) axpy_strip(p, rows, stride, n, i, acc, half, 8);
    for (; i + 32 <= d; i += 32) axpy_strip(p, rows, stride, n, i, acc, half, 4);
    for (; i + 8 <= d; i += 8) axpy_strip(p, rows, stride, n, i, acc, half, 1);
    if (i == d) return;
    uint32_t k = d - i;
    __m256 a = load_few(acc, i, k, false);
    for (uint32_t j = 0; j < n; j++)
        a = _mm256_fmadd_ps(_mm256_broadcast_ss(p + j), load_few(row_at(rows, stride, j), i, k, half), a);
    _mm256_maskstore_ps(acc + i, first(k), a);
}

static void axpy_rows_f32(const float *p, const float *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    axpy_rows(p, rows, stride, n, d, acc, false);
}

static void axpy_rows_f16(const float *p, const f16 *rows, size_t stride, uint32_t n, uint32_t d, float *acc)
{
    axpy_rows(p, rows, stride, n, d, acc, true);
}

/* A reduction over x by a lane step f(lane, x): whole groups of 16, then the tail, which leaves absent lanes alone. */
#define REDUCE(l, x, n, f)                                                              \
    do {                                                                                \
        uint32_t i_ = 0, k_;                                                            \
        for (; i_ + VEC_LANES <= (n); i_ += VEC_LANES) {                                \
            (l).lo = f((l).lo, _mm256_loadu_ps((x) + i_));                              \
            (l).hi = f((l).hi, _mm256_loadu_ps((x) + i_ + 8));                          \
        }                                                                               \
        k_ = min_u32((n) - i_, 8);                                                      \
        (l).lo = keep((l).lo, f((l).lo, load_few(x, i_, k_, false)), k_);               \
        i_ += k_;                                                                       \
        (l).hi = keep((l).hi, f((l).hi, load_few(x, i_, (n) - i_, false)), (n) - i_);   \
    } while (0)

INLINE __m256 lane_max(__m256 l, __m256 x)
{
    return _mm256_max_ps(x, l);
}

INLINE __m256 lane_sq(__m256 l, __m256 x)
{
    return _mm256_fmadd_ps(x, x, l);
}

static float max(const float *x, uint32_t n)
{
    assert(n > 0);
    lanes l = { _mm256_set1_ps(-INFINITY), _mm256_set1_ps(-INFINITY) };
    REDUCE(l, x, n, lane_max);
    __m256 v = _mm256_max_ps(l.lo, l.hi);
    __m128 u = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    u = _mm_max_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_max_ss(u, _mm_shuffle_ps(u, u, 1)));
}

static float sum_sq(const float *x, uint32_t n)
{
    lanes l = { _mm256_setzero_ps(), _mm256_setzero_ps() };
    REDUCE(l, x, n, lane_sq);
    return lanes_sum(l);
}

/* vec_exp_inline, step by step, on 8 lanes. */
INLINE __m256 exp8(__m256 x)
{
    __m256 magic = _mm256_set1_ps(EXP_MAGIC);
    __m256 under = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_LO), _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(EXP_HI), x);
    __m256 t = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(EXP_LOG2E)), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(EXP_C6), r, _mm256_set1_ps(EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic)), one = _mm256_set1_epi32(127);
    __m256i a = _mm256_srai_epi32(i, 1), b = _mm256_sub_epi32(i, a);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, one), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(b, one), 23)));
    return _mm256_andnot_ps(under, p);
}

static float exp_sum(float *x, uint32_t n, float m)
{
    __m256 s[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() }, vm = _mm256_set1_ps(m);
    uint32_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        UNROLL for (uint32_t h = 0; h < 2; h++) {
            __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * h), vm));
            _mm256_storeu_ps(x + i + 8 * h, e);
            s[h] = _mm256_add_ps(s[h], e);
        }
    for (uint32_t h = 0; i < n; h++) {
        uint32_t k = min_u32(n - i, 8);
        __m256 e = exp8(_mm256_sub_ps(load_few(x, i, k, false), vm));
        _mm256_maskstore_ps(x + i, first(k), e);
        s[h] = keep(s[h], _mm256_add_ps(s[h], e), k);
        i += k;
    }
    return lanes_sum((lanes){ s[0], s[1] });
}

static float exp_stats(const float *x, uint32_t n, float m, float *xs)
{
    __m256 s[2], t[2], vm = _mm256_set1_ps(m), lo = _mm256_set1_ps(EXP_LO);
    s[0] = s[1] = t[0] = t[1] = _mm256_setzero_ps();
    for (uint32_t i = 0, h = 0; i < n; i += 8, h ^= 1) {
        uint32_t k = min_u32(n - i, 8);
        __m256 z = _mm256_sub_ps(k == 8 ? _mm256_loadu_ps(x + i) : load_few(x, i, k, false), vm), e = exp8(z);
        z = _mm256_max_ps(lo, z);
        s[h] = keep(s[h], _mm256_add_ps(s[h], e), k);
        t[h] = keep(t[h], _mm256_fmadd_ps(e, z, t[h]), k);
    }
    *xs = lanes_sum((lanes){ t[0], t[1] });
    return lanes_sum((lanes){ s[0], s[1] });
}

static void scale(float *x, uint32_t n, float s)
{
    __m256 v = _mm256_set1_ps(s);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), v));
    for (; i < n; i++) x[i] *= s;
}

static void add(float *y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++) y[i] += x[i];
}

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    float inv = 1.0f / sqrtf(sum_sq(x, n) / (float)n + eps);
    __m256 v = _mm256_set1_ps(inv);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), v), _mm256_loadu_ps(w + i)));
    for (; i < n; i++) y[i] = (x[i] * inv) * w[i];
}

static void silu_mul(float *y, const float *g, const float *u, uint32_t n)
{
    __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(g + i);
        __m256 q = _mm256_div_ps(v, _mm256_add_ps(one, exp8(_mm256_xor_ps(v, sign))));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(q, _mm256_loadu_ps(u + i)));
    }
    for (; i < n; i++) y[i] = (g[i] / (1.0f + vec_exp_inline(-g[i]))) * u[i];
}

/* vec_gelu_inline and vec_tanh_inline, step by step, on 8 lanes. */
INLINE __m256 gelu8(__m256 x)
{
    __m256 w = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(GELU_C3), _mm256_set1_ps(GELU_C1));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp8(_mm256_mul_ps(x, w))));
}

INLINE __m256 tanh8(__m256 x)
{
    __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f), z = _mm256_mul_ps(x, x), a = _mm256_andnot_ps(sign, x);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(TANH_C4), z, _mm256_set1_ps(TANH_C3));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(TANH_C2));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(TANH_C1));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(TANH_C0));
    p = _mm256_fmadd_ps(_mm256_mul_ps(x, z), p, x);
    __m256 big = _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(exp8(_mm256_add_ps(a, a)), one));
    big = _mm256_or_ps(_mm256_andnot_ps(sign, _mm256_sub_ps(one, big)), _mm256_and_ps(sign, x));
    return _mm256_blendv_ps(big, p, _mm256_cmp_ps(a, _mm256_set1_ps(TANH_SPLIT), _CMP_LT_OQ));
}

static void gelu_mul(float *y, const float *g, const float *u, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_mul_ps(gelu8(_mm256_loadu_ps(g + i)), _mm256_loadu_ps(u + i)));
    for (; i < n; i++) y[i] = vec_gelu_inline(g[i]) * u[i];
}

static void soft_cap(float *x, uint32_t n, float cap)
{
    float inv = 1.0f / cap;
    __m256 c = _mm256_set1_ps(cap), v = _mm256_set1_ps(inv);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(c, tanh8(_mm256_mul_ps(_mm256_loadu_ps(x + i), v))));
    for (; i < n; i++) x[i] = cap * vec_tanh_inline(x[i] * inv);
}

INLINE void turn(__m256 *a, __m256 *b, __m256 c, __m256 s)
{
    __m256 x1 = *a, x2 = *b;
    *a = _mm256_fmsub_ps(x1, c, _mm256_mul_ps(x2, s));
    *b = _mm256_fmadd_ps(x1, s, _mm256_mul_ps(x2, c));
}

static void turn_one(float *a, float *b, float c, float s)
{
    float x1 = *a, x2 = *b;
    *a = fmaf(x1, c, -(x2 * s));
    *b = fmaf(x1, s, x2 * c);
}

static void rope_neox(float *x, const float *c, const float *s, uint32_t half)
{
    uint32_t i = 0;
    for (; i + 8 <= half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        turn(&a, &b, _mm256_loadu_ps(c + i), _mm256_loadu_ps(s + i));
        _mm256_storeu_ps(x + i, a);
        _mm256_storeu_ps(x + half + i, b);
    }
    for (; i < half; i++) turn_one(x + i, x + half + i, c[i], s[i]);
}

/* Table entries in the order in which shuffle_ps leaves the pairs: 0 1 4 5 | 2 3 6 7. */
INLINE __m256 pair_order(const float *t)
{
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_loadu_ps(t)), 0xd8));
}

static void rope_pairs(float *x, const float *c, const float *s, uint32_t half)
{
    uint32_t i = 0;
    for (; i + 8 <= half; i += 8) {
        __m256 u = _mm256_loadu_ps(x + 2 * i), v = _mm256_loadu_ps(x + 2 * i + 8);
        __m256 a = _mm256_shuffle_ps(u, v, 0x88), b = _mm256_shuffle_ps(u, v, 0xdd);
        turn(&a, &b, pair_order(c + i), pair_order(s + i));
        _mm256_storeu_ps(x + 2 * i, _mm256_unpacklo_ps(a, b));
        _mm256_storeu_ps(x + 2 * i + 8, _mm256_unpackhi_ps(a, b));
    }
    for (; i < half; i++) turn_one(x + 2 * i, x + 2 * i + 1, c[i], s[i]);
}

static void rope(float *x, const float *c, const float *s, uint32_t n_rot, int neox)
{
    (neox ? rope_neox : rope_pairs)(x, c, s, n_rot / 2);
}

static void to_f16(f16 *y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) y[i] = vec_f16_inline(x[i]);
}

static void from_f16(float *y, const f16 *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, load8(x, i, true));
    for (; i < n; i++) y[i] = vec_f32_inline(x[i]);
}

const vec_ops vec_avx2_ops = {
    .dot_rows_f32 = dot_rows_f32, .dot_rows_f16 = dot_rows_f16, .axpy_rows_f32 = axpy_rows_f32,
    .axpy_rows_f16 = axpy_rows_f16, .max = max, .sum_sq = sum_sq, .exp_sum = exp_sum, .exp_stats = exp_stats,
    .scale = scale, .add = add, .rms_norm = rms_norm, .silu_mul = silu_mul, .gelu_mul = gelu_mul, .soft_cap = soft_cap,
    .rope = rope, .to_f16 = to_f16, .from_f16 = from_f16,
};
#else
typedef int vec_avx2_absent;   /* a translation unit may not be empty */
#endif
