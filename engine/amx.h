#ifndef ENGINE_AMX_H
#define ENGINE_AMX_H
/* The few AMX instructions that a product uses, each on a tile that is named by a constant. With AMX_EMULATED they are plain C
 * that does what the manual says (Intel SDM vol. 2: LDTILECFG, TILELOADD, TILEZERO, TDPBSSD, TDPBF16PS, TILESTORED), so that the same
 * source is tested on machines that have no such unit. Owns no tile between two calls of a kernel: configure, use, release.
 * A thread's own state; the process must have asked for permission (core/isa.h). Private to engine/kernels_packed_amx.c and
 * engine/kernels_bf16_amx.c. */
#include "engine/bf16.h"
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];          /* bytes of a row */
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) amx_config;

#ifdef AMX_EMULATED
typedef struct { uint32_t rows, colsb; uint8_t b[16][64]; } amx_tile;
static _Thread_local amx_tile amx_tiles[8];

static inline void amx_configure(const amx_config *c)
{
    memset(amx_tiles, 0, sizeof amx_tiles);
    for (int i = 0; c->palette == 1 && i < 8; i++) {
        amx_tiles[i].rows = c->rows[i];
        amx_tiles[i].colsb = c->colsb[i];
    }
}

static inline void amx_release(void) { memset(amx_tiles, 0, sizeof amx_tiles); }
static inline void amx_zero(int t) { memset(amx_tiles[t].b, 0, sizeof amx_tiles[t].b); }

static inline void amx_load(int t, const void *from, size_t stride)
{
    amx_zero(t);
    for (uint32_t r = 0; r < amx_tiles[t].rows; r++) memcpy(amx_tiles[t].b[r], (const uint8_t *)from + r * stride, amx_tiles[t].colsb);
}

static inline void amx_store(int t, void *to, size_t stride)
{
    for (uint32_t r = 0; r < amx_tiles[t].rows; r++) memcpy((uint8_t *)to + r * stride, amx_tiles[t].b[r], amx_tiles[t].colsb);
}

/* c[m][n] += sum of the four products of bytes of a[m][k] and b[k][n], for every k. */
static inline void amx_dot(int c, int a, int b)
{
    for (uint32_t m = 0; m < amx_tiles[c].rows; m++)
        for (uint32_t k = 0; k < amx_tiles[a].colsb / 4; k++)
            for (uint32_t n = 0; n < amx_tiles[c].colsb / 4; n++) {
                int32_t sum;
                memcpy(&sum, &amx_tiles[c].b[m][4 * n], 4);
                for (uint32_t i = 0; i < 4; i++) sum += (int8_t)amx_tiles[a].b[m][4 * k + i] * (int8_t)amx_tiles[b].b[k][4 * n + i];
                memcpy(&amx_tiles[c].b[m][4 * n], &sum, 4);
            }
}

static inline uint16_t amx_half(int t, uint32_t row, uint32_t i)
{
    uint16_t h;
    memcpy(&h, &amx_tiles[t].b[row][2 * i], sizeof h);
    return h;
}

/* c[m][n] += (sum of a[m][2k] b[k][2n]) + (sum of a[m][2k+1] b[k][2n+1]), over k, numbers of 16 bits. */
static inline void amx_dot_bf16(int c, int a, int b)
{
    for (uint32_t m = 0; m < amx_tiles[c].rows; m++) {
        float temp[32] = { 0 }, sum;
        for (uint32_t k = 0; k < amx_tiles[a].colsb / 4; k++)
            for (uint32_t i = 0; i < amx_tiles[c].colsb / 2; i++)
                temp[i] = bf16_fma(bf16_float(amx_half(a, m, 2 * k + i % 2)), bf16_float(amx_half(b, k, i)), temp[i]);
        for (uint32_t n = 0; n < amx_tiles[c].colsb / 4; n++) {
            memcpy(&sum, &amx_tiles[c].b[m][4 * n], 4);
            sum = bf16_add(sum, bf16_add(temp[2 * n], temp[2 * n + 1]));
            memcpy(&amx_tiles[c].b[m][4 * n], &sum, 4);
        }
    }
}
#else
#include <immintrin.h>
/* gcc 12 tells its optimiser of no memory that these read. */
#define amx_settled(p) __asm__ volatile("" ::"r"(p) : "memory")
#define amx_configure(c) do { amx_settled(c); _tile_loadconfig(c); } while (0)
#define amx_release() _tile_release()
#define amx_zero(t) _tile_zero(t)
#define amx_load(t, from, stride) do { amx_settled(from); _tile_loadd(t, from, stride); } while (0)
#define amx_store(t, to, stride) _tile_stored(t, to, stride)
#define amx_dot(c, a, b) _tile_dpbssd(c, a, b)
#define amx_dot_bf16(c, a, b) _tile_dpbf16ps(c, a, b)
#endif
#endif
