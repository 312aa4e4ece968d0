/* Path bf16amx (engine/bf16.h) in AMX: one TDPBF16PS is a block of 32 columns for 16 rows by 16 outputs, sums of even and odd
 * columns, and the addition to what was there, so tiles hold the product itself and the vector unit only rounds weights into
 * panels (engine/kernels_bf16_panel.h). 32 rows by 32 outputs at a time: four tiles of sums, two of x, two of weights. Where the
 * unit is missing or rounds otherwise the kernel of AVX-512 runs. Allocates nothing. */
#if defined(__AVX512BF16__) && (defined(__AMX_BF16__) || defined(AMX_EMULATED))
#include "engine/amx.h"
#include "engine/bf16_proof.h"
#include "engine/kernels_bf16_panel.h"
#include <stdatomic.h>

enum {
    STRIP = 16,                              /* rows of x in a tile */
    PAIR = 2,                                /* strips, and groups, of a step */
    BLOCKS = 2 * PANEL,                      /* of a panel: two groups are 32 KiB, which the first-level cache holds */
    PASS = 512,                              /* rows of x that share a panel, which costs as much as some 100 rows: 64 KiB of sums */
    ROUNDS = 16,                             /* of the proof: 4096 sums of 32 products */
};
/* Tiles: names of registers, so numbers that the assembler reads. SUM_rg: strip r, group g. */
#define X_0 0
#define X_1 1
#define W_0 2
#define W_1 3
#define SUM_00 4
#define SUM_01 5
#define SUM_10 6
#define SUM_11 7

typedef struct { pairs b[PAIR][BLOCKS]; } bpanel;
typedef float sums[PAIR * PACKED_GROUP];     /* of a row */

/* Strips of r0 and r1 rows; r1 = 0: the second is not used, and a tile has a row at least. */
static void configure(uint32_t r0, uint32_t r1)
{
    uint8_t first = (uint8_t)r0, second = (uint8_t)(r1 ? r1 : 1);
    amx_config c = { .palette = 1, .rows = { first, second, 16, 16, first, first, second, second } };
    for (int i = 0; i < 8; i++) c.colsb[i] = 64;
    amx_configure(&c);
}

/* ---- is it the arithmetic of the path? ---- */

typedef struct { uint16_t x[STRIP][32], w[16][16][2]; float sum[STRIP][16], got[STRIP][16]; } proof;

static float proof_sum(const proof *p, uint32_t m, uint32_t n)
{
    float side[2] = { 0, 0 };
    for (uint32_t k = 0; k < 32; k++)
        side[k % 2] = bf16_fma(bf16_float(p->w[k / 2][n][k % 2]), bf16_float(p->x[m][k]), side[k % 2]);
    return bf16_add(p->sum[m][n], bf16_add(side[0], side[1]));
}

static bool proof_round(uint32_t round)
{
    proof p;
    bool ok = true;
    for (uint32_t i = 0; i < 512; i++) {
        p.x[i / 32][i % 32] = bf16_hard(round, i);
        p.w[i / 32][i / 2 % 16][i % 2] = bf16_hard(round, 512 + i);
    }
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t m = i / 16, n = i % 16;
        p.sum[m][n] = bf16_hard_sum(round, i, bf16_float(p.w[0][n][0]) * bf16_float(p.x[m][0]));
    }
    configure(STRIP, 0);
    amx_load(X_0, p.x, 64);
    amx_load(W_0, p.w, 64);
    amx_load(SUM_00, p.sum, 64);
    amx_dot_bf16(SUM_00, X_0, W_0);
    amx_store(SUM_00, p.got, 64);
    amx_release();
    for (uint32_t i = 0; i < 256; i++) ok &= bf16_same(p.got[i / 16][i % 16], proof_sum(&p, i / 16, i % 16));
    return ok;
}

static bool has_unit(void)
{
#ifdef AMX_EMULATED
    return true;
#else
    return isa_has_bf16_tiles() && __builtin_cpu_supports("avx512bf16");
#endif
}

static bool proven(void)
{
    static _Atomic int known;                /* 1: no, 2: yes; threads that ask at once find the same */
    if (known) return known == 2;
    bool ok = has_unit();
    for (uint32_t i = 0; ok && i < ROUNDS; i++) ok = proof_round(i);
    known = ok ? 2 : 1;
    return ok;
}

/* ---- the product ---- */

/* n blocks of 16 or 32 rows, `ld` bytes apart, onto their sums. */
INLINE void step(const bpanel *p, uint32_t n, const uint8_t *x, size_t ld, sums *to, bool two)
{
    const size_t row = sizeof *to;
    sums *low = to + STRIP;
    const uint8_t *x1 = x + STRIP * ld;
    amx_load(SUM_00, to[0], row);
    amx_load(SUM_01, to[0] + PACKED_GROUP, row);
    if (two) amx_load(SUM_10, low[0], row);
    if (two) amx_load(SUM_11, low[0] + PACKED_GROUP, row);
    for (uint32_t b = 0; b < n; b++) {
        amx_load(X_0, x + 64 * (size_t)b, ld);
        amx_load(W_0, p->b[0][b].p, sizeof *p->b[0][b].p);
        amx_dot_bf16(SUM_00, X_0, W_0);
        amx_load(W_1, p->b[1][b].p, sizeof *p->b[1][b].p);
        amx_dot_bf16(SUM_01, X_0, W_1);
        if (!two) continue;
        amx_load(X_1, x1 + 64 * (size_t)b, ld);
        amx_dot_bf16(SUM_10, X_1, W_0);
        amx_dot_bf16(SUM_11, X_1, W_1);
    }
    amx_store(SUM_00, to[0], row);
    amx_store(SUM_01, to[0] + PACKED_GROUP, row);
    if (two) amx_store(SUM_10, low[0], row);
    if (two) amx_store(SUM_11, low[0] + PACKED_GROUP, row);
}

/* T rows: pairs of whole strips, and then what is left. */
static void panel_rows(const bpanel *p, uint32_t n, const uint8_t *x, size_t ld, sums *to, uint32_t T)
{
    uint32_t t = 0;
    if (T >= PAIR * STRIP) configure(STRIP, STRIP);
    for (; t + PAIR * STRIP <= T; t += PAIR * STRIP) step(p, n, x + t * ld, ld, to + t, true);
    uint32_t rest = T - t;
    if (!rest) return;
    configure(min_u32(rest, STRIP), rest > STRIP ? rest - STRIP : 0);
    if (rest > STRIP) step(p, n, x + t * ld, ld, to + t, true);
    else step(p, n, x + t * ld, ld, to + t, false);
}

typedef void fill_fn(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, pairs *p);
#define X(N) \
    static void fill_##N(const uint8_t *group, size_t next, uint32_t b0, uint32_t n, pairs *p) \
    { \
        group_pairs(WTYPE_##N, group, next, b0, n, false, p); \
    }
QUANT_MAP(X)
#undef X
static fill_fn *const fills[WTYPE_COUNT] = {
#define X(N) [WTYPE_##N] = fill_##N,
    QUANT_MAP(X)
#undef X
};

static void fill_group(const mat *w, uint32_t o, uint32_t b, uint32_t n, pairs *p)
{
    if (w->packed) fills[w->type](w->data + o * w->row_bytes, PAIR * PACKED_GROUP * w->row_bytes, b, n, p);
    else file_pairs(w, o, b, n, false, p);
}

/* Groups at o and o + 16 (the same one twice where there is no other) against T <= PASS rows. */
static void pair_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    _Alignas(64) sums acc[PASS];
    bpanel p;
    memset(acc, 0, T * sizeof *acc);
    for (uint32_t b = 0, blocks = w->n_in / KERNELS_BLOCK; b < blocks; b += BLOCKS) {
        uint32_t n = min_u32(BLOCKS, blocks - b);
        fill_group(w, o, b, n, p.b[0]);
        fill_group(w, o + PACKED_GROUP < o1 ? o + PACKED_GROUP : o, b, n, p.b[1]);
        panel_rows(&p, n, row_of(a, t0, b), act_bytes_bf16(a->ld), acc, T);
    }
    uint32_t n = min_u32(o1 - o, PAIR * PACKED_GROUP);
    for (uint32_t t = 0; t < T; t++) memcpy(y + (t0 + t) * ldy + o, acc[t], n * sizeof **acc);
}

void kernels_bf16_round_amx(const act *a, uint32_t t0, uint32_t t1)
{
    if (!proven()) {
        kernels_bf16_round_avx512bf16(a, t0, t1);
        return;
    }
    for (uint32_t t = t0; t < t1; t++) round_row(a->x + t * a->ld, a->n_in, false, row_of(a, t, 0));
}

void kernels_bf16_amx(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    if (!proven()) {
        kernels_bf16_avx512bf16(w, a, T, y, ldy, o0, o1);
        return;
    }
    kernels_count(T < KERNELS_MANY ? KERNEL_bf16_few : KERNEL_bf16_many);
    for (uint32_t t = 0; t < T; t += PASS)
        for (uint32_t o = o0; o < o1; o += PAIR * PACKED_GROUP) pair_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
    amx_release();
}
#else
typedef int kernels_bf16_amx_absent;   /* a translation unit may not be empty */
#endif
