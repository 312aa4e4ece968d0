#include "ops/cli/ids.h"
#include "ops/cli/request.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ops/cli/request*.c and ids.c: requests from options, from lines of a batch file, and token ids. */

static request fresh(void)
{
    settings s;
    request r;
    err e;
    settings_init(&s, CMD_SUBMIT);
    cr_assert_eq(request_init(&r, &s, &e), ERR_OK, "%s", e.text);
    settings_free(&s);
    return r;
}

static err_code read_line(request *r, const char *line, err *e)
{
    *r = fresh();
    *e = (err){ 0 };
    return request_line(r, (view){ line, strlen(line) }, e);
}

static void expect_bad(const char *line, const char *part)
{
    request r;
    err e;
    cr_expect_eq(read_line(&r, line, &e), ERR_INPUT, "%s", line);
    cr_expect(strstr(e.text, part), "%s: \"%s\" does not say \"%s\"", line, e.text, part);
    request_free(&r);
}

Test(cli_request, a_full_line_sets_every_field)
{
    request r;
    err e;
    view f[4];
    cr_assert_eq(
        read_line(&r,
                  "{\"prompt\":\"h\\u00e9\",\"custom_id\":\"a\",\"max_tokens\":7,\"temperature\":0.5,\"top_k\":3,\"top_p\":0.9,"
                  "\"min_p\":0.1,\"seed\":9,\"stop\":[\"x\",\"yy\"],\"n\":2,\"logprobs\":4,\"rag\":true,\"rag_passages\":5,"
                  "\"logit_bias\":{\"12\":-1.5},\"context_full\":\"slide\",\"prefill\":\"local\",\"ignore_eos\":true}",
                  &e),
        ERR_OK, "%s", e.text);
    const msg_submit *m = &r.m.submit;
    cr_expect_str_eq(m->custom_id, "a");
    cr_expect_str_eq(r.prompt.ptr, "h\xc3\xa9");
    cr_expect(m->max_tokens == 7 && m->top_k == 3 && m->seed == 9 && m->n == 2 && m->logprobs == 4 && m->rag_passages == 5);
    cr_expect(fabs(m->temperature - 0.5) + fabs(m->top_p - 0.9) + fabs(m->min_p - 0.1) < 1e-12);
    cr_expect(m->rag && m->ignore_eog && m->full_policy == 1 && m->prefill == 2 && m->n_bias == 1);
    cr_expect(r.bias[0].id == 12 && r.bias[0].bias < -1.49f);
    request_frames(&r, f);
    cr_expect_eq(f[SUBMIT_STOP].len, 5);
    cr_expect(!memcmp(f[SUBMIT_STOP].ptr, "x\0yy", 5));
    cr_expect_eq(f[SUBMIT_TOKENS].len, 0);
    request_free(&r);
}

Test(cli_request, what_a_line_leaves_out_comes_from_the_command_line)
{
    settings s;
    request r;
    err e = { 0 };
    char *argv[] = { "submit", "-n", "11", "--stop", "q", "--logit-bias", "3=-inf" };
    settings_init(&s, CMD_SUBMIT);
    cr_assert_eq(settings_argv(&s, 7, argv, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(request_init(&r, &s, &e), ERR_OK, "%s", e.text);
    const char *line = "{\"custom_id\":\"a\",\"tokens\":[1,2,4294967294]}";
    cr_assert_eq(request_line(&r, (view){ line, strlen(line) }, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(r.m.submit.max_tokens, 11);
    cr_expect_eq(r.stop.len, 2);
    cr_expect(isinf(r.bias[0].bias) && r.m.submit.n_tokens == 3 && r.tokens[2].id == 4294967294u);
    request_free(&r);
    settings_free(&s);
}

Test(cli_request, bad_lines_name_the_field)
{
    expect_bad("nonsense", "not JSON");
    expect_bad("[1]", "no JSON object");
    expect_bad("{\"prompt\":\"x\"}", "\"custom_id\" is missing");
    expect_bad("{\"custom_id\":\"\",\"prompt\":\"x\"}", "custom_id");
    expect_bad("{\"custom_id\":7,\"prompt\":\"x\"}", "custom_id");
    expect_bad("{\"custom_id\":\"a\"}", "\"prompt\" is missing");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"tokens\":[1]}", "exclude");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"max_token\":1}", "did you mean \"max_tokens\"?");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"max_tokens\":-1}", "max_tokens");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"max_tokens\":1.5}", "max_tokens");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"n\":65}", "1 to 64");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"top_p\":\"1\"}", "top_p");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"top_p\":1.01}", "top_p");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"stop\":[\"a\",\"\"]}", "empty");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"stop\":5}", "stop");
    expect_bad("{\"custom_id\":\"a\",\"tokens\":[]}", "tokens");
    expect_bad("{\"custom_id\":\"a\",\"tokens\":[-1]}", "tokens");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"prefill\":\"fast\"}", "prefill");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"logit_bias\":{\"z\":1}}", "logit_bias");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"prompt\":\"y\"}", "duplicate");
}

Test(cli_request, the_id_is_known_even_when_another_field_is_bad)
{
    request r;
    err e;
    cr_expect_eq(read_line(&r, "{\"zzz\":1,\"custom_id\":\"who\"}", &e), ERR_INPUT);
    cr_expect_str_eq(r.m.submit.custom_id, "who");
    request_free(&r);
}

Test(cli_request, a_prompt_comes_from_exactly_one_place)
{
    static const struct { int n; char *argv[6]; err_code want; } rows[] = {
        { 1, { "run" }, ERR_USAGE },
        { 3, { "run", "-p", "" }, ERR_OK },
        { 5, { "run", "-p", "x", "-f", "y" }, ERR_USAGE },
        { 4, { "run", "-p", "x", "-" }, ERR_USAGE },
        { 2, { "run", "word" }, ERR_USAGE },
        { 3, { "run", "-f", "/nonexistent/file" }, ERR_IO },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        settings s;
        request r = { 0 };
        err e = { 0 };
        settings_init(&s, CMD_RUN);
        cr_assert_eq(settings_argv(&s, rows[i].n, (char *const *)rows[i].argv, &e), ERR_OK, "%s", e.text);
        cr_expect_eq(request_prompt(&r, &s, &e), rows[i].want, "row %zu: %s", i, e.text);
        request_free(&r);
        settings_free(&s);
    }
}

Test(cli_request, a_bad_bias_option_is_quoted)
{
    static const char *const bad[] = { "x", "1", "1=", "=1", "-1=2", "1=nan", "1=2x", "4294967295=1" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        settings s;
        request r;
        err e = { 0 };
        settings_init(&s, CMD_RUN);
        cr_assert(string_list_add(&s.logit_bias, bad[i]));
        cr_expect_eq(request_init(&r, &s, &e), ERR_USAGE, "%s", bad[i]);
        cr_expect(strstr(e.text, bad[i]), "%s", e.text);
        request_free(&r);
        settings_free(&s);
    }
}

Test(cli_request, an_adapter_is_a_file_and_a_scale_behind_the_last_colon)
{
    char word[300];
    err e;
    request r = fresh();
    const char *dir = support_tmpdir();
    static const struct { const char *word, *file; double scale; } good[] = {
        { "a.gguf", "a.gguf", 1 }, { "a.gguf:0.5", "a.gguf", 0.5 }, { "a.gguf:-2", "a.gguf", -2 }, { "b:c", "b:c", 1 }, { "b:c:3", "b:c", 3 },
    };
    cr_assert(support_write(strcat(strcpy(word, dir), "/a.gguf"), "", 0) && support_write(strcat(strcpy(word, dir), "/b:c"), "", 0));
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(word, sizeof word, "%s/../%s/%s", dir, strrchr(dir, '/') + 1, good[i].word);
        cr_expect_eq(request_set_lora(&r, word, &e), ERR_OK, "%s: %s", word, e.text);
        snprintf(word, sizeof word, "%s/%s", dir, good[i].file);
        cr_expect_str_eq(r.m.submit.lora, word); /* absolute: the cluster has another working directory */
        cr_expect_eq(r.m.submit.lora_scale, good[i].scale);
    }
    static const char *const bad[] = { "", ":1", "gone.gguf", "a.gguf:", "a.gguf:1x", "a.gguf:1e7", "a.gguf:nan" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(word, sizeof word, "%s%s%s", *bad[i] == 'a' ? dir : "", *bad[i] == 'a' ? "/" : "", bad[i]);
        cr_expect_eq(request_set_lora(&r, word, &e), ERR_INPUT, "\"%s\"", word);
    }
    request_free(&r);
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"lora\":1}", "\"lora\" wants a text");
    expect_bad("{\"custom_id\":\"a\",\"prompt\":\"x\",\"lora\":\"/nonexistent/a\"}", "/nonexistent/a");
}

Test(cli_request, ids_are_read_with_commas_or_blanks_between)
{
    token_list l = { 0 };
    err e;
    cr_assert_eq(ids_parse(" 1,2 3\n4, ,4294967294 ", &l, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(l.n, 5);
    cr_expect(l.id[0] == 1 && l.id[3] == 4 && l.id[4] == 4294967294u);
    static const char *const bad[] = { "1,x", "-1", "4294967295", "1;2", "99999999999999999999", "1.5" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) cr_expect_eq(ids_parse(bad[i], &l, &e), ERR_INPUT, "%s", bad[i]);
    token_list_free(&l);
}
