#ifndef COORDINATOR_JOB_H
#define COORDINATOR_JOB_H
/* A job: what a client submitted, its choices (one session each), and everything that was answered so far, so that an
 * answer can be fetched again. The list of jobs owns them. Main thread only. */
#include "coordinator/sample.h"
#include "coordinator/session_log.h"
#include "coordinator/stops.h"
#include "coordinator/watch.h"
#include "engine/kernels.h"
#include "engine/skip_rule.h"
#include "engine/tokenizer.h"
#include "kvstore/policy.h"
#include "proto/finish.h"

#define JOB_STATE_MAP(X) X(CHECKING, "checking") X(QUEUED, "queued") X(RETRIEVING, "retrieving") X(RUNNING, "running") X(DONE, "done")
typedef enum {
#define X(N, n) JOB_##N,
    JOB_STATE_MAP(X)
#undef X
} job_state;

/* Who makes the prompt's rows; numbers as in DONE. The first two give the same bits, the others begin with predicted rows. */
typedef enum { WAY_PIPELINE, WAY_LOCAL, WAY_PREDICT, WAY_HYBRID } prefill_way;

/* One token that was answered: where the shown text ended after it, and its log-probabilities. */
typedef struct { token_rec rec; size_t text_end, top_end; } answer_token;

typedef struct {                 /* one of n answers */
    answer_token *tok;           /* [n_tok] */
    size_t n_tok, cap_tok;
    cand_rec *top;               /* top log-probabilities of all tokens, one after the other */
    size_t n_top, cap_top;
    text shown;                  /* text as the client may see it */
    bool done;
    finish_reason finish;
    uint32_t slides;
    uint64_t calm;               /* FFNs that its rows have left out by a calm rule */
    uint32_t predicted;          /* its first tokens, that came from predicted rows */
    uint64_t t_first, t_last;    /* ns: first and last token */
    bool timed;                  /* it comes from the journal: */
    uint64_t us[4];              /* in the queue, to the first token, prefill, decode */
} choice;

#define JOB_ID_MAX (UINT64_MAX >> 7) /* a session's id is job id x 64 + choice, and SQLite's numbers have a sign */

typedef struct job {
    uint64_t id;
    job_state state;
    msg_submit ask;              /* as submitted */
    char owner[64];              /* who may see and cancel it; OWNER_LOCAL: whoever runs the cluster */
    link_id client;              /* hears whether it is accepted */
    watcher *watch;              /* hear of its tokens */
    session_log log;
    uint64_t replays;            /* id of the job whose log it follows, 0: none; never in the journal */
    uint64_t turn;               /* place in the queue (coordinator/queue.h) */
    uint64_t deadline;           /* ns on our clock, 0: none */
    text prompt;                 /* as submitted */
    token_list tokens;           /* the prompt's ids */
    uint32_t n_prompt;           /* how many they were, of a finished job from the journal, which does not keep them */
    text stop;                   /* stop strings, each with its NUL */
    kv_policy kv;                /* when ask.kv is given; once it runs: its own, the cluster's, or its log's */
    bool route_due;              /* its mask is chosen when its prompt has been seen; no row behind the prompt goes before that */
    bool by_entropy;             /* route_due: when its prompt's last row is back */
    uint32_t back;               /* back-off of its rule (engine/skip_rule.h), */
    double alarm;                /* and its limit */
    layer_mask *mask;            /* layers left out, rows counted from the prompt's end; NULL: none */
    sample_bias *bias;
    sample_params sample;
    choice *choice;              /* [n_choices] */
    uint32_t n_choices, n_open;  /* n_open: choices that have a live session */
    score_rec *score;            /* kind 1: rows scored and not yet sent */
    uint32_t n_scored, first_scored; /* how many, and the index of the first */
    text full;                   /* their whole rows of logits, f32 [n_scored][V] */
    uint32_t n_passages, full_rows;
    uint32_t cached;             /* rows of the prompt that came from the prompt cache */
    char cache_note[504];        /* why it was of no use, "" */
    prefill_way way;             /* decided when it begins, */
    char why[128];               /* and why so, where a time or a quality was asked for */
    uint32_t sinks, newest;      /* of a predicted prompt: rows at its ends that the base computes */
    char aux[256];               /* and what predicts it */
    bool cancelled;
    bool refused;                /* never accepted: the journal does not hear of it */
    bool on_disk;                /* as durable as it gets: it may be acknowledged */
    bool acked;                  /* the client has its ACCEPTED: only after the record is durable */
    bool recorded;               /* its end is in the journal, or never will be */
    bool archived;               /* ... and can be had from there */
    err failure;                 /* code != OK: the job failed */
    path_id path, prompt_path;   /* arithmetic of its rows, and rows of its context: the cluster's, or its log's */
    uint32_t n_ctx;
    uint64_t t_submit, t_start, t_prefilled;
    uint64_t wall_ms;            /* submitted, for people and for deadlines over restarts */
    uint64_t t_over;             /* ns: when it ended; 0: it was over when it was loaded */
    struct job *next;
} job;

#define OWNER_LOCAL "local"      /* the client socket is in a folder that only its user can enter */

typedef struct { job *head; uint64_t last_id; uint32_t n; } job_list;    /* ascending ids */

/* Check a SUBMIT against the model (ranges, bias, stop strings) and make a queued job of it, in no list yet. ERR_INPUT quotes
 * the bad value; frames are copied. */
err_code job_make(uint64_t id, const packet *in, uint32_t V, job **out, err *e);
/* The same, at the end of the list under the next id. */
err_code job_new(job_list *l, const packet *in, uint32_t V, job **out, err *e);
/* One that only says that it failed, and why; NULL: out of memory. */
job *job_stub(uint64_t id, const err *why);
void job_free(job *j);
void job_list_put(job_list *l, job *j);
job *job_find(job_list *l, uint64_t id);
/* Forget what is over, has nothing left to send and no session left: archived jobs at once, of the others all but the
 * newest `keep`. */
void job_list_trim(job_list *l, uint32_t keep);
void job_list_free(job_list *l);
/* The prompt that is tokenized, and the JSON of the passages in it: from the log when retrieval put something there. */
view job_prompt(const job *j);
view job_passages(const job *j);
/* queued, running, done, failed, cancelled, ... */
const char *job_state_name(const job *j);
/* Bytes that it holds in memory, about. */
size_t job_bytes(const job *j);
/* What its DONE says about a choice that is over. */
msg_done job_done_message(const job *j, uint32_t index);

/* Add a token and the text it made visible to a choice. `top`: n_top best of this place (log-probabilities). */
err_code choice_add(choice *c, uint32_t id, float logprob, const cand_rec *top, uint32_t n_top, err *e);
/* Every choice is done. */
bool job_is_done(const job *j);
#endif
