#ifndef COORDINATOR_SAMPLE_H
#define COORDINATOR_SAMPLE_H
/* Choosing the next token from what the head's stage sent. Pure functions: no state, no clock; randomness is a function
 * of (seed, row), so a replay or another batch draws the same. Any thread (scratch is the caller's).
 *
 * Order (the one of the GGUF world's usual default chain): logit bias, repetition penalty (arXiv:1909.05858 section 4.1:
 * l > 0 ? l/r : l*r over the last repeat_last tokens), then greedy when temperature is 0; else top-k, top-p
 * (arXiv:1904.09751), min-p (arXiv:2407.01082), temperature last, and one draw by inverse CDF over the survivors in
 * descending order (ties by lower id).
 *
 * Exactness: the stage sends the `top` best candidates and the log-sum-exp of the whole row. sample_pick answers from
 * these when the result is provably the one the whole row would give, else it says SAMPLE_NEED_ROW and the caller repeats
 * the row asking for all logits, with the same lse. The choice is the same, bit for bit, either way.
 *
 * Probabilities are doubles. Without truncation and at temperature 1 (and for top-p without top-k) they are
 * exp(logit - lse), lse as sent, its float rounding (some 1e-6 of the mass) included: what the rounding leaves over goes to
 * the best token. All other sums are over the survivors themselves. A row whose lse is not finite, or whose edits take
 * more than 3/4 of its mass away, is summed as a whole.
 *
 * NaN logits count as -inf; -inf is never chosen, from the model or by a bias, unless no token is left: then the choice is
 * the arg-max of the unmodified row. Biases of the same id add up. */
#include "engine/forward.h"

typedef struct { uint32_t id; float bias; } sample_bias;   /* bias: finite, or -inf to forbid the token */
typedef struct {
    double temperature;            /* 0: greedy */
    uint32_t top_k;                /* 0: off */
    double top_p, min_p;           /* 1: off, 0: off */
    double repeat_penalty;         /* 1: off */
    uint32_t repeat_last;
    uint64_t seed;
    const sample_bias *bias;       /* [n_bias], borrowed */
    uint32_t n_bias;
} sample_params;

typedef struct {
    const candidate *cand;         /* [n] the n first tokens by forward_top's order; ids < V, each once */
    uint32_t n;
    float lse;                     /* of the whole unmodified row */
    const float *row;              /* [V] the whole row, or NULL; cand is not looked at then */
    uint32_t V;
} sample_input;

typedef struct { uint32_t id; float logprob; } sample_choice;   /* logprob: logit - lse of the unmodified row, never NaN */
typedef enum { SAMPLE_OK, SAMPLE_NEED_ROW, SAMPLE_NOMEM } sample_status;

/* Reusable working memory, 24 bytes a token of the largest row seen (or edit, when there are more); {0} to start. */
typedef struct { uint64_t *mem; size_t cap; } sample_scratch;
void sample_scratch_free(sample_scratch *s);

/* The most candidates worth asking for; beyond this the row itself is the shorter way. */
#define SAMPLE_MAX_TOP 1024u

/* Range checks of user values with the bad value quoted (also NaN); ERR_INPUT. Unchecked values cannot crash a pick. */
err_code sample_check(const sample_params *p, uint32_t V, err *e);
/* True when candidates can hardly ever be enough (positive bias, penalty below 1, temperature other than 0 and 1 without
 * truncation, top_k above SAMPLE_MAX_TOP), so the caller asks for the whole row at once. */
bool sample_wants_row(const sample_params *p);
/* How many candidates to ask for (covers top_k and edited tokens, 64 to SAMPLE_MAX_TOP). */
uint32_t sample_wants_top(const sample_params *p);
/* history: all tokens of the session so far (prompt included). row: row index of the token to be chosen (draw index).
 * *out is written when SAMPLE_OK. With in->row it is never SAMPLE_NEED_ROW. */
sample_status sample_pick(const sample_params *p, const sample_input *in, const uint32_t *history, size_t n_history,
                          uint32_t row, sample_scratch *s, sample_choice *out);
#endif
