/* Products of many rows with packed weights (engine/packed.h) in AMX: a block's integers come from the tile unit, 16 rows of x by
 * the 16 outputs of a group at a time, while the vector unit scales those of the block before. Eight registers of an unpacked
 * block lie in memory just as the tile unit wants its second factor, so nothing is moved for it. What follows the integers
 * is the arithmetic of engine/kernels.h, operation by operation. Few rows go the way of AVX-512 VNNI: a stream of weights
 * that is used once is limited by memory. Allocates nothing. */
#if defined(__AVX512VNNI__) && (defined(__AMX_INT8__) || defined(AMX_EMULATED))
#include "engine/amx.h"
#include "engine/kernels_unit_avx512.h"

enum {
    STRIP = 16,                              /* rows of x in a tile */
    PASS = 12 * STRIP,                       /* rows of x that share an unpacked panel: 12 KiB of sums */
    FEW = 8,                                 /* rows up to which a tile would be mostly empty */
};
/* Tiles: names of registers, so numbers that the assembler reads. REST: the rows behind the last whole strip. */
#define X_FULL 0
#define X_REST 1
#define W_ALL 2
#define SUM_FULL 3
#define SUM_REST 4

typedef struct { wblock b[PANEL]; } wpanel;
typedef struct { _Alignas(64) int32_t v[2][STRIP][PACKED_GROUP]; } wsums;   /* of each half where halves have scales */

/* Unsigned weights stand for w - offset; the tile unit takes them signed. */
INLINE void sign_block(wtype t, wblock *b)
{
    uint32_t offset = is(t, SIGNED) ? 128 : traits[t].offset;
    if (!offset) return;
    UNROLL for (uint32_t i = 0; i < 8; i++) b->w[i] = _mm512_sub_epi8(b->w[i], _mm512_set1_epi8((char)offset));
}

/* Integers of block `at` for a strip. */
INLINE void strip_dots(wtype t, const wblock *b, xrows x, uint32_t at, wsums *out, bool full)
{
    uint32_t parts = is(t, HALVES) ? 2 : 1, columns = KERNELS_BLOCK / parts;
    UNROLL for (uint32_t p = 0; p < parts; p++) {
        const int8_t *q = x.q + (size_t)at * KERNELS_BLOCK + p * columns;
        amx_load(W_ALL, &b->w[8 / parts * p], sizeof *b->w);
        if (full) {
            amx_load(X_FULL, q, x.ld);
            amx_zero(SUM_FULL);
            amx_dot(SUM_FULL, X_FULL, W_ALL);
            amx_store(SUM_FULL, out->v[p], sizeof *out->v[p]);
        } else {
            amx_load(X_REST, q, x.ld);
            amx_zero(SUM_REST);
            amx_dot(SUM_REST, X_REST, W_ALL);
            amx_store(SUM_REST, out->v[p], sizeof *out->v[p]);
        }
    }
}

INLINE __m512 row_sum(wtype t, const wblock *b, const wsums *I, uint32_t r)
{
    __m512 f = _mm512_cvtepi32_ps(_mm512_load_si512(I->v[0][r]));
    if (is(t, HALVES | SCALED)) f = _mm512_mul_ps(f, b->scale[0]);
    if (is(t, HALVES)) f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(I->v[1][r])), b->scale[1], f);
    return f;
}

/* What block `at` adds to a strip's sums. */
INLINE void strip_add(wtype t, const wblock *b, xrows x, uint32_t at, const wsums *I, __m512 acc[STRIP], uint32_t nr)
{
    UNROLL for (uint32_t r = 0; r < STRIP; r++) {
        if (r >= nr) break;
        size_t row = r * x.ld / KERNELS_BLOCK + at;
        acc[r] = fma16(row_sum(t, b, I, r), b->d, x.d[row], acc[r]);
        if (is(t, ANY_MIN)) acc[r] = fma16(min_sums(t, b, x.z + row, x.s + 2 * row), b->dmin, x.d[row], acc[r]);
    }
}

/* A strip of nr rows against n blocks: the tile unit is a block ahead. */
INLINE void strip(wtype t, const wpanel *p, uint32_t n, xrows x, float (*sums)[PACKED_GROUP], uint32_t nr, bool full)
{
    __m512 acc[STRIP];
    wsums I[2];
    UNROLL for (uint32_t r = 0; r < STRIP; r++) acc[r] = r < nr ? _mm512_load_ps(sums[r]) : _mm512_setzero_ps();
    strip_dots(t, &p->b[0], x, 0, &I[0], full);
    for (uint32_t b = 0; b < n; b++) {
        if (b + 1 < n) strip_dots(t, &p->b[b + 1], x, b + 1, &I[(b + 1) % 2], full);
        strip_add(t, &p->b[b], x, b, &I[b % 2], acc, nr);
    }
    UNROLL for (uint32_t r = 0; r < STRIP; r++)
        if (r < nr) _mm512_store_ps(sums[r], acc[r]);
}

typedef void unpack_fn(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wpanel *p);
typedef void strip_fn(const wpanel *p, uint32_t n, xrows x, float (*sums)[PACKED_GROUP], uint32_t nr);

#define X(N) \
    static void unpack_##N(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, wpanel *p) \
    { \
        unpack_panel(WTYPE_##N, group, next, b0, n, p->b); \
        for (uint32_t i = 0; i < n; i++) sign_block(WTYPE_##N, &p->b[i]); \
    }
QUANT_MAP(X)
#undef X
/* Unpacked blocks of some types are alike. */
#define STRIP_FN(N) \
    static void strip_##N(const wpanel *p, uint32_t n, xrows x, float (*sums)[PACKED_GROUP], uint32_t nr) \
    { \
        if (nr == STRIP) strip(WTYPE_##N, p, n, x, sums, STRIP, true); \
        else strip(WTYPE_##N, p, n, x, sums, nr, false); \
    }
STRIP_FN(Q8_0) STRIP_FN(Q4_1) STRIP_FN(Q4_K) STRIP_FN(Q2_K) STRIP_FN(Q6_K)

static const struct { unpack_fn *unpack; strip_fn *strip; } types[WTYPE_COUNT] = {
#define X(N, alike) [WTYPE_##N] = { unpack_##N, strip_##alike },
    X(Q8_0, Q8_0) X(IQ4_NL, Q8_0) X(Q4_0, Q8_0) X(Q5_0, Q8_0) X(Q4_1, Q4_1) X(Q5_1, Q4_1) X(Q4_K, Q4_K) X(Q5_K, Q4_K)
    X(Q2_K, Q2_K) X(Q3_K, Q6_K) X(Q6_K, Q6_K)
#undef X
};

/* The group at o against T <= PASS rows. */
static void group_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    _Alignas(64) float sums[PASS][PACKED_GROUP];
    wpanel p;
    const uint8_t *group = w->data + o * w->row_bytes;
    memset(sums, 0, T * sizeof *sums);
    for (uint32_t b = 0, blocks = w->n_in / KERNELS_BLOCK; b < blocks; b += PANEL) {
        uint32_t n = min_u32(PANEL, blocks - b);
        types[w->type].unpack(group, PACKED_GROUP * w->row_bytes, b, n, &p);
        for (uint32_t r = 0; r < T; r += STRIP)
            types[w->type].strip(&p, n, xrows_at(a, t0 + r, b), sums + r, min_u32(STRIP, T - r));
    }
    __mmask16 keep = (__mmask16)((1u << min_u32(o1 - o, PACKED_GROUP)) - 1);
    for (uint32_t t = 0; t < T; t++) _mm512_mask_storeu_ps(y + (t0 + t) * ldy + o, keep, _mm512_load_ps(sums[t]));
}

static void configure(wtype t, uint32_t rest)
{
    uint8_t columns = is(t, HALVES) ? KERNELS_BLOCK / 2 : KERNELS_BLOCK;
    amx_config c = { .palette = 1, .rows = { STRIP, (uint8_t)rest, columns / 4, STRIP, (uint8_t)rest },
                     .colsb = { columns, columns, 64, 64, 64 } };
    amx_configure(&c);
}

void kernels_packed_amx(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    if (T <= FEW) {
        kernels_packed_avx512vnni(w, a, T, y, ldy, o0, o1);
        return;
    }
    kernels_count(KERNEL_quant_many);
    configure(w->type, T % STRIP ? T % STRIP : STRIP);
    for (uint32_t t = 0; t < T; t += PASS)
        for (uint32_t o = o0; o < o1; o += PACKED_GROUP) group_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
    amx_release();
}
#else
typedef int kernels_packed_amx_absent;   /* a translation unit may not be empty */
#endif
