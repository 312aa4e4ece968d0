#ifndef CLI_STAGE_TIMES_H
#define CLI_STAGE_TIMES_H
/* What the stages did between two status reports. Pure. */
#include <jansson.h>
#include <stdint.h>

/* One object a stage: steps, rows, busy (computing), transfer (taking messages in and sending them on), wait, and what was
 * neither, each as a part of wall_ns in percent; bubble: the part in which it did not compute. NULL: out of memory. */
json_t *stage_times_json(const json_t *before, const json_t *after, uint64_t wall_ns);
#endif
