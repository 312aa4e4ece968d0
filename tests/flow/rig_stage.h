#ifndef TESTS_FLOW_RIG_STAGE_H
#define TESTS_FLOW_RIG_STAGE_H
/* A pipeline stage in a thread of the test process: stage_run over a hub that the test owns. Knows no coordinator. */
#include "workers/stage/stage.h"
#include <pthread.h>

typedef struct {
    stage_options o;
    char name[32], data[64], bulk[64], connect[192], trace[192];   /* what the options point at */
    atomic_bool stop;
    pthread_t thread;
    bool running;
    err_code rc;                /* what stage_run returned, after rig_stage_stop */
    err why;
} rig_stage;

/* Start stage `i`: it connects to `connect`, takes data on inproc://stage-I.data and bulk on inproc://stage-I.bulk.
 * trace_file may be NULL. The object must not move while the stage runs. */
void rig_stage_start(rig_stage *s, hub *h, uint32_t i, const char *connect, const char *model, isa use, uint32_t threads, const char *trace_file,
                     bool packed);
/* Where packed weights of all rigs of this process are. */
const char *rig_stage_pack_dir(void);
/* Ask it to end, wake it, and wait for its thread. */
void rig_stage_stop(rig_stage *s);
#endif
