#ifndef COORDINATOR_SLATE_H
#define COORDINATOR_SLATE_H
/* What is known of one row of logits after bias and penalty: the tokens in order, how many of them are surely the first
 * ones of the whole edited row, and bounds of the whole row's mass.
 *
 * Why a prefix is sure. A token that was not sent comes after the last candidate (the border) in the order "higher logit,
 * then lower id". An edit that does not raise leaves it there. So every candidate whose edited place is not behind the
 * border's is placed as in the whole row. A raising edit of a token that was not sent makes nothing sure. */
#include "coordinator/sample.h"

typedef struct {
    const uint64_t *key;         /* [n] rank keys, best first; tokens at -inf are left out */
    size_t n, sure;              /* the first `sure` keys are those of the whole edited row */
    bool whole;                  /* nothing with a probability lies outside; sure == n */
    float border;                /* no token outside has an edited logit above this; -inf when whole */
    double mass_lo, mass_hi;     /* sum of exp(edited - lse) over the row lies between; equal, bit for bit, when all edited
                                  * tokens are at hand. Not finite or without meaning when lse is not finite */
} slate;

/* The keys live in *s until it is used again. False: out of memory. */
bool slate_build(slate *out, const sample_params *p, const sample_input *in, const uint32_t *history, size_t n_history,
                 sample_scratch *s);
#endif
