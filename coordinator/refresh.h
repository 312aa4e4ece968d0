#ifndef COORDINATOR_REFRESH_H
#define COORDINATOR_REFRESH_H
/* Prefill hybrid, behind the first token: an exact session of the same choice, the shadow, computes the prompt and the tokens that
 * the predicted one goes on making, each row on the path of its own role, and takes its place at a row: KV_REFRESH as a whole
 * session, so that from there on every bit is that of a session that was never predicted. Owns when the shadow may work and when
 * it takes over; refuses to know what a prediction is.
 *
 * Which row is fixed by the job (refresh_at), or decided every REFRESH_STEP tokens and put into the log (EVENT_REFRESH) before a
 * token behind it is shown, so that a rerun does the same. Once decided, the predicted session waits for the shadow. A stage's
 * death takes the shadow with it, and another one begins; a session that was waiting comes back exact. Main thread only. */
#include "coordinator/coordinator.h"

#define REFRESH_STEP 16u  /* a token that waits for the shadow's last rows waits seldom; a decision costs a line of the log */
#define REFRESH_BIT (1ull << 63) /* of a shadow's id: jobs' ids leave it free */

/* A token of the session is there. */
void refresh_token(coordinator *c, session *s);
/* Between messages: shadows hear of new tokens, end with their sessions, take over. */
void refresh_tick(coordinator *c);
/* May this shadow send rows now? While others decode it takes a share of the time only. */
bool refresh_may_send(const coordinator *c, const session *s);
/* Rows of a shadow in a step: few while others decode, so that none of their tokens waits for long. */
uint32_t refresh_rows(const coordinator *c, uint32_t room);
/* A step with a shadow's rows is back after `took` ns. */
void refresh_paced(coordinator *c, uint64_t took);
/* All KV is gone. */
void refresh_break(coordinator *c);
#endif
