#include "ops/cli/procs.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Owns reading /proc/PID. It ends no process. */

err_code proc_pss(pid_t pid, uint64_t *bytes, err *e)
{
    char path[64], line[256];
    unsigned long long kb;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    while (!found && fgets(line, sizeof line, f)) found = sscanf(line, "Pss: %llu kB", &kb) == 1;
    fclose(f);
    if (!found) return err_set(e, ERR_IO, "%s says no Pss", path);
    *bytes = (uint64_t)kb * 1024;
    return ERR_OK;
}

err_code proc_cpu_ns(pid_t pid, uint64_t *ns, err *e)
{
    char path[64], line[1024];
    unsigned long long user, sys;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    const char *after = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL; /* the name may hold anything */
    fclose(f);
    if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys) != 2)
        return err_set(e, ERR_IO, "%s is not what it should be", path);
    *ns = (user + sys) * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
    return ERR_OK;
}
