#ifndef COORDINATOR_RANK_H
#define COORDINATOR_RANK_H
/* A token's place in the order "higher logit first, ties by lower id" as one 64-bit key, smaller is better: the upper
 * half is the logit mapped so that unsigned order is descending float order, the lower half the id. Refuses NaN and -0:
 * rank_clean first. Any thread. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* NaN means "cannot be chosen"; -0 and +0 must tie, so only +0 is left. */
static inline float rank_clean(float x) { return x == x ? x + 0.0f : -INFINITY; }

static inline uint64_t rank_key(float logit, uint32_t id)
{
    uint32_t b;
    memcpy(&b, &logit, 4);
    return (uint64_t)(b >> 31 ? b : b ^ 0x7FFFFFFFu) << 32 | id;
}

static inline float rank_logit(uint64_t key)
{
    uint32_t b = (uint32_t)(key >> 32);
    float x;
    b = b >> 31 ? b : b ^ 0x7FFFFFFFu;
    memcpy(&x, &b, 4);
    return x;
}

static inline uint32_t rank_id(uint64_t key) { return (uint32_t)key; }

/* Sort by the upper 32 bits, stable, ascending. spare [n] is working room. n < 2^32. */
void rank_sort(uint64_t *a, uint64_t *spare, size_t n);
#endif
