/* A ring of replies by step number. Owns their memory; never sends one. */
#include "workers/stage/kept.h"
#include <stdlib.h>

#define LOOSE 3u                /* steps without a number whose messages may still be on their way when the next one comes */

struct kept {
    kept_reply *at;             /* [depth], and LOOSE for steps without a number */
    uint32_t depth, done;       /* done: number of the last step computed */
    uint32_t loose;             /* steps without a number so far */
    size_t bytes;               /* of hidden state */
};

err_code kept_open(kept **out, uint32_t depth, size_t h, err *e)
{
    *out = NULL;
    kept *k = calloc(1, sizeof *k);
    if (!k || !(k->at = calloc(depth + LOOSE, sizeof *k->at))) {
        free(k);
        return err_set(e, ERR_NOMEM, "out of memory for the replies of %u steps", depth);
    }
    k->depth = depth;
    k->bytes = h * sizeof(float);
    bool ok = true;
    for (uint32_t i = 0; i < depth + LOOSE; i++) ok = (k->at[i].out.h = loan_new(k->bytes)) && ok; /* touched by the steps that need it */
    if (!ok) {
        kept_close(&k);
        return err_set(e, ERR_NOMEM, "out of memory for the hidden states of %u steps", depth);
    }
    *out = k;
    return ERR_OK;
}

void kept_close(kept **kp)
{
    kept *k = *kp;
    if (!k) return;
    for (uint32_t i = 0; i < k->depth + LOOSE; i++) {
        step_out_free(&k->at[i].out);
        loan_drop(k->at[i].out.h); /* messages on their way keep theirs */
    }
    free(k->at);
    free(k);
    *kp = NULL;
}

kept_turn kept_take(kept *k, uint32_t seq, kept_reply **at)
{
    kept_reply *r = *at = &k->at[seq ? seq % k->depth : k->depth + k->loose++ % LOOSE];
    if (seq && seq <= k->done) return r->seq == seq ? KEPT_AGAIN : KEPT_PAST;
    if (seq && seq != k->done + 1) return KEPT_EARLY;
    r->seq = 0; /* half a reply is none */
    r->unsent = false;
    if (loan_is_back(r->out.h)) return KEPT_NEW;
    loan *other = loan_new(k->bytes); /* a reply that was sent again may still wait for a slow peer */
    if (!other) return KEPT_NOMEM;
    loan_drop(r->out.h);
    r->out.h = other;
    return KEPT_NEW;
}

void kept_done(kept *k, kept_reply *at, uint32_t seq, uint64_t step)
{
    at->seq = seq;
    at->step = step;
    if (seq) k->done = seq;
}

uint32_t kept_due(const kept *k) { return k->done + 1; }

kept_reply *kept_unsent(kept *k)
{
    kept_reply *first = NULL;
    for (uint32_t i = 0; i < k->depth + LOOSE; i++)
        if (k->at[i].unsent && (!first || k->at[i].step < first->step)) first = &k->at[i];
    return first;
}
