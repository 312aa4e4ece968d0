/* The reference of engine/kernels.h: it follows the header word by word, one output at a time. Not tuned. */
#include "engine/kernels_impl.h"
#include "engine/packed.h"
#include "engine/wtype_impl.h"

enum {
    CHUNK = 256,                    /* floats unpacked at a time: a multiple of every block length */
    BLOCK_BYTES = 256,              /* of a block at most */
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A NaN never becomes the maximum (the comparison is false), so it is looked for by itself. */
static void quantize_block(const float x[KERNELS_BLOCK], int8_t *q, float *d, int16_t s[2])
{
    float top = 0;
    bool nan = false;
    for (int i = 0; i < KERNELS_BLOCK; i++) {
        float v = fabsf(x[i]);
        top = v > top ? v : top;
        nan |= isnan(v) != 0;
    }
    float step = top / 127.0f, id = step >= 0x1p-126f ? 1.0f / step : 0.0f;
    *d = nan ? NAN : step;
    s[0] = s[1] = 0;
    for (int i = 0; i < KERNELS_BLOCK; i++) {
        float v = x[i] * id;
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        q[i] = (int8_t)lrintf(v);
        s[i / 16] = (int16_t)(s[i / 16] + q[i]);
    }
}

static void quantize(const act *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++)
        for (uint32_t k = 0; k < a->n_in; k += KERNELS_BLOCK) {
            size_t at = t * a->ld + k;
            quantize_block(a->x + at, a->q + at, a->d + at / KERNELS_BLOCK, a->s + at / 16);
            a->z[at / KERNELS_BLOCK] = kernels_sums_of(a->s + at / 16);
        }
}

static void matmul_float(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_float_few : KERNEL_float_many);
    float buf[CHUNK];
    for (uint32_t o = o0; o < o1; o++) {
        for (uint32_t t = 0; t < T; t++) y[t * ldy + o] = 0;
        for (uint32_t k0 = 0; k0 < w->n_in; k0 += CHUNK) {
            uint32_t n = min_u32(CHUNK, w->n_in - k0);
            mat_row_f32(w, o, k0, n, buf);
            for (uint32_t t = 0; t < T; t++) {
                float acc = y[t * ldy + o];
                for (uint32_t k = 0; k < n; k++) acc = fmaf(buf[k], a->x[t * a->ld + k0 + k], acc);
                y[t * ldy + o] = acc;
            }
        }
    }
}

/* 32 weights in integers. */
typedef struct {
    int w[KERNELS_BLOCK];
    int scale[2], min[2];           /* of each half, the minimum counted downwards: w - min */
    float d, dmin;
} qblock;

static void q8_0_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 34;
    for (int i = 0; i < 32; i++) out->w[i] = (int8_t)p[2 + i];
    out->scale[0] = out->scale[1] = 1;
    out->d = wtype_half(p);
}

static void q4_0_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 18;
    for (int i = 0; i < 32; i++) out->w[i] = (p[2 + i % 16] >> (i / 16 * 4) & 15) - 8;
    out->scale[0] = out->scale[1] = 1;
    out->d = wtype_half(p);
}

/* Nibble i of 16 bytes of a 32 block: low nibbles first. */
static int nibble(const uint8_t *q, int i)
{
    return q[i % 16] >> (i / 16 * 4) & 15;
}

static void q5_0_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 22;
    for (int i = 0; i < 32; i++) out->w[i] = (nibble(p + 6, i) | wtype_bit32(p + 2, i) << 4) - 16;
    out->scale[0] = out->scale[1] = 1;
    out->d = wtype_half(p);
}

static void iq4_nl_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 18;
    for (int i = 0; i < 32; i++) out->w[i] = wtype_iq4_nl[nibble(p + 2, i)];
    out->scale[0] = out->scale[1] = 1;
    out->d = wtype_half(p);
}

/* Q4_1 and Q5_1 add their minimum, so that it counts -1. */
static void added_min(const uint8_t *p, qblock *out)
{
    out->scale[0] = out->scale[1] = 1;
    out->min[0] = out->min[1] = -1;
    out->d = wtype_half(p);
    out->dmin = wtype_half(p + 2);
}

static void q4_1_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 20;
    for (int i = 0; i < 32; i++) out->w[i] = nibble(p + 4, i);
    added_min(p, out);
}

static void q5_1_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)b * 24;
    for (int i = 0; i < 32; i++) out->w[i] = nibble(p + 8, i) | wtype_bit32(p + 4, i) << 4;
    added_min(p, out);
}

/* What Q4_K and Q5_K share: d, dmin, and the scale and minimum of sub-block j. */
static void k_scales(const uint8_t *p, int j, qblock *out)
{
    wtype_q4_k_scale(p + 4, j, &out->scale[0], &out->min[0]);
    out->scale[1] = out->scale[0];
    out->min[1] = out->min[0];
    out->d = wtype_half(p);
    out->dmin = wtype_half(p + 2);
}

static void q4_k_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)(b / 8) * 144;
    int j = (int)(b % 8);
    for (int i = 0; i < 32; i++) out->w[i] = p[16 + j / 2 * 32 + i] >> (j % 2 * 4) & 15;
    k_scales(p, j, out);
}

static void q5_k_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)(b / 8) * 176;
    int j = (int)(b % 8);
    for (int i = 0; i < 32; i++) out->w[i] = (p[48 + j / 2 * 32 + i] >> (j % 2 * 4) & 15) | (p[16 + i] >> j & 1) << 4;
    k_scales(p, j, out);
}

static void q2_k_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)(b / 8) * 84, *q = p + 16 + b % 8 / 4 * 32, *s = p + b % 8 * 2;
    for (int i = 0; i < 32; i++) out->w[i] = q[i] >> (b % 4 * 2) & 3;
    for (int i = 0; i < 2; i++) {
        out->scale[i] = s[i] & 15;
        out->min[i] = s[i] >> 4;
    }
    out->d = wtype_half(p + 80);
    out->dmin = wtype_half(p + 82);
}

static void q3_k_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)(b / 8) * 110, *q = p + 32 + b % 8 / 4 * 32;
    for (int i = 0; i < 32; i++) out->w[i] = ((q[i] >> (b % 4 * 2) & 3) | (p[i] >> b % 8 & 1) << 2) - 4;
    for (int i = 0; i < 2; i++) out->scale[i] = wtype_q3_k_scale(p + 96, (int)(b % 8) * 2 + i);
    out->d = wtype_half(p + 108);
}

static void q6_k_block(const uint8_t *row, uint32_t b, qblock *out)
{
    const uint8_t *p = row + (size_t)(b / 8) * 210;
    uint32_t half = b % 8 / 4, run = b % 4;
    const uint8_t *lo = p + 64 * half + run % 2 * 32, *hi = p + 128 + 32 * half;
    for (int i = 0; i < 32; i++) out->w[i] = ((lo[i] >> (run / 2 * 4) & 15) | (hi[i] >> (2 * run) & 3) << 4) - 32;
    for (int i = 0; i < 2; i++) out->scale[i] = (int8_t)p[192 + b % 8 * 2 + i];
    out->d = wtype_half(p + 208);
}

static const struct { void (*block)(const uint8_t *row, uint32_t b, qblock *out); bool has_min; } quants[WTYPE_COUNT] = {
    [WTYPE_Q8_0] = { q8_0_block, false }, [WTYPE_Q4_0] = { q4_0_block, false }, [WTYPE_Q5_0] = { q5_0_block, false },
    [WTYPE_Q3_K] = { q3_k_block, false }, [WTYPE_Q6_K] = { q6_k_block, false }, [WTYPE_IQ4_NL] = { iq4_nl_block, false },
    [WTYPE_Q4_1] = { q4_1_block, true },  [WTYPE_Q5_1] = { q5_1_block, true },  [WTYPE_Q2_K] = { q2_k_block, true },
    [WTYPE_Q4_K] = { q4_k_block, true },  [WTYPE_Q5_K] = { q5_k_block, true },
};

static float quant_step(const qblock *w, bool has_min, const int8_t *q, float dx, const int16_t s[2], float acc)
{
    int sum[2] = { 0, 0 };
    for (int i = 0; i < KERNELS_BLOCK; i++) sum[i / 16] += w->w[i] * q[i];
    acc = fmaf((float)(w->scale[0] * sum[0] + w->scale[1] * sum[1]), w->d * dx, acc);
    return has_min ? fmaf((float)(-w->min[0] * s[0] - w->min[1] * s[1]), w->dmin * dx, acc) : acc;
}

/* Block b of output o, as in the file: where it is, or taken out of the packed ones. */
static const uint8_t *unit_of(const mat *w, uint32_t o, uint32_t u, uint8_t buf[BLOCK_BYTES])
{
    if (!w->packed) return w->data + o * w->row_bytes + (size_t)u * wtypes[w->type].bytes;
    packed_get(w, o, u, 1, buf);
    return buf;
}

static void unit_quant(const mat *w, const uint8_t *unit, const act *a, uint32_t k0, uint32_t T, float *y, size_t ldy)
{
    bool has_min = quants[w->type].has_min;
    for (uint32_t b = 0; b < wtypes[w->type].block / KERNELS_BLOCK; b++) {
        qblock blk;
        quants[w->type].block(unit, b, &blk);
        for (uint32_t t = 0; t < T; t++) {
            size_t at = t * a->ld + k0 + b * KERNELS_BLOCK;
            float *out = y + t * ldy;
            *out = quant_step(&blk, has_min, a->q + at, a->d[at / KERNELS_BLOCK], a->s + at / 16, *out);
        }
    }
}

static void matmul_quant(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_quant_few : KERNEL_quant_many);
    uint8_t buf[BLOCK_BYTES];
    for (uint32_t o = o0; o < o1; o++) {
        for (uint32_t t = 0; t < T; t++) y[t * ldy + o] = 0;
        for (uint32_t k = 0, u = 0; k < w->n_in; k += wtypes[w->type].block, u++)
            unit_quant(w, unit_of(w, o, u, buf), a, k, T, y + o, ldy);
    }
}

const kernels kernels_plain = {
    .isa = ISA_PLAIN, .name = "plain", .vec = &vec_plain_ops,
    .quantize = quantize, .matmul_float = matmul_float, .matmul_quant = matmul_quant,
    .packed_float = matmul_float, .packed_quant = matmul_quant,
    .round_bf16 = kernels_bf16_round_plain, .matmul_bf16 = kernels_bf16_plain,
};
