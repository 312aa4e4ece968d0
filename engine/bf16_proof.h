#ifndef ENGINE_BF16_PROOF_H
#define ENGINE_BF16_PROOF_H
/* Hard numbers for a unit that multiplies bf16: before a process uses one for the first time it is asked for sums that
 * engine/bf16.h says, and a unit that answers anything else is not used. Manuals leave room, and bits are a promise. Draws,
 * compares; decides nothing. Private to engine/kernels_bf16_*.c. */
#include "core/rng.h"
#include "engine/bf16.h"

/* The i-th number of a round: ordinary ones; all exponents; factors whose products are about 2^-126 and 2^-150; denormals beside
 * large ones. */
static inline uint16_t bf16_hard(uint32_t round, uint64_t i)
{
    static const struct { uint32_t from, n; } exponents[5] = { { 122, 12 }, { 0, 256 }, { 58, 12 }, { 50, 4 }, { 0, 3 } };
    uint64_t r = rng_u64(0xb16 + round, i), e = exponents[round % 5].from + (r >> 16) % exponents[round % 5].n;
    if (round % 5 == 4 && i % 2) e += 125;
    return (uint16_t)((r & 0x807f) | e << 7);
}

/* A sum to begin with: often one that the first product takes away but for its last bits, or the smallest. */
static inline float bf16_hard_sum(uint32_t round, uint64_t i, float product)
{
    uint64_t r = rng_u64(0xacc + round, i);
    if (r % 4 == 0 && isfinite(product)) return -product * (1 + (float)(int)(r >> 8 & 7) * 0x1p-23f);
    if (r % 4 == 1) return 0;
    return r % 4 == 2 ? 0x1p-126f : bits_float((uint32_t)bf16_hard(round, i + (1u << 20)) << 16 | (uint32_t)(r >> 40 & 0xffff));
}

static inline bool bf16_same(float a, float b)
{
    return float_bits(a) == float_bits(b) || (isnan(a) && isnan(b));
}
#endif
