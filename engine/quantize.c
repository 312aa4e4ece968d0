/* Blocks of 32 after ggml's rule, floats of every width, and the table of all types. It refuses values that a type cannot
 * hold, instead of storing infinities. */
#include "engine/quantize.h"
#include "engine/quantize_impl.h"
#include <assert.h>
#include <math.h>

#define HALF_MAX 65504.0f               /* the largest finite half */

static int at_most(int v, int top)
{
    return v < top ? v : top;
}

static float inverse(float d)
{
    return fabsf(d) >= QUANTIZE_TINY ? 1.0f / d : 0.0f;
}

/* The value of largest size, with its sign: the first of equals. */
static float extreme(const float *x, int n)
{
    float top = 0, signed_top = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) <= top) continue;
        top = fabsf(x[i]);
        signed_top = x[i];
    }
    return signed_top;
}

/* ---- one block (or element) ---- */

static void f32_block(const float *x, uint8_t *p)
{
    memcpy(p, x, sizeof *x);
}

static void f16_block(const float *x, uint8_t *p)
{
    (void)quantize_put_half(p, *x);
}

/* Nearest even; a NaN keeps its top bits and stays one. */
static void bf16_block(const float *x, uint8_t *p)
{
    uint32_t u;
    memcpy(&u, x, sizeof u);
    u = isnan(*x) ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1);
    p[0] = (uint8_t)(u >> 16);
    p[1] = (uint8_t)(u >> 24);
}

static void q8_0_block(const float *x, uint8_t *p)
{
    float d = fabsf(extreme(x, 32)) / 127.0f, id = inverse(d);
    (void)quantize_put_half(p, d);
    for (int i = 0; i < 32; i++) p[2 + i] = (uint8_t)(int8_t)roundf(x[i] * id);
}

/* Signed 4 or 5 bits: the extreme value gets the lowest level, which has no positive twin. */
static void signed_levels(const float *x, int half, uint8_t *d_at, int q[32])
{
    float d = extreme(x, 32) / (float)-half, id = inverse(d);
    (void)quantize_put_half(d_at, d);
    for (int i = 0; i < 32; i++) q[i] = at_most((int)(x[i] * id + (float)half + 0.5f), 2 * half - 1);
}

/* Levels 0..top from the smallest to the largest value. */
static void affine_levels(const float *x, int top, uint8_t *d_at, int q[32])
{
    float lo = x[0], hi = x[0];
    for (int i = 1; i < 32; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    float d = (hi - lo) / (float)top, id = inverse(d);
    (void)quantize_put_half(d_at, d);
    (void)quantize_put_half(d_at + 2, lo);
    for (int i = 0; i < 32; i++) q[i] = at_most((int)((x[i] - lo) * id + 0.5f), top);
}

/* Low four bits to 16 bytes; fifth ones, when there is room for them, to four. */
static void pack32(const int q[32], uint8_t *nibbles, uint8_t *high)
{
    for (int i = 0; i < 16; i++) nibbles[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
    if (!high) return;
    memset(high, 0, 4);
    for (int i = 0; i < 32; i++) high[i / 8] = (uint8_t)(high[i / 8] | (q[i] >> 4) << (i % 8));
}

static void q4_0_block(const float *x, uint8_t *p)
{
    int q[32];
    signed_levels(x, 8, p, q);
    pack32(q, p + 2, NULL);
}

static void q4_1_block(const float *x, uint8_t *p)
{
    int q[32];
    affine_levels(x, 15, p, q);
    pack32(q, p + 4, NULL);
}

static void q5_0_block(const float *x, uint8_t *p)
{
    int q[32];
    signed_levels(x, 16, p, q);
    pack32(q, p + 6, p + 2);
}

static void q5_1_block(const float *x, uint8_t *p)
{
    int q[32];
    affine_levels(x, 31, p, q);
    pack32(q, p + 8, p + 4);
}

/* ---- the door ---- */

static void (*const blocks[WTYPE_COUNT])(const float *, uint8_t *) = {
    [WTYPE_F32] = f32_block,   [WTYPE_F16] = f16_block,   [WTYPE_BF16] = bf16_block, [WTYPE_Q8_0] = q8_0_block,
    [WTYPE_Q4_0] = q4_0_block, [WTYPE_Q4_1] = q4_1_block, [WTYPE_Q5_0] = q5_0_block, [WTYPE_Q5_1] = q5_1_block,
    [WTYPE_Q4_K] = quantize_q4_k_block, [WTYPE_Q5_K] = quantize_q5_k_block, [WTYPE_Q6_K] = quantize_q6_k_block,
};

bool quantize_has(wtype t)
{
    return t < WTYPE_COUNT && blocks[t];
}

bool quantize_row(wtype t, const float *x, uint32_t n, void *out)
{
    assert(quantize_has(t) && n % wtypes[t].block == 0);
    bool any = t == WTYPE_F32 || t == WTYPE_BF16;
    for (uint32_t i = 0; !any && i < n; i++)
        if (!(fabsf(x[i]) <= HALF_MAX)) return false;
    uint8_t *p = out;
    for (uint32_t i = 0; i < n; i += wtypes[t].block, p += wtypes[t].bytes) blocks[t](x + i, p);
    return true;
}
