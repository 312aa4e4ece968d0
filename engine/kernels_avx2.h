#ifndef ENGINE_KERNELS_AVX2_H
#define ENGINE_KERNELS_AVX2_H
/* What the two AVX2 files of the kernels share: a tile of 8 weight rows, loads, and hints. Lanes lie across the 8 outputs, so
 * that every lane sees its columns in the plain order. Reads no byte behind a row: the last row may end the mapping.
 * Private to engine/kernels*_avx2.c, which are the only files that may use these instructions. */
#include "core/unroll.h"
#include "engine/kernels_impl.h"
#include "engine/wtype_impl.h"
#include <immintrin.h>

enum {
    TILE = 8,            /* outputs of a vector */
    CHUNK = 256,         /* columns unpacked at a time: one K block, and a panel that stays in the first-level cache */
    GROUP = 4,           /* rows of x that share a loaded panel register: their sums and float sums fill 8 registers */
    ROWS = 64,           /* rows of x that share an unpacked panel */
};

/* As in wtypes, but known to the compiler: each kernel below is one function for all types, made special by inlining. */
static const uint32_t unit_bytes[WTYPE_COUNT] = {
#define X(N, id, len, bytes, quant) [WTYPE_##N] = bytes,
    WTYPE_MAP(X)
#undef X
};
static const uint32_t unit_blocks[WTYPE_COUNT] = {
#define X(N, id, len, bytes, quant) [WTYPE_##N] = (len) / KERNELS_BLOCK,
    WTYPE_MAP(X)
#undef X
};

typedef struct {
    const uint8_t *row[TILE];
    const uint8_t *next;     /* what to hint at: the rows that come later (an address only; they may not exist) */
} tile;

INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* Two 16-byte loads in one register. */
INLINE __m256i load2x128(const void *lo, const void *hi)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(lo)), load128(hi), 1);
}

/* Outputs o .. o+7 of W; behind o1 the last row stands in, its results are dropped. Rows `ahead` further come later. */
INLINE tile tile_at(const mat *w, uint32_t o, uint32_t o1, uint32_t ahead)
{
    tile t;
    for (uint32_t r = 0; r < TILE; r++) t.row[r] = w->data + min_u32(o + r, o1 - 1) * w->row_bytes;
    t.next = (const uint8_t *)((uintptr_t)t.row[0] + ahead * w->row_bytes);
    return t;
}

/* Hints bytes [at, at + n) from `next`. Rows are too short for the CPU to follow 8 streams; a tile is one stream, and
 * one tile is far enough ahead. A hint never faults, so the end of the mapping does not matter. */
INLINE void prefetch(const uint8_t *next, size_t at, uint32_t n)
{
    UNROLL for (uint32_t i = 0; i < n; i += 64) _mm_prefetch((const char *)((uintptr_t)next + at + i), _MM_HINT_T1);
}

/* Nothing read before this is kept for later: gcc would rather spill a register than load a byte of x again. */
INLINE void forget(void)
{
    __asm__ volatile("" ::: "memory");
}

INLINE void store_few(float *y, __m256 v, uint32_t n)
{
    static const int32_t m[16] = { -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 };
    if (n >= TILE) _mm256_storeu_ps(y, v);
    else _mm256_maskstore_ps(y, load256(m + TILE - n), v);
}
#endif
