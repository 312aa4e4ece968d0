#ifndef CLI_RESULTS_H
#define CLI_RESULTS_H
/* The output file of a batch: JSON objects, one a line, each whole and on its way to the disk before the next. A file that
 * exists is gone on with: answers in it stay, errors are taken away (their jobs are tried again), and so is a last line that
 * was torn. One thread. It never throws away an answer, nor a file that is none of a batch. */
#include "core/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    FILE *f;
    const char *name;         /* for people */
    json_t *have;             /* custom_ids that have an answer, as a set */
    uint64_t kept, retried;   /* answers in the file, and lines taken away */
} results;

/* path NULL or "-": standard output, where nothing can be gone on with. ERR_STATE: another batch writes to the file.
 * ERR_INPUT names a line that is no result of a batch. */
err_code results_open(results *r, const char *path, err *e);
bool results_have(const results *r, const char *custom_id);
/* Takes the reference. */
err_code results_write(results *r, json_t *o, err *e);
/* In any case; rc is what the batch came to, and comes back, unless closing fails first. */
err_code results_close(results *r, err_code rc, err *e);
#endif
