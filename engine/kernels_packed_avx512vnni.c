/* Products with packed weights (engine/packed.h) in AVX-512 with VNNI: lanes lie across the 16 outputs of a group, and one
 * vpdpbusd multiplies four columns of all of them with four broadcast q. Signed weights go in as w + 128. What the offset of
 * unsigned weights adds is in the sum's first value, so that it costs nothing.
 *
 * Few rows of x: a group at a time straight from memory, one stream. Many: 256 columns of two groups are unpacked into a
 * panel that stays in the first-level cache, and a tile of rows x 32 outputs lives in registers. All integers of a block that
 * has scales stay below 2^24, so that they may be multiplied as floats without a rounding. Allocates nothing. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "engine/kernels_types_avx2.h"
#include "engine/packed.h"

enum {
    PAIR = 2,                                /* groups of a panel */
    PANEL = CHUNK / KERNELS_BLOCK,           /* blocks of a panel */
    FEW_K = 4,                               /* rows of x up to which K blocks are used straight from memory: code has caches too */
    FEW = 8,                                 /* and blocks of 32, whose groups two passes of so many rows find in a near cache */
    TILE_ROWS = 6,                           /* 12 sums and 12 floats in 32 registers */
    MOST_ROWS = FEW,
    TILE_HALVES = 4,                         /* where each half block has a scale: a third vector for every sum */
    PASS = 192,                              /* rows of x that share an unpacked panel: 24 KiB of floats */
    AHEAD = 4096,                            /* bytes that a stream of weights is hinted at before it is read */
};

typedef struct {
    __m512i w[8];                            /* register j: bytes 4j..4j+3 of every output, unsigned */
    __m512i corr;                            /* HALVES: both scales, MIN_HALVES: both minima, as pairs of 16 bits */
    __m512 scale[2], min, d, dmin;
} wblock;

/* ---- a unit of 16 outputs, unpacked ---- */

INLINE __m512i word(wtype t, const uint8_t *unit, uint32_t i)
{
    return _mm512_loadu_si512(unit + 2 * PACKED_GROUP * (is(t, ANY_MIN) ? 2 : 1) + 4 * PACKED_GROUP * i);
}

INLINE __m512 half16(const uint8_t *unit, uint32_t i) { return _mm512_cvtph_ps(load256(unit + 2 * PACKED_GROUP * i)); }

INLINE __m512i nib(__m512i v, uint32_t high)
{
    return _mm512_and_si512(high ? _mm512_srli_epi32(v, 4) : v, _mm512_set1_epi8(15));
}

/* Bits of v that `from` holds, moved to `to`; one bit or two of every byte. */
INLINE __m512i moved(__m512i v, uint32_t from, uint32_t to, int mask)
{
    v = from < to ? _mm512_slli_epi32(v, to - from) : _mm512_srli_epi32(v, from - to);
    return _mm512_and_si512(v, _mm512_set1_epi8((char)(mask << to)));
}

INLINE __m512i weights_of(wtype t, const uint8_t *u, uint32_t j, uint32_t i)
{
    switch (t) {
    case WTYPE_Q8_0: return _mm512_xor_si512(word(t, u, i), _mm512_set1_epi8((char)0x80));
    case WTYPE_Q4_0:
    case WTYPE_Q4_1: return nib(word(t, u, i % 4), i / 4);
    case WTYPE_Q5_0:
    case WTYPE_Q5_1: return _mm512_or_si512(nib(word(t, u, 1 + i % 4), i / 4), moved(word(t, u, 0), i, 4, 1));
    case WTYPE_Q2_K: return moved(word(t, u, 4 + j / 4 * 8 + i), j % 4 * 2, 0, 3);
    case WTYPE_Q3_K: return _mm512_or_si512(moved(word(t, u, 8 + j / 4 * 8 + i), j % 4 * 2, 0, 3), moved(word(t, u, i), j, 2, 1));
    case WTYPE_Q4_K: return nib(word(t, u, 3 + j / 2 * 8 + i), j & 1);
    case WTYPE_Q5_K: return _mm512_or_si512(nib(word(t, u, 11 + j / 2 * 8 + i), j & 1), moved(word(t, u, 3 + i), j, 4, 1));
    case WTYPE_Q6_K: return _mm512_or_si512(nib(word(t, u, j / 4 * 16 + j % 2 * 8 + i), j % 4 / 2),
                                            moved(word(t, u, 32 + j / 4 * 8 + i), j % 4 * 2, 4, 3));
    default: {
        __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(load128(wtype_iq4_nl), _mm_set1_epi8((char)0x80)));
        return _mm512_shuffle_epi8(table, nib(word(t, u, i % 4), i / 4));
    }
    }
}

/* Byte i of every lane. */
INLINE __m512i byte_of(__m512i v, uint32_t i) { return _mm512_and_si512(_mm512_srli_epi32(v, 8 * i), _mm512_set1_epi32(255)); }
INLINE __m512i signed_byte(__m512i v, uint32_t i) { return _mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * i), 24); }
INLINE __m512 byte_ps(__m512i v, uint32_t i) { return _mm512_cvtepi32_ps(byte_of(v, i)); }

/* Scales of a unit: words as engine/kernels_types_avx2.h names them (scales.b). */
typedef struct { __m512 d, dmin; __m512i b[4]; } wscales;

INLINE __m512i both(__m512i a, int mask, __m512i b, int top)
{
    return _mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi8((char)mask)), _mm512_and_si512(b, _mm512_set1_epi8((char)top)));
}

INLINE void scales_q3(const uint8_t *u, __m512i b[4])
{
    __m512i a0 = word(WTYPE_Q3_K, u, 24), a1 = word(WTYPE_Q3_K, u, 25), a2 = word(WTYPE_Q3_K, u, 26), off = _mm512_set1_epi8(32);
    b[0] = _mm512_sub_epi8(both(a0, 15, _mm512_slli_epi32(a2, 4), 0x30), off);
    b[1] = _mm512_sub_epi8(both(a1, 15, _mm512_slli_epi32(a2, 2), 0x30), off);
    b[2] = _mm512_sub_epi8(both(_mm512_srli_epi32(a0, 4), 15, a2, 0x30), off);
    b[3] = _mm512_sub_epi8(both(_mm512_srli_epi32(a1, 4), 15, _mm512_srli_epi32(a2, 2), 0x30), off);
}

INLINE void unit_scales(wtype t, const uint8_t *u, wscales *s)
{
    s->d = half16(u, 0);
    if (is(t, ANY_MIN)) s->dmin = half16(u, 1);
    if (is(t, MIN)) {
        __m512i a = word(t, u, 0), m = word(t, u, 1), c = word(t, u, 2), low = _mm512_set1_epi8(63);
        s->b[0] = _mm512_and_si512(a, low);
        s->b[2] = _mm512_and_si512(m, low);
        s->b[1] = both(c, 15, _mm512_srli_epi32(a, 2), 0x30);
        s->b[3] = both(_mm512_srli_epi32(c, 4), 15, _mm512_srli_epi32(m, 2), 0x30);
    }
    if (t == WTYPE_Q3_K) scales_q3(u, s->b);
    if (t == WTYPE_Q2_K || t == WTYPE_Q6_K)
        UNROLL for (uint32_t i = 0; i < 4; i++) s->b[i] = word(t, u, (t == WTYPE_Q6_K ? 48 : 0) + i);
}

INLINE void block_scale(wtype t, const wscales *s, uint32_t j, wblock *out)
{
    out->d = s->d;
    if (is(t, ANY_MIN)) out->dmin = s->dmin;
    if (is(t, SCALED)) out->scale[0] = byte_ps(s->b[j / 4], j % 4);
    if (is(t, MIN)) out->min = byte_ps(s->b[2 + j / 4], j % 4);
    if (!is(t, HALVES)) return;
    __m512i v = s->b[j / 2], low = _mm512_set1_epi8(15);
    uint32_t i = j % 2 * 2;
    if (is(t, MIN_HALVES)) {
        __m512i sc = _mm512_and_si512(v, low), m = _mm512_and_si512(_mm512_srli_epi32(v, 4), low);
        UNROLL for (uint32_t h = 0; h < 2; h++) out->scale[h] = byte_ps(sc, i + h);
        out->corr = _mm512_or_si512(byte_of(m, i), _mm512_slli_epi32(byte_of(m, i + 1), 16));
        return;
    }
    UNROLL for (uint32_t h = 0; h < 2; h++) out->scale[h] = _mm512_cvtepi32_ps(signed_byte(v, i + h));
}

INLINE void unpack_block(wtype t, const uint8_t *u, uint32_t j, const wscales *s, wblock *out)
{
    UNROLL for (uint32_t i = 0; i < 8; i++) out->w[i] = weights_of(t, u, j, i);
    block_scale(t, s, j, out);
}

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

INLINE __m512 min_sums(wtype t, const wblock *b, const act_sums *z, const int16_t *s)
{
    if (is(t, ADDS_MIN)) return _mm512_set1_ps(-z->minus);
    if (is(t, MIN)) return _mm512_mul_ps(b->min, _mm512_set1_ps(z->minus));
    int32_t pair;
    memcpy(&pair, s, sizeof pair);
    __m512i sum = _mm512_madd_epi16(b->corr, _mm512_set1_epi32(pair));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

INLINE __m512 fma16(__m512 I, __m512 d, float dx, __m512 acc)
{
    return _mm512_fmadd_ps(I, _mm512_mul_ps(d, _mm512_set1_ps(dx)), acc);
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

/* Units that make blocks [b0, b0 + n) of a group. Units of the pair after this one are hinted at. */
INLINE void unpack_panel(wtype t, const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wblock *p)
{
    uint32_t size = PACKED_GROUP * unit_bytes[t];
    for (uint32_t i = 0; i < n; i += unit_blocks[t]) {
        const uint8_t *u = group + (size_t)((b0 + i) / unit_blocks[t]) * size;
        wscales s;
        prefetch(u, next, size);
        unit_scales(t, u, &s);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) unpack_block(t, u, j, &s, &p[i + j]);
    }
}

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
