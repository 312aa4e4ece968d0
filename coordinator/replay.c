#include "coordinator/replay.h"
#include "coordinator/record.h"
#include <inttypes.h>
#include <string.h>

/* Repeats; never compares, and never writes to the journal. */

static view frame(const void *p, size_t n) { return (view){ n ? p : "", n }; }

/* A job that did not come to its own end is repeated as far as it came. */
static void bound(const job *old, msg_submit *ask)
{
    uint64_t most = 0;
    if (!old->failure.code && !old->cancelled) return;
    for (uint32_t i = 0; i < old->n_choices; i++)
        if (old->choice[i].n_tok > most) most = old->choice[i].n_tok;
    if (most < ask->max_tokens) ask->max_tokens = most;
}

static err_code check(const job *old, err *e)
{
    if (old->ask.kind == 1) return err_set(e, ERR_INPUT, "job %" PRIu64 " was for scores, which are not kept", old->id);
    if (old->state != JOB_DONE) return err_set(e, ERR_STATE, "job %" PRIu64 " is %s; a replay is of a job that is over", old->id, job_state_name(old));
    if (old->ask.rag && !log_find(&old->log, EVENT_PROMPT)) /* the log ends before the answer of retrieval */
        return err_set(e, ERR_STATE, "job %" PRIu64 " came to no prompt: %s", old->id, old->failure.code ? old->failure.text : "it was cancelled");
    return ERR_OK;
}

err_code replay_make(coordinator *c, job **out, err *e)
{
    const msg_submit mine = c->in.head.submit;
    job *old = job_find(&c->jobs, mine.replay);
    err_code rc = old ? ERR_OK : record_recall(c, mine.replay, &old, e);
    if (!rc) rc = check(old, e);
    if (rc) return rc;
    packet in = { .head = { .type = MSG_SUBMIT, .submit = old->ask }, .from = c->in.from, .n_frames = 4 };
    msg_submit *ask = &in.head.submit;
    in.frame[SUBMIT_PROMPT] = frame(old->prompt.ptr, old->prompt.len);
    in.frame[SUBMIT_TOKENS] = frame(old->tokens.id, ask->n_tokens * sizeof *old->tokens.id);
    in.frame[SUBMIT_STOP] = frame(old->stop.ptr, old->stop.len);
    in.frame[SUBMIT_BIAS] = frame(old->bias, ask->n_bias * sizeof *old->bias);
    bound(old, ask);
    ask->ref = mine.ref;
    ask->priority = mine.priority;
    ask->deadline_ms = mine.deadline_ms;
    ask->detach = false;
    ask->stream = true;
    ask->cache[0] = 0; /* the rows are computed, the file is left alone */
    if ((rc = job_new(&c->jobs, &in, c->shape.V, out, e))) return rc;
    (*out)->replays = mine.replay;
    if (!log_copy_followed(&(*out)->log, &old->log)) rc = err_set(e, ERR_NOMEM, "out of memory");
    (*out)->n_passages = old->n_passages;
    return rc ? rc : job_follow(c, *out, e);
}
