#ifndef CLI_CALIBRATE_CALM_H
#define CLI_CALIBRATE_CALM_H
/* Section route, for ffn-skip: which cosine leaves out which share of the FFNs. Knows documents as ids; makes no policy. */
#include "engine/route_probe.h"
#include "engine/router.h"
#include "ops/cli/documents.h"

/* theta [ROUTER_CALM] for ROUTER_CALM_STEP of all FFNs, twice as many, ..., by bisection over n of the documents, evenly, when `count` go behind a calm one. */
err_code calibrate_calm(route_probe *p, uint32_t L, uint32_t count, const documents *docs, uint32_t n, double *theta, err *e);
#endif
