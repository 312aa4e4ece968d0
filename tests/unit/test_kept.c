/* The replies that a stage keeps: each step is computed once and in its turn. */
#include "workers/stage/kept.h"
#include <criterion/criterion.h>
#include <string.h>

enum { DEPTH = 3, VALUES = 8 };

static kept *open_kept(void)
{
    kept *k;
    err e = { 0 };
    cr_assert_eq(kept_open(&k, DEPTH, VALUES, &e), ERR_OK, "%s", e.text);
    return k;
}

/* Compute step number seq as a stage does; its hidden state becomes all `seq`. */
static kept_reply *compute(kept *k, uint32_t seq)
{
    kept_reply *r;
    cr_assert_eq(kept_take(k, seq, &r), KEPT_NEW, "step %u", seq);
    memset(loan_data(r->out.h), (int)seq, VALUES * sizeof(float));
    kept_done(k, r, seq, 100 + seq);
    return r;
}

Test(kept, a_step_that_comes_again_gets_the_reply_it_got)
{
    kept *k = open_kept();
    kept_reply *r;
    for (uint32_t i = 1; i <= 7; i++) compute(k, i);
    for (uint32_t i = 5; i <= 7; i++) {
        cr_assert_eq(kept_take(k, i, &r), KEPT_AGAIN, "step %u", i);
        cr_expect_eq(r->step, 100 + i);
        cr_expect_eq(*(const uint8_t *)loan_data(r->out.h), i, "the reply of step %u is another one's", i);
    }
    kept_close(&k);
}

Test(kept, a_step_before_its_turn_waits_and_changes_nothing)
{
    kept *k = open_kept();
    kept_reply *r;
    compute(k, 1);
    cr_expect_eq(kept_take(k, 3, &r), KEPT_EARLY);
    cr_expect_eq(kept_take(k, 4, &r), KEPT_EARLY);
    compute(k, 2);
    compute(k, 3);
    cr_expect_eq(kept_take(k, 1, &r), KEPT_AGAIN);
    kept_close(&k);
}

Test(kept, a_step_of_long_ago_is_past)
{
    kept *k = open_kept();
    kept_reply *r;
    for (uint32_t i = 1; i <= 5; i++) compute(k, i);
    cr_expect_eq(kept_take(k, 2, &r), KEPT_PAST);
    cr_expect_eq(kept_take(k, 1, &r), KEPT_PAST);
    cr_expect_eq(kept_take(k, 3, &r), KEPT_AGAIN);
    kept_close(&k);
}

Test(kept, a_step_that_failed_is_computed_when_it_comes_again)
{
    kept *k = open_kept();
    kept_reply *r;
    compute(k, 1);
    cr_expect_eq(kept_take(k, 2, &r), KEPT_NEW);
    cr_expect_eq(kept_take(k, 2, &r), KEPT_NEW, "half a reply is none");
    kept_close(&k);
}

Test(kept, memory_that_a_message_still_holds_is_not_written_again)
{
    kept *k = open_kept();
    kept_reply *r = compute(k, 1);
    loan *held = r->out.h;
    loan_hold(held);
    for (uint32_t i = 2; i <= 4; i++) compute(k, i);      /* 4 takes the place of 1 */
    cr_expect_eq(*(const uint8_t *)loan_data(held), 1);
    loan_drop(held);
    kept_close(&k);
}

Test(kept, the_oldest_reply_that_waits_for_its_peer_goes_first)
{
    kept *k = open_kept();
    cr_expect_null(kept_unsent(k));
    kept_reply *a = compute(k, 1), *b = compute(k, 2);
    a->unsent = b->unsent = true;
    cr_expect_eq(kept_unsent(k), a);
    a->unsent = false;
    cr_expect_eq(kept_unsent(k), b);
    kept_close(&k);
}
