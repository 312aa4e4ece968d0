#ifndef TESTS_FLOW_RIG_LOW_H
#define TESTS_FLOW_RIG_LOW_H
/* The lower rig: stages alone, with the test in the coordinator's place: it plans, opens sessions and makes every STEP by
 * hand, right or wrong. What goes wrong in the rig itself fails the test. One thread (the test's). */
#include "engine/forward.h"
#include "tests/flow/rig_stage.h"

#define LOW_STAGES 4u
#define LOW_ROWS 64u            /* rows a STEP may have under the plan */
#define LOW_EPOCH 5u

typedef struct {
    hub *hub;
    rig_stage stage[LOW_STAGES];
    link_id id[LOW_STAGES];
    link_t *control, *result, *first[LOW_STAGES];   /* first[i]: straight to stage i */
    packet in;                  /* of result and control, whichever was taken last */
    uint32_t n, V, D;
    uint64_t next_step;
} low_rig;

/* n stages of a model, layers shared out evenly, planned and ready. *r must not move until low_close. */
void low_open(low_rig *r, const char *file, uint32_t n, isa use, uint32_t n_ctx);
void low_close(low_rig *r);
/* Open a session in every stage; DROP it. */
void low_session(low_rig *r, uint64_t id);
/* SESSION_OPEN as it stands to every stage, with a mask or without; what comes back is the test's to look at. */
void low_ask_session(low_rig *r, const message *m, view recs);
void low_drop(low_rig *r, uint64_t id);

typedef struct {
    message head;               /* STEP; change what should be wrong */
    step_row row[2 * LOW_ROWS];
    step_op op[16];
    hop_rec hop[LOW_STAGES];
    float *hidden;              /* borrowed, NULL: none */
} low_step;

/* An empty step for all stages, its number and epoch right. */
low_step low_begin(low_rig *r);
void low_op(low_step *s, uint32_t kind, uint64_t session, uint32_t row, uint64_t other);
/* A row that wants its whole row of logits; its position is `pos`. */
step_row *low_row(low_step *s, uint64_t session, uint32_t row, uint32_t pos, uint32_t parent, uint32_t token);
void low_send(low_rig *r, const low_step *s);                   /* to the first stage */
void low_send_to(low_rig *r, const low_step *s, uint32_t stage);

/* The RESULT of the step (r->in); fails the test when another or nothing comes. */
const msg_result *low_result(low_rig *r, const low_step *s);
result_row low_result_row(const low_rig *r, uint32_t i);
/* Whole row of logits of result row i, copied to out [V]; false when the row has none. */
bool low_logits(const low_rig *r, uint32_t i, float *out);
/* The next FAIL of any stage (r->in), NULL when none comes in time. Other control messages are passed over. */
const msg_fail *low_fail(low_rig *r, int timeout_ms);
/* Nothing comes on the result link for that long. */
bool low_silent(low_rig *r, int timeout_ms);
#endif
