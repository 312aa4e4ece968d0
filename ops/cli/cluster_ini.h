#ifndef CLI_CLUSTER_INI_H
#define CLI_CLUSTER_INI_H
/* CLUSTER.ini: nodes, links and a load, as `sluice plan` reads them:
 *
 *   [load]  clients = 16  rate = 0  requests = 200  prompt = 128,512  generate = 128  chunk = 64  in_flight = 0  seed = 0
 *   [link]  latency_us = 50  bandwidth_mbs = 1000           between nodes; a node may have its own, to the next one
 *   [node NAME]  count = 1  stages = 1  threads = 2  cores = 2  speed = 1  memory_mb = 0  groups = 0,1,0,1
 *
 * Nodes stand in the pipeline's order; `count` alike ones may be said at once. speed is relative to the machine of the costs.
 * Stages of a node share its cores when their threads are more than its cores: stage i computes on group i modulo
 * (cores / threads), as a cluster on one host binds them, or on the group that `groups` gives it. Unknown sections and keys,
 * wrong values and doubled nodes are ERR_CONFIG naming file, line and key. */
#include "ops/cli/simulate.h"

#define SPEC_NODES_MAX 128u

typedef struct {
    char name[40];
    uint32_t count, stages, threads, cores;
    double speed, latency_us, bandwidth_mbs;    /* latency < 0, bandwidth 0: those of [link] */
    uint64_t memory_mb;
    uint32_t group[SIM_STAGES_MAX], n_groups;
} node_spec;

typedef struct {
    node_spec *node;                            /* [SPEC_NODES_MAX] */
    uint32_t n;
    sim_load load;
    double latency_us, bandwidth_mbs;
} cluster_spec;

err_code cluster_spec_read(cluster_spec *c, const char *path, err *e);
void cluster_spec_free(cluster_spec *c);
/* One node, this machine: so many stages with so many threads each. */
err_code cluster_spec_local(cluster_spec *c, uint32_t stages, uint32_t threads, uint32_t cores, err *e);
/* Stages, groups, links; seats for the plan: what each can do beside those of the costs, on steps of so many rows. The parts
 * are not filled in. seat: [SIM_STAGES_MAX]. ERR_CONFIG: too many stages. */
err_code cluster_spec_stages(const cluster_spec *c, const costs *k, uint32_t rows, sim_cluster *out, plan_seat *seat, err *e);
/* The work for plan_seats: costs of one stage of the base team on steps of so many rows. layer: [MODEL_MAX_LAYERS]. */
plan_work cluster_spec_work(const costs *k, uint32_t rows, double *layer);
#endif
