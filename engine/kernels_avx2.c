/* engine/kernels.h in AVX2 and FMA: activations to integers, and the product with quantised weights.
 *
 * Few rows of x: a row's 32 weights meet 32 q in one maddubs; the 8 rows' partial sums are folded to one vector of 8
 * integers. Many rows: 256 columns of the tile are unpacked and transposed once (a `qpanel`), so that register j holds
 * bytes 4j..4j+3 of each row; then four q, broadcast, meet all 8 rows and nothing is left to fold. Allocates nothing. */
#ifdef __AVX2__
#include "engine/kernels_block_avx2.h"

/* ---- activations ---- */

INLINE float max8(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/* Sums of q[0..16) and q[16..32). */
INLINE void half_sums(__m256i q, int16_t s[2])
{
    __m256i v = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
    v = _mm256_add_epi32(v, _mm256_shuffle_epi32(v, 0x4e));
    v = _mm256_add_epi32(v, _mm256_shuffle_epi32(v, 0xb1));
    s[0] = (int16_t)_mm256_extract_epi16(v, 0);
    s[1] = (int16_t)_mm256_extract_epi16(v, 8);
}

INLINE void quantize_block(const float *x, int8_t *q, float *d, int16_t s[2])
{
    __m256 v[4], top = _mm256_setzero_ps(), nan = top, lim = _mm256_set1_ps(127.0f), low = _mm256_set1_ps(-127.0f);
    UNROLL for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        top = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), v[i]), top);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v[i], v[i], _CMP_UNORD_Q));
    }
    float step = max8(top) / 127.0f;
    __m256 id = _mm256_set1_ps(step >= 0x1p-126f ? 1.0f / step : 0.0f);
    *d = _mm256_movemask_ps(nan) ? NAN : step;
    __m256i n[4];
    UNROLL for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v[i], id), low), lim));
    __m256i p = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    p = _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, p);
    half_sums(p, s);
}

static void quantize(const act *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++)
        for (uint32_t k = 0; k < a->n_in; k += KERNELS_BLOCK) {
            size_t at = t * a->ld + k;
            quantize_block(a->x + at, a->q + at, a->d + at / KERNELS_BLOCK, a->s + at / 16);
            a->z[at / KERNELS_BLOCK] = kernels_sums_of(a->s + at / 16);
        }
}

/* ---- quantised weights, few rows of x ---- */

INLINE __m256i add_any(__m256i a, __m256i b, bool wide)
{
    return wide ? _mm256_add_epi32(a, b) : _mm256_add_epi16(a, b);
}

/* Rows a and b, 8 lanes each, to [a b a b | a b a b]. */
INLINE __m256i fold2(__m256i a, __m256i b, bool wide)
{
    return add_any(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b), wide);
}

/* Two of those to [a b c d | a b c d]. */
INLINE __m256i fold4(__m256i ab, __m256i cd, bool wide)
{
    return add_any(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd), wide);
}

/* I of 8 rows from their folded sums of each half block. */
INLINE __m256i finish_few(wtype t, __m256i lo, __m256i hi, const block_scales *b, const int16_t *s)
{
    if (t == WTYPE_Q6_K) {                                 /* 32-bit sums already: s0 (lo - 32 sum) + s1 (...) */
        lo = _mm256_sub_epi32(lo, _mm256_set1_epi32(32 * s[0]));
        hi = _mm256_sub_epi32(hi, _mm256_set1_epi32(32 * s[1]));
        lo = _mm256_mullo_epi32(lo, _mm256_srai_epi32(b->scale[0], 16));
        return _mm256_add_epi32(lo, _mm256_mullo_epi32(hi, _mm256_srai_epi32(b->scale[1], 16)));
    }
    if (is(t, SIGNED)) return _mm256_add_epi32(lo, hi);
    if (is(t, HALVES | FIVE_BITS)) lo = _mm256_add_epi32(_mm256_madd_epi16(lo, b->scale[0]), _mm256_madd_epi16(hi, b->scale[1]));
    else lo = _mm256_madd_epi16(_mm256_add_epi16(lo, hi), b->scale[0]);
    return less_offset(t, lo, b->corr, s);
}

/* I of 8 rows. A maddubs pair is at most 128*127*2 = 32512 (signed), 63*127*2 = 16002 (Q6_K), 31*127*2 = 7874 (five bits) or
 * 15*127*2 = 3810, so a 16-bit lane holds 1, 2, 4 or 8 of them: signed ones widen at once, Q6_K after one fold, five bits
 * and types whose halves have a scale each after two, others after the last. */
INLINE __m256i dots_few(wtype t, const tile *rows, uint32_t u, uint32_t j, const block_scales *b, __m256i q, const int16_t *s)
{
    __m256i v[TILE], one = _mm256_set1_epi16(1);
    bool wide = is(t, SIGNED);
    UNROLL for (int r = 0; r < TILE; r++) {
        __m256i w = weights(t, unit_at(t, rows->row[r], u), j);
        v[r] = wide ? _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)), one)
                    : _mm256_maddubs_epi16(w, q);
    }
    UNROLL for (int r = 0; r < 4; r++) v[r] = fold2(v[2 * r], v[2 * r + 1], wide);
    UNROLL for (int r = 0; t == WTYPE_Q6_K && r < 4; r++) v[r] = _mm256_madd_epi16(v[r], one);
    wide |= t == WTYPE_Q6_K;
    v[0] = fold4(v[0], v[1], wide);
    v[1] = fold4(v[2], v[3], wide);
    __m256i lo = _mm256_permute2x128_si256(v[0], v[1], 0x20), hi = _mm256_permute2x128_si256(v[0], v[1], 0x31);
    return finish_few(t, lo, hi, b, s);
}

/* One row of x. */
INLINE __m256 quant_few(wtype t, const tile *rows, const int8_t *q, const float *d, const int16_t *s, uint32_t blocks)
{
    __m256 acc = _mm256_setzero_ps();
    scales sc;
    for (uint32_t u = 0; u < blocks / unit_blocks[t]; u++) {
        prefetch(rows->next, (size_t)u * TILE * unit_bytes[t], TILE * unit_bytes[t]);
        scales_of(t, rows, u, &sc);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++, q += KERNELS_BLOCK, d++, s += 2) {
            __m256 dx = _mm256_broadcast_ss(d);
            block_scales b = block_scales_of(t, &sc, j);
            acc = step(dots_few(t, rows, u, j, &b, load256(q), s), sc.d, dx, acc);
            if (is(t, ANY_MIN)) acc = step(min_sum(t, b.corr, s), sc.dmin, dx, acc);
        }
    }
    return acc;
}

/* ---- quantised weights, many rows of x ---- */

INLINE void unpack_block(wtype t, const tile *rows, uint32_t u, uint32_t j, const scales *sc, qblock *out)
{
    UNROLL for (int r = 0; r < TILE; r++) out->w[r] = weights(t, unit_at(t, rows->row[r], u), j);
    transpose(out->w);
    if (is(t, SIGNED)) {
        UNROLL for (int r = 0; r < TILE; r++) out->abs[r] = _mm256_abs_epi8(out->w[r]);
    }
    out->s = block_scales_of(t, sc, j);
    out->d = sc->d;
    if (is(t, ANY_MIN)) out->dmin = sc->dmin;
}

/* Blocks [b0, b0+n) of 8 rows; b0 is a multiple of BLOCKS. */
INLINE void unpack_blocks(wtype t, const tile *rows, uint32_t b0, uint32_t n, qpanel *p)
{
    scales sc;
    for (uint32_t i = 0; i < n; i += unit_blocks[t]) {
        uint32_t u = (b0 + i) / unit_blocks[t];
        scales_of(t, rows, u, &sc);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) unpack_block(t, rows, u, j, &sc, &p->b[i + j]);
    }
}

/* T <= ROWS rows of x from t0. */
INLINE void quant_many(wtype t, const tile *rows, const act *a, uint32_t t0, uint32_t T, __m256 *acc)
{
    qpanel p;
    uint32_t blocks = a->n_in / KERNELS_BLOCK;
    for (uint32_t r = 0; r < T; r++) acc[r] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b += BLOCKS) {
        uint32_t n = min_u32(BLOCKS, blocks - b), r = 0;
        unpack_blocks(t, rows, b, n, &p);
        for (; r + GROUP <= T; r += GROUP) group_many(t, &p, n, xrows_at(a, t0 + r, b), acc + r, 1, GROUP);
        for (; r < T; r++) group_many(t, &p, n, xrows_at(a, t0 + r, b), acc + r, 1, 1);
    }
}

/* ---- the tables ---- */

typedef __m256 few_fn(const tile *rows, const int8_t *q, const float *d, const int16_t *s, uint32_t blocks);
typedef void many_fn(const tile *rows, const act *a, uint32_t t0, uint32_t T, __m256 *acc);

#define X(N) \
    static __m256 few_##N(const tile *rows, const int8_t *q, const float *d, const int16_t *s, uint32_t blocks) \
    { \
        return quant_few(WTYPE_##N, rows, q, d, s, blocks); \
    } \
    static void many_##N(const tile *rows, const act *a, uint32_t t0, uint32_t T, __m256 *acc) \
    { \
        quant_many(WTYPE_##N, rows, a, t0, T, acc); \
    }
QUANT_MAP(X)
#undef X

static const struct { few_fn *few; many_fn *many; } quants[WTYPE_COUNT] = {
#define X(N) [WTYPE_##N] = { few_##N, many_##N },
    QUANT_MAP(X)
#undef X
};

static void quant_tile(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    tile rows = tile_at(w, o, o1, TILE);
    if (T < KERNELS_MANY) {
        for (uint32_t t = 0; t < T; t++) {
            xrows x = xrows_at(a, t, 0);
            __m256 v = quants[w->type].few(&rows, x.q, x.d, x.s, w->n_in / KERNELS_BLOCK);
            store_few(y + t * ldy + o, v, o1 - o);
        }
        return;
    }
    __m256 acc[ROWS];
    for (uint32_t t0 = 0; t0 < T; t0 += ROWS) {
        uint32_t n = min_u32(ROWS, T - t0);
        quants[w->type].many(&rows, a, t0, n, acc);
        for (uint32_t t = 0; t < n; t++) store_few(y + (t0 + t) * ldy + o, acc[t], o1 - o);
    }
}

static void matmul_quant(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_quant_few : KERNEL_quant_many);
    for (uint32_t o = o0; o < o1; o += TILE) quant_tile(w, a, T, y, ldy, o, o1);
}

const kernels kernels_avx2 = {
    .isa = ISA_AVX2, .name = "avx2", .vec = &vec_avx2_ops,
    .quantize = quantize, .matmul_float = kernels_float_avx2, .matmul_quant = matmul_quant,
    .packed_float = kernels_float_avx2, .packed_quant = kernels_packed_avx2,
    .round_bf16 = kernels_bf16_round_avx2, .matmul_bf16 = kernels_bf16_avx2,
};
#else
typedef int kernels_avx2_absent;   /* a translation unit may not be empty */
#endif
