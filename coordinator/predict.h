#ifndef COORDINATOR_PREDICT_H
#define COORDINATOR_PREDICT_H
/* Which way a job's prompt goes, and what this cluster can predict with (--aux, --profile). Owns that choice and its place in the
 * log; the thread of prefill.c does the work. Main thread only.
 *
 * EVENT_PREFILL: "mode=hybrid aux=DIGEST profile=DIGEST sinks=4 newest=8 name=NAME": rows [sinks, n - newest) of the prompt are
 * predicted. A rerun needs the same auxiliary and the same maps. */
#include "coordinator/coordinator.h"

#define PREDICT_SINKS 4u    /* first rows, which most attention falls back on (arXiv:2309.17453 section 3.2): always the base's own */

/* At the start: check what --aux and --profile name, without weights. Nothing to do without --aux, unless --prefill wants one. */
err_code predict_check(coordinator *c, err *e);
/* Can this cluster predict as the job's log says? ERR_STATE says what is different. */
err_code predict_follow(const coordinator *c, const job *j, err *e);
/* The job's tokens are there: decide job->way, by its log, its wish or the cluster's; the first time the log hears of it. Jobs whose
 * rows nothing predicts (scores, adapters, a prompt cache, short prompts) go an exact way. */
err_code predict_fix(coordinator *c, job *j, bool has_log, err *e);
/* The first token of a prompt is there, of which so many rows were computed or predicted. */
void predict_measured(coordinator *c, const job *j, uint32_t rows);
#endif
