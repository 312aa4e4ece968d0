#ifndef COORDINATOR_RECORD_H
#define COORDINATOR_RECORD_H
/* What must be durable before anybody hears of it: new jobs before ACCEPTED, events of a log before the tokens that depend on
 * them, ends before DONE. Once a round all of that goes into the journal with one fsync. When the journal cannot be written (a
 * full disk) new jobs are refused, what runs goes on, and what is not durable stays unsaid until it can be written again. */
#include "coordinator/coordinator.h"

/* Open the journal that the settings name, if any, and queue its unfinished jobs again. */
err_code record_open(coordinator *c, err *e);
/* Once a round, before anything is sent. Answers clients that submitted. */
void record_round(coordinator *c);
/* May tokens and the end of this job be shown? */
bool record_allows(const coordinator *c, const job *j);
/* Why the journal cannot be written just now, NULL: it can. */
const char *record_trouble(const coordinator *c);
/* A job that is over and not in memory any more, into the list until it was sent. ERR_ABSENT. */
err_code record_recall(coordinator *c, uint64_t id, job **out, err *e);
#endif
