/* Decoding in plain C: the reference that the other ISAs equal bit for bit. */
#include "kvstore/pane_impl.h"
#include <math.h>

static uint32_t code_at(const uint8_t *g, uint32_t bits, uint32_t i)
{
    switch (bits) {
    case 8: return g[i];
    case 4: return i < 16 ? g[i] & 15 : g[i - 16] >> 4;
    case 2: return g[i % 8] >> (i / 8 * 2) & 3;
    default: return (g[i % 8] >> (i / 8 * 2) & 3) | (g[8 + i / 8] >> (i % 8) & 1) << 2;
    }
}

void pane_decode_plain(const pane_codes *c, float *out)
{
    for (uint32_t r = 0; r < c->n; r++)
        for (uint32_t g = 0; g < c->groups; g++) {
            const uint8_t *codes = c->codes + r * c->stride + (size_t)g * 4 * c->bits;
            for (uint32_t i = 0; i < PANE_GROUP; i++) {
                uint32_t code = code_at(codes, c->bits, i);
                size_t at = c->by_channel ? g * PANE_GROUP + i : (size_t)r * c->groups + g;
                *out++ = fmaf(c->book ? c->book[code] : (float)code, c->s[at], c->m[at]);
            }
        }
}
