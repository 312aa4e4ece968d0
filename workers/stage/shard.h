#ifndef WORKERS_STAGE_SHARD_H
#define WORKERS_STAGE_SHARD_H
/* One shard: a layer range of one model under one plan: weights, KV store, compute scratch. A stage holds a list of them
 * (base and auxiliary model may live in one cluster). Owned and used by the stage's thread. */
#include "engine/forward.h"
#include "proto/loan.h"
#include "proto/message.h"
#include "workers/stage/adapters.h"

/* Hidden states that may be on their way at once without a copy: the one being computed and those that the next hop has not
 * taken yet. More wait there only when that stage is the slower one, and then a copy costs nothing. */
#define SHARD_LOANS 3u

typedef struct shard_state {
    uint32_t id;                 /* model id in the cluster */
    msg_plan plan;
    model *model;
    kv *store;                   /* NULL when the shard has no layers */
    runner *runner;
    adapters adapters;           /* of its sessions */
    float *h;                    /* [max_rows][D] residual stream of the step: in a loan, or `copied` */
    loan *lent[SHARD_LOANS];     /* NULL where there is no next hop */
    loan *at;                    /* the loan that h is in, or NULL */
    float *copied;               /* where h is when all loans are out */
    step_row *rows;              /* [max_rows] */
    kv_row *kv_rows;             /* [max_rows] */
    forward_row *fwd;            /* [max_rows] */
    uint32_t *slots, *ids;       /* [max_rows] */
    struct shard_state *next;
} shard_state;

err_code shard_open(shard_state **out, const gguf *g, const msg_plan *plan, pool *p, isa i, err *e);
void shard_close(shard_state **s);
/* Choose where the next step's residual stream is computed. */
void shard_next_h(shard_state *s);
/* KV bytes of one row in this shard. */
uint64_t shard_row_bytes(const shard_state *s);
#endif
