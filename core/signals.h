#ifndef CORE_SIGNALS_H
#define CORE_SIGNALS_H
/* What every long-running program of ours does at its start: catch the signals that ask it to stop, die with its parent
 * when told to, set the log level. Called from main before other threads exist. */
#include "core/err.h"
#include <stdatomic.h>
#include <sys/types.h>

/* SIGTERM, SIGINT and SIGHUP set the flag that is returned (and interrupt waits: no SA_RESTART); SIGPIPE and SIGXFSZ are ignored. */
atomic_bool *signals_catch(void);
/* The last signal caught, 0: none. */
int signals_last(void);
/* SIGTERM for us when the parent dies; at once when it is dead already. */
void signals_die_with_parent(void);
/* fork() without the moment in which a signal to the child would run our handler and be forgotten by exec: the child begins
 * with default actions, and what came meanwhile acts on it. As fork(). */
pid_t signals_fork(void);
/* Level by name; NULL keeps the default. ERR_USAGE quotes an unknown one. */
err_code signals_log_level(const char *name, err *e);
#endif
