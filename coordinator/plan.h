#ifndef COORDINATOR_PLAN_H
#define COORDINATOR_PLAN_H
/* Which stage has which layers. A pure function. */
#include "core/err.h"
#include "engine/model.h"

typedef struct { uint32_t first, last; bool embed, head; } plan_part;

/* Split n_layers over n_stages in order, so that the dearest stage is as cheap as can be: cost[i] of layer i, head_cost for
 * the last stage (any unit). embed goes to the first stage, head to the last. Exact (binary search over prefix sums is not
 * needed at these sizes: dynamic programme, L*L*S steps). ERR_CONFIG when there are more stages than layers. */
err_code plan_split(const double *cost, uint32_t n_layers, double head_cost, uint32_t n_stages, plan_part *out, err *e);
/* Bytes read for one token in each layer, and in the head: the cost when nothing was measured. */
err_code plan_costs(const gguf *g, const model_shape *s, double *cost, double *head_cost, err *e);
#endif
