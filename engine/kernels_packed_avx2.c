/* Products with packed weights (engine/packed.h) in AVX2: a group's 16 outputs are two halves of 8. Few rows of x: straight from
 * memory, one stream. Many: 256 columns of a half are unpacked into a panel that stays in the first-level cache, and
 * rows of x pass by. Allocates nothing. */
#ifdef __AVX2__
#include "engine/kernels_block_avx2.h"
#include "engine/packed.h"

enum {
    FEW = 3,             /* rows of x up to which weights are used straight from memory */
    PASS = 128,          /* rows of x that share an unpacked panel: 8 KiB of floats */
    AHEAD = 4096,        /* bytes that a stream of weights is hinted at before it is read */
};

/* ---- a unit of 8 outputs, unpacked: u points at half h of its group ---- */

typedef struct { const uint8_t *at; uint32_t h; } unit;

INLINE __m256i word(wtype t, unit u, uint32_t i)
{
    return load256(u.at + 2 * PACKED_GROUP * (is(t, ANY_MIN) ? 2 : 1) + 4 * PACKED_GROUP * i + 4 * TILE * u.h);
}

INLINE __m256 half8(unit u, uint32_t i) { return _mm256_cvtph_ps(load128(u.at + 2 * PACKED_GROUP * i + 2 * TILE * u.h)); }

/* Bits of v that `from` holds, moved to `to`; one bit or two of every byte. */
INLINE __m256i moved(__m256i v, uint32_t from, uint32_t to, int mask)
{
    v = from < to ? _mm256_slli_epi32(v, (int)(to - from)) : _mm256_srli_epi32(v, (int)(from - to));
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(mask << to)));
}

INLINE __m256i weights_of(wtype t, unit u, uint32_t j, uint32_t i)
{
    int high = i / 4;
    switch (t) {
    case WTYPE_Q8_0: return word(t, u, i);
    case WTYPE_Q4_0:
    case WTYPE_Q4_1: return nibbles(word(t, u, i % 4), high);
    case WTYPE_Q5_0:
    case WTYPE_Q5_1: return _mm256_or_si256(nibbles(word(t, u, 1 + i % 4), high), moved(word(t, u, 0), i, 4, 1));
    case WTYPE_Q2_K: return moved(word(t, u, 4 + j / 4 * 8 + i), j % 4 * 2, 0, 3);
    case WTYPE_Q3_K: return _mm256_or_si256(moved(word(t, u, 8 + j / 4 * 8 + i), j % 4 * 2, 0, 3), moved(word(t, u, i), j, 2, 1));
    case WTYPE_Q4_K: return nibbles(word(t, u, 3 + j / 2 * 8 + i), j & 1);
    case WTYPE_Q5_K: return _mm256_or_si256(nibbles(word(t, u, 11 + j / 2 * 8 + i), j & 1), moved(word(t, u, 3 + i), j, 4, 1));
    case WTYPE_Q6_K: return _mm256_or_si256(nibbles(word(t, u, j / 4 * 16 + j % 2 * 8 + i), j % 4 / 2),
                                            moved(word(t, u, 32 + j / 4 * 8 + i), j % 4 * 2, 4, 3));
    default: {
        __m256i table = _mm256_broadcastsi128_si256(load128(wtype_iq4_nl));
        return _mm256_shuffle_epi8(table, nibbles(word(t, u, i % 4), high));
    }
    }
}

INLINE void unit_scales(wtype t, unit u, scales *s)
{
    s->d = half8(u, 0);
    if (is(t, ANY_MIN)) s->dmin = half8(u, 1);
    if (is(t, MIN)) scales_k_words(word(t, u, 0), word(t, u, 1), word(t, u, 2), s->b);
    if (t == WTYPE_Q3_K) scales_q3_k_words(word(t, u, 24), word(t, u, 25), word(t, u, 26), s->b);
    if (t == WTYPE_Q2_K || t == WTYPE_Q6_K)
        UNROLL for (uint32_t i = 0; i < 4; i++) s->b[i] = word(t, u, (t == WTYPE_Q6_K ? 48 : 0) + i);
}

INLINE void unpack_block(wtype t, unit u, uint32_t j, const scales *sc, qblock *out)
{
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        out->w[i] = weights_of(t, u, j, i);
        if (is(t, SIGNED)) out->abs[i] = _mm256_abs_epi8(out->w[i]);
    }
    out->s = block_scales_of(t, sc, j);
    out->d = sc->d;
    if (is(t, ANY_MIN)) out->dmin = sc->dmin;
}

/* ---- few rows of x ---- */

INLINE void few_rows(wtype t, const uint8_t *group, const act *a, float *y, size_t ldy, uint32_t n, uint32_t nr)
{
    __m256 acc[2][FEW];
    xrows x = xrows_at(a, 0, 0);
    uint32_t size = PACKED_GROUP * unit_bytes[t];
    UNROLL for (uint32_t r = 0; r < nr; r++) acc[0][r] = acc[1][r] = _mm256_setzero_ps();
    for (uint32_t b = 0, blocks = a->n_in / KERNELS_BLOCK; b < blocks; b += unit_blocks[t], group += size) {
        UNROLL for (uint32_t h = 0; h < 2; h++) {
            unit u = { group, h };
            scales s;
            unit_scales(t, u, &s);
            UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) {
                qblock w;
                if (h == 0) prefetch(group + j * size / unit_blocks[t], AHEAD, size / unit_blocks[t]);
                unpack_block(t, u, j, &s, &w);
                block_many(t, &w, x, b + j, acc[h], 1, nr);
                forget();
            }
        }
    }
    UNROLL for (uint32_t r = 0; r < nr; r++) {
        store_few(y + r * ldy, acc[0][r], n);
        if (n > TILE) store_few(y + r * ldy + TILE, acc[1][r], n - TILE);
    }
}

/* ---- many rows of x ---- */

/* Blocks [b0, b0 + n) of a half; the same bytes of the next group are hinted at. */
INLINE void unpack_panel(wtype t, unit u, size_t next, uint32_t b0, uint32_t n, qpanel *p)
{
    uint32_t size = PACKED_GROUP * unit_bytes[t];
    const uint8_t *group = u.at;
    for (uint32_t i = 0; i < n; i += unit_blocks[t]) {
        scales s;
        u.at = group + (size_t)((b0 + i) / unit_blocks[t]) * size;
        if (u.h == 0) prefetch(u.at, next, size);
        unit_scales(t, u, &s);
        UNROLL for (uint32_t j = 0; j < unit_blocks[t]; j++) unpack_block(t, u, j, &s, &p->b[i + j]);
    }
}

INLINE uint32_t tile_of(wtype t) { return is(t, SIGNED | HALVES | MIN) ? GROUP : TALL; }

/* T <= PASS rows of x from t0 against both halves of a group. */
INLINE void many_rows(wtype t, const uint8_t *group, size_t next, const act *a, uint32_t t0, uint32_t T, __m256 (*acc)[2])
{
    qpanel p;
    const uint32_t nr = tile_of(t);
    for (uint32_t r = 0; r < T; r++) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (uint32_t b = 0, blocks = a->n_in / KERNELS_BLOCK; b < blocks; b += BLOCKS) {
        uint32_t n = min_u32(BLOCKS, blocks - b);
        for (uint32_t h = 0; h < 2; h++) {
            unpack_panel(t, (unit){ group, h }, next, b, n, &p);
            uint32_t r = 0;
            for (; r + nr <= T; r += nr) group_many(t, &p, n, xrows_at(a, t0 + r, b), &acc[r][h], 2, nr);
            for (; r + 2 <= T; r += 2) group_many(t, &p, n, xrows_at(a, t0 + r, b), &acc[r][h], 2, 2);
            if (r < T) group_many(t, &p, n, xrows_at(a, t0 + r, b), &acc[r][h], 2, 1);
        }
    }
}

typedef void few_fn(const uint8_t *group, const act *a, float *y, size_t ldy, uint32_t n);
typedef void many_fn(const uint8_t *group, size_t next, const act *a, uint32_t t0, uint32_t T, __m256 (*acc)[2]);

#define FEW_FN(N, NR) \
    static void few_##N##_##NR(const uint8_t *group, const act *a, float *y, size_t ldy, uint32_t n) \
    { \
        few_rows(WTYPE_##N, group, a, y, ldy, n, NR); \
    }
#define X(N) \
    FEW_FN(N, 1) FEW_FN(N, 2) FEW_FN(N, 3) \
    static void many_##N(const uint8_t *group, size_t next, const act *a, uint32_t t0, uint32_t T, __m256 (*acc)[2]) \
    { \
        many_rows(WTYPE_##N, group, next, a, t0, T, acc); \
    }
QUANT_MAP(X)
#undef X

static const struct { few_fn *few[FEW]; many_fn *many; } types[WTYPE_COUNT] = {
#define X(N) [WTYPE_##N] = { { few_##N##_1, few_##N##_2, few_##N##_3 }, many_##N },
    QUANT_MAP(X)
#undef X
};

static void group_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    __m256 acc[PASS][2];
    types[w->type].many(w->data + o * w->row_bytes, PACKED_GROUP * w->row_bytes, a, t0, T, acc);
    for (uint32_t t = 0; t < T; t++)
        UNROLL for (uint32_t h = 0; h < 2; h++)
            if (o + h * TILE < o1) store_few(y + (t0 + t) * ldy + o + h * TILE, acc[t][h], o1 - o - h * TILE);
}

void kernels_packed_avx2(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_quant_few : KERNEL_quant_many);
    for (uint32_t o = o0; T <= FEW && o < o1; o += PACKED_GROUP)
        types[w->type].few[T - 1](w->data + o * w->row_bytes, a, y + o, ldy, o1 - o);
    for (uint32_t t = 0; T > FEW && t < T; t += PASS)
        for (uint32_t o = o0; o < o1; o += PACKED_GROUP) group_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
}
#else
typedef int kernels_packed_avx2_absent;   /* a translation unit may not be empty */
#endif
