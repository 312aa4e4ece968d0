/* TidalDecode, arXiv:2410.05076: the rows that a selecting layer picks for the sparse layers after it. */
#include "kvstore/policy/steps.h"

/* Greatest value that at least k of the candidates [from, to) reach, by bisection over its bits. */
static uint64_t threshold(const uint64_t *x, uint32_t from, uint32_t to, uint32_t k)
{
    uint64_t t = 0;
    for (uint64_t bit = (uint64_t)1 << 63; bit; bit >>= 1) {
        uint32_t c = 0;
        for (uint32_t i = from; i < to; i++) c += x[i] >= (t | bit);
        if (c >= k) t |= bit;
    }
    return t;
}

void kv_select_rows(const kv_policy *p, const uint64_t *total, uint32_t n, uint32_t *pick, uint32_t *n_pick)
{
    uint32_t sinks = p->sinks < n ? p->sinks : n, tail = n - (p->window < n - sinks ? p->window : n - sinks);
    uint32_t k = p->retrieve_rows > sinks + (n - tail) ? p->retrieve_rows - sinks - (n - tail) : 0, above = 0, ties;
    uint64_t t;
    if (k > tail - sinks) k = tail - sinks;
    t = k ? threshold(total, sinks, tail, k) : UINT64_MAX;
    for (uint32_t i = sinks; i < tail; i++) above += total[i] > t;
    ties = k > above ? k - above : 0;
    *n_pick = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool tie = i >= sinks && i < tail && total[i] == t && ties;
        ties -= tie;
        if (i < sinks || i >= tail || (k && total[i] > t) || tie) pick[(*n_pick)++] = i;
    }
}
