#include "coordinator/spawn.h"
#include "core/clock.h"
#include "core/signals.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

err_code spawn_find(const char *bin_dir, const char *program, char *path, size_t cap, err *e)
{
    char self[4096];
    if (!bin_dir) {
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0) return err_set(e, ERR_IO, "/proc/self/exe: %s", strerror(errno));
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash) *slash = 0;
        bin_dir = self;
    }
    if ((size_t)snprintf(path, cap, "%s/%s", bin_dir, program) >= cap) return err_set(e, ERR_CONFIG, "path of %s is too long", program);
    if (access(path, X_OK)) return err_set(e, ERR_CONFIG, "cannot start %s: %s (--bin-dir says where the programs are)", path, strerror(errno));
    return ERR_OK;
}

static void become(const char *path, char **argv, const char *env, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    if (env) putenv((char *)(uintptr_t)env);
    execv(path, argv);
    _exit(127);
}

err_code spawn_child(const char *path, const string_list *args, const char *env, pid_t *pid, err *e)
{
    char **argv = calloc(args->n + 2, sizeof *argv);
    if (!argv) return err_set(e, ERR_NOMEM, "out of memory");
    argv[0] = (char *)(uintptr_t)path;
    for (size_t i = 0; i < args->n; i++) argv[i + 1] = args->at[i];
    pid_t me = getpid();
    *pid = signals_fork();
    if (*pid == 0) become(path, argv, env, me);
    free(argv);
    return *pid > 0 ? ERR_OK : err_set(e, ERR_IO, "cannot start %s: %s", path, strerror(errno));
}

void spawn_stop(pid_t pid, int ms)
{
    uint64_t end = clock_ns() + (uint64_t)ms * 1000000u;
    int status;
    kill(pid, SIGTERM);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_ns() > end) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
}

void spawn_status_text(int status, char *buf, size_t cap)
{
    if (WIFSIGNALED(status)) snprintf(buf, cap, "killed by signal %d", WTERMSIG(status));
    else snprintf(buf, cap, "ended with status %d", WEXITSTATUS(status));
}

uint64_t spawn_progress(pid_t pid, bool *busy)
{
    char path[64], line[1024];
    unsigned long long min, maj, user, sys;
    char state;
    *busy = false;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    const char *name_end = strrchr(line, ')'); /* a program's name may hold anything; proc(5) numbers the fields behind it from 3 */
    if (!name_end || sscanf(name_end, ") %c %*d %*d %*d %*d %*d %*u %llu %*u %llu %*u %llu %llu", &state, &min, &maj, &user, &sys) != 5) return 0;
    *busy = state == 'R' || state == 'D';
    return 1 + min + maj + user + sys;
}
