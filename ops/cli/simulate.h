#ifndef CLI_SIMULATE_H
#define CLI_SIMULATE_H
/* A cluster that is not there: a discrete-event simulation of its steps. Stages take STEPs in the order they come; stages
 * whose threads share cores share their time; those of one node share memory's bandwidth as far as the costs say; a hop takes
 * a latency and a time for its bytes. The schedule is the coordinator's own (coordinator/pump.c): as many steps in flight as
 * stages, prompt chunks between decode steps, decoding sessions spread over the places in flight. Not in it: deaths, memory
 * limits, skipped layers, retrieval. Pure; one thread. */
#include "coordinator/costs.h"
#include "coordinator/plan.h"
#include "ops/cli/samples.h"

#define SIM_STAGES_MAX 512u
#define SIM_LENGTHS_MAX 16u

typedef struct {
    plan_part part;
    uint32_t node, group, threads;    /* group: cores of the node that this stage computes on; others in it share them */
    double speed;                     /* 1: as the machine of the costs */
    double latency_us, mb_us;         /* to the next stage (the last: to the coordinator); for each 10^6 bytes */
} sim_stage;

typedef struct {
    const costs *costs;
    sim_stage stage[SIM_STAGES_MAX];
    uint32_t n;                       /* stages of one node stand together */
    double first_us;                  /* from the coordinator to the first stage */
} sim_cluster;

typedef struct {
    uint32_t clients;                 /* closed loop: each sends a request when the one before is answered */
    double rate;                      /* requests a second at random times instead; 0: closed loop */
    uint32_t requests, chunk, width, max_rows, max_sessions;   /* width 0: one step in flight for each stage */
    uint32_t prompt[SIM_LENGTHS_MAX], gen[SIM_LENGTHS_MAX], n_prompt, n_gen;   /* each request draws one of these */
    uint64_t seed;
} sim_load;

typedef struct {
    double seconds, gen_s, prompt_s, req_s;   /* tokens and requests a second */
    samples ttft, itl, tpot;                  /* ms */
    double busy[SIM_STAGES_MAX];              /* part of the time that a stage computes */
    uint64_t steps, events;
} sim_result;

/* ERR_NOMEM, or ERR_CONFIG when the load can never end. *out is freed with simulate_free. */
err_code simulate(const sim_cluster *c, const sim_load *l, sim_result *out, err *e);
void simulate_free(sim_result *r);
#endif
