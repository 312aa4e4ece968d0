/* Owns: picking the n largest of a row of logits. Refuses to change or sort the row itself. */
#include "engine/forward.h"
#include <math.h>

/* Logits looked at together: nearly every block has none above the n-th best so far, and one test says so. */
#define BLOCK 32u

static bool worse(candidate a, candidate b) { return a.logit < b.logit || (a.logit == b.logit && a.id > b.id); }

/* Heap with the worst at the root: put x where the root was. */
static void sift_down(candidate *h, uint32_t n, uint32_t at, candidate x)
{
    for (uint32_t kid; at < n / 2; at = kid) {
        kid = 2 * at + 1;
        if (kid + 1 < n && worse(h[kid + 1], h[kid])) kid++;
        if (!worse(h[kid], x)) break;
        h[at] = h[kid];
    }
    h[at] = x;
}

/* Later ids lose ties, so only a strictly larger logit gets in; NaN is never larger. */
static void offer(candidate *h, uint32_t n, const float *logits, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (logits[i] > h[0].logit) sift_down(h, n, 0, (candidate){ i, logits[i] });
}

static bool any_above(const float *x, float least)
{
    unsigned hits = 0;
    for (uint32_t i = 0; i < BLOCK; i++) hits |= x[i] > least;
    return hits;
}

static void heap_to_list(candidate *h, uint32_t n)
{
    while (n > 1) {
        candidate last = h[--n];
        h[n] = h[0];
        sift_down(h, n, 0, last);
    }
}

uint32_t forward_top(const float *logits, uint32_t V, candidate *out, uint32_t n)
{
    if (n > V) n = V;
    if (!n) return 0;
    for (uint32_t i = 0; i < n; i++) out[i] = (candidate){ i, isnan(logits[i]) ? -INFINITY : logits[i] };
    for (uint32_t i = n / 2; i-- > 0;) sift_down(out, n, i, out[i]);
    uint32_t i = n;
    for (; V - i >= BLOCK; i += BLOCK)
        if (any_above(logits + i, out[0].logit)) offer(out, n, logits, i, i + BLOCK);
    offer(out, n, logits, i, V);
    heap_to_list(out, n);
    return n;
}
