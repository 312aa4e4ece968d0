#include "ops/cli/batch.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/show.h"

/* sluice submit: one job, waited for or not, or a file of them. */

static err_code check_options(const settings *s, err *e)
{
    bool one = s->prompt || s->file || s->args.n;
    if (s->detach && s->wait) return err_set(e, ERR_USAGE, "--detach and --wait exclude each other");
    if (s->batch && one) return err_set(e, ERR_USAGE, "--batch and a prompt exclude each other");
    if (s->batch && s->detach)
        return err_set(e, ERR_USAGE, "--batch and --detach exclude each other: results go to the output file");
    if (s->out && !s->batch) return err_set(e, ERR_USAGE, "-o goes with --batch");
    return ERR_OK;
}

static err_code detach(client *c, const settings *s, request *r, err *e)
{
    uint64_t job = 0;
    err_code rc = flight_detach(c, r, &job, e);
    if (rc != ERR_OK) return rc;
    if (s->json) return show_json(json_pack("{s:s, s:I}", "schema", "sluice.submit/1", "id", (json_int_t)job), e);
    printf("%llu\n", (unsigned long long)job);
    return show_write("", 0, e);
}

static err_code wait_for(client *c, const settings *s, const char *dir, request *r, err *e)
{
    show w;
    r->m.submit.stream = true;
    err_code rc = show_open(&w, s, "sluice.result/1", dir, r, e);
    if (rc == ERR_OK) rc = flight_run(c, 1, &show_ops, &w, e);
    if (rc == ERR_OK && w.job.code != ERR_OK) {
        *e = w.job;
        rc = w.job.code;
    }
    show_close(&w);
    return rc;
}

static err_code submit_one(client *c, const settings *s, const char *dir, err *e)
{
    request r;
    err_code rc = request_init(&r, s, e);
    if (rc == ERR_OK) rc = request_prompt(&r, s, e);
    if (rc == ERR_OK) rc = s->detach ? detach(c, s, &r, e) : wait_for(c, s, dir, &r, e);
    request_free(&r);
    return rc;
}

err_code cmd_submit(settings *s, err *e)
{
    text dir = { 0 };
    client *c = NULL;
    err_code rc = check_options(s, e);
    if (rc == ERR_OK) rc = path_live_dir(&dir, s, e);
    if (rc == ERR_OK) rc = client_open(&c, s, dir.ptr, e);
    if (rc == ERR_OK) client_be_patient(c, (client_patience){ s->patience, s->reconnect });
    if (rc == ERR_OK) rc = s->batch ? batch_run(c, s, e) : submit_one(c, s, dir.ptr, e);
    client_close(&c);
    text_free(&dir);
    return rc;
}
