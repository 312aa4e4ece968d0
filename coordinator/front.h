#ifndef COORDINATOR_FRONT_H
#define COORDINATOR_FRONT_H
/* Clients. front.c takes what they ask, outbox.c sends what they are owed; a client that is slow or gone holds nothing up. */
#include "coordinator/coordinator.h"

/* One message of a client. */
void front_message(coordinator *c);
/* The end of a round: the journal first (record.h), then everything that may be said. */
void front_flush(coordinator *c);
/* Never waits. ERR_TIMEOUT: the client does not read; ERR_GONE. */
err_code front_send(coordinator *c, const link_id *to, const message *m, const view *frames, err *e);
/* FAIL about the client's reference `ref`; retry_ms > 0: busy. */
void front_fail(coordinator *c, const link_id *to, uint64_t ref, const err *why, uint64_t retry_ms);

/* Send what the job's watchers have not had yet; one that is gone is forgotten, and ends the job when it had submitted it. */
void outbox_flush(coordinator *c, job *j);
/* A job that sends nothing for long (a long prompt, an answer in one piece) would not notice that its client is gone: an
 * empty TOKEN now and then tells. */
void outbox_probe(coordinator *c);
#endif
