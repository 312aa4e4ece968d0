#ifndef CORE_RNG_H
#define CORE_RNG_H
/* Random numbers as a pure function of (seed, index): splitmix64's finaliser over a counter, so a replay, a restart
 * or another batch gives the same draw at the same row. Any thread. */
#include <stdint.h>
static inline uint64_t rng_u64(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xD1342543DE82EF95u + (index + 1) * 0x9E3779B97F4A7C15u;
    for (int i = 0; i < 2; i++) {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
    }
    return z;
}
/* Uniform in [0, 1), 53 bits. */
static inline double rng_unit(uint64_t seed, uint64_t index) { return (double)(rng_u64(seed, index) >> 11) * 0x1p-53; }
#endif
