#ifndef CLI_SHOW_H
#define CLI_SHOW_H
/* How run, submit and result present one job: text on stdout as it comes and a summary on stderr, or one JSON object. */
#include "ops/cli/flight.h"

typedef struct {
    const settings *s;
    const char *schema;      /* of the JSON object */
    client *side;            /* for the status report at the end */
    request *req;            /* sent once; NULL when the job is fetched */
    err job;                 /* how the job ended, when badly */
} show;

/* show_ops.next sends s->req. The job's own failure lands in show.job. */
extern const flight_ops show_ops;
/* Connect the side channel; show_close in any case. */
err_code show_open(show *w, const settings *s, const char *schema, const char *dir, request *req, err *e);
void show_close(show *w);
/* ERR_IO when stdout does not take it. */
err_code show_write(const void *p, size_t n, err *e);
/* Print a JSON object and a newline, and drop the reference. */
err_code show_json(json_t *o, err *e);
#endif
