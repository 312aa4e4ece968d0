#include "ops/cli/command.h"
#include "ops/cli/packing.h"
#include "ops/cli/paths.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* sluice worker: becomes sluice-stage with the same options, so that its pid is the one that was started. */

err_code cmd_worker(settings *s, err *e)
{
    text program = { 0 };
    string_list argv = { 0 };
    err_code rc = ERR_OK;
    if (s->args.n) rc = err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[0]);
    else if (!s->connect) rc = err_set(e, ERR_USAGE, "--connect ENDPOINT is missing (the address that sluice up --listen gave)");
    if (rc == ERR_OK) rc = path_default_model(s, e);
    if (rc == ERR_OK) packing_before_start(s);
    if (rc == ERR_OK) rc = path_program(&program, s, "sluice-stage", e);
    if (rc == ERR_OK && !string_list_add(&argv, program.ptr)) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = settings_to_argv(s, CMD_STAGE, &argv, e);
    if (rc == ERR_OK) {
        signals_reset();
        execv(program.ptr, argv.at);
        rc = err_set(e, ERR_IO, "%s: %s", program.ptr, strerror(errno));
    }
    string_list_free(&argv);
    text_free(&program);
    return rc;
}
