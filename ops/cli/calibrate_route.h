#ifndef CLI_CALIBRATE_ROUTE_H
#define CLI_CALIBRATE_ROUTE_H
/* Section route of a profile: damage, similarity, order and routers of layers. Keys and tensors, by layer l of L, D wide:
 *   damage, damage_attn, damage_ffn [L]   nats a generated token that leaving it out costs, mean over documents
 *   sim..., ratio... [L]                  cosine and ratio of norms of what comes out and what goes in
 *   order [L], joint [..]                 layers, the most expendable first, each chosen beside those before it; and what the first n cost
 *   neighbours                            what two neighbours cost more than their parts
 *   pairs [L][L]                          what two layers cost more than their parts; of the ends 0
 *   w, gate [D] by layer; bias, gate_bias [L]   log(eps + damage) = w f + bias; can it go below delta: logistic of gate f + gate_bias,
 *                                         f the mean over the prompt's rows, but the last, of the layer's input / its root mean square
 *   auc, gate_auc, r2 [L]                 of these on documents held out; eps, delta, documents */
#include "ops/cli/calibrate.h"
calibrate_run calibrate_route;
#endif
