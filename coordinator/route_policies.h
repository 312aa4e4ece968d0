#ifndef COORDINATOR_ROUTE_POLICIES_H
#define COORDINATOR_ROUTE_POLICIES_H
/* From a rule to a mask: pure functions of numbers, so all of it can be tested without a cluster. Any thread. */
#include "engine/skip_rule.h"

typedef struct {
    uint32_t L;                   /* layers of the model */
    uint32_t answer;              /* tokens to generate at most: what a schedule runs over when its rule does not say */
    const uint32_t *order;        /* [L] layers, the most expendable first; NULL: not known */
} route_world;

/* ERR_INPUT when the model has no such layers, or too few; ERR_CONFIG: the rule needs what is not known. */
err_code route_choose(layer_mask *out, const skip_rule *r, const route_world *w, err *e);
#endif
