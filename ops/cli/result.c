#include "ops/cli/command.h"
#include "ops/cli/ids.h"
#include "ops/cli/paths.h"
#include "ops/cli/show.h"

/* sluice result ID and cancel ID: jobs that were submitted before. */

static err_code connect_to(client **c, text *dir, const settings *s, err *e)
{
    err_code rc = path_live_dir(dir, s, e);
    return rc == ERR_OK ? client_open(c, s, dir->ptr, e) : rc;
}

err_code cmd_result(settings *s, err *e)
{
    text dir = { 0 };
    client *c = NULL;
    show w = { 0 };
    uint64_t job = 0;
    err_code rc = job_id_of(s, &job, e);
    if (rc == ERR_OK) rc = connect_to(&c, &dir, s, e);
    if (rc == ERR_OK) rc = show_open(&w, s, "sluice.result/1", dir.ptr, NULL, e);
    if (rc == ERR_OK) client_be_patient(c, (client_patience){ .lost_s = s->reconnect });
    if (rc == ERR_OK) rc = flight_fetch(c, &(flight_part){ job, s->from, s->no_follow }, &show_ops, &w, e);
    if (rc == ERR_OK && w.job.code != ERR_OK) {
        *e = w.job;
        rc = w.job.code;
    }
    show_close(&w);
    client_close(&c);
    text_free(&dir);
    return rc;
}

static const json_t *find_job(const json_t *report, uint64_t job)
{
    size_t i;
    json_t *j;
    json_array_foreach(json_object_get(report, "jobs"), i, j)
        if ((uint64_t)json_integer_value(json_object_get(j, "id")) == job) return j;
    return NULL;
}

/* CANCEL has no answer of its own; messages of one client stay in order, so the list that follows shows what it did. */
static err_code cancel(client *c, uint64_t job, json_t **report, err *e)
{
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = job;
    err_code rc = client_send(c, &m, NULL, e);
    if (rc == ERR_OK) rc = client_status(c, 1, report, e);
    if (rc == ERR_OK && !find_job(*report, job)) rc = err_set(e, ERR_ABSENT, "no job %llu", (unsigned long long)job);
    return rc;
}

err_code cmd_cancel(settings *s, err *e)
{
    text dir = { 0 };
    client *c = NULL;
    json_t *report = NULL;
    uint64_t job = 0;
    err_code rc = job_id_of(s, &job, e);
    if (rc == ERR_OK) rc = connect_to(&c, &dir, s, e);
    if (rc == ERR_OK) rc = cancel(c, job, &report, e);
    if (rc == ERR_OK && s->json) rc = show_json(json_incref((json_t *)find_job(report, job)), e);
    json_decref(report);
    client_close(&c);
    text_free(&dir);
    return rc;
}
