/* TidalDecode, arXiv:2410.05076: the rows that a selecting layer picks for the sparse layers after it. */
#include "kvstore/policy/steps.h"

enum { FIRST_CHOICE = 2 };     /* layers in front of it attend to all and tell little about the others: section 3 of the paper */

kv_layer_role kv_role_of(const kv_policy *p, uint32_t layer, uint32_t L)
{
    if (p->retrieve == KV_RETRIEVE_NONE || layer < FIRST_CHOICE) return KV_LAYER_FULL;
    uint32_t again = (13 * L + 16) / 32;
    bool selects = p->retrieve_every ? (layer - FIRST_CHOICE) % p->retrieve_every == 0 : layer == FIRST_CHOICE || layer == again;
    return selects ? KV_LAYER_SELECTS : KV_LAYER_SPARSE;
}

/* The k-th largest of the candidates [from, to): byte by byte, the number of those that begin so decides. */
static uint64_t threshold(const uint64_t *x, uint32_t from, uint32_t to, uint32_t k)
{
    uint64_t t = 0, known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        uint32_t count[256] = { 0 }, byte = 255;
        for (uint32_t i = from; i < to; i++) count[x[i] >> shift & 255] += (x[i] & known) == t;
        while (count[byte] < k) k -= count[byte--];
        t |= (uint64_t)byte << shift;
        known |= (uint64_t)255 << shift;
    }
    return t;
}

void kv_select_rows(const kv_policy *p, const uint64_t *total, uint32_t n, uint32_t *pick, uint32_t *n_pick)
{
    uint32_t sinks = p->sinks < n ? p->sinks : n, window = p->window ? p->window : 1;
    uint32_t tail = n - (window < n - sinks ? window : n - sinks);     /* a row sees itself */
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
