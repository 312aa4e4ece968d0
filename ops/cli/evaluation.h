#ifndef CLI_EVALUATION_H
#define CLI_EVALUATION_H
/* What the three evals share: a cluster, a connection, and the model it runs. */
#include "ops/cli/client.h"
#include "ops/cli/cluster.h"

typedef struct {
    cluster cluster;
    client *c;
    json_t *status;          /* as the cluster stood at the start */
    const char *model;       /* path of the model file, inside status */
    uint64_t n_ctx;          /* rows a session may hold */
} evaluation;

err_code evaluation_open(evaluation *v, settings *s, err *e);
/* In any case; rc is what the eval came to, and comes back, with a better text when our own coordinator died. */
err_code evaluation_close(evaluation *v, err_code rc, err *e);
/* Stages as they stand now (kernel counters included), a new reference; an empty array when they cannot be had. */
json_t *evaluation_stages(evaluation *v);
#endif
