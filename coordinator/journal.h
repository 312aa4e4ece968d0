#ifndef COORDINATOR_JOURNAL_H
#define COORDINATOR_JOURNAL_H
/* The durable record of jobs: one SQLite file (WAL, synchronous FULL). A job is acknowledged only when its row is on disk;
 * what an outside answer put into it (retrieved passages) is recorded before a token that depends on it is shown; a result is
 * recorded once, before DONE is sent. Sampling is a function of (seed, row), so an unfinished job that is run again from
 * its record gives the same tokens: they need no record of their own.
 * Writes gather in a transaction; journal_commit makes them durable (one fsync for all that came in one round of the event
 * loop). Main thread only. */
#include "coordinator/job.h"

typedef struct journal journal;

/* Open or create, for the model with this digest: jobs for another one stay in the file and are not seen. ERR_IO quotes file
 * and reason (also a file of another program or version). */
err_code journal_open(journal **out, const char *path, const char *model, err *e);
void journal_close(journal **j);
/* A new job as it was submitted. */
err_code journal_add(journal *g, const job *j, err *e);
/* The prompt with passages, and their description, as they will be used. */
err_code journal_passages(journal *g, const job *j, err *e);
/* The job is over: finish reasons, tokens, texts, error. A second call for the same job changes nothing. */
err_code journal_finish(journal *g, const job *j, err *e);
/* Forget jobs below this id that are over. */
err_code journal_forget(journal *g, uint64_t below, err *e);
/* Make everything so far durable; does nothing when there is nothing. */
err_code journal_commit(journal *g, err *e);
/* All recorded jobs into the list, in order of id: unfinished ones queued again, finished ones with their answers. */
err_code journal_load(journal *g, job_list *l, uint32_t V, err *e);
#endif
