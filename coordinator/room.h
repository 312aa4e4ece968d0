#ifndef COORDINATOR_ROOM_H
#define COORDINATOR_ROOM_H
/* Is there room in the stages' KV for one more job? A promise by counting rows, so that jobs wait instead of failing half way; a
 * stage's own budget is what holds. Main thread only. */
#include "coordinator/coordinator.h"

/* The rows that a job may come to hold: prompt and answer, those of its other choices, whole pages. Under a policy that packs or
 * evicts, the answer's rows behind the newest settlements count as nothing: what is left of them is less than the raw prompt. */
uint64_t room_rows(const coordinator *c, const job *j);
/* Does `j` fit beside the jobs that run? Always, when there is no budget or nobody else. */
bool room_for(const coordinator *c, const job *j);
#endif
