#ifndef WORKERS_STAGE_EARLY_H
#define WORKERS_STAGE_EARLY_H
/* Steps that came before their turn: one that goes around a stage overtakes the one before it. Copies, at most as many as may be in
 * flight; what does not fit is dropped and comes again. Computes nothing. The stage's thread only. */
#include "proto/message.h"

typedef struct { uint32_t seq; message head; text frame[MSG_FRAMES_MAX]; } early_step;   /* seq 0: none */
typedef struct { early_step *at; uint32_t depth; } early;                                /* [depth], made when first needed */

/* A step that is number seq here, while `due` is awaited. */
void early_keep(early *a, uint32_t seq, uint32_t due, const message *head, const view *frame);
/* The step with this number, its frames as views in `frame`; NULL: it has not come. Valid until the next call. */
const message *early_take(early *a, uint32_t seq, view frame[static MSG_FRAMES_MAX]);
void early_free(early *a);
#endif
