#ifndef COORDINATOR_REPLAY_H
#define COORDINATOR_REPLAY_H
/* A job once more, from its record and its log, as a job of its own that leaves no trace. Whoever asked compares the answers. */
#include "coordinator/coordinator.h"

/* From the SUBMIT in c->in whose `replay` names a job that is over. ERR_ABSENT; ERR_STATE: it is not over, or this cluster does
 * not compute as its log says; ERR_INPUT: a job for scores, or it makes too few tokens to compare. */
err_code replay_make(coordinator *c, job **out, err *e);
#endif
