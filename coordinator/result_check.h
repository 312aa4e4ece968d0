#ifndef COORDINATOR_RESULT_CHECK_H
#define COORDINATOR_RESULT_CHECK_H
/* Is this RESULT the answer to that step? Whoever can reach the result socket can send one; only what a stage that had the step
 * would say is taken. Pure functions. */
#include "coordinator/coordinator.h"

/* Counts of the rows fit the tables, indices their tensors, and token ids the vocabulary V. */
bool result_is_sound(const msg_result *m, const result_row *rows, const candidate *cand, uint32_t V);
/* From the step's last hop, of as many rows, with an answer of the kind that was asked for to every row that asked, in the order
 * of the step; other rows only where a stage gave them up. */
bool result_answers(const flight *f, const msg_result *m, const result_row *rows);
#endif
