#ifndef TESTS_FAULTS_WORK_H
#define TESTS_FAULTS_WORK_H
/* What the cluster has to do under blows: jobs that are a function of (seed, number), and their answers. Opens no sockets. */
#include "core/buf.h"
#include "proto/message.h"

#define WORK_CHOICES 4u

typedef struct {                /* one answer, or the part of it that is here */
    token_rec *tok;
    cand_rec *top;
    size_t n_tok, n_top;
    text text;
    bool done;
    uint64_t finish;
} work_choice;
typedef struct {
    work_choice choice[WORK_CHOICES];
    uint32_t n;                 /* choices */
    uint64_t code;              /* of the error it ended with, 0: none */
    char why[504];
} work_answer;

typedef struct {
    message submit;             /* all but ref and custom_id */
    char prompt[4096];
    uint32_t cancel_after;      /* tokens of the first choice, 0: never */
} work_spec;

/* Most are short; some have long prompts, some several answers, some ask for passages, some take the local prefill. */
void work_make(work_spec *s, uint64_t seed, uint32_t number, bool rag);
/* Frames to send it with. */
void work_frames(const work_spec *s, view frames[MSG_FRAMES_MAX]);

/* Take a TOKEN or DONE; false: it does not fit what is here (tokens missing or doubled). */
bool work_take(work_answer *a, const message *m, const view *frame);
void work_free(work_answer *a);
/* The same tokens, log-probabilities bit for bit, text and end. prefix: `got` may end sooner (it was cancelled). The first
 * difference goes to why. */
bool work_same(const work_answer *got, const work_answer *want, bool prefix, char *why, size_t cap);
uint64_t work_tokens(const work_answer *a);
#endif
