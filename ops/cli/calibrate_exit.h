#ifndef CLI_CALIBRATE_EXIT_H
#define CLI_CALIBRATE_EXIT_H
/* Section route, for exit: how likely each layer is the last that a prompt's answer needs, by the entropy at the prompt's end. */
#include "core/err.h"
#include <stdint.h>

#define EXIT_DELTA 0.25           /* nats a token that an exit may cost: with less hardly a document has one */
/* damage [n][L]: of a document without the layers between l and the last one. bias, slope [L] of the hazards' logits (discrete survival: of
 * documents that have not come out below l, does this one come out at l?). shares [L]: documents that come out at l. */
err_code calibrate_exit(const double *damage, const double *entropy, uint32_t n, uint32_t L, double *bias, double *slope, double *shares, err *e);
#endif
