#ifndef COORDINATOR_SPAWN_H
#define COORDINATOR_SPAWN_H
/* Child processes on this host. A child gets SIGTERM when the thread that started it dies, so call from the main thread. */
#include "core/settings.h"
#include <sys/types.h>

/* The folder of this program's binary, or bin_dir; ERR_CONFIG names a program that is not there. */
err_code spawn_find(const char *bin_dir, const char *program, char *path, size_t cap, err *e);
/* Start it; env: "NAME=VALUE" put over the environment, or NULL. */
err_code spawn_child(const char *path, const string_list *argv, const char *env, pid_t *pid, err *e);
/* SIGTERM, wait up to ms, then SIGKILL; returns when it is gone. */
void spawn_stop(pid_t pid, int ms);
/* "exit status 3", "signal 9" */
void spawn_status_text(int status, char *buf, size_t cap);
/* A number that changes while a process computes or reads: CPU time and page faults; 0 when it cannot be read. *busy: it runs or
 * waits for a disk this very moment. A stopped one does neither. */
uint64_t spawn_progress(pid_t pid, bool *busy);
#endif
