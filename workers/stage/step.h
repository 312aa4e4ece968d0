#ifndef WORKERS_STAGE_STEP_H
#define WORKERS_STAGE_STEP_H
/* One STEP on one shard: session operations, rows into the KV cache, layers, and at the end of the way the head's answer.
 * Knows messages but no sockets: in comes a packet's header and frames, out goes a header and frames to send. */
#include "proto/loan.h"
#include "proto/message.h"
#include "workers/stage/shard.h"

/* What is to be sent on; frames live until the next step on this object, so that it can be sent again. {0} to start. */
typedef struct step_out {
    message head;                       /* STEP for the next hop, or RESULT */
    view frame[MSG_FRAMES_MAX];
    loan *lent[MSG_FRAMES_MAX];         /* frames that need not be copied when they are sent */
    bool is_result;
    uint32_t next;                      /* stage index of the next hop when it is a STEP */
    text rows, ops, hops, cands, full, hidden, picks;   /* memory of the frames, reused */
    loan *h;                            /* [max_rows][D] f32, residual stream: given by whoever calls, lent to the message */
    /* a session that failed here, for a FAIL beside the row's status (one a step is told in words) */
    uint64_t failed_session;
    err failure;
} step_out;
void step_out_free(step_out *o);

/* ERR_STATE: of another epoch, or not for this stage (drop it). ERR_PROTO: rows that cannot be (quoted). Otherwise a row
 * that cannot be computed gets a status and the others go on. */
err_code step_run(shard_state *s, const message *m, const view *frame, step_out *out, err *e);
/* This stage's place in the step's way; false when the step has no such hop or it is another stage's. */
bool step_hop(const shard_state *s, const message *m, const view *frame, hop_rec *mine);
#endif
