#ifndef CLI_CLUSTER_H
#define CLI_CLUSTER_H
/* The cluster that a command works with: one that is up already, or one that is started here and stopped with the command. */
#include "core/settings.h"
#include <sys/types.h>

typedef struct {
    text dir;            /* run directory */
    pid_t pid;           /* of the coordinator when it is our child, else 0 */
    bool private_dir;    /* made by us, removed by us */
} cluster;

/* For run and eval: the cluster that is up in --dir (or the default directory) when no option shapes a cluster, else a
 * private one of our own (the default model when -m is not given). Afterwards cluster_leave, in any case. */
err_code cluster_join(cluster *c, settings *s, err *e);
/* For up: start one in `dir` that outlives us; returns when it is ready. */
err_code cluster_start_detached(cluster *c, settings *s, const char *dir, err *e);
/* Stop a cluster of our own (SIGTERM, 10 s, SIGKILL), remove a private directory; leave another one as it is. */
void cluster_leave(cluster *c);
/* Did it die under us? Says how in *e. */
err_code cluster_check(cluster *c, err *e);
/* The line that a coordinator writes on its notify descriptor: "READY ..." or "ERROR code text". */
err_code cluster_read_line(const char *line, err *e);
#endif
