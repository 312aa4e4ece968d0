/* The k best of n numbers by bisection on their bit patterns: no sorting, no memory, ties by index. Knows nothing of rows. */
#include "kvstore/policy/steps.h"
#include <string.h>

/* Floats as unsigned integers in the same order; NaN lowest. */
static uint32_t key_of(float x)
{
    uint32_t b;
    if (x != x) return 0;
    memcpy(&b, &x, sizeof b);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

static uint32_t count_from(const float *x, const uint8_t *skip, uint32_t n, uint32_t key)
{
    uint32_t c = 0;
    for (uint32_t i = 0; i < n; i++) c += !(skip && skip[i]) && key_of(x[i]) >= key;
    return c;
}

top_cut top_find(const float *x, const uint8_t *skip, uint32_t n, uint32_t k)
{
    uint32_t lo = 0;                                            /* the greatest key that k numbers reach */
    if (!k) return (top_cut){ UINT32_MAX, 0 };
    if (count_from(x, skip, n, 0) <= k) return (top_cut){ 0, n };
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1)
        if (count_from(x, skip, n, lo | bit) >= k) lo |= bit;
    return (top_cut){ lo, k - (lo == UINT32_MAX ? 0 : count_from(x, skip, n, lo + 1)) };
}

bool top_takes(top_cut *c, float x)
{
    uint32_t key = key_of(x);
    if (key != c->key) return key > c->key;
    if (!c->ties) return false;
    c->ties--;
    return true;
}
