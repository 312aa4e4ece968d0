#ifndef COORDINATOR_JOURNAL_DB_H
#define COORDINATOR_JOURNAL_DB_H
/* What journal.c and journal_read.c share: the open file and its queries. For nobody else. */
#include "coordinator/journal.h"
#include <sqlite3.h>

enum {
    /* write */
    Q_ADD, Q_EVENT, Q_END, Q_CHOICE, Q_TRIM_COUNT, Q_TRIM_AGE, Q_LAST, Q_FINISHED,
    /* read */
    Q_UNFINISHED, Q_OTHERS, Q_GET, Q_GET_CHOICE, Q_GET_EVENT, Q_LIST,
    Q_COUNT
};

struct journal {
    sqlite3 *db;
    sqlite3_stmt *q[Q_COUNT];
    bool open;                  /* a transaction is under way */
    uint64_t last_id, finished;
    char path[512], model[33];  /* model: digest */
};

enum { ROW_OPEN, ROW_DONE, ROW_FAILED, ROW_CANCELLED };   /* job.state */

/* ERR_IO with file, `what` and SQLite's reason. */
err_code journal_fail(journal *g, const char *what, err *e);
#endif
