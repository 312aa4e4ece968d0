#ifndef TESTS_FLOW_RIG_H
#define TESTS_FLOW_RIG_H
/* A whole cluster in one process: coordinator_run in a thread, stages in threads over inproc, and one client. The code is
 * the one of the programs; only processes, signals and binding to cores are missing. Anything that goes wrong in the rig
 * itself fails the test that uses it, so its functions return no errors. One thread (the test's) calls it. */
#include "coordinator/job.h"
#include "engine/forward.h"
#include "tests/flow/rig_stage.h"
#include <jansson.h>

typedef struct rig rig;

typedef struct {
    const char *model;                  /* path */
    uint32_t stages, threads;           /* 0: 1 */
    const isa *isas;                    /* of each stage; NULL: `use` for all */
    isa use;
    const char *kv, *arith, *prompt_arith, *prefill;   /* NULL: the coordinator's default */
    uint32_t chunk, in_flight, ctx, max_rows, max_sessions;   /* 0: the default */
    uint32_t kv_mem;                    /* MB a stage, 0: no budget */
    const char *aux, *profile;          /* of KV prediction; NULL: none */
    bool packed;                        /* packed weights, in a folder that goes with the test */
    bool trace;                         /* frames to rig_dir()/trace and trace.s0, trace.s1, ... */
} rig_options;

/* A cluster that is ready. */
rig *rig_open(const rig_options *o);
/* NULL with the reason when it does not become ready. */
rig *rig_try_open(const rig_options *o, err *e);
/* Stops everything, gives everything back and fails the test if the run directory is not empty but for traces. */
void rig_close(rig **r);
const char *rig_dir(const rig *r);

/* ---- jobs (rig_jobs.c) ---- */

typedef struct {                        /* one answer */
    token_rec *tok;
    cand_rec *top;
    size_t n_tok, n_top;
    text text;
    bool done;
    msg_done end;
} rig_choice;

typedef struct rig_job {
    uint64_t ref, id;                   /* id 0: not accepted (yet) */
    bool over;
    err fail;                           /* refused, or DONE with a code */
    rig_choice choice[64];
    score_rec *score;
    float *full;                        /* [n_full][vocab] */
    uint32_t n_score, n_full, vocab;
    struct rig_job *next;
} rig_job;

typedef struct {                        /* what a job is about; borrowed */
    const uint32_t *ids;                /* token ids, or ... */
    uint32_t n;
    const char *prompt;                 /* ... text */
    const char *stop;                   /* strings, each ended by a NUL ... */
    size_t stop_len;                    /* ... bytes of all of them */
    const bias_rec *bias;
    uint32_t n_bias;
} rig_input;

/* SUBMITs to fill in further: greedy generation that goes on past end tokens; scoring with whole rows. */
message rig_generate(uint32_t max_tokens);
message rig_score(uint32_t role);
/* Send it; the job belongs to the rig until rig_forget or rig_close. */
rig_job *rig_submit(rig *r, message m, const rig_input *in);
/* Until the job is over (all jobs are). Fails the test when nothing comes for RIG_PATIENCE_MS. */
#define RIG_PATIENCE_MS 120000
void rig_wait(rig *r, rig_job *j);
void rig_wait_all(rig *r);
/* Handle what came within timeout_ms; false: nothing did. */
bool rig_take(rig *r, int timeout_ms);
rig_job *rig_do(rig *r, message m, const rig_input *in);        /* submit and wait */
void rig_cancel(rig *r, const rig_job *j);
json_t *rig_status(rig *r);                                     /* json_decref it */
/* Poll the status until no session is left; false after seconds. */
bool rig_idle(rig *r, double seconds);
void rig_forget(rig *r);                                        /* all jobs; they must be over */

/* ---- what tests compare ---- */

/* Whole rows, scores; choices with tokens, log-probabilities, tops and text: bit for bit, with a line on the first
 * difference. */
bool rig_same_rows(const rig_job *got, const rig_job *want, const char *what);
bool rig_same_choice(const rig_choice *got, const rig_choice *want, const char *what);

/* ---- for rig_jobs.c ---- */
link_t *rig_client(rig *r);
packet *rig_packet(rig *r);
rig_job **rig_jobs(rig *r);
#endif
