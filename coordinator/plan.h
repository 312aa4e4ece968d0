#ifndef COORDINATOR_PLAN_H
#define COORDINATOR_PLAN_H
/* Which stage has which layers. A pure function. */
#include "core/err.h"
#include "engine/model.h"

typedef struct { uint32_t first, last; bool embed, head; } plan_part;

/* What is to be split: costs in any unit, bytes of weights and of the KV that a layer's sessions need. */
typedef struct {
    uint32_t L;
    const double *layer;            /* [L] */
    const uint64_t *layer_bytes;    /* [L] or NULL: memory does not matter */
    double embed, head, hop;        /* of the first stage, of the last one, of every one */
    uint64_t embed_bytes, head_bytes;
} plan_work;

/* A place for a stage. */
typedef struct { double speed; uint64_t memory; } plan_seat;   /* 1: that of the costs; bytes, 0: enough */

/* Split the layers over n seats in their order, so that the slowest stage is as fast as can be; embed goes to the first stage,
 * head to the last. Exact (dynamic programme, n L^2 steps). `all`: every seat gets a layer at least; else a seat may stay
 * empty (first == last), and embed and head go to the first and last that are not. *slowest (may be NULL): its time.
 * ERR_CONFIG: more seats than layers, or the layers do not fit into the seats' memory. */
err_code plan_seats(const plan_work *w, const plan_seat *seat, uint32_t n, bool all, plan_part *out, double *slowest, err *e);
/* The same for equal seats without limits: cost[i] of layer i, head_cost for the last stage. */
err_code plan_split(const double *cost, uint32_t n_layers, double head_cost, uint32_t n_stages, plan_part *out, err *e);
/* Bytes read for one token in each layer, and in the head: the cost when nothing was measured. */
err_code plan_costs(const gguf *g, const model_shape *s, double *cost, double *head_cost, err *e);
#endif
