#ifndef CLI_LINE_EDITOR_H
#define CLI_LINE_EDITOR_H
/* Lines typed at a terminal, with editing and a history (libedit; no other file knows it). One at a time, one thread. */
#include "core/buf.h"

typedef struct line_editor line_editor;
typedef enum {
    LINE_READ,
    LINE_BROKEN,             /* a signal came; *line is what had been typed */
    LINE_END,                /* Ctrl-D on an empty line, or the terminal is gone */
} line_event;

/* On standard input; the prompt goes to standard output, or to standard error where that is no terminal. */
err_code line_editor_open(line_editor **out, err *e);
void line_editor_close(line_editor **l);
/* Without its line end; valid until the next call. Lines that are not empty go into the history. */
line_event line_editor_read(line_editor *l, const char *prompt, view *line);
#endif
