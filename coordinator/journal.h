#ifndef COORDINATOR_JOURNAL_H
#define COORDINATOR_JOURNAL_H
/* The durable record of jobs: one SQLite file (WAL, synchronous FULL). A job is acknowledged only when its row is on disk; the
 * events of its log (session_log.h) are there before a token that depends on them is shown; its end is recorded once, before
 * DONE is sent. Sampling is a function of (seed, row), so an unfinished job that is run again from its record and log gives the
 * same tokens: they need no record of their own. Finished jobs live here and not in memory.
 * Writes gather in a transaction; journal_commit makes them durable (one fsync for all that came in one round of the event
 * loop). When a write or the commit fails everything since the last commit is gone: record.c writes it again later.
 * Main thread only. */
#include "coordinator/job.h"
#include <jansson.h>

typedef struct journal journal;

/* Open or create, for the model with this digest: jobs for another one stay in the file and are not seen. ERR_IO quotes file
 * and reason (also a file of another program or version). */
err_code journal_open(journal **out, const char *path, const char *model, err *e);
void journal_close(journal **j);
/* The greatest id ever given, to jobs of any model. */
uint64_t journal_last_id(const journal *g);
/* Finished jobs that it holds, of any model. */
uint64_t journal_finished(const journal *g);

/* ---- write; on an error the transaction is rolled back */
err_code journal_add(journal *g, const job *j, err *e);         /* as it was submitted */
err_code journal_events(journal *g, const job *j, err *e);      /* those of its log that are not durable yet */
err_code journal_end(journal *g, const job *j, err *e);         /* a second one for the same job changes nothing */
/* Forget finished jobs but the newest `keep`, and those that ended more than `hours` ago (0: age does not matter). */
err_code journal_trim(journal *g, uint64_t keep, uint64_t hours, err *e);
/* Make everything so far durable; does nothing when there is nothing. */
err_code journal_commit(journal *g, err *e);

/* ---- read */
/* Ids of jobs without an end, ascending; *n of them, malloc'ed. Warns of jobs that wait for another model. */
err_code journal_unfinished(journal *g, uint64_t **ids, size_t *n, err *e);
/* A job: queued again when it has no end, else with its answer. One whose record is damaged comes back as failed with a text
 * that says so (JOURNAL-DAMAGED in the log). ERR_ABSENT: there is none. V: size of the vocabulary. The caller owns it. */
err_code journal_get(journal *g, uint64_t id, uint32_t V, job **out, err *e);
/* The newest `limit` jobs, oldest first, as objects of `sluice jobs`, appended. */
err_code journal_list(journal *g, uint32_t limit, json_t *list, err *e);
#endif
