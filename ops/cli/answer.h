#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H
/* What comes back for one job: TOKEN, SCORED and DONE messages put together. It prints nothing and waits for nobody. */
#include "engine/tokenizer.h"
#include "proto/link.h"
#include <jansson.h>

typedef struct {
    text text;
    token_rec *token;        /* [n_tokens] */
    cand_rec *top;           /* [n_top], token after token */
    size_t n_tokens, n_top;
    msg_done done;           /* when finished */
    bool finished;
} choice;

typedef struct {
    uint64_t job;
    uint64_t from;           /* tokens of each choice that were left out in front (FETCH.offset) */
    choice *choice;          /* [n_choices]; as many as have been heard of */
    uint32_t n_choices;
    score_rec *score;        /* [n_scores], kind 1 */
    size_t n_scores;
    uint64_t n_full, vocab;  /* whole rows seen, and their columns; the rows themselves are the packet's */
    json_t *passages;        /* array or NULL */
    text mask;               /* the layers left out (core/mask.h), empty: none */
    err fail;                /* code ERR_OK unless the job failed */
    bool over;
} answer;

void answer_free(answer *a);
/* Take one message of this job. *fresh: it brought something new (a resumed stream may repeat itself). ERR_PROTO: tokens
 * or rows are missing in between. */
err_code answer_take(answer *a, const packet *p, bool *fresh, err *e);

/* text, tokens, prompt_tokens, completion_tokens, finish_reason, timings, adapter (null or an object), skip (likewise), passages, slides;
 * choices when there are several; with `logprobs` one object a token: id, text (with names), logprob, top. A new reference;
 * NULL when out of memory. */
json_t *answer_json(const answer *a, bool logprobs, const tokenizer *names);
/* {"code": "bad request", "message": ...} */
json_t *answer_error_json(const err *e);
/* Any bytes as JSON text (what is no UTF-8 becomes U+FFFD); a number, or null where it is not finite. */
json_t *json_bytes(const void *p, size_t n);
json_t *json_finite(double x);
/* Each row of a SCORED message with all its logits [V], V those of the model; other messages have none. `index` goes through to fn.
 * ERR_PROTO: rows without logits, or of another vocabulary. */
typedef void answer_row(void *me, size_t index, uint64_t row, const float *logits, const score_rec *r);
err_code answer_rows(const packet *p, uint32_t V, answer_row *fn, void *me, size_t index, err *e);
#endif
