/* Products with packed weights (engine/packed.h) in AVX-512 with VNNI: lanes lie across the 16 outputs of a group, and one
 * vpdpbusd multiplies four columns of all of them with four broadcast q. Signed weights go in as w + 128. What the offset of
 * unsigned weights adds is in the sum's first value, so that it costs nothing.
 *
 * Few rows of x: a group at a time straight from memory, one stream. Many: 256 columns of two groups are unpacked into a
 * panel that stays in the first-level cache, and a tile of rows x 32 outputs lives in registers. All integers of a block that
 * has scales stay below 2^24, so that they may be multiplied as floats without a rounding. Allocates nothing. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "engine/kernels_unit_avx512.h"

enum {
    PAIR = 2,                                /* groups of a panel */
    FEW_K = 4,                               /* rows of x up to which K blocks are used straight from memory: code has caches too */
    FEW = 8,                                 /* and blocks of 32, whose groups two passes of so many rows find in a near cache */
    TILE_ROWS = 6,                           /* 12 sums and 12 floats in 32 registers */
    MOST_ROWS = FEW,
    TILE_HALVES = 4,                         /* where each half block has a scale: a third vector for every sum */
    PASS = 192,                              /* rows of x that share an unpacked panel: 24 KiB of floats */
    AHEAD = 4096,                            /* bytes that a stream of weights is hinted at before it is read */
};

/* ---- the product of a block ---- */

INLINE __m512i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* -8 sum(q) times what makes it the type's offset. */
INLINE __m512i first_value(wtype t, int32_t z)
{
    __m512i v = _mm512_set1_epi32(z);
    switch (t) {
    case WTYPE_Q4_0:   return v;
    case WTYPE_Q5_0:   return _mm512_slli_epi32(v, 1);
    case WTYPE_Q8_0:
    case WTYPE_IQ4_NL: return _mm512_slli_epi32(v, 4);
    case WTYPE_Q6_K:   return _mm512_slli_epi32(v, 2);
    case WTYPE_Q3_K:   return _mm512_srai_epi32(v, 1);
    default:           return _mm512_setzero_si512();
    }
}

/* Registers [i0, i1) of nv groups against nr rows, on top of I. */
INLINE void dots(const wblock *const *b, xrows x, uint32_t at, uint32_t i0, uint32_t i1, __m512i I[MOST_ROWS][PAIR], uint32_t nr,
                 uint32_t nv)
{
    UNROLL for (uint32_t i = i0; i < i1; i++)
        UNROLL for (uint32_t r = 0; r < nr; r++) {
            __m512i q = four(x.q + r * x.ld + (size_t)at * KERNELS_BLOCK + 4 * i);
            UNROLL for (uint32_t v = 0; v < nv; v++) I[r][v] = _mm512_dpbusd_epi32(I[r][v], b[v]->w[i], q);
        }
}

/* Block `at` of x's rows against the block b[v] of each group; see engine/kernels.h for the arithmetic. */
INLINE void mul_block(wtype t, const wblock *const *b, xrows x, uint32_t at, __m512 acc[MOST_ROWS][PAIR], uint32_t nr, uint32_t nv)
{
    __m512i I[MOST_ROWS][PAIR];
    __m512 f[MOST_ROWS][PAIR];
    uint32_t parts = is(t, HALVES) ? 2 : 1;
    UNROLL for (uint32_t p = 0; p < parts; p++) {
        UNROLL for (uint32_t r = 0; r < nr; r++) {
            const act_sums *z = x.z + r * x.ld / KERNELS_BLOCK + at;
            __m512i v0 = first_value(t, is(t, HALVES) ? z->half[p] : z->all);
            UNROLL for (uint32_t v = 0; v < nv; v++) I[r][v] = v0;
        }
        dots(b, x, at, p * 8 / parts, (p + 1) * 8 / parts, I, nr, nv);
        UNROLL for (uint32_t r = 0; r < nr; r++)
            UNROLL for (uint32_t v = 0; v < nv; v++) {
                __m512 g = _mm512_cvtepi32_ps(I[r][v]);
                if (p) f[r][v] = _mm512_fmadd_ps(g, b[v]->scale[1], f[r][v]);
                else f[r][v] = is(t, HALVES | SCALED) ? _mm512_mul_ps(g, b[v]->scale[0]) : g;
            }
    }
    UNROLL for (uint32_t r = 0; r < nr; r++)
        UNROLL for (uint32_t v = 0; v < nv; v++) {
            size_t row = r * x.ld / KERNELS_BLOCK + at;
            acc[r][v] = fma16(f[r][v], b[v]->d, x.d[row], acc[r][v]);
            if (is(t, ANY_MIN))
                acc[r][v] = fma16(min_sums(t, b[v], x.z + row, x.s + 2 * row), b[v]->dmin, x.d[row], acc[r][v]);
        }
}

/* ---- few rows of x ---- */

INLINE void few_rows(wtype t, const uint8_t *group, const act *a, uint32_t t0, float *y, size_t ldy, __mmask16 keep, uint32_t nr)
{
    __m512 acc[MOST_ROWS][PAIR];
    xrows x = xrows_at(a, t0, 0);
    uint32_t size = PACKED_GROUP * unit_bytes[t];
    UNROLL for (uint32_t r = 0; r < nr; r++) acc[r][0] = _mm512_setzero_ps();
    for (uint32_t b = 0, blocks = a->n_in / KERNELS_BLOCK; b < blocks; b += unit_blocks[t], group += size) {
        wscales s;
        unit_scales(t, group, &s);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) {
            wblock w;
            const wblock *one[1] = { &w };
            prefetch(group + j * size / unit_blocks[t], AHEAD, size / unit_blocks[t]);
            unpack_block(t, group, j, &s, &w);
            mul_block(t, one, x, b + j, acc, nr, 1);
            forget();
        }
    }
    UNROLL for (uint32_t r = 0; r < nr; r++) _mm512_mask_storeu_ps(y + (t0 + r) * ldy, keep, acc[r][0]);
}

/* ---- many rows of x ---- */

typedef struct { wblock b[PAIR][PANEL]; } wpanel;

INLINE void tile_rows(wtype t, const wpanel *p, uint32_t n, xrows x, float (*acc)[PAIR * PACKED_GROUP], uint32_t nr)
{
    __m512 s[MOST_ROWS][PAIR];
    UNROLL for (uint32_t r = 0; r < nr; r++)
        UNROLL for (uint32_t v = 0; v < PAIR; v++) s[r][v] = _mm512_load_ps(acc[r] + v * PACKED_GROUP);
    for (uint32_t b = 0; b < n; b++) {
        const wblock *pair[PAIR] = { &p->b[0][b], &p->b[1][b] };
        mul_block(t, pair, x, b, s, nr, PAIR);
    }
    UNROLL for (uint32_t r = 0; r < nr; r++)
        UNROLL for (uint32_t v = 0; v < PAIR; v++) _mm512_store_ps(acc[r] + v * PACKED_GROUP, s[r][v]);
}

typedef void few_fn(const uint8_t *group, const act *a, uint32_t t0, float *y, size_t ldy, __mmask16 keep);
typedef void unpack_fn(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wblock *p);
typedef void tile_fn(const wpanel *p, uint32_t n, xrows x, float (*acc)[PAIR * PACKED_GROUP]);

#define FEW_FN(N, NR) \
    static void few_##N##_##NR(const uint8_t *group, const act *a, uint32_t t0, float *y, size_t ldy, __mmask16 keep) \
    { \
        few_rows(WTYPE_##N, group, a, t0, y, ldy, keep, NR); \
    }
#define TILE_FN(N, NR) \
    static void tile_##N##_##NR(const wpanel *p, uint32_t n, xrows x, float (*acc)[PAIR * PACKED_GROUP]) \
    { \
        tile_rows(WTYPE_##N, p, n, x, acc, NR); \
    }
#define X(N) \
    FEW_FN(N, 1) FEW_FN(N, 2) FEW_FN(N, 3) FEW_FN(N, 4) \
    static void unpack_##N(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wblock *p) \
    { \
        unpack_panel(WTYPE_##N, group, next, b0, n, p); \
    }
QUANT_MAP(X)
#undef X
#define FEW8(N) FEW_FN(N, 5) FEW_FN(N, 6) FEW_FN(N, 7) FEW_FN(N, 8)
FEW8(Q8_0) FEW8(IQ4_NL) FEW8(Q4_0) FEW8(Q5_0) FEW8(Q4_1) FEW8(Q5_1)
/* Unpacked blocks of some types are alike. */
#define TILES(N) TILE_FN(N, 1) TILE_FN(N, 2) TILE_FN(N, 3) TILE_FN(N, 4)
#define WIDE_TILES(N) TILES(N) TILE_FN(N, 5) TILE_FN(N, 6)
WIDE_TILES(Q8_0) WIDE_TILES(Q4_0) WIDE_TILES(Q5_0) WIDE_TILES(Q4_1) WIDE_TILES(Q4_K) TILES(Q2_K) TILES(Q3_K) TILES(Q6_K)

#define FEW_4(N) few_##N##_1, few_##N##_2, few_##N##_3, few_##N##_4
#define FEW_8(N) FEW_4(N), few_##N##_5, few_##N##_6, few_##N##_7, few_##N##_8
#define TILE4(N) tile_##N##_1, tile_##N##_2, tile_##N##_3, tile_##N##_4
#define TILE6(N) TILE4(N), tile_##N##_5, tile_##N##_6
static const struct { few_fn *few[FEW]; unpack_fn *unpack; tile_fn *tile[TILE_ROWS]; } types[WTYPE_COUNT] = {
#define X(N, few, tiles) [WTYPE_##N] = { { few(N) }, unpack_##N, { tiles } },
    X(Q8_0, FEW_8, TILE6(Q8_0)) X(IQ4_NL, FEW_8, TILE6(Q8_0)) X(Q4_0, FEW_8, TILE6(Q4_0)) X(Q5_0, FEW_8, TILE6(Q5_0))
    X(Q4_1, FEW_8, TILE6(Q4_1)) X(Q5_1, FEW_8, TILE6(Q4_1)) X(Q4_K, FEW_4, TILE6(Q4_K)) X(Q5_K, FEW_4, TILE6(Q4_K))
    X(Q2_K, FEW_4, TILE4(Q2_K)) X(Q3_K, FEW_4, TILE4(Q3_K)) X(Q6_K, FEW_4, TILE4(Q6_K))
#undef X
};

/* acc [T][32] += columns of the panel; T in tiles that differ by one row at most. */
static void panel_rows(const mat *w, const wpanel *p, uint32_t n, const act *a, uint32_t t0, uint32_t T, uint32_t b,
                       float (*acc)[PAIR * PACKED_GROUP])
{
    uint32_t most = is(w->type, HALVES) ? TILE_HALVES : TILE_ROWS, tiles = (T + most - 1) / most;
    for (uint32_t i = 0, r = 0; i < tiles; i++) {
        uint32_t nr = T / tiles + (i < T % tiles);
        types[w->type].tile[nr - 1](p, n, xrows_at(a, t0 + r, b), acc + r);
        r += nr;
    }
}

/* Groups at o and o + 16 (the same one twice where there is no other) against T <= PASS rows. */
static void pair_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    _Alignas(64) float acc[PASS][PAIR * PACKED_GROUP];
    wpanel p;
    bool two = o + PACKED_GROUP < o1;
    const uint8_t *lo = w->data + o * w->row_bytes, *hi = two ? lo + PACKED_GROUP * w->row_bytes : lo;
    memset(acc, 0, T * sizeof *acc);
    for (uint32_t b = 0, blocks = w->n_in / KERNELS_BLOCK; b < blocks; b += PANEL) {
        uint32_t n = min_u32(PANEL, blocks - b);
        types[w->type].unpack(lo, PAIR * PACKED_GROUP * w->row_bytes, b, n, p.b[0]);
        types[w->type].unpack(hi, PAIR * PACKED_GROUP * w->row_bytes, b, n, p.b[1]);
        panel_rows(w, &p, n, a, t0, T, b, acc);
    }
    uint32_t n = min_u32(o1 - o, PAIR * PACKED_GROUP);
    __mmask16 keep[PAIR] = { (__mmask16)((1u << min_u32(n, 16)) - 1), (__mmask16)(n > 16 ? (1u << (n - 16)) - 1 : 0) };
    for (uint32_t t = 0; t < T; t++)
        UNROLL for (uint32_t v = 0; v < PAIR; v++)
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy + o + v * PACKED_GROUP, keep[v], _mm512_load_ps(acc[t] + v * PACKED_GROUP));
}

void kernels_packed_avx512vnni(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_quant_few : KERNEL_quant_many);
    if (T <= (unit_blocks[w->type] == 1 ? 2 * FEW : FEW_K)) {
        uint32_t first = T <= FEW ? T : T / 2, rest = T - first;
        for (uint32_t o = o0; o < o1; o += PACKED_GROUP) {
            __mmask16 keep = (__mmask16)((1u << min_u32(o1 - o, PACKED_GROUP)) - 1);
            const uint8_t *group = w->data + o * w->row_bytes;
            types[w->type].few[first - 1](group, a, 0, y + o, ldy, keep);
            if (rest) types[w->type].few[rest - 1](group, a, first, y + o, ldy, keep);
        }
        return;
    }
    for (uint32_t t = 0; t < T; t += PASS)
        for (uint32_t o = o0; o < o1; o += PAIR * PACKED_GROUP) pair_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
}
#else
typedef int kernels_packed_avx512vnni_absent;   /* a translation unit may not be empty */
#endif
