#ifndef CLI_CALIBRATE_LIMITS_H
#define CLI_CALIBRATE_LIMITS_H
/* Section limits of a profile: thresholds by bisection, for rules that leave out more of one prompt than of another. Each [ROUTER_CALM]: what
 * leaves out a ROUTER_CALM_STEP of all layers, two of them, ..., mean over documents. Needs section route in the profile; what it lacks is left out.
 *   exit                 q of --skip exit
 *   damage, rho          added-up damage of --skip first, and rho of its trained routers (section first) */
#include "ops/cli/calibrate.h"
calibrate_run calibrate_limits;
#endif
