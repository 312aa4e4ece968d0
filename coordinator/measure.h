#ifndef COORDINATOR_MEASURE_H
#define COORDINATOR_MEASURE_H
/* Measures what a model's parts cost here: runs a few of its layers and its head for different numbers of rows, on one team
 * of threads and on as many teams at once as fit the cpus, and sends messages round between two threads. Uses the engine as a
 * stage does; starts no cluster. One thread calls it. */
#include "coordinator/costs.h"
#include "engine/pack.h"

typedef struct {
    const char *model;              /* GGUF file */
    pack_options pack;              /* weights as the stages will have them */
    const uint32_t *threads;        /* [n] team sizes, descending */
    uint32_t n;
    double seconds;                 /* for each number at least so long; more is steadier */
    void (*draw)(void *arg, uint64_t done, uint64_t total);     /* progress; or NULL */
    void *arg;
} measure_ask;

err_code measure_costs(costs *out, const measure_ask *a, err *e);
#endif
