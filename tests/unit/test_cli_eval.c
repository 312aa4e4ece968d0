#include "ops/cli/qa.h"
#include "ops/cli/windows.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* The pure parts of the evals: perplexity windows, and when an answer is right. */

static view v(const char *s) { return (view){ s, strlen(s) }; }

Test(cli_eval, windows_do_not_overlap_and_begin_with_bos)
{
    uint32_t in[11], out[4];
    for (uint32_t i = 0; i < 11; i++) in[i] = 100 + i;
    cr_expect_eq(windows_count(11, 4), 2);
    cr_expect_eq(windows_count(3, 4), 0);
    windows_fill(out, in, 1, 4, 7);
    cr_expect(out[0] == 7 && out[1] == 105 && out[3] == 107);
    windows_fill(out, in, 1, 4, UINT32_MAX);
    cr_expect_eq(out[0], 104, "a model without BOS keeps its own first token");
}

/* llama-perplexity: first = n_ctx / 2; positions first .. n_ctx - 2, that is n_ctx - first - 1 of them. */
Test(cli_eval, the_second_half_of_a_window_is_scored)
{
    for (uint32_t ctx = 4; ctx < 70; ctx++) {
        cr_expect_eq(windows_first(ctx), ctx / 2);
        cr_expect_eq(windows_end(ctx) - windows_first(ctx), ctx - ctx / 2 - 1);
    }
}

Test(cli_eval, perplexity_of_known_probabilities)
{
    ppl_sum s = { 0 };
    ppl_add(&s, 0, log(0.5));
    ppl_add(&s, 3, 3 + log(0.125));
    cr_expect_float_eq(ppl_value(&s), 4.0, 1e-12);
    /* mean log 4, deviations -log 2 and +log 2: variance (log 2)^2 over n - 1 = 1 */
    cr_expect_float_eq(ppl_error(&s), 4 * log(2), 1e-12);
    cr_expect_eq(s.n, 2);
}

Test(cli_eval, equal_probabilities_have_no_error)
{
    ppl_sum s = { 0 };
    for (int i = 0; i < 10; i++) ppl_add(&s, 0, -1);
    cr_expect_float_eq(ppl_value(&s), exp(1), 1e-12);
    cr_expect(ppl_error(&s) < 1e-6);
}

Test(cli_eval, answers_are_compared_without_case_blanks_and_full_stop)
{
    cr_expect(qa_same(v(" North grove."), v("north Grove")));
    cr_expect(qa_same(v("\xc3\x84rmel"), v("\xc3\xa4rmel")));
    cr_expect(qa_same(v("21298 ."), v("21298")));
    cr_expect(!qa_same(v("North grove.."), v("North grove")), "one full stop only");
    cr_expect(!qa_same(v("North"), v("North grove")));
    cr_expect(!qa_same(v(""), v("x")));
    cr_expect(qa_same(v(" . "), v("")));
    cr_expect(qa_same(v("\xff\xfe"), v("\xff\xfe")) && !qa_same(v("\xff"), v("\xfe")), "bytes that are no UTF-8 still compare");
}

Test(cli_eval, an_answer_ends_with_its_line)
{
    view a = qa_answer(v("  Mugavi. \nQuestion: and"));
    cr_expect_eq(a.len, 7);
    cr_expect(!memcmp(a.ptr, "Mugavi.", 7));
    cr_expect_eq(qa_answer(v("\nlate")).len, 0);
    cr_expect_eq(qa_answer((view){ NULL, 0 }).len, 0);
}

static void expect_question(const char *line, bool rag, const char *prompt, bool retrieve)
{
    question q = { 0 };
    err e;
    cr_assert_eq(question_read(&q, v(line), rag, &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(q.prompt.ptr, prompt);
    cr_expect_eq(q.retrieve, retrieve);
    cr_expect_str_eq(q.answer, "A");
    question_free(&q);
}

Test(cli_eval, questions_become_prompts)
{
    expect_question("{\"prompt\":\"P\",\"answer\":\"A\"}", false, "P", false);
    expect_question("{\"prompt\":\"P\",\"answer\":\"A\"}", true, "P", false);
    expect_question("{\"question\":\"Q\",\"answer\":\"A\"}", false, "Question: Q\nAnswer:", false);
    expect_question("{\"question\":\"Q\",\"answer\":\"A\",\"id\":\"x\"}", true, "Q", true);
    expect_question("{\"question\":\"Q\",\"prompt\":\"P\",\"answer\":\"A\"}", true, "Q", true);
    expect_question("{\"question\":\"Q\",\"prompt\":\"P\",\"answer\":\"A\"}", false, "P", false);
}

Test(cli_eval, bad_questions_are_refused)
{
    static const char *const bad[] = { "x", "{\"prompt\":\"P\"}", "{\"answer\":\"A\"}", "{\"answer\":\"A\",\"prompt\":5}", "[]" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        question q = { 0 };
        err e = { 0 };
        cr_expect_eq(question_read(&q, v(bad[i]), false, &e), ERR_INPUT, "%s", bad[i]);
        question_free(&q);
    }
}
