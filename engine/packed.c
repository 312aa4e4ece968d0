#include "engine/packed.h"
#include <assert.h>
#include <string.h>

const packed_halves packed_half[WTYPE_COUNT] = {
    [WTYPE_F16] = { 1, { 0 } },        [WTYPE_BF16] = { 1, { 0 } },       [WTYPE_Q8_0] = { 1, { 0 } },
    [WTYPE_Q4_0] = { 1, { 0 } },       [WTYPE_Q5_0] = { 1, { 0 } },       [WTYPE_IQ4_NL] = { 1, { 0 } },
    [WTYPE_Q4_1] = { 2, { 0, 2 } },    [WTYPE_Q5_1] = { 2, { 0, 2 } },    [WTYPE_Q2_K] = { 2, { 80, 82 } },
    [WTYPE_Q3_K] = { 1, { 108 } },     [WTYPE_Q4_K] = { 2, { 0, 2 } },    [WTYPE_Q5_K] = { 2, { 0, 2 } },
    [WTYPE_Q6_K] = { 1, { 208 } },
};

enum { BLOCK_MAX = 256 };              /* bytes of a block at most */

/* Where the words of a block begin: halves stand in front of them or behind. */
static uint32_t words_at(wtype t)
{
    const packed_halves *h = &packed_half[t];
    return h->n && h->at[0] == 0 ? 2 * h->n : 0;
}

static uint32_t words_of(wtype t)
{
    return (wtypes[t].bytes - 2 * packed_half[t].n) / 4;
}

static bool has_fifth_bits(wtype t)
{
    return t == WTYPE_Q5_0 || t == WTYPE_Q5_1;
}

/* Bit 4j + b to bit j of byte b, or back. */
static uint32_t turn_bits(uint32_t v, bool back)
{
    uint32_t out = 0;
    for (uint32_t j = 0; j < 8; j++)
        for (uint32_t b = 0; b < 4; b++) {
            uint32_t file = 4 * j + b, ours = 8 * b + j;
            out |= (v >> (back ? ours : file) & 1) << (back ? file : ours);
        }
    return out;
}

static void put_block(wtype t, const uint8_t *block, uint8_t *unit, uint32_t lane)
{
    const packed_halves *h = &packed_half[t];
    for (uint32_t i = 0; i < h->n; i++) memcpy(unit + 2 * (i * PACKED_GROUP + lane), block + h->at[i], 2);
    uint8_t *to = unit + 2 * PACKED_GROUP * h->n + 4 * lane;
    const uint8_t *from = block + words_at(t);
    for (uint32_t i = 0, n = words_of(t); i < n; i++) {
        uint32_t v;
        memcpy(&v, from + 4 * i, 4);
        if (i == 0 && has_fifth_bits(t)) v = turn_bits(v, false);
        memcpy(to + (size_t)4 * PACKED_GROUP * i, &v, 4);
    }
}

static void get_block(wtype t, const uint8_t *unit, uint32_t lane, uint8_t *block)
{
    const packed_halves *h = &packed_half[t];
    for (uint32_t i = 0; i < h->n; i++) memcpy(block + h->at[i], unit + 2 * (i * PACKED_GROUP + lane), 2);
    const uint8_t *from = unit + 2 * PACKED_GROUP * h->n + 4 * lane;
    uint8_t *to = block + words_at(t);
    for (uint32_t i = 0, n = words_of(t); i < n; i++) {
        uint32_t v;
        memcpy(&v, from + (size_t)4 * PACKED_GROUP * i, 4);
        if (i == 0 && has_fifth_bits(t)) v = turn_bits(v, true);
        memcpy(to + 4 * i, &v, 4);
    }
}

uint64_t packed_bytes(wtype t, uint64_t n_out, uint32_t n_in)
{
    return (n_out + PACKED_GROUP - 1) / PACKED_GROUP * PACKED_GROUP * wtype_row_bytes(t, n_in);
}

void packed_make(const mat *w, uint32_t g0, uint32_t g1, uint8_t *out)
{
    assert(!w->packed);
    uint32_t size = wtypes[w->type].bytes, units = w->n_in / wtypes[w->type].block;
    for (uint32_t g = g0; g < g1; g++)
        for (uint32_t u = 0; u < units; u++, out += PACKED_GROUP * size)
            for (uint32_t lane = 0; lane < PACKED_GROUP; lane++) {
                static const uint8_t none[BLOCK_MAX];
                uint32_t o = g * PACKED_GROUP + lane;
                put_block(w->type, o < w->n_out ? w->data + o * w->row_bytes + (size_t)u * size : none, out, lane);
            }
}

void packed_get(const mat *w, uint32_t o, uint32_t u0, uint32_t n, uint8_t *blocks)
{
    assert(w->packed && o < w->n_out);
    uint32_t size = wtypes[w->type].bytes;
    const uint8_t *unit = w->data + (size_t)(o / PACKED_GROUP) * PACKED_GROUP * w->row_bytes + (size_t)u0 * PACKED_GROUP * size;
    for (uint32_t u = 0; u < n; u++, unit += PACKED_GROUP * size, blocks += size)
        get_block(w->type, unit, o % PACKED_GROUP, blocks);
}

void mat_row_f32(const mat *w, uint32_t o, uint32_t k0, uint32_t n, float *out)
{
    const wtype_info *t = &wtypes[w->type];
    if (!w->packed) {
        wtype_to_f32(w->type, w->data + o * w->row_bytes + wtype_row_bytes(w->type, k0), n, out);
        return;
    }
    uint8_t block[BLOCK_MAX];
    for (uint32_t k = 0; k < n; k += t->block) {
        packed_get(w, o, (k0 + k) / t->block, 1, block);
        wtype_to_f32(w->type, block, t->block, out + k);
    }
}
