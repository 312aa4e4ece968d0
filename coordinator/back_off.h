#ifndef COORDINATOR_BACK_OFF_H
#define COORDINATOR_BACK_OFF_H
/* A session that leaves out layers, and whose tokens say that it goes wrong (core/alarm.h), goes on with all of them: its rows are computed
 * again from its tokens, each on the path of its own role, in the same session (TRUNCATE 0, SKIP of what was left out, all rows: KV_REFRESH), and
 * from there on every bit is that of a session that made these tokens without a mask. The alarm is a function of the session's own answers, so
 * neighbours and stages do not matter; it stands in the log (EVENT_BACK_OFF, row: tokens made) before a token behind it is shown, and a
 * rerun follows it. Owns when; refuses to choose masks. Main thread only. */
#include "coordinator/coordinator.h"

/* The session has taken a token from this answer. */
void back_off_token(coordinator *c, session *s, const session_answer *a);
/* Tokens that a choice had made when it turned back, 0: it did not. */
uint32_t back_off_at(const job *j, uint32_t index);
#endif
