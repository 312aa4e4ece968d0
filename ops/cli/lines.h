#ifndef CLI_LINES_H
#define CLI_LINES_H
/* A text file ("-": standard input) line by line, with numbers; empty lines are passed over. */
#include "core/buf.h"
#include <stdio.h>
typedef struct {
    FILE *f;
    const char *path;
    char *line;
    size_t cap;
    uint64_t number;      /* of the line given out last, from 1 */
} lines;
err_code lines_open(lines *l, const char *path, err *e);
/* False at the end, or with e->code set (line too long, read error). The view is valid until the next call. */
bool lines_next(lines *l, view *out, err *e);
void lines_close(lines *l);
#endif
