#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H
/* Every command of `sluice`. A command gets its settings (argv and configuration read, words counted) and says ERR_OK or
 * why not; main prints the error and makes the exit status of it. */
#include "core/settings.h"

typedef struct {
    const char *name;
    uint32_t bit;            /* the options it takes */
    err_code (*run)(settings *s, err *e);
    const char *help, *usage;
    const char *words;       /* what its first word may be: "a|b", "FILE" and "DIR" for paths, "" for anything else */
    const char *example;
    const char *about;       /* paragraphs for its man page, with "\n" between; no mark-up */
} command;

extern const command commands[];
extern const size_t commands_n;
/* NULL when there is none of that name. */
const command *command_find(const char *name);
/* The command that was probably meant, or NULL. */
const char *command_nearest(const char *name);

err_code cmd_run(settings *s, err *e);
err_code cmd_up(settings *s, err *e);
err_code cmd_down(settings *s, err *e);
err_code cmd_status(settings *s, err *e);
err_code cmd_worker(settings *s, err *e);
err_code cmd_submit(settings *s, err *e);
err_code cmd_jobs(settings *s, err *e);
err_code cmd_result(settings *s, err *e);
err_code cmd_replay(settings *s, err *e);
err_code cmd_cancel(settings *s, err *e);
err_code cmd_tokenize(settings *s, err *e);
err_code cmd_detokenize(settings *s, err *e);
err_code cmd_eval(settings *s, err *e);
err_code cmd_bench(settings *s, err *e);
err_code cmd_plan(settings *s, err *e);
err_code cmd_index(settings *s, err *e);
err_code cmd_model(settings *s, err *e);
err_code cmd_keygen(settings *s, err *e);
err_code cmd_profile(settings *s, err *e);
err_code profile_take(settings *s, const char *file, err *e);
err_code cmd_calibrate(settings *s, err *e);
err_code cmd_config(settings *s, err *e);
err_code cmd_completion(settings *s, err *e);

/* Parts of cmd_eval. */
err_code eval_logits(settings *s, err *e);
err_code eval_ppl(settings *s, err *e);
err_code eval_qa(settings *s, err *e);
err_code eval_predict(settings *s, err *e);
err_code eval_route(settings *s, err *e);
err_code eval_back_off(settings *s, err *e);
err_code eval_masks(settings *s, err *e);
err_code eval_kv(settings *s, err *e);

#define SLUICE_VERSION "0.1.0"
/* `sluice 1.2.3 (revision, isa)` */
void version_print(FILE *out);
/* What git called this build. */
const char *version_revision(void);
#endif
