#ifndef COORDINATOR_QUEUE_H
#define COORDINATOR_QUEUE_H
/* Who is next, and who is told to come back. Jobs that wait go by priority, which rises by one for every minute of waiting, so
 * that nobody waits for ever; within a priority clients take turns, however many jobs each has sent; a client's own jobs go in
 * the order in which they came. Pure decisions over the list of jobs. Main thread only. */
#include "coordinator/job.h"

typedef struct {
    uint64_t turn;              /* numbers arrivals and services: a job's place is the later of its arrival and its client's last service */
    uint64_t t_start;           /* ns: when a job was started last */
    double gap_ms;              /* between starts while jobs waited, smoothed */
    uint64_t refused;           /* told to come back */
} job_queue;

typedef struct { uint64_t jobs, bytes; } queue_limits;

/* It arrives. */
void queue_put(job_queue *q, job *j);
/* The job to start now, NULL: none. `rag`: jobs that want retrieval may be started. */
job *queue_next(const job_list *l, uint64_t now, bool rag);
/* It is started: its client's other jobs wait for the others' turn. */
void queue_started(job_queue *q, const job_list *l, const job *j, uint64_t now);
/* Room for one more of `bytes` by this client? ERR_FULL says that it is busy, and *retry_ms when to come back. Jobs that wait
 * count, and answers that nobody has taken; one client may fill three quarters of the places. */
err_code queue_admit(job_queue *q, const job_list *l, const queue_limits *max, const job *like, size_t bytes, uint64_t *retry_ms, err *e);
#endif
