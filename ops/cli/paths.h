#ifndef CLI_PATHS_H
#define CLI_PATHS_H
/* Where things are: the run directory, the other programs, the bundled model. Texts are owned by the caller. */
#include "core/settings.h"

/* --dir, or $XDG_RUNTIME_DIR/sluice, or /tmp/sluice-UID. Nothing is created. */
err_code path_run_dir(text *out, const settings *s, err *e);
/* Where a cluster should be up: --connect, or the run directory; ERR_ABSENT says that there is none. */
err_code path_live_dir(text *out, const settings *s, err *e);
/* True when the user named no directory. */
bool path_is_default_dir(const settings *s);
/* A run directory is a folder of ours that nobody else may write to (a socket in /tmp could be somebody else's trap).
 * create: make it, mode 0700. ERR_ABSENT when it is not there. */
err_code path_check_dir(const char *dir, bool create, err *e);
/* The name of a directory that is not there yet, below $XDG_RUNTIME_DIR, $TMPDIR or /tmp: the first in which it can be made. */
err_code path_private_dir(text *out, err *e);
/* Remove a run directory with the files in it (no folders below). */
void path_remove_dir(const char *dir);
/* Full path of a program (in --bin-dir or beside this one) that is there and may be run; ERR_IO names the path. */
err_code path_program(text *out, const settings *s, const char *name, err *e);
/* Give s->model the bundled model when it has none. ERR_MODEL says where it was looked for. */
err_code path_default_model(settings *s, err *e);
#endif
