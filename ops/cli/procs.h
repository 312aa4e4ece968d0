#ifndef CLI_PROCS_H
#define CLI_PROCS_H
/* What the kernel says of a process of this host (/proc). Pure reading. */
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Proportional set size, bytes: its private pages and its part of those that several processes share. ERR_IO. */
err_code proc_pss(pid_t pid, uint64_t *bytes, err *e);
/* Processor time so far, user and system, of all its threads, in ns (clock ticks are what the kernel counts in). ERR_IO. */
err_code proc_cpu_ns(pid_t pid, uint64_t *ns, err *e);
#endif
