/* A RESULT is taken only when it is the answer to its step. */
#include "coordinator/result_check.h"
#include <criterion/criterion.h>
#include <string.h>

enum { ROWS = 4, V = 100 };

typedef struct { flight f; step_row step[ROWS]; msg_result m; result_row row[ROWS]; candidate cand[2]; } world;

/* Rows 0 and 1 of a prompt want nothing, 2 wants candidates, 3 (another session) candidates and the whole row. */
static world make(void)
{
    world w = { .f = { .n_rows = ROWS, .n_hops = 3 } };
    for (uint32_t i = 0; i < ROWS; i++) w.step[i] = (step_row){ .session = i < 3 ? 64 : 128, .row = i < 3 ? i : 9, .target = MSG_NO_ROW };
    w.step[2].want = WANT_CANDIDATES;
    w.step[3].want = WANT_CANDIDATES | WANT_ROW;
    w.m = (msg_result){ .hop = 2, .step_rows = ROWS, .n_rows = 2, .n_cands = 2, .n_full = 1, .vocab = V };
    w.row[0] = (result_row){ .session = 64, .row = 2, .n_candidates = 1, .full = MSG_NO_ROW };
    w.row[1] = (result_row){ .session = 128, .row = 9, .n_candidates = 1, .full = 0 };
    return w;
}

static bool taken(world *w)
{
    w->f.rows = w->step;
    return result_is_sound(&w->m, w->row, w->cand, V) && result_answers(&w->f, &w->m, w->row);
}

#define REFUSED(change) do { world w = make(); change; cr_expect_not(taken(&w), "%s", #change); } while (0)
#define TAKEN(change) do { world w = make(); change; cr_expect(taken(&w), "%s", #change); } while (0)

Test(result_check, the_answer_to_the_step_is_taken)
{
    TAKEN((void)0);
    TAKEN(w.row[0] = ((result_row){ .session = 64, .row = 2, .status = ERR_FULL, .full = MSG_NO_ROW }); w.m.n_cands = 1);
}

Test(result_check, a_row_that_was_given_up_may_be_one_that_asked_for_nothing)
{
    world w = make();
    memmove(&w.row[1], &w.row[0], 2 * sizeof w.row[0]);
    w.row[0] = (result_row){ .session = 64, .row = 1, .status = ERR_FULL, .full = MSG_NO_ROW };
    w.m.n_rows = 3;
    cr_expect(taken(&w));
    w.row[0].status = 0;
    cr_expect_not(taken(&w), "but only when it was given up");
}

Test(result_check, what_no_stage_of_the_step_would_say_is_refused)
{
    REFUSED(w.m.hop = 1);
    REFUSED(w.m.step_rows = 3);
    REFUSED(w.m.n_rows = 1; w.m.n_cands = 1);
    REFUSED(w.m.n_rows = 0; w.m.n_cands = 0);
    REFUSED(w.row[0].session = 65);
    REFUSED(w.row[0].row = 1);
    REFUSED(result_row x = w.row[0]; w.row[0] = w.row[1]; w.row[1] = x);
    REFUSED(w.row[1] = w.row[0]);
    REFUSED(w.row[0].n_candidates = 0; w.m.n_cands = 1);
    REFUSED(w.row[1].full = MSG_NO_ROW);
    REFUSED(w.row[0].full = 0);
}

Test(result_check, counts_and_indices_that_do_not_fit_are_refused)
{
    REFUSED(w.m.n_cands = 1);
    REFUSED(w.row[0].n_candidates = 2);
    REFUSED(w.row[1].full = 1);
    REFUSED(w.m.vocab = V + 1);
    REFUSED(w.cand[1].id = V);
    REFUSED(w.row[0].status = ERR_COUNT);
}
