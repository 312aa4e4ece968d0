/* engine/wtype.h: blocks packed here by hand, from the layout's definition, come back as the numbers they were made of. */
#include "core/rng.h"
#include "core/vec.h"
#include "engine/wtype.h"
#include <criterion/criterion.h>
#include <string.h>

static int draw(uint64_t i, int lo, int hi)
{
    return lo + (int)(rng_u64(99, i) % (uint64_t)(hi - lo + 1));
}

static void put_half(uint8_t *p, float v)
{
    f16 h = vec_f16(v);
    memcpy(p, &h, sizeof h);
}

Test(wtype, floats_of_every_width_come_back)
{
    float x[4] = { 1.5f, -0.25f, 3072, 0 }, out[4];
    uint8_t half[8], brain[8];
    for (int i = 0; i < 4; i++) {
        put_half(half + 2 * i, x[i]);
        memcpy(brain + 2 * i, (uint8_t *)&x[i] + 2, 2);
    }
    wtype_to_f32(WTYPE_F32, x, 4, out);
    cr_assert_eq(memcmp(x, out, sizeof x), 0);
    wtype_to_f32(WTYPE_F16, half, 4, out);
    cr_assert_eq(memcmp(x, out, sizeof x), 0);
    wtype_to_f32(WTYPE_BF16, brain, 4, out);
    cr_assert_eq(memcmp(x, out, sizeof x), 0);
}

Test(wtype, q8_0_and_q4_0_are_scale_times_integer)
{
    uint8_t b8[68], b4[36];
    float out[64];
    for (int b = 0; b < 2; b++) {
        float d = b ? -0.03125f : 0.5f;
        put_half(b8 + 34 * b, d);
        put_half(b4 + 18 * b, d);
        for (int i = 0; i < 32; i++) b8[34 * b + 2 + i] = (uint8_t)(i == 5 ? -128 : 3 * i - 60);
        for (int i = 0; i < 16; i++) b4[18 * b + 2 + i] = (uint8_t)(i | (15 - i) << 4);
    }
    wtype_to_f32(WTYPE_Q8_0, b8, 64, out);
    for (int i = 0; i < 64; i++)
        cr_assert_eq(out[i], (i < 32 ? 0.5f : -0.03125f) * (float)(i % 32 == 5 ? -128 : 3 * (i % 32) - 60), "%d", i);
    wtype_to_f32(WTYPE_Q4_0, b4, 64, out);
    for (int i = 0; i < 64; i++) {
        int k = i % 32, v = k < 16 ? k - 8 : 15 - (k - 16) - 8;
        cr_assert_eq(out[i], (i < 32 ? 0.5f : -0.03125f) * (float)v, "%d", i);
    }
}

/* Numbers j of 8 scales and minima to the 12 bytes: low six bits of 0-3, nibbles of 4-7, their top bits above 0-3. */
static void pack_scales(uint8_t *s, const int *sc, const int *m)
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(sc[j] | (sc[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(m[j] | (m[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((sc[j + 4] & 15) | (m[j + 4] & 15) << 4);
    }
}

Test(wtype, q4_k_unpacks_scales_minima_and_nibbles)
{
    uint8_t b[144] = { 0 };
    int sc[8], m[8], q[256];
    float out[256];
    for (int j = 0; j < 8; j++) {
        sc[j] = draw(j, 0, 63);
        m[j] = draw(j + 50, 0, 63);
    }
    for (int i = 0; i < 256; i++) {
        q[i] = draw(i + 100, 0, 15);
        b[16 + i / 64 * 32 + i % 32] |= (uint8_t)(q[i] << (i / 32 % 2 * 4));
    }
    put_half(b, 0.125f);
    put_half(b + 2, 0.75f);
    pack_scales(b + 4, sc, m);
    wtype_to_f32(WTYPE_Q4_K, b, 256, out);
    for (int i = 0; i < 256; i++)
        cr_assert_eq(out[i], 0.125f * (float)(sc[i / 32] * q[i]) - 0.75f * (float)m[i / 32], "element %d: %g", i, (double)out[i]);
}

Test(wtype, q6_k_unpacks_six_bits_and_signed_scales)
{
    uint8_t b[210] = { 0 };
    int q[256];
    float out[256];
    for (int i = 0; i < 256; i++) {
        q[i] = draw(i, 0, 63);
        int half = i / 128, run = i % 128 / 32, l = i % 32;
        b[64 * half + run % 2 * 32 + l] |= (uint8_t)((q[i] & 15) << (run >= 2 ? 4 : 0));
        b[128 + 32 * half + l] |= (uint8_t)(q[i] >> 4 << 2 * run);
    }
    for (int i = 0; i < 16; i++) b[192 + i] = (uint8_t)(17 * i - 128);
    put_half(b + 208, -0.5f);
    wtype_to_f32(WTYPE_Q6_K, b, 256, out);
    for (int i = 0; i < 256; i++)
        cr_assert_eq(out[i], -0.5f * (float)((17 * (i / 16) - 128) * (q[i] - 32)), "element %d", i);
}

/* 32 numbers of 5 bits to nibbles and, when high is there, a word of fifth bits. */
static void pack32(const int *q, uint8_t *nibbles, uint8_t *high)
{
    for (int i = 0; i < 32; i++) {
        nibbles[i % 16] |= (uint8_t)((q[i] & 15) << (i / 16 * 4));
        if (high) high[i / 8] |= (uint8_t)(q[i] >> 4 << (i % 8));
    }
}

Test(wtype, blocks_of_32_with_a_minimum_or_five_bits_come_back)
{
    uint8_t b41[20] = { 0 }, b50[22] = { 0 }, b51[24] = { 0 };
    int four[32], five[32];
    float out[32];
    for (int i = 0; i < 32; i++) {
        four[i] = draw(i, 0, 15);
        five[i] = draw(i + 32, 0, 31);
    }
    put_half(b41, 0.25f);
    put_half(b41 + 2, -1.5f);
    pack32(four, b41 + 4, NULL);
    wtype_to_f32(WTYPE_Q4_1, b41, 32, out);
    for (int i = 0; i < 32; i++) cr_assert_eq(out[i], 0.25f * (float)four[i] - 1.5f, "element %d", i);
    put_half(b50, -0.5f);
    pack32(five, b50 + 6, b50 + 2);
    wtype_to_f32(WTYPE_Q5_0, b50, 32, out);
    for (int i = 0; i < 32; i++) cr_assert_eq(out[i], -0.5f * (float)(five[i] - 16), "element %d", i);
    put_half(b51, 0.125f);
    put_half(b51 + 2, 3);
    pack32(five, b51 + 8, b51 + 4);
    wtype_to_f32(WTYPE_Q5_1, b51, 32, out);
    for (int i = 0; i < 32; i++) cr_assert_eq(out[i], 0.125f * (float)five[i] + 3, "element %d", i);
}

Test(wtype, iq4_nl_looks_up_its_16_values)
{
    static const int8_t table[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
    uint8_t b[18] = { 0 };
    int q[32];
    float out[32];
    for (int i = 0; i < 32; i++) q[i] = i < 16 ? i : draw(i, 0, 15);
    put_half(b, 0.5f);
    pack32(q, b + 2, NULL);
    wtype_to_f32(WTYPE_IQ4_NL, b, 32, out);
    for (int i = 0; i < 32; i++) cr_assert_eq(out[i], 0.5f * (float)table[q[i]], "element %d", i);
}

Test(wtype, q5_k_has_a_fifth_bit_plane_for_each_sub_block)
{
    uint8_t b[176] = { 0 };
    int sc[8], m[8], q[256];
    float out[256];
    for (int j = 0; j < 8; j++) {
        sc[j] = draw(j + 900, 0, 63);
        m[j] = draw(j + 950, 0, 63);
    }
    for (int i = 0; i < 256; i++) {
        q[i] = draw(i + 1000, 0, 31);
        b[48 + i / 64 * 32 + i % 32] |= (uint8_t)((q[i] & 15) << (i / 32 % 2 * 4));
        b[16 + i % 32] |= (uint8_t)(q[i] >> 4 << (i / 32));
    }
    put_half(b, 0.125f);
    put_half(b + 2, 0.75f);
    pack_scales(b + 4, sc, m);
    wtype_to_f32(WTYPE_Q5_K, b, 256, out);
    for (int i = 0; i < 256; i++)
        cr_assert_eq(out[i], 0.125f * (float)(sc[i / 32] * q[i]) - 0.75f * (float)m[i / 32], "element %d: %g", i, (double)out[i]);
}

Test(wtype, q3_k_and_q2_k_unpack_two_bits_by_half_blocks_and_runs)
{
    uint8_t b3[110] = { 0 }, b2[84] = { 0 };
    int q3[256], q2[256], s3[16], s2[16], m2[16];
    float out[256];
    for (int n = 0; n < 256; n++) {
        int at = n / 128 * 32 + n % 32, shift = n % 128 / 32 * 2;
        q3[n] = draw(n + 2000, 0, 7);
        q2[n] = draw(n + 3000, 0, 3);
        b3[32 + at] |= (uint8_t)((q3[n] & 3) << shift);
        b3[n % 32] |= (uint8_t)(q3[n] >> 2 << (n / 32));
        b2[16 + at] |= (uint8_t)(q2[n] << shift);
    }
    for (int j = 0; j < 16; j++) {
        s3[j] = draw(j + 4000, 0, 63);
        b3[96 + j % 8] |= (uint8_t)((s3[j] & 15) << (j / 8 * 4));
        b3[104 + j % 4] |= (uint8_t)(s3[j] >> 4 << (j / 4 * 2));
        s2[j] = draw(j + 5000, 0, 15);
        m2[j] = draw(j + 6000, 0, 15);
        b2[j] = (uint8_t)(s2[j] | m2[j] << 4);
    }
    put_half(b3 + 108, 0.25f);
    put_half(b2 + 80, 0.5f);
    put_half(b2 + 82, 0.375f);
    wtype_to_f32(WTYPE_Q3_K, b3, 256, out);
    for (int n = 0; n < 256; n++) cr_assert_eq(out[n], 0.25f * (float)((s3[n / 16] - 32) * (q3[n] - 4)), "Q3_K element %d", n);
    wtype_to_f32(WTYPE_Q2_K, b2, 256, out);
    for (int n = 0; n < 256; n++)
        cr_assert_eq(out[n], 0.5f * (float)(s2[n / 16] * q2[n]) - 0.375f * (float)m2[n / 16], "Q2_K element %d", n);
}

Test(wtype, every_type_knows_its_size_and_name)
{
    char buf[16];
    uint32_t len, bytes;
    for (wtype t = 0; t < WTYPE_COUNT; t++) {
        wtype back;
        cr_assert(wtype_from_ggml(wtypes[t].ggml_id, &back) && back == t);
        cr_assert(wtype_ggml_block(wtypes[t].ggml_id, &len, &bytes));
        cr_assert(len == wtypes[t].block && bytes == wtypes[t].bytes, "%s", wtypes[t].name);
        cr_assert_str_eq(wtype_ggml_name(wtypes[t].ggml_id, buf), wtypes[t].name);
        cr_assert_eq(wtype_row_bytes(t, 512), (size_t)512 / len * bytes);
    }
    static const struct { uint32_t id, len, bytes; const char *name; } more[] = {
        { 9, 32, 36, "Q8_1" }, { 15, 256, 292, "Q8_K" }, { 23, 256, 136, "IQ4_XS" }, { 28, 1, 8, "F64" }, { 39, 32, 17, "MXFP4" },
        { 18, 256, 98, "IQ3_XXS" }, { 22, 256, 82, "IQ2_S" }, { 34, 256, 54, "TQ1_0" },
    };
    for (unsigned i = 0; i < sizeof more / sizeof *more; i++) {
        cr_assert(wtype_ggml_block(more[i].id, &len, &bytes) && len == more[i].len && bytes == more[i].bytes);
        cr_assert_str_eq(wtype_ggml_name(more[i].id, buf), more[i].name);
    }
}

Test(wtype, unknown_and_withdrawn_ids_are_said_to_be_so)
{
    static const uint32_t ids[] = { 4, 5, 31, 33, 36, 38, 40, 77, UINT32_MAX };
    char buf[16];
    wtype t;
    uint32_t len, bytes;
    for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
        cr_assert_not(wtype_from_ggml(ids[i], &t));
        cr_assert_not(wtype_ggml_block(ids[i], &len, &bytes));
    }
    cr_assert_str_eq(wtype_ggml_name(77, buf), "type 77");
    cr_assert_str_eq(wtype_ggml_name(UINT32_MAX, buf), "type 4294967295");
    cr_assert_not(wtype_from_ggml(23, &t));                  /* known to ggml, not computed with here */
}
