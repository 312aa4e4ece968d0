#ifndef CLI_WINDOWS_H
#define CLI_WINDOWS_H
/* Perplexity over windows, as llama-perplexity defines it: windows of `ctx` tokens without overlap, the first token of
 * each replaced by BOS, and in each the positions ctx/2 .. ctx-2 scored for the token that follows. Pure functions. */
#include "core/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    double nll, nll2;        /* sums of the negative log-likelihood and of its square, nats */
    uint64_t n;              /* positions scored */
} ppl_sum;

/* Whole windows in n tokens; the rest is left out. */
size_t windows_count(size_t n_tokens, uint32_t ctx);
/* Window i of `tokens` into out [ctx]; bos UINT32_MAX: the model adds none, nothing is replaced. */
void windows_fill(uint32_t *out, const uint32_t *tokens, size_t i, uint32_t ctx, uint32_t bos);
/* Add position with log-sum-exp `lse` and logit of the token that follows. */
void ppl_add(ppl_sum *s, double lse, double target_logit);
/* First and one past the last scored position of a window. */
uint32_t windows_first(uint32_t ctx);
uint32_t windows_end(uint32_t ctx);
/* exp of the mean, and its standard error. n >= 2. */
double ppl_value(const ppl_sum *s);
double ppl_error(const ppl_sum *s);
#endif
