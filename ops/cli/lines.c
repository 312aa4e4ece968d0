#include "ops/cli/lines.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Owns reading JSON-lines files as lines; what is in a line is the caller's. */

/* A prompt has 64 MB at most; escapes may double that. */
enum { LINE_BYTES_MAX = 1 << 27 };

err_code lines_open(lines *l, const char *path, err *e)
{
    *l = (lines){ .path = strcmp(path, "-") ? path : "standard input" };
    l->f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    return l->f ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}

bool lines_next(lines *l, view *out, err *e)
{
    e->code = ERR_OK;
    for (;;) {
        errno = 0;
        ssize_t n = getline(&l->line, &l->cap, l->f);
        if (n < 0 && errno == EINTR && !feof(l->f)) {
            clearerr(l->f);
            return err_set(e, ERR_CANCELLED, "stopped by a signal"), false;
        }
        if (n < 0) return feof(l->f) ? false : (err_set(e, ERR_IO, "%s: %s", l->path, strerror(errno)), false);
        l->number++;
        if (n > LINE_BYTES_MAX)
            return err_set(e, ERR_INPUT, "%s:%llu: the line is too long", l->path, (unsigned long long)l->number), false;
        while (n && strchr(" \t\r\n", l->line[n - 1])) n--;
        if (!n) continue;
        *out = (view){ l->line, (size_t)n };
        return true;
    }
}

void lines_close(lines *l)
{
    if (l->f && l->f != stdin) fclose(l->f);
    free(l->line);
    *l = (lines){ 0 };
}
