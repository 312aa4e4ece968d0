/* Path bf16amx (engine/bf16.h) with VDPBF16PS, which adds two products to 16 sums, one after the other and each rounded: with
 * columns two apart side by side that is the order of the path (engine/kernels_bf16_panel.h). 256 columns of two groups are
 * rounded into a panel that stays in the first-level cache, and a tile of rows x 32 outputs has its sums of even and of odd
 * columns in registers. Where the machine lacks the instruction, or has one that rounds otherwise, the AVX2 kernel runs. Allocates
 * nothing. */
#if defined(__AVX512BF16__)
#include "engine/bf16_control.h"
#include "engine/bf16_proof.h"
#include "engine/kernels_bf16_panel.h"
#include <stdatomic.h>

enum {
    PAIR = 2,                                /* groups of a panel */
    TILE_ROWS = 6,                           /* 24 sums in 32 registers */
    PASS = 192,                              /* rows of x that share a panel: 24 KiB of sums */
    ROUNDS = 512,                            /* of the proof: 8192 sums of two products */
};
typedef struct { pairs b[PAIR][PANEL]; } bpanel;

INLINE __m512 dot(__m512 sum, __m512i w, __m512i x) { return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x); }

INLINE __m512i two_of(const uint8_t *x)
{
    int32_t v;
    memcpy(&v, x, sizeof v);
    return _mm512_set1_epi32(v);
}

/* ---- is it the arithmetic of the path? ---- */

static bool proof_round(uint32_t round)
{
    uint16_t w[32], x[32];
    float sum[16], got[16];
    for (uint32_t i = 0; i < 32; i++) w[i] = bf16_hard(round, i), x[i] = bf16_hard(round, 64 + i);
    for (uint32_t i = 0; i < 16; i++) sum[i] = bf16_hard_sum(round, i, bf16_float(w[2 * i + 1]) * bf16_float(x[2 * i + 1]));
    _mm512_storeu_ps(got, dot(_mm512_loadu_ps(sum), _mm512_loadu_si512(w), _mm512_loadu_si512(x)));
    for (uint32_t i = 0; i < 16; i++) {
        float v = bf16_fma(bf16_float(w[2 * i + 1]), bf16_float(x[2 * i + 1]), sum[i]);
        if (!bf16_same(got[i], bf16_fma(bf16_float(w[2 * i]), bf16_float(x[2 * i]), v))) return false;
    }
    return true;
}

static bool proven(void)
{
    static _Atomic int known;                /* 1: no, 2: yes; threads that ask at once find the same */
    if (known) return known == 2;
    bool ok = __builtin_cpu_supports("avx512bf16");
    for (uint32_t i = 0; ok && i < ROUNDS; i++) ok = proof_round(i);
    known = ok ? 2 : 1;
    return ok;
}

/* ---- the product ---- */

/* Block b of nr rows, `row` bytes apart, against both groups. */
INLINE void block_rows(const bpanel *p, uint32_t b, const uint8_t *x, size_t row, __m512 even[TILE_ROWS][PAIR],
                       __m512 odd[TILE_ROWS][PAIR], uint32_t nr)
{
    UNROLL for (uint32_t r = 0; r < nr; r++)
        UNROLL for (uint32_t v = 0; v < PAIR; v++) even[r][v] = odd[r][v] = _mm512_setzero_ps();
    UNROLL for (uint32_t j = 0; j < 8; j++)
        UNROLL for (uint32_t r = 0; r < nr; r++) {
            const uint8_t *at = x + r * row + 64 * (size_t)b + 8 * j;
            __m512i xe = two_of(at), xo = two_of(at + 4);
            UNROLL for (uint32_t v = 0; v < PAIR; v++) {
                even[r][v] = dot(even[r][v], p->b[v][b].p[2 * j], xe);
                odd[r][v] = dot(odd[r][v], p->b[v][b].p[2 * j + 1], xo);
            }
        }
}

INLINE void tile_rows(const bpanel *p, uint32_t n, const uint8_t *x, size_t row, float (*acc)[PAIR * PACKED_GROUP], uint32_t nr)
{
    for (uint32_t b = 0; b < n; b++) {
        __m512 even[TILE_ROWS][PAIR], odd[TILE_ROWS][PAIR];
        block_rows(p, b, x, row, even, odd, nr);
        forget();                            /* else acc would be loaded before the products, which need the registers */
        UNROLL for (uint32_t r = 0; r < nr; r++)
            UNROLL for (uint32_t v = 0; v < PAIR; v++) {
                float *to = acc[r] + v * PACKED_GROUP;
                _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), _mm512_add_ps(even[r][v], odd[r][v])));
            }
    }
}

typedef void fill_fn(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, pairs *p);
typedef void tile_fn(const bpanel *p, uint32_t n, const uint8_t *x, size_t row, float (*acc)[PAIR * PACKED_GROUP]);

#define X(N) \
    static void fill_##N(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, pairs *p) \
    { \
        group_pairs(WTYPE_##N, group, next, b0, n, true, p); \
    }
QUANT_MAP(X)
#undef X
static fill_fn *const fills[WTYPE_COUNT] = {
#define X(N) [WTYPE_##N] = fill_##N,
    QUANT_MAP(X)
#undef X
};

#define TILE_FN(NR) \
    static void tile_##NR(const bpanel *p, uint32_t n, const uint8_t *x, size_t row, float (*acc)[PAIR * PACKED_GROUP]) \
    { \
        tile_rows(p, n, x, row, acc, NR); \
    }
TILE_FN(1) TILE_FN(2) TILE_FN(3) TILE_FN(4) TILE_FN(5) TILE_FN(6)
static tile_fn *const tiles[TILE_ROWS] = { tile_1, tile_2, tile_3, tile_4, tile_5, tile_6 };

static void fill_group(const mat *w, uint32_t o, uint32_t b, uint32_t n, pairs *p)
{
    if (w->packed) fills[w->type](w->data + o * w->row_bytes, PAIR * PACKED_GROUP * w->row_bytes, b, n, p);
    else file_pairs(w, o, b, n, true, p);
}

/* Groups at o and o + 16 (the same one twice where there is no other) against T <= PASS rows. */
static void pair_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    _Alignas(64) float acc[PASS][PAIR * PACKED_GROUP];
    bpanel p;
    memset(acc, 0, T * sizeof *acc);
    for (uint32_t b = 0, blocks = w->n_in / KERNELS_BLOCK; b < blocks; b += PANEL) {
        uint32_t n = min_u32(PANEL, blocks - b), parts = (T + TILE_ROWS - 1) / TILE_ROWS;
        fill_group(w, o, b, n, p.b[0]);
        fill_group(w, o + PACKED_GROUP < o1 ? o + PACKED_GROUP : o, b, n, p.b[1]);
        for (uint32_t i = 0, r = 0, nr; i < parts; i++, r += nr) {
            nr = T / parts + (i < T % parts);
            tiles[nr - 1](&p, n, row_of(a, t0 + r, b), act_bytes_bf16(a->ld), acc + r);
        }
    }
    uint32_t n = min_u32(o1 - o, PAIR * PACKED_GROUP);
    __mmask16 keep[PAIR] = { (__mmask16)((1u << min_u32(n, 16)) - 1), (__mmask16)(n > 16 ? (1u << (n - 16)) - 1 : 0) };
    for (uint32_t t = 0; t < T; t++)
        UNROLL for (uint32_t v = 0; v < PAIR; v++)
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy + o + v * PACKED_GROUP, keep[v], _mm512_load_ps(acc[t] + v * PACKED_GROUP));
}

static __attribute__((noinline))
void all_pairs(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    for (uint32_t t = 0; t < T; t += PASS)
        for (uint32_t o = o0; o < o1; o += PAIR * PACKED_GROUP) pair_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
}

void kernels_bf16_round_avx512bf16(const act *a, uint32_t t0, uint32_t t1)
{
    if (!proven()) {
        kernels_bf16_round_avx2(a, t0, t1);
        return;
    }
    for (uint32_t t = t0; t < t1; t++) round_row(a->x + t * a->ld, a->n_in, true, row_of(a, t, 0));
}

void kernels_bf16_avx512bf16(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    if (!proven()) {
        kernels_bf16_avx2(w, a, T, y, ldy, o0, o1);
        return;
    }
    kernels_count(T < KERNELS_MANY ? KERNEL_bf16_few : KERNEL_bf16_many);
    uint32_t before = bf16_control();
    all_pairs(w, a, T, y, ldy, o0, o1);
    bf16_control_back(before);
}
#else
typedef int kernels_bf16_avx512bf16_absent;   /* a translation unit may not be empty */
#endif
