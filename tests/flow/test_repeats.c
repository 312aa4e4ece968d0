/* STEPs that come twice, too early or late, on one and on two stages: each is computed once, and whoever asks again gets the
 * same bits. */
#include "tests/flow/rig_low.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(repeats, .timeout = 120);

#define ROWS 6u

typedef struct { low_rig r; uint32_t token[ROWS]; float *line; } world;

static low_step step_of(world *w, uint64_t session, uint32_t row)
{
    low_step s = low_begin(&w->r);
    for (uint32_t i = 0; i < w->r.n; i++) s.hop[i].seq = row + 1;
    if (row) low_op(&s, OP_COMMIT, session, row - 1, 0);
    low_row(&s, session, row, row, MSG_NO_ROW, w->token[row]);
    return s;
}

static void expect_row(world *w, const low_step *s, uint32_t row, const char *what)
{
    float *got = malloc(w->r.V * sizeof *got);
    cr_assert_not_null(got);
    low_result(&w->r, s);
    cr_assert(low_logits(&w->r, 0, got), "%s: no logits", what);
    cr_expect(support_same(got, w->line + (size_t)row * w->r.V, w->r.V, what), "%s", what);
    free(got);
}

/* The same rows without numbers, one after the other: what must come out. */
static void world_open(world *w, uint32_t stages)
{
    *w = (world){ .line = NULL };
    low_open(&w->r, support_root("models/sluice-tiny-aux-Q8_0.gguf"), stages, ISA_PLAIN, 64);
    w->line = malloc((size_t)ROWS * w->r.V * sizeof *w->line);
    cr_assert_not_null(w->line);
    low_session(&w->r, 100);
    for (uint32_t i = 0; i < ROWS; i++) {
        w->token[i] = (uint32_t)support_draw(support_seed(), i, w->r.V);
        low_step s = step_of(w, 100, i);
        for (uint32_t k = 0; k < stages; k++) s.hop[k].seq = 0;
        low_send(&w->r, &s);
        low_result(&w->r, &s);
        cr_assert(low_logits(&w->r, 0, w->line + (size_t)i * w->r.V));
    }
    low_drop(&w->r, 100);
    low_session(&w->r, 101);
}

static void world_close(world *w)
{
    low_drop(&w->r, 101);
    low_close(&w->r);
    free(w->line);
}

static void doubled_on(uint32_t stages)
{
    world w;
    low_step all[ROWS];
    world_open(&w, stages);
    for (uint32_t i = 0; i < ROWS; i++) {
        all[i] = step_of(&w, 101, i);
        for (int times = 0; times < 3; times++) low_send(&w.r, &all[i]);
        for (int times = 0; times < 3; times++) expect_row(&w, &all[i], i, times ? "a step that came again" : "a step");
    }
    low_send(&w.r, &all[ROWS - 2]); /* long answered, and its rows are committed */
    expect_row(&w, &all[ROWS - 2], ROWS - 2, "the step before the last, once more");
    world_close(&w);
}

Test(repeats, a_step_that_comes_three_times_is_computed_once) { doubled_on(1); }
Test(repeats, and_on_two_stages) { doubled_on(2); }

static void early_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    low_step a = step_of(&w, 101, 0), b = step_of(&w, 101, 1), c = step_of(&w, 101, 2);
    low_send(&w.r, &c);
    low_send(&w.r, &b);
    cr_expect(low_silent(&w.r, 100), "a step was computed before the one in front of it");
    low_send(&w.r, &a);
    expect_row(&w, &a, 0, "the first step, at last");
    low_send(&w.r, &b);
    expect_row(&w, &b, 1, "the second");
    low_send(&w.r, &c);
    expect_row(&w, &c, 2, "the third");
    world_close(&w);
}

Test(repeats, a_step_before_its_turn_is_not_computed) { early_on(1); }
Test(repeats, nor_on_two_stages) { early_on(2); }
