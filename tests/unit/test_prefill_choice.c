/* Which prompts are predicted when a time or a quality is asked for. */
#include "coordinator/prefill_choice.h"
#include <criterion/criterion.h>
#include <string.h>

static prefill_cost exact, predicted;
static char why[PREFILL_WHY + 1];

static void measured(void)
{
    exact = predicted = (prefill_cost){ 0 };
    prefill_cost_note(&exact, 512, 1000000000);
    prefill_cost_note(&predicted, 512, 400000000);
}

static prefill_question ask(uint32_t rows, uint64_t ms, double least)
{
    return (prefill_question){ .rows = rows, .own = 36, .limit_ms = ms, .least = least, .explained = 0.5, .exact = &exact, .predicted = &predicted };
}

TestSuite(prefill_choice, .init = measured);

Test(prefill_choice, a_length_that_was_not_measured_follows_the_nearest_one)
{
    prefill_cost_note(&exact, 4096, 40960000000);
    cr_expect_float_eq(prefill_cost_of(&exact, 512), 1e9, 1);
    cr_expect_float_eq(prefill_cost_of(&exact, 64), 1e9 / 8, 1);
    cr_expect_float_eq(prefill_cost_of(&exact, 8192), 8192e7, 1);
    cr_expect_eq(prefill_cost_of(&(prefill_cost){ 0 }, 64), 0);
    prefill_cost_note(&exact, 600, 0);
    cr_expect_float_eq(prefill_cost_of(&exact, 512), 0.75e9, 1, "a quarter is new");
}

Test(prefill_choice, a_time_that_exact_rows_keep_gets_exact_rows)
{
    prefill_question q = ask(512, 1001, 0);
    cr_expect_not(prefill_predicts(&q, why));
    cr_expect(strstr(why, "exact: takes about 1000 ms, 1001"), "%s", why);
    q = ask(512, 999, 0);
    cr_expect(prefill_predicts(&q, why));
    cr_expect(strstr(why, "about 400 ms, exact 1000"), "%s", why);
    q = ask(100, 999, 0);
    cr_expect_not(prefill_predicts(&q, why), "a short prompt: %s", why);
}

Test(prefill_choice, quality_is_the_share_of_rows_that_is_right)
{
    prefill_question q = ask(72, 1, 0.74);
    cr_expect_float_eq(prefill_quality(&q), 0.75, 1e-12);
    cr_expect(prefill_predicts(&q, why), "%s", why);
    q.least = 0.76;
    cr_expect_not(prefill_predicts(&q, why));
    cr_expect(strstr(why, "quality 0.75, 0.76"), "%s", why);
}

Test(prefill_choice, what_was_not_measured_is_measured_first)
{
    prefill_cost none = { 0 };
    prefill_question q = ask(512, 1, 0);
    q.predicted = &none;
    cr_expect(prefill_predicts(&q, why));
    cr_expect(strstr(why, "no prediction"), "%s", why);
    q.exact = &none;
    cr_expect_not(prefill_predicts(&q, why));
    cr_expect(strstr(why, "no prompt"), "%s", why);
}

Test(prefill_choice, a_prediction_that_is_not_sooner_is_not_taken)
{
    for (int i = 0; i < 20; i++) prefill_cost_note(&predicted, 512, 1100000000);
    prefill_question q = ask(512, 10, 0);
    cr_expect_not(prefill_predicts(&q, why), "%s", why);
    q.limit_ms = 0;
    cr_expect_not(prefill_predicts(&q, why), "%s", why);
}
