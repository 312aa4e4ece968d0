#include "ops/cli/windows.h"
#include <math.h>
#include <string.h>

/* Owns what perplexity is. It runs no model. */

size_t windows_count(size_t n_tokens, uint32_t ctx) { return n_tokens / ctx; }
uint32_t windows_first(uint32_t ctx) { return ctx / 2; }
uint32_t windows_end(uint32_t ctx) { return ctx - 1; }

void windows_fill(uint32_t *out, const uint32_t *tokens, size_t i, uint32_t ctx, uint32_t bos)
{
    memcpy(out, tokens + i * ctx, ctx * sizeof *out);
    if (bos != UINT32_MAX) out[0] = bos;
}

void ppl_add(ppl_sum *s, double lse, double target_logit)
{
    double v = lse - target_logit;
    s->nll += v;
    s->nll2 += v * v;
    s->n++;
}

double ppl_value(const ppl_sum *s) { return exp(s->nll / (double)s->n); }

double ppl_error(const ppl_sum *s)
{
    double mean = s->nll / (double)s->n, var = s->nll2 / (double)s->n - mean * mean;
    return var > 0 ? sqrt(var / (double)(s->n - 1)) * exp(mean) : 0;
}
