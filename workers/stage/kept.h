#ifndef WORKERS_STAGE_KEPT_H
#define WORKERS_STAGE_KEPT_H
/* The replies of a shard's last steps, and which step is due next. A step changes the KV cache, so each is computed once and
 * in order: one that comes again gets its stored reply, one that comes before its turn is not taken. Knows no sockets. The
 * stage's thread only. */
#include "workers/stage/step.h"

typedef struct {
    uint32_t seq;               /* of the step, 0: none, or one that is not numbered */
    uint64_t step;
    bool unsent;                /* the reply waits for its peer */
    step_out out;
} kept_reply;

typedef struct kept kept;
typedef enum {
    KEPT_NEW,                   /* compute it into *at, then kept_done */
    KEPT_AGAIN,                 /* it was computed: *at is to be sent again */
    KEPT_EARLY,                 /* a step before it has not come */
    KEPT_PAST,                  /* so long ago that its reply is gone: nobody can be waiting for it */
    KEPT_NOMEM
} kept_turn;

/* Replies of `depth` steps; `h` values of hidden state each. */
err_code kept_open(kept **out, uint32_t depth, size_t h, err *e);
void kept_close(kept **k);
/* What to do with a step that is number seq of this plan here (0: always new). */
kept_turn kept_take(kept *k, uint32_t seq, kept_reply **at);
/* The reply in `at` is whole. */
void kept_done(kept *k, kept_reply *at, uint32_t seq, uint64_t step);
/* Number of the step that is awaited. */
uint32_t kept_due(const kept *k);
/* The oldest reply that waits for its peer; NULL: none. */
kept_reply *kept_unsent(kept *k);
#endif
