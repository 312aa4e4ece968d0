#ifndef COORDINATOR_JOB_H
#define COORDINATOR_JOB_H
/* A job: what a client submitted, its choices (one session each), and everything that was answered so far, so that an
 * answer can be fetched again. The list of jobs owns them. Main thread only. */
#include "coordinator/sample.h"
#include "coordinator/stops.h"
#include "engine/tokenizer.h"
#include "proto/finish.h"
#include "proto/link.h"

#define JOB_STATE_MAP(X) X(QUEUED, "queued") X(RETRIEVING, "retrieving") X(RUNNING, "running") X(DONE, "done")
typedef enum {
#define X(N, n) JOB_##N,
    JOB_STATE_MAP(X)
#undef X
} job_state;

/* One token that was answered: where the shown text ended after it, and its log-probabilities. */
typedef struct { token_rec rec; size_t text_end, top_end; } answer_token;

typedef struct {                 /* one of n answers */
    answer_token *tok;           /* [n_tok] */
    size_t n_tok, cap_tok;
    cand_rec *top;               /* top log-probabilities of all tokens, one after the other */
    size_t n_top, cap_top;
    text shown;                  /* text as the client may see it */
    size_t sent_tok, sent_text;  /* what the client has been sent */
    bool done, done_sent;
    finish_reason finish;
    uint32_t slides;
    uint64_t t_first, t_last;    /* ns: first and last token */
} choice;

#define JOB_ID_MAX (UINT64_MAX >> 7) /* a session's id is job id x 64 + choice, and SQLite's numbers have a sign */

typedef struct job {
    uint64_t id;
    job_state state;
    msg_submit ask;              /* as submitted */
    link_id client;
    bool has_client;
    text prompt;                 /* as submitted, then with passages */
    token_list tokens;           /* the prompt's ids */
    uint32_t n_prompt;           /* how many they were, of a finished job from the journal, which does not keep them */
    text stop;                   /* stop strings, each with its NUL */
    sample_bias *bias;
    sample_params sample;
    choice *choice;              /* [n_choices] */
    uint32_t n_choices, n_open;  /* n_open: choices that have a live session */
    score_rec *score;            /* kind 1: rows scored and not yet sent */
    uint32_t n_scored, first_scored; /* how many, and the index of the first */
    text full;                   /* their whole rows of logits, f32 [n_scored][V] */
    text passages;               /* JSON of the passages used */
    uint32_t n_passages, full_rows;
    uint32_t cached;             /* rows of the prompt that came from the prompt cache */
    char cache_note[504];        /* why it was of no use, "" */
    bool local;                  /* prefill mode taken */
    bool cancelled;
    bool on_disk;                /* as durable as it gets: it may be acknowledged */
    bool acked;                  /* the client has its ACCEPTED: only after the record is durable */
    bool recorded;               /* its end is in the journal */
    bool retrieved;              /* passages are in the prompt */
    err failure;                 /* code != OK: the job failed */
    uint64_t t_submit, t_start, t_prefilled;
    struct job *next;
} job;

typedef struct { job *head, *tail; uint64_t next_id; uint32_t n, keep; } job_list;

/* Check a SUBMIT against the model (ranges, bias, stop strings) and make a queued job of it. ERR_INPUT quotes the bad
 * value; frames are copied. */
err_code job_new(job_list *l, const packet *in, uint32_t V, job **out, err *e);
job *job_find(job_list *l, uint64_t id);
/* Forget the oldest finished jobs beyond `keep` that have nothing left to send and no session left. */
void job_list_trim(job_list *l);
void job_list_free(job_list *l);
const char *job_state_name(job_state s);

/* Add a token and the text it made visible to a choice. `top`: n_top best of this place (log-probabilities). */
err_code choice_add(choice *c, uint32_t id, float logprob, const cand_rec *top, uint32_t n_top, err *e);
/* Every choice is done. */
bool job_is_done(const job *j);
#endif
