#ifndef CORE_SANDBOX_H
#define CORE_SANDBOX_H
/* What a worker gives up for good once its files and sockets are open, so that bytes which get the better of it get little
 * else. By libseccomp, in every thread of the process, and inherited by nothing because nothing can be started.
 *
 * Guarded: no program is started, no process or thread made, none traced, signalled or read; no file is opened to be
 * written, made, renamed or removed; no memory becomes code; no sockets but streams and datagrams of unix and inet (and
 * netlink's route family, which looking up a host name asks), none bound or listened on; no mounts, modules, keys, namespaces,
 * users, io_uring, bpf. What is dangerous in itself ends the process with a line that names it (SANDBOX-KILL, then SIGSYS);
 * all else that is not on the list fails with EPERM, or ENOSYS where the C library has another way.
 * Not guarded: which files are opened to be read (adapters may lie anywhere; file permissions and `user` decide), whom an
 * allowed socket talks to, and what is done through descriptors that were open before. */
#include "core/err.h"
#include <stdbool.h>

typedef struct {
    const char *user;   /* when root: go on as this user and its groups; NULL: stay who one is. ERR_CONFIG when not root */
    bool no_files;      /* open nothing at all any more */
    bool no_filter;     /* --no-sandbox: only the user, and no new privileges */
} sandbox_want;

/* ERR_CONFIG names the user or the library's reason; then nothing is promised, and the caller had better end. In builds with a
 * sanitizer or coverage counters, which open files as they please, the filter is left out: *on says whether it is there. */
err_code sandbox_enter(const sandbox_want *w, bool *on, err *e);
#endif
