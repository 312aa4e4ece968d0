#ifndef CLI_LOAD_H
#define CLI_LOAD_H
/* A made-up load on a cluster: jobs of so many random prompt tokens that generate so many tokens, sent as any client sends
 * them (SUBMIT ... TOKEN ... DONE), and the times at which their tokens arrive here. It decides nothing about when to send.
 * One thread. */
#include "core/buf.h"
#include "ops/cli/client.h"

typedef struct {
    uint64_t ref, job;                       /* job 0: not accepted yet */
    uint32_t n_prompt, n_gen;                /* asked for */
    uint32_t got;                            /* tokens that have arrived */
    uint64_t t_sent, t_first, t_last;        /* clock_ns; 0: not yet */
    uint64_t t_second;                       /* of the message behind the first tokens, */
    uint32_t before;                         /* and tokens that were there with it */
    uint64_t decode_ns;                      /* first token to last as the coordinator saw it; 0: it is not over */
    uint64_t prefill_ns;                     /* first prompt row that is computed to first token, likewise */
    bool over, cancelled;
    err fail;                                /* how it ended, when badly */
} load_job;

typedef struct {
    client *c;
    uint32_t V;                              /* token ids are below this */
    uint64_t seed, drawn;                    /* ids are a function of both */
    load_job *job;                           /* [n] in the order they were sent */
    uint32_t n, cap, live;                   /* live: not over yet */
    id_rec *ids;                             /* of the prompt being sent */
    uint32_t cap_ids;
    bool end;                                /* end tokens end a job; false: they do not */
    uint32_t fill;                           /* first rows of the next prompts that are random numbers, not computed */
} load;

typedef struct {
    uint32_t index;                          /* of the job */
    uint32_t tokens;                         /* new ones that this message brought */
    uint64_t t, gap;                         /* arrival; since the tokens before (0: these are the first) */
    bool over;                               /* the job's last word */
} load_event;

/* Borrows the client, which must have nothing else under way. */
void load_open(load *l, client *c, uint32_t V, uint64_t seed);
void load_close(load *l);
/* Send one; its index is l->n - 1 afterwards. Greedy, end tokens ignored. */
err_code load_submit(load *l, uint32_t n_prompt, uint32_t n_gen, err *e);
/* The next thing that happens to a job of ours, at most timeout_ms from now (-1: for ever). ERR_TIMEOUT when nothing does. */
err_code load_next(load *l, int timeout_ms, load_event *out, err *e);
err_code load_cancel(load *l, uint32_t index, err *e);
/* Until no job is live; the first failure of one that was not cancelled is the error. */
err_code load_drain(load *l, err *e);
/* Forget all jobs, which must be over. */
void load_forget(load *l);
#endif
