#ifndef WORKERS_STAGE_SHARD_H
#define WORKERS_STAGE_SHARD_H
/* One shard: a layer range of one model under one plan: weights, KV store, compute scratch. A stage holds a list of them
 * (base and auxiliary model may live in one cluster). Owned and used by the stage's thread. */
#include "engine/forward.h"
#include "engine/profile_kv.h"
#include "proto/message.h"
#include "workers/stage/adapters.h"
#include "workers/stage/early.h"
#include "workers/stage/masks.h"
#include "workers/stage/pools.h"

typedef struct shard_state {
    uint32_t id;                 /* model id in the cluster */
    msg_plan plan;
    model *model;
    profile_kv *tables;          /* of its layers; NULL: none */
    stand_ins *stand;            /* likewise */
    kv *store;                   /* NULL when the shard has no layers */
    runner *runner;
    adapters adapters;           /* of its sessions */
    masks masks;                 /* likewise */
    pools pools;                 /* likewise */
    early early;                 /* steps before their turn */
    struct kept *kept;           /* replies of the last steps */
    step_row *rows;              /* [max_rows] */
    kv_row *kv_rows;             /* [max_rows] */
    forward_row *fwd;            /* [max_rows] */
    uint32_t *slots, *ids;       /* [max_rows] */
    struct shard_state *next;
} shard_state;

/* prof: the stage's profile, NULL: none; used when the plan names one, which must be it. */
err_code shard_open(shard_state **out, const gguf *g, const pack_file *packed, const profile *prof, const msg_plan *plan, pool *p, isa i, err *e);
void shard_close(shard_state **s);
/* KV bytes of one row in this shard. */
uint64_t shard_row_bytes(const shard_state *s);
#endif
