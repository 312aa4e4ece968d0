#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/describe.h"
#include "ops/cli/show.h"

/* sluice status and jobs: what the coordinator says of itself. */

static err_code ask_and_print(settings *s, unsigned what, void (*print)(FILE *, const json_t *), err *e)
{
    text dir = { 0 };
    client *c = NULL;
    json_t *report = NULL;
    err_code rc = s->args.n ? err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[0]) : path_live_dir(&dir, s, e);
    if (rc == ERR_OK) rc = client_open(&c, s, dir.ptr, e);
    if (rc == ERR_OK) rc = client_status(c, what, &report, e);
    if (rc == ERR_OK && s->json) rc = show_json(json_incref(report), e);
    else if (rc == ERR_OK) {
        print(stdout, report);
        rc = show_write("", 0, e);
    }
    json_decref(report);
    client_close(&c);
    text_free(&dir);
    return rc;
}

err_code cmd_status(settings *s, err *e) { return ask_and_print(s, 0, describe_status, e); }
err_code cmd_jobs(settings *s, err *e) { return ask_and_print(s, 1, describe_jobs, e); }
