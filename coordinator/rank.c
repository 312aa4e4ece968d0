/* Owns: the stable sort of 64-bit keys by their upper half. Refuses to look at the lower half. */
#include "coordinator/rank.h"

/* Below this a candidate list, which arrives nearly in order, is done before a radix pass has cleared its counters. */
#define SMALL 64

static void sort_small(uint64_t *a, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint64_t x = a[i];
        size_t j = i;
        for (; j && a[j - 1] >> 32 > x >> 32; j--) a[j] = a[j - 1];
        a[j] = x;
    }
}

static void radix_pass(uint64_t *to, const uint64_t *from, size_t n, unsigned shift)
{
    uint32_t at[256] = { 0 }, sum = 0;
    for (size_t i = 0; i < n; i++) at[from[i] >> shift & 255]++;
    for (unsigned d = 0; d < 256; d++) {
        uint32_t here = at[d];
        at[d] = sum;
        sum += here;
    }
    for (size_t i = 0; i < n; i++) to[at[from[i] >> shift & 255]++] = from[i];
}

void rank_sort(uint64_t *a, uint64_t *spare, size_t n)
{
    if (n <= SMALL) {
        sort_small(a, n);
        return;
    }
    for (unsigned shift = 32; shift < 64; shift += 16) {
        radix_pass(spare, a, n, shift);
        radix_pass(a, spare, n, shift + 8);
    }
}
