/* Weight types of engine/wtype.h: sizes, names, and the exact way back to f32. Computes no product. */
#include "engine/wtype.h"
#include "engine/wtype_impl.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

const wtype_info wtypes[WTYPE_COUNT] = {
#define X(N, id, len, size, q) [WTYPE_##N] = { #N, id, len, size, q },
    WTYPE_MAP(X)
#undef X
};

/* Every type of ggml by id: X(id, name, block length, block bytes). Ids 4, 5, 31-33 and 36-38 were withdrawn. */
#define GGML_MAP(X)                                                                                      \
    X(0, F32, 1, 4) X(1, F16, 1, 2) X(2, Q4_0, 32, 18) X(3, Q4_1, 32, 20) X(6, Q5_0, 32, 22)             \
    X(7, Q5_1, 32, 24) X(8, Q8_0, 32, 34) X(9, Q8_1, 32, 36) X(10, Q2_K, 256, 84) X(11, Q3_K, 256, 110)  \
    X(12, Q4_K, 256, 144) X(13, Q5_K, 256, 176) X(14, Q6_K, 256, 210) X(15, Q8_K, 256, 292)              \
    X(16, IQ2_XXS, 256, 66) X(17, IQ2_XS, 256, 74) X(18, IQ3_XXS, 256, 98) X(19, IQ1_S, 256, 50)         \
    X(20, IQ4_NL, 32, 18) X(21, IQ3_S, 256, 110) X(22, IQ2_S, 256, 82) X(23, IQ4_XS, 256, 136)           \
    X(24, I8, 1, 1) X(25, I16, 1, 2) X(26, I32, 1, 4) X(27, I64, 1, 8) X(28, F64, 1, 8)                  \
    X(29, IQ1_M, 256, 56) X(30, BF16, 1, 2) X(34, TQ1_0, 256, 54) X(35, TQ2_0, 256, 66) X(39, MXFP4, 32, 17)

static const struct { const char *name; uint16_t len, bytes; } ggml_types[] = {
#define X(id, n, l, b) [id] = { #n, l, b },
    GGML_MAP(X)
#undef X
};
enum { GGML_TYPES = sizeof ggml_types / sizeof *ggml_types };

bool wtype_from_ggml(uint32_t id, wtype *out)
{
    for (unsigned t = 0; t < WTYPE_COUNT; t++) {
        if (wtypes[t].ggml_id != id) continue;
        *out = (wtype)t;
        return true;
    }
    return false;
}

const char *wtype_ggml_name(uint32_t id, char buf[static 16])
{
    if (id < GGML_TYPES && ggml_types[id].name) return ggml_types[id].name;
    snprintf(buf, 16, "type %u", id);
    return buf;
}

bool wtype_ggml_block(uint32_t id, uint32_t *len, uint32_t *bytes)
{
    if (id >= GGML_TYPES || !ggml_types[id].name) return false;
    *len = ggml_types[id].len;
    *bytes = ggml_types[id].bytes;
    return true;
}

size_t wtype_row_bytes(wtype t, uint32_t n)
{
    assert(t < WTYPE_COUNT && n % wtypes[t].block == 0);
    return (size_t)n / wtypes[t].block * wtypes[t].bytes;
}

/* One block (or element) to f32. */
static void f32_block(const uint8_t *p, float *out)
{
    memcpy(out, p, sizeof *out);
}

static void f16_block(const uint8_t *p, float *out)
{
    *out = wtype_half(p);
}

static void bf16_block(const uint8_t *p, float *out)
{
    uint32_t u = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    memcpy(out, &u, sizeof u);
}

/* { f16 d; int8 q[32] }: d q */
static void q8_0_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)p[2 + i];
}

/* { f16 d; uint8 q[16] }: d (q - 8), low nibbles first */
static void q4_0_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

/* Nibble i of 16 bytes of a 32 block: low nibbles first. */
static int nibble32(const uint8_t *q, int i)
{
    return q[i % 16] >> (i / 16 * 4) & 15;
}

/* { f16 d, m; uint8 q[16] }: d q + m */
static void q4_1_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p), m = wtype_half(p + 2);
    for (int i = 0; i < 32; i++) out[i] = d * (float)nibble32(p + 4, i) + m;
}

/* { f16 d; uint8 high[4], q[16] }: d (q - 16), bit i of `high` on top of nibble i */
static void q5_0_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)((nibble32(p + 6, i) | wtype_bit32(p + 2, i) << 4) - 16);
}

/* { f16 d, m; uint8 high[4], q[16] }: d q + m */
static void q5_1_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p), m = wtype_half(p + 2);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(nibble32(p + 8, i) | wtype_bit32(p + 4, i) << 4) + m;
}

/* { f16 d; uint8 q[16] }: d table[q] */
static void iq4_nl_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)wtype_iq4_nl[nibble32(p + 2, i)];
}

/* Two bits of 64 bytes: each half block of 128 takes 32 of them, run i of 32 is bits 2i. */
static int crumb256(const uint8_t *q, int n)
{
    return q[n / 128 * 32 + n % 32] >> (n % 128 / 32 * 2) & 3;
}

/* { uint8 scales[16], q[64]; f16 d, dmin }: d sc q - dmin m, sc and m the low and high nibbles of scales[n/16]. */
static void q2_k_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p + 80), dmin = wtype_half(p + 82);
    for (int n = 0; n < 256; n++) {
        int s = p[n / 16];
        out[n] = d * (float)(s & 15) * (float)crumb256(p + 16, n) - dmin * (float)(s >> 4);
    }
}

/* { uint8 high[32], q[64], scales[12]; f16 d }: d sc (q - 4), exact. Bit n/32 of high[n%32] is on top of the two bits. */
static void q3_k_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p + 108);
    for (int n = 0; n < 256; n++) {
        int q = (crumb256(p + 32, n) | (p[n % 32] >> (n / 32) & 1) << 2) - 4;
        out[n] = d * (float)wtype_q3_k_scale(p + 96, n / 16) * (float)q;
    }
}

/* { f16 d, dmin; uint8 scales[12], high[32], q[128] }: as Q4_K, bit j of high[i] on top of nibble i of sub-block j. */
static void q5_k_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p), dmin = wtype_half(p + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = p + 48 + j / 2 * 32;
        int sc, m;
        wtype_q4_k_scale(p + 4, j, &sc, &m);
        float ds = d * (float)sc, dm = dmin * (float)m;
        for (int i = 0; i < 32; i++) out[32 * j + i] = ds * (float)((q[i] >> (j % 2 * 4) & 15) | (p[16 + i] >> j & 1) << 4) - dm;
    }
}

/* { f16 d, dmin; uint8 scales[12], q[128] }: d sc q - dmin m. Both products are exact in f32 (21 and 17 bits), so the
 * difference is rounded once. */
static void q4_k_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p), dmin = wtype_half(p + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = p + 16 + j / 2 * 32;
        int sc, m;
        wtype_q4_k_scale(p + 4, j, &sc, &m);
        float ds = d * (float)sc, dm = dmin * (float)m;
        for (int i = 0; i < 32; i++) out[32 * j + i] = ds * (float)(j & 1 ? q[i] >> 4 : q[i] & 15) - dm;
    }
}

/* { uint8 ql[128], qh[64]; int8 scales[16]; f16 d }: d sc (q - 32), exact. Each half block of 128 takes 64 bytes of ql
 * and 32 of qh; run i of 32 is nibble i/2 of ql[32 (i%2)..] with bits 2i of qh on top. */
static void q6_k_block(const uint8_t *p, float *out)
{
    float d = wtype_half(p + 208);
    for (int n = 0; n < 256; n++) {
        int half = n / 128, i = n % 128 / 32, l = n % 32;
        int lo = p[64 * half + 32 * (i % 2) + l] >> (i / 2 * 4) & 15;
        int hi = p[128 + 32 * half + l] >> (2 * i) & 3;
        out[n] = d * (float)(int8_t)p[192 + n / 16] * (float)((lo | hi << 4) - 32);
    }
}

static void (*const blocks[WTYPE_COUNT])(const uint8_t *, float *) = {
    [WTYPE_F32] = f32_block,   [WTYPE_F16] = f16_block,   [WTYPE_BF16] = bf16_block, [WTYPE_Q8_0] = q8_0_block,
    [WTYPE_Q4_0] = q4_0_block, [WTYPE_Q4_1] = q4_1_block, [WTYPE_Q5_0] = q5_0_block, [WTYPE_Q5_1] = q5_1_block,
    [WTYPE_Q2_K] = q2_k_block, [WTYPE_Q3_K] = q3_k_block, [WTYPE_Q4_K] = q4_k_block, [WTYPE_Q5_K] = q5_k_block,
    [WTYPE_Q6_K] = q6_k_block, [WTYPE_IQ4_NL] = iq4_nl_block,
};

void wtype_to_f32(wtype t, const void *row, uint32_t n, float *out)
{
    assert(t < WTYPE_COUNT && n % wtypes[t].block == 0);
    const uint8_t *p = row;
    for (uint32_t i = 0; i < n; i += wtypes[t].block, p += wtypes[t].bytes) blocks[t](p, out + i);
}
