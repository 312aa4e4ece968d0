#ifndef CLI_FLIGHT_H
#define CLI_FLIGHT_H
/* Jobs on their way: sends requests, at most so many at once, and hands every answer to its asker. One thread. */
#include "ops/cli/answer.h"
#include "ops/cli/client.h"
#include "ops/cli/request.h"

typedef struct {
    /* The next request, or *more = false. *out is zeroed; the flight frees it. */
    err_code (*next)(void *me, request *out, bool *more, err *e);
    /* A message brought something new; may be NULL. `index` counts requests from 0. */
    err_code (*event)(void *me, size_t index, const answer *a, const packet *p, err *e);
    /* The job is over, well or badly (a->fail). The flight frees *a. */
    err_code (*done)(void *me, size_t index, answer *a, err *e);
} flight_ops;

/* A request that the cluster is too busy for is sent again later, and with a client that is patient (client.h) answers go on where
 * they were when another coordinator takes the place of one that died.
 * Returns when all requests are answered, or on the first error of a callback or the connection: then the jobs that
 * still run are cancelled (within 2 s). A failed job is no error here. ERR_CANCELLED after a signal. */
err_code flight_run(client *c, size_t limit, const flight_ops *ops, void *me, err *e);
/* The same for one job that is known by its id: FETCH it without the first `from` tokens of each choice, to its end or (once)
 * only as far as it is. A signal leaves it running. */
typedef struct { uint64_t job, from; bool once; } flight_part;
err_code flight_fetch(client *c, const flight_part *part, const flight_ops *ops, void *me, err *e);
/* Send one request and return its job's id; nothing more is heard of it. */
err_code flight_detach(client *c, request *r, uint64_t *job, err *e);
#endif
