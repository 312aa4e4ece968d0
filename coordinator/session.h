#ifndef COORDINATOR_SESSION_H
#define COORDINATOR_SESSION_H
/* A session: one choice of a job while it runs: its tokens, how far its rows have gone through the pipeline, and what is
 * wanted next. Pure state and decisions, no sockets: the pump asks what to send and tells what came back.
 *
 * Row index = place of the token in `tokens`; position id the same. Rows [0, cursor) have been sent; every STEP for the
 * session begins by committing the row before the cursor. After a context slide the tokens are new and rows begin at 0
 * again (TRUNCATE 0). Draws are numbered by `born`, the count of all tokens ever, so a slide does not repeat a draw.
 * Main thread only. */
#include "coordinator/job.h"

typedef enum {
    SESSION_OPENING,     /* stages are asked for a KV slice */
    SESSION_LOCAL,       /* the coordinator's own engine computes the prompt */
    SESSION_PROMPT,      /* prompt rows left to send */
    SESSION_DECODE,      /* one row at a time */
    SESSION_WAIT,        /* nothing to send until a result comes */
    SESSION_OVER         /* finished: dropped when no step mentions it any more */
} session_state;

typedef struct session {
    uint64_t id;                   /* job id * 64 + choice */
    job *job;
    uint32_t index;                /* choice */
    session_state state;
    token_list tokens;
    uint32_t n_prompt;             /* tokens whose rows play the prompt role */
    uint32_t cursor;               /* rows sent */
    uint32_t committed;            /* of them, those that the step before the last one had sent: every stage has them for good */
    uint64_t born;                 /* tokens ever: number of the next draw */
    uint32_t made;                 /* tokens generated */
    bool want_row;                 /* the row that is next must bring the whole row of logits */
    bool again;                    /* the next row was sent before and goes first (COMMIT of the one before it drops it) */
    bool slide;                    /* TRUNCATE 0 first */
    bool trim;                     /* TRUNCATE the next row first: stages were given more committed rows than are its own */
    uint32_t refs;                 /* steps in flight that mention it */
    uint64_t last_step;            /* number of the newest step with rows of it */
    uint32_t prefix_asked;         /* rows of other prompts that its stages were asked to begin with, */
    uint32_t prefix;               /* and that they have: the fewest of those that answered */
    uint32_t kept;                 /* rows whose blocks the stages were told to keep */
    uint32_t acks;                 /* stages that have opened it / taken its KV */
    uint64_t t_asked;              /* since when stages owe an answer to that, 0: they do not */
    sample_params sample;
    sample_scratch scratch;
    detok detok;
    stops *stops;
    bool exact;                    /* no predicted rows: not (any more) */
    uint32_t filled;               /* SESSION_LOCAL: rows that the coordinator's own engine makes */
    struct session *shadow;        /* hybrid: the exact session that follows this one, or NULL (coordinator/refresh.h) */
    struct session *of;            /* a shadow's; NULL when that is gone */
    bool is_shadow, held;          /* held: nothing is sent until the shadow has come as far */
    struct prompt_cache *cache;    /* of --prompt-cache, or NULL (coordinator/prompt_cache.h) */
    struct handed *handed;         /* a copy of its KV while the plan changes, or NULL (coordinator/handover.h) */
    layer_mask *mask;              /* layers that its rows leave out, NULL: none */
    bool tell;                     /* the stages are to hear of it first */
    bool unmasked;                 /* it left out layers until it turned back */
    alarm_series seen;             /* its newest tokens, for that */
    struct pooled *pooled;         /* layer inputs of its prompt, as they come (coordinator/route.h) */
    struct session *next;
} session;

typedef struct { session *head; uint32_t n; } session_list;

err_code session_new(session_list *l, job *j, uint32_t index, session **out, err *e);
session *session_find(session_list *l, uint64_t id);
void session_free(session_list *l, session *s);     /* unlinks it */

/* Rows that play the prompt's role: behind the last one its KV policy settles them. */
uint32_t session_prompt_rows(const session *s);

/* First rows of the prompt that are random numbers (SUBMIT's fill_rows). */
uint32_t session_filled_rows(const session *s);

/* Predicted rows are never evicted or packed: until they are replaced its policy is the identity. */
const kv_policy *session_policy(const session *s);

typedef struct {                   /* what the pump should send for it */
    uint32_t first, n;             /* rows */
    bool decode;                   /* role of the rows */
} session_rows;
/* Next rows, at most `room` of them (prompt) or one (decode); n = 0 when there is nothing. score_max: most rows that may
 * want whole rows in one step. */
session_rows session_next(const session *s, uint32_t room, uint32_t score_max);
/* The wire record of row i. */
step_row session_row(const session *s, uint32_t i, const session_rows *r, path_id prompt, path_id decode);
/* Rows were put into a step. */
void session_sent(session *s, const session_rows *r);

/* Its KV is gone (a stage died): every row is to be sent again, each on the path of its own role, so that the bits, and what
 * is sampled next, stay the same. */
void session_rebuild(session *s);

typedef struct { const result_row *row; const candidate *cand; const float *full; uint32_t V; } session_answer;
/* The row that decides the next token came back: sample, add to the choice, decide what is next. n_ctx: rows a session may
 * hold. Sets SESSION_OVER and the choice's finish reason at the end; SESSION_DECODE else. If the whole row of logits is
 * needed the session repeats the row. ERR_NOMEM and such end the job. */
err_code session_take(session *s, const session_answer *a, const tokenizer *tok, uint32_t n_ctx, err *e);
/* End it now for this reason. */
void session_end(session *s, finish_reason why);
/* The prompt's last row is back and the job has n > 1: a copy of the state for another choice (not yet forked). */
err_code session_split(session_list *l, session *s, uint32_t index, session **out, err *e);
/* Send the last row again and ask for the whole row of logits. */
void session_repeat(session *s);
/* Would sampling the next token from this answer need the whole row? (all choices of the job are asked at once) */
bool session_needs_row(session *s, const session_answer *a);
#endif
