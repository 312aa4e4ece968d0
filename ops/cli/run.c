#include "ops/cli/chat.h"
#include "ops/cli/cluster.h"
#include "ops/cli/command.h"
#include "ops/cli/show.h"

/* sluice run: one prompt, on the cluster that is up or on one of our own that goes with us. */

static err_code run_on(const char *dir, const settings *s, request *r, err *e)
{
    client *c = NULL;
    show w = { 0 };
    err_code rc = client_open(&c, s, dir, e);
    if (rc == ERR_OK) rc = show_open(&w, s, "sluice.run/1", dir, r, e);
    if (rc == ERR_OK) rc = flight_run(c, 1, &show_ops, &w, e);
    if (rc == ERR_OK && w.job.code != ERR_OK) {
        *e = w.job;
        rc = w.job.code;
    }
    show_close(&w);
    client_close(&c);
    return rc;
}

err_code cmd_run(settings *s, err *e)
{
    cluster c = { 0 };
    request r = { 0 };
    err_code rc = chat_check(s, e);
    if (rc == ERR_OK && s->chat) return chat_run(s, e);
    if (rc == ERR_OK) rc = request_init(&r, s, e);
    if (rc == ERR_OK) rc = request_prompt(&r, s, e);
    r.m.submit.stream = true;
    if (rc == ERR_OK) rc = cluster_join(&c, s, e);
    if (rc == ERR_OK) rc = run_on(c.dir.ptr, s, &r, e);
    if (rc == ERR_GONE) cluster_check(&c, e); /* says how the coordinator died, when it was ours */
    cluster_leave(&c);
    request_free(&r);
    return rc;
}
