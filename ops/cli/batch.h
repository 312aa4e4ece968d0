#ifndef CLI_BATCH_H
#define CLI_BATCH_H
/* submit --batch IN.jsonl -o OUT.jsonl: many jobs, a bounded number of them under way. Results are written as they come,
 * one JSON object a line, so their order is that of completion; custom_id says which is which. A batch that was stopped goes
 * on where it was (results.h). */
#include "ops/cli/client.h"
#include "core/settings.h"

/* A line that cannot be read, or a job that fails, is an object with "error" in the output and makes the command fail in
 * the end (ERR_INPUT with the counts), after all other lines are done. A custom_id on two lines of a file is ERR_INPUT before
 * anything is sent, and names both; in a pipe the second line fails like any other bad one. Without -o the objects go to stdout. */
err_code batch_run(client *c, const settings *s, err *e);
#endif
