#ifndef CLI_CALIBRATE_STAND_H
#define CLI_CALIBRATE_STAND_H
/* Section stand of a profile: low ranks in place of the FFNs of all layers but the first and the last, for --skip duo (engine/stand_in.h).
 *   rank                          a sixteenth of an FFN's weights, in whole blocks of 32
 *   error [L]                     of each on rows held out, 1: no better than the mean of what the FFN adds
 *   damage, bare [L]              nats a generated token that it costs to have the stand-in, and nothing, in place of the FFN
 *   order [L], joint [..]         FFNs, the most expendable first, each chosen beside those before it; what the first n cost, and
 *   joint_bare [..]               what the same ones cost with nothing in their place
 * Tensors by layer: a, b, bias. */
#include "ops/cli/calibrate.h"
calibrate_run calibrate_stand;
#endif
