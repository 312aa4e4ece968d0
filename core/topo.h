#ifndef CORE_TOPO_H
#define CORE_TOPO_H
/* Which cores and memory are ours. The only home of hwloc.h. Everything is taken inside the cpuset the process was given
 * (cgroup, Slurm, taskset), never outside it. One thread opens and chooses; binding calls may come from any thread. */
#include "core/err.h"
#include <stdint.h>

typedef struct topo topo;

/* Choose cores. where: "auto" (or NULL): part `part` of `parts` equal shares of the cores (shared when there are fewer
 * cores than parts); "none": no binding; else hwloc locations: core:0-3, package:1, numanode:0, pu:4, core:0-3.pu:0, masks
 * such as 0x0000000f; several with spaces. ERR_CONFIG quotes a location that is wrong or empty inside the cpuset. */
err_code topo_open(topo **out, const char *where, uint32_t part, uint32_t parts, err *e);
void topo_close(topo **t);
uint32_t topo_cores(const topo *t);          /* cores (not hyper-threads) in the choice, >= 1 */
uint32_t topo_given(const topo *t);          /* cpus this process was given, before the choice */
const char *topo_cpulist(const topo *t);     /* "0-3,8", as in /proc/PID/status */
/* Bind the whole process: its threads and (policy bind) its memory. ERR_IO with the reason. Does nothing for "none". */
err_code topo_bind(const topo *t, err *e);
/* Bind the calling thread to the tid-th core of the choice. Fits pool_open's bind argument. */
void topo_bind_thread(void *t, uint32_t tid);
#endif
