#ifndef COORDINATOR_HANDOVER_H
#define COORDINATOR_HANDOVER_H
/* A worker leaves in good order: the KV of live sessions is copied out of the stages while they are all still there, and goes into
 * those of the next plan, whatever their layers are, instead of being computed again. Only when that is sooner: the first parts are
 * timed, and when all of them in and out would take longer than the rows took to compute, the rest is computed. Rows are a
 * function of the session's tokens, so a copy stays good as long as no step runs; the newest rows, not yet committed, are always
 * computed again. A death leaves nothing to copy from. Main thread only. */
#include "coordinator/coordinator.h"

/* No step is on its way and a seated worker wants to leave. true: all is here that is worth it, let it go. Called until it is. */
bool handover_done(coordinator *c);
/* KV_ROWS came. */
void handover_rows(coordinator *c);
/* A stage has failed for this session; true when that was about a copy: then this session is computed again. */
bool handover_failed(coordinator *c, session *s);

/* Every stage has opened it again. true: it is being filled from the copy (SESSION_LOCAL). */
bool handover_fill(coordinator *c, session *s);
/* One small step of that for every such session; true while there is more. */
bool handover_tick(coordinator *c);
/* Every stage has its rows: their number. */
uint32_t handover_filled(coordinator *c, session *s);

/* The plan changes: what is half copied, or half filled, is computed instead. */
void handover_break(coordinator *c);
void handover_drop(session *s);
/* For `sluice status --json`; NULL: out of memory. */
struct json_t *handover_json(const coordinator *c);
#endif
