#ifndef COORDINATOR_ROUTE_POLICIES_H
#define COORDINATOR_ROUTE_POLICIES_H
/* From a rule to a mask: pure functions of numbers, so all of it can be tested without a cluster. Any thread. */
#include "engine/router.h"
#include "engine/skip_rule.h"

typedef struct {
    uint32_t L;                   /* layers of the model */
    uint32_t answer;              /* tokens to generate at most: what a schedule runs over when its rule does not say */
    const router *known;          /* of the profile; NULL: there is none */
    const double *damage;         /* [L] of each layer on this prompt; NULL: the profile's mean */
    const double *entropy;        /* behind the prompt's last token; NULL: not seen yet */
    const double *rho;            /* [L] how much trained routers want to keep each on this prompt; NULL: nobody has seen one */
    uint32_t stand_id[MASK_STANDS];   /* what the profile has in place of halves, 0: nothing of this kind (engine/stand_in.h) */
    const uint32_t *low_order;    /* [L] FFNs, the one whose low rank costs least first; NULL: there are none */
    const double *cost;           /* [L] time of a layer, any unit, for budgets of speed */
    const uint32_t *stage;        /* [n_stages + 1] first layer of each stage, L at the end */
    const double *stage_more;     /* [n_stages] time of what a stage has beside its layers */
    uint32_t n_stages;
} route_world;

/* ERR_INPUT when the model has no such layers, or too few; ERR_CONFIG: the rule needs what is not known. */
err_code route_choose(layer_mask *out, const skip_rule *r, const route_world *w, err *e);
#endif
