#ifndef COORDINATOR_PREFILL_H
#define COORDINATOR_PREFILL_H
/* Local prefill: the coordinator runs the base model's layers itself and hands each stage its slice of the KV (KV_PUSH), in
 * its own thread with its own sockets, so that it disturbs neither the event loop nor stages that decode. It computes every
 * prompt row but the last, which goes through the pipeline and brings the logits; the bits are the pipeline's.
 * Calls from the main thread only. Failures arrive as FAIL on the inbox link. */
#include "core/mask.h"
#include "engine/pack.h"
#include "kvstore/policy.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct prefill prefill;

typedef struct { uint32_t first, last; char bulk_addr[128], key[48]; } prefill_stage;   /* key: of its sockets, "": in the clear */
typedef struct {
    struct hub *hub;
    const char *model;              /* GGUF file */
    pack_options pack;              /* pack.dir must outlive the prefill */
    const char *aux, *profile;      /* what predicts (engine/predictor.h), and outlives the prefill; NULL: nothing does */
    const char *inbox;              /* where FAIL goes */
    uint32_t n_ctx, max_rows, threads, format, path, aux_path, epoch, n_stages;   /* paths of the base's rows, and of what an auxiliary model computes */
    const prefill_stage *stage;     /* [n_stages], copied */
    const struct kv_tables *tables; /* of the profile, NULL: none; outlives the prefill */
} prefill_options;

err_code prefill_open(prefill **out, const prefill_options *o, err *e);
/* Ask the thread to stop and do not wait for it: a chunk of a large model, or loading one, takes seconds. It goes into the list
 * of those that leave; queued work is given up, and what it still says is of an epoch before. */
void prefill_leave(prefill **p, prefill **leaving);
/* Give back those that have ended; `wait`: all. */
void prefill_reap(prefill **leaving, bool wait);
/* Compute rows [0, n) of the tokens (copied) for a session, chunk rows at a time. n_prompt and policy (copied): as its
 * SESSION_OPEN says. predict: the base computes the first `sinks` rows, and the others are predicted. */
typedef struct {
    uint64_t session;
    const uint32_t *tokens;
    uint32_t n, chunk, n_prompt;
    const kv_policy *policy;
    const layer_mask *mask;         /* copied; NULL: no layer is left out */
    bool predict;
    uint32_t sinks;
    bool pool;                      /* add up layer inputs too: POOLED comes on the inbox */
} prefill_work;
err_code prefill_add(prefill *p, const prefill_work *w, err *e);
/* Give up a session's work, queued or under way (at the next chunk). */
void prefill_drop(prefill *p, uint64_t session);
#endif
