/* engine/kernels.h in AVX2 and FMA: the f32 path, for every weight type. Up to 256 columns of 16 weight rows are turned to
 * floats and transposed into a panel; then x is broadcast, column by column. Quantises nothing. */
#ifdef __AVX2__
#include "engine/kernels_float.h"
#include "engine/packed.h"


/* 8x8 transpose; v[r] are rows whose halves were loaded as [0-3 | of row r+4] pairs, see pair_f32. */
INLINE void transpose_halves(const __m256 v[8], fpanel *p, uint32_t k, uint32_t half)
{
    UNROLL for (int h = 0; h < 2; h++) {                    /* columns 0-3 in v[0..4), 4-7 in v[4..8) */
        const __m256 *u = v + 4 * h;
        __m256 a = _mm256_unpacklo_ps(u[0], u[1]), b = _mm256_unpackhi_ps(u[0], u[1]);
        __m256 c = _mm256_unpacklo_ps(u[2], u[3]), d = _mm256_unpackhi_ps(u[2], u[3]);
        p->w[k + 4 * h + 0][half] = _mm256_shuffle_ps(a, c, 0x44);
        p->w[k + 4 * h + 1][half] = _mm256_shuffle_ps(a, c, 0xee);
        p->w[k + 4 * h + 2][half] = _mm256_shuffle_ps(b, d, 0x44);
        p->w[k + 4 * h + 3][half] = _mm256_shuffle_ps(b, d, 0xee);
    }
}

/* Four columns from k of rows r and r+4 of a tile, as floats. */
typedef __m256 load_pair(const uint8_t *lo, const uint8_t *hi, uint32_t k);

INLINE __m256 pair_f32(const uint8_t *lo, const uint8_t *hi, uint32_t k)
{
    return _mm256_castsi256_ps(load2x128(lo + 4 * (size_t)k, hi + 4 * (size_t)k));
}

INLINE __m128i pair16(const uint8_t *lo, const uint8_t *hi, uint32_t k)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(lo + 2 * (size_t)k)),
                              _mm_loadl_epi64((const __m128i *)(hi + 2 * (size_t)k)));
}

INLINE __m256 pair_f16(const uint8_t *lo, const uint8_t *hi, uint32_t k)
{
    return _mm256_cvtph_ps(pair16(lo, hi, k));
}

INLINE __m256 pair_bf16(const uint8_t *lo, const uint8_t *hi, uint32_t k)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(pair16(lo, hi, k)), 16));
}

/* Columns [k0, k0+n) of 8 rows into half of the panel; whole groups of 8 by `load`, the rest one by one. */
INLINE void unpack_with(load_pair *load, wtype type, const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half)
{
    const uint8_t *const *row = f->row;
    uint32_t k = 0, size = TILE * unit_bytes[type];
    for (; k + 8 <= n; k += 8) {
        prefetch(f->next, (size_t)(k0 + k) * size, 8 * size);
        __m256 v[8];
        UNROLL for (uint32_t i = 0; i < 8; i++) v[i] = load(row[i % 4], row[i % 4 + 4], k0 + k + i / 4 * 4);
        transpose_halves(v, p, k, half);
    }
    for (; k < n; k++)
        UNROLL for (uint32_t r = 0; r < TILE; r++)
            wtype_to_f32(type, row[r] + (size_t)(k0 + k) * unit_bytes[type], 1, (float *)&p->w[k][half] + r);
}

static void unpack_f32(const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half)
{
    unpack_with(pair_f32, WTYPE_F32, f, k0, n, p, half);
}

static void unpack_f16(const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half)
{
    unpack_with(pair_f16, WTYPE_F16, f, k0, n, p, half);
}

static void unpack_bf16(const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half)
{
    unpack_with(pair_bf16, WTYPE_BF16, f, k0, n, p, half);
}

/* Quantised weights on the f32 path: to floats first, then as floats. */
static void unpack_quant(wtype type, const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half)
{
    float buf[TILE][CHUNK];
    tile flat = { .next = (const uint8_t *)buf };
    UNROLL for (uint32_t r = 0; r < TILE; r++) {
        wtype_to_f32(type, f->row[r] + wtype_row_bytes(type, k0), n, buf[r]);
        flat.row[r] = (const uint8_t *)buf[r];
    }
    unpack_f32(&flat, 0, n, p, half);
}

/* Packed float weights stand as the panel wants them. */
INLINE __m256 packed8(wtype t, const uint8_t *p)
{
    if (t == WTYPE_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    if (t == WTYPE_F16) return _mm256_cvtph_ps(load128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}

INLINE void copy_packed(wtype t, const uint8_t *p, size_t next, uint32_t n, fpanel *to)
{
    uint32_t size = unit_bytes[t];
    for (uint32_t k = 0; k < n; k++, p += PACKED_GROUP * size) {
        prefetch(p, next, PACKED_GROUP * size);
        UNROLL for (uint32_t v = 0; v < 2; v++) to->w[k][v] = packed8(t, p + TILE * v * size);
    }
}

/* Columns [k0, k0 + n) of the group at o. Packed quantised weights go back to file order, row by row: this path is for comparing. */
static void unpack_packed(const mat *w, uint32_t o, uint32_t k0, uint32_t n, fpanel *p)
{
    const uint8_t *at = w->data + o * w->row_bytes + (size_t)k0 * PACKED_GROUP * unit_bytes[w->type];
    size_t next = PACKED_GROUP * w->row_bytes;
    if (w->type == WTYPE_F32) copy_packed(WTYPE_F32, at, next, n, p);
    else if (w->type == WTYPE_F16) copy_packed(WTYPE_F16, at, next, n, p);
    else if (w->type == WTYPE_BF16) copy_packed(WTYPE_BF16, at, next, n, p);
    else {
        float buf[CHUNK];
        for (uint32_t r = 0; r < PACKED_GROUP; r++) {
            mat_row_f32(w, min_u32(o + r, w->n_out - 1), k0, n, buf);
            for (uint32_t k = 0; k < n; k++) ((float *)p->w[k])[r] = buf[k];
        }
    }
}

typedef void unpack_fn(const tile *f, uint32_t k0, uint32_t n, fpanel *p, uint32_t half);
static unpack_fn *const unpacks[WTYPE_COUNT] = {
    [WTYPE_F32] = unpack_f32, [WTYPE_F16] = unpack_f16, [WTYPE_BF16] = unpack_bf16,
};

/* acc[t] += panel * x[t], for nt rows of x and nv vectors of outputs. */
INLINE void fma_panel(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t nt, uint32_t nv)
{
    __m256 s[GROUP][2];
    UNROLL for (uint32_t t = 0; t < nt; t++)
        UNROLL for (uint32_t v = 0; v < nv; v++) s[t][v] = acc[t].v[v];
    for (uint32_t k = 0; k < n; k++)
        UNROLL for (uint32_t t = 0; t < nt; t++) {
            __m256 b = _mm256_broadcast_ss(x + t * ld + k);
            UNROLL for (uint32_t v = 0; v < nv; v++) s[t][v] = _mm256_fmadd_ps(p->w[k][v], b, s[t][v]);
        }
    UNROLL for (uint32_t t = 0; t < nt; t++)
        UNROLL for (uint32_t v = 0; v < nv; v++) acc[t].v[v] = s[t][v];
}

INLINE void fma_rows(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t T, uint32_t nv)
{
    uint32_t t = 0;
    for (; t + GROUP <= T; t += GROUP) fma_panel(p, x + t * ld, ld, n, acc + t, GROUP, nv);
    for (; t < T; t++) fma_panel(p, x + t * ld, ld, n, acc + t, 1, nv);
}

static void add_products(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t T, uint32_t nv)
{
    if (nv == 2) fma_rows(p, x, ld, n, acc, T, 2);
    else fma_rows(p, x, ld, n, acc, T, 1);
}

static void float_tile(float_products *add, const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    uint32_t nv = o1 - o > TILE ? 2 : 1;
    fsums acc[ROWS];
    fpanel p;
    tile f[2];
    for (uint32_t v = 0; v < nv && !w->packed; v++) f[v] = tile_at(w, o + TILE * v, o1, nv * TILE);
    for (uint32_t t = 0; t < T; t++) acc[t].v[0] = acc[t].v[1] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < w->n_in; k += CHUNK) {
        uint32_t n = min_u32(CHUNK, w->n_in - k);
        if (w->packed) unpack_packed(w, o, k, n, &p);
        for (uint32_t v = 0; v < nv && !w->packed; v++) {
            if (unpacks[w->type]) unpacks[w->type](&f[v], k, n, &p, v);
            else unpack_quant(w->type, &f[v], k, n, &p, v);
        }
        add(&p, a->x + t0 * a->ld + k, a->ld, n, acc, T, nv);
    }
    for (uint32_t t = 0; t < T; t++)
        UNROLL for (uint32_t v = 0; v < nv; v++)
            store_few(y + (t0 + t) * ldy + o + TILE * v, acc[t].v[v], o1 - o - TILE * v);
}

void kernels_float_by(float_products *add, const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_float_few : KERNEL_float_many);
    for (uint32_t o = o0; o < o1; o += 2 * TILE)
        for (uint32_t t = 0; t < T; t += ROWS) float_tile(add, w, a, t, min_u32(ROWS, T - t), y, ldy, o, o1);
}

void kernels_float_avx2(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_float_by(add_products, w, a, T, y, ldy, o0, o1);
}
#else
typedef int kernels_float_avx2_absent;   /* a translation unit may not be empty */
#endif
