/* engine/kernels.h for many rows of x in AVX-512 with VNNI: lanes lie across 16 outputs, and one vpdpbusd multiplies four
 * columns of all of them with four broadcast q. Signed weights go in as w + 128, whose sum is taken out again in integers.
 * Few rows and activations are the AVX2 ones: they wait for memory, not for arithmetic.
 * Unpacking and scales come from engine/kernels_types_avx2.h, two tiles of 8 rows side by side. Allocates nothing. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "engine/kernels_types_avx2.h"

enum {
    WIDTH = 16,                              /* outputs of a vector */
    PANEL = CHUNK / KERNELS_BLOCK,           /* blocks of a panel */
    TOGETHER = 8,                            /* rows of x that share a loaded weight register: 16 sums in 32 registers */
    PASS = 256,                              /* rows of x that share an unpacked panel: 16 KiB of sums */
};

typedef struct {
    __m512i w[8];                            /* register j: bytes 4j..4j+3 of every row, unsigned */
    __m512i scale[2], corr;                  /* as in block_scales, scale as 32-bit integers */
    __m512 d, dmin;
} wblock;

INLINE __m512i join(__m256i lo, __m256i hi) { return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1); }
INLINE __m512 join_ps(__m256 lo, __m256 hi) { return _mm512_castsi512_ps(join(_mm256_castps_si256(lo), _mm256_castps_si256(hi))); }

/* What I is less than the unsigned dot by, in units of sum(q). */
INLINE int offset_of(wtype t) { return is(t, SIGNED) ? 128 : traits[t].offset; }

INLINE void half_weights(wtype t, const tile *rows, uint32_t u, uint32_t j, __m256i v[8])
{
    UNROLL for (int r = 0; r < TILE; r++) {
        v[r] = weights(t, unit_at(t, rows->row[r], u), j);
        if (is(t, SIGNED)) v[r] = _mm256_xor_si256(v[r], _mm256_set1_epi8((char)0x80));
    }
    transpose(v);
}

/* Scales stand twice in 16 bits; as 32-bit integers, signed. */
INLINE __m512i wide_scale(__m256i lo, __m256i hi) { return _mm512_srai_epi32(_mm512_slli_epi32(join(lo, hi), 16), 16); }

INLINE void unpack16(wtype t, const tile rows[2], uint32_t u, uint32_t j, const scales sc[2], wblock *out)
{
    __m256i lo[8], hi[8];
    half_weights(t, &rows[0], u, j, lo);
    half_weights(t, &rows[1], u, j, hi);
    UNROLL for (int i = 0; i < 8; i++) out->w[i] = join(lo[i], hi[i]);
    block_scales a = block_scales_of(t, &sc[0], j), b = block_scales_of(t, &sc[1], j);
    UNROLL for (int i = 0; i < 2; i++) out->scale[i] = wide_scale(a.scale[i], b.scale[i]);
    out->corr = join(a.corr, b.corr);
    out->d = join_ps(sc[0].d, sc[1].d);
    if (is(t, ANY_MIN)) out->dmin = join_ps(sc[0].dmin, sc[1].dmin);
}

/* Blocks [b0, b0+n) of 16 rows; b0 is a multiple of PANEL. */
INLINE void unpack_panel(wtype t, const tile rows[2], uint32_t b0, uint32_t n, wblock *p)
{
    scales sc[2];
    for (uint32_t i = 0; i < n; i += unit_blocks[t]) {
        uint32_t u = (b0 + i) / unit_blocks[t];
        UNROLL for (int h = 0; h < 2; h++) scales_of(t, &rows[h], u, &sc[h]);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) unpack16(t, rows, u, j, sc, &p[i + j]);
    }
}

INLINE __m512i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

INLINE __m512i pair_sums(const int16_t *s)
{
    int32_t v;
    memcpy(&v, s, sizeof v);
    return _mm512_set1_epi32(v);
}

/* I of the header: exact, whatever the order. */
INLINE __m512i integer_of(wtype t, const wblock *b, __m512i lo, __m512i hi, const int16_t *s)
{
    if (is(t, HALVES)) {
        lo = _mm512_add_epi32(_mm512_mullo_epi32(lo, b->scale[0]), _mm512_mullo_epi32(hi, b->scale[1]));
        if (!traits[t].offset) return lo;
        return _mm512_sub_epi32(lo, _mm512_slli_epi32(_mm512_madd_epi16(b->corr, pair_sums(s)), t == WTYPE_Q6_K ? 5 : 2));
    }
    if (offset_of(t)) lo = _mm512_sub_epi32(lo, _mm512_set1_epi32(offset_of(t) * (s[0] + s[1])));
    return is(t, SCALED) ? _mm512_mullo_epi32(lo, b->scale[0]) : lo;
}

INLINE __m512i min_of(wtype t, const wblock *b, const int16_t *s)
{
    if (is(t, ADDS_MIN)) return _mm512_set1_epi32(s[0] + s[1]);
    if (is(t, MIN)) return _mm512_mullo_epi32(b->corr, _mm512_set1_epi32(-(s[0] + s[1])));
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_madd_epi16(b->corr, pair_sums(s)));
}

INLINE __m512 fma16(__m512i I, __m512 d, float dx, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(I), _mm512_mul_ps(d, _mm512_set1_ps(dx)), acc);
}

INLINE void block16(wtype t, const wblock *b, xrows x, uint32_t at, __m512 *acc, uint32_t nt)
{
    __m512i lo[TOGETHER], hi[TOGETHER];
    UNROLL for (uint32_t r = 0; r < nt; r++) lo[r] = hi[r] = _mm512_setzero_si512();
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        UNROLL for (uint32_t r = 0; r < nt; r++) {
            __m512i q = four(x.q + r * x.ld + at * KERNELS_BLOCK + 4 * i);
            if (is(t, HALVES) && i >= 4) hi[r] = _mm512_dpbusd_epi32(hi[r], b->w[i], q);
            else lo[r] = _mm512_dpbusd_epi32(lo[r], b->w[i], q);
        }
    }
    UNROLL for (uint32_t r = 0; r < nt; r++) {
        float dx = x.d[r * x.ld / KERNELS_BLOCK + at];
        const int16_t *s = x.s + r * x.ld / 16 + 2 * at;
        acc[r] = fma16(integer_of(t, b, lo[r], hi[r], s), b->d, dx, acc[r]);
        if (is(t, ANY_MIN)) acc[r] = fma16(min_of(t, b, s), b->dmin, dx, acc[r]);
    }
}

INLINE void panel16(wtype t, const wblock *p, uint32_t n, xrows x, __m512 *acc, uint32_t nt)
{
    __m512 s[TOGETHER];
    UNROLL for (uint32_t r = 0; r < nt; r++) s[r] = acc[r];
    for (uint32_t b = 0; b < n; b++) block16(t, &p[b], x, b, s, nt);
    UNROLL for (uint32_t r = 0; r < nt; r++) acc[r] = s[r];
}

/* T <= PASS rows of x from t0 against 16 rows of W. */
INLINE void many16(wtype t, const tile rows[2], const act *a, uint32_t t0, uint32_t T, __m512 *acc)
{
    wblock p[PANEL];
    uint32_t blocks = a->n_in / KERNELS_BLOCK, half = is(t, HALVES) ? TOGETHER / 2 : TOGETHER; /* HALVES need two sums a row */
    for (uint32_t r = 0; r < T; r++) acc[r] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < blocks; b += PANEL) {
        uint32_t n = min_u32(PANEL, blocks - b), r = 0;
        unpack_panel(t, rows, b, n, p);
        for (; r + half <= T; r += half) panel16(t, p, n, xrows_at(a, t0 + r, b), acc + r, half);
        for (; r < T; r++) panel16(t, p, n, xrows_at(a, t0 + r, b), acc + r, 1);
    }
}

typedef void many16_fn(const tile rows[2], const act *a, uint32_t t0, uint32_t T, __m512 *acc);

#define X(N) \
    static void many_##N(const tile rows[2], const act *a, uint32_t t0, uint32_t T, __m512 *acc) \
    { \
        many16(WTYPE_##N, rows, a, t0, T, acc); \
    }
QUANT_MAP(X)
#undef X
static many16_fn *const many[WTYPE_COUNT] = {
#define X(N) [WTYPE_##N] = many_##N,
    QUANT_MAP(X)
#undef X
};

static void tile16(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    tile rows[2] = { tile_at(w, o, o1, WIDTH), tile_at(w, min_u32(o + TILE, o1 - 1), o1, WIDTH) };
    __mmask16 keep = (__mmask16)(o1 - o >= WIDTH ? 0xffffu : (1u << (o1 - o)) - 1);
    __m512 acc[PASS];
    for (uint32_t t0 = 0; t0 < T; t0 += PASS) {
        uint32_t n = min_u32(PASS, T - t0);
        many[w->type](rows, a, t0, n, acc);
        for (uint32_t t = 0; t < n; t++) _mm512_mask_storeu_ps(y + (t0 + t) * ldy + o, keep, acc[t]);
    }
}

static void matmul_quant(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    if (T < KERNELS_MANY) {
        kernels_avx2.matmul_quant(w, a, T, y, ldy, o0, o1);
        return;
    }
    kernels_count(KERNEL_quant_many);
    for (uint32_t o = o0; o < o1; o += WIDTH) tile16(w, a, T, y, ldy, o, o1);
}

static void quantize(const act *a, uint32_t t0, uint32_t t1) { kernels_avx2.quantize(a, t0, t1); }

const kernels kernels_avx512vnni = {
    .isa = ISA_AVX512VNNI, .name = "avx512vnni", .vec = &vec_avx512vnni_ops,
    .quantize = quantize, .matmul_float = kernels_float_avx512vnni, .matmul_quant = matmul_quant,
    .packed_float = kernels_float_avx512vnni, .packed_quant = kernels_packed_avx512vnni,
    .round_bf16 = kernels_bf16_round_avx512bf16, .matmul_bf16 = kernels_bf16_avx512bf16,
};
const kernels kernels_amx = {
    .isa = ISA_AMX, .name = "amx", .vec = &vec_avx512vnni_ops,
    .quantize = quantize, .matmul_float = kernels_float_avx512vnni, .matmul_quant = matmul_quant,
    .packed_float = kernels_float_avx512vnni, .packed_quant = kernels_packed_amx,
    .round_bf16 = kernels_bf16_round_amx, .matmul_bf16 = kernels_bf16_amx,
};
#else
typedef int kernels_avx512vnni_absent;   /* a translation unit may not be empty */
#endif
