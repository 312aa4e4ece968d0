#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <fcntl.h>

/* sluice submit --batch that stops and goes on: what has an answer stays, what failed is tried again, what is torn goes, and
 * a custom_id that is there twice is refused. */

#define SECONDS 120

static standing c;
static char in[200], out[200];

static void begin(void)
{
    programs_begin();
    snprintf(in, sizeof in, "%s", programs_file("in.jsonl"));
    snprintf(out, sizeof out, "%s", programs_file("out.jsonl"));
    cr_assert(standing_up(&c, "batch", (const char *const[]){ "--stages", "1", NULL }));
}
static void end(void)
{
    cr_expect(standing_down(&c));
}
TestSuite(batch_resume, .init = begin, .fini = end, .timeout = 600);

static void put(const char *path, const char *s)
{
    cr_assert(support_write(path, s, strlen(s)));
}

static void put_jobs(int n, int tokens)
{
    text t = { 0 };
    for (int i = 0; i < n; i++)
        text_addf(&t, "{\"custom_id\": \"n%d\", \"prompt\": \"Once upon\", \"max_tokens\": %d, \"ignore_eos\": true}\n", i, tokens);
    cr_assert(support_write(in, t.ptr, t.len));
    text_free(&t);
}

static ran batch(int want)
{
    return program_run(want, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, "--batch", in, "-o", out));
}

/* Lines of the output by custom_id; every line must be an object of its own. */
typedef struct {
    json_t *by_id;
    size_t lines, errors;
} found;
static found read_out(void)
{
    found f = { .by_id = json_object() };
    text t = { 0 };
    char *save, *line;
    cr_assert_eq(text_read_file(&t, out, 1 << 26, NULL), ERR_OK);
    cr_expect(!t.len || t.ptr[t.len - 1] == '\n', "the last line has its end");
    for (save = t.ptr; save && (line = strsep(&save, "\n")) && *line;) {
        json_t *o = json_loads(line, 0, NULL);
        cr_assert_not_null(o, "%s", line);
        f.lines++;
        f.errors += json_object_get(o, "error") != NULL;
        const char *id = json_string_value(json_object_get(o, "custom_id"));
        cr_expect(!id || !json_object_get(f.by_id, id), "%s is there twice", id);
        if (id) json_object_set(f.by_id, id, o);
        json_decref(o);
    }
    text_free(&t);
    return f;
}

static size_t count_lines(void)
{
    text t = { 0 };
    size_t n = 0;
    if (text_read_file(&t, out, 1 << 26, NULL) == ERR_OK)
        for (size_t i = 0; i < t.len; i++) n += t.ptr[i] == '\n';
    text_free(&t);
    return n;
}

Test(batch_resume, an_interrupted_batch_keeps_its_answers_and_goes_on_with_the_rest)
{
    program p;
    enum { N = 100 };
    put_jobs(N, 60);
    cr_assert(program_start(&p, "first", SLUICE("submit", "--dir", c.dir, "--batch", in, "-o", out)));
    for (int i = 0; i < 6000 && count_lines() < 20; i++) usleep(10000);
    kill(p.pid, SIGINT);
    cr_expect_eq(program_wait(&p, 130, SECONDS), 130);
    size_t kept = count_lines();
    cr_assert(kept >= 20 && kept < N, "%zu lines were written before the signal", kept);
    text before = { 0 }, after = { 0 };
    cr_assert_eq(text_read_file(&before, out, 1 << 26, NULL), ERR_OK);
    ran r = batch(0);
    char words[80];
    snprintf(words, sizeof words, "batch: %zu answered, 0 failed, %zu had an answer", N - kept, kept);
    cr_expect(strstr(ran_errs(&r), words), "no \"%s\" in %s", words, ran_errs(&r));
    cr_assert_eq(text_read_file(&after, out, 1 << 26, NULL), ERR_OK);
    cr_expect(after.len > before.len && !memcmp(after.ptr, before.ptr, before.len), "what was there stays as it was");
    found f = read_out();
    cr_expect_eq(json_object_size(f.by_id), N);
    cr_expect_eq(f.lines, N);
    json_decref(f.by_id);
    ran_free(&r);
    text_free(&before);
    text_free(&after);
}

Test(batch_resume, a_second_run_sends_nothing)
{
    put_jobs(3, 4);
    ran r = batch(0);
    ran_free(&r);
    r = batch(0);
    cr_expect(strstr(ran_errs(&r), "batch: 0 answered, 0 failed, 3 had an answer"), "%s", ran_errs(&r));
    ran_free(&r);
    cr_expect_eq(count_lines(), 3);
}

Test(batch_resume, a_torn_line_goes_and_its_job_runs_again)
{
    put_jobs(3, 4);
    put(out, "{\"custom_id\": \"n0\", \"text\": \"kept\", \"error\": null}\n{\"custom_id\": \"n1\", \"text\": \"to");
    ran r = batch(0);
    found f = read_out();
    cr_expect_str_eq(json_string_at(f.by_id, "n0.text"), "kept");
    cr_expect(json_number_at(f.by_id, "n1.completion_tokens") == 4 && f.lines == 3);
    json_decref(f.by_id);
    ran_free(&r);
    put(out, "{\"custom_id\": \"n0\", \"text\": \"kept\"}"); /* only the end of the line is missing */
    r = batch(0);
    f = read_out();
    cr_expect_str_eq(json_string_at(f.by_id, "n0.text"), "kept");
    cr_expect_eq(f.lines, 3);
    json_decref(f.by_id);
    ran_free(&r);
}

Test(batch_resume, failures_are_tried_again_and_the_status_says_whether_any_is_left)
{
    put(in, "{\"custom_id\": \"good\", \"prompt\": \"Once\", \"max_tokens\": 2}\n"
            "{\"custom_id\": \"bad\", \"prompt\": \"\"}\n"
            "no JSON\n"
            "{\"custom_id\": \"also\", \"prompt\": \"Once\", \"max_tokens\": 2}\n");
    ran r = batch(11);
    cr_expect(strstr(ran_errs(&r), "2 of 4 lines failed"), "%s", ran_errs(&r));
    ran_free(&r);
    found f = read_out();
    cr_expect_eq(f.lines, 4);
    cr_expect_eq(f.errors, 2);
    cr_expect(json_object_get(f.by_id, "good") && json_object_get(f.by_id, "also"), "all others are done");
    json_decref(f.by_id);
    r = batch(11); /* the failures are still failures, and are there once */
    ran_free(&r);
    f = read_out();
    cr_expect_eq(f.lines, 4);
    json_decref(f.by_id);
    put(in, "{\"custom_id\": \"good\", \"prompt\": \"Once\", \"max_tokens\": 2}\n"
            "{\"custom_id\": \"bad\", \"prompt\": \"Once\", \"max_tokens\": 2}\n");
    r = batch(0);
    ran_free(&r);
    f = read_out();
    cr_expect_eq(f.errors, 0);
    cr_expect_eq(f.lines, 3);
    json_decref(f.by_id);
}

Test(batch_resume, a_doubled_custom_id_is_refused_before_anything_is_sent)
{
    put(in, "{\"custom_id\": \"one\", \"prompt\": \"Once\"}\n\n{\"custom_id\": \"two\", \"prompt\": \"Once\"}\n"
            "{\"custom_id\": \"one\", \"prompt\": \"Once\"}\n");
    ran r = batch(11);
    cr_expect(strstr(ran_errs(&r), "custom_id \"one\" of line 4 is already in line 1"), "%s", ran_errs(&r));
    cr_expect(access(out, F_OK), "no output is made");
    ran_free(&r);
}

Test(batch_resume, a_file_that_is_no_batch_output_is_left_alone)
{
    put_jobs(2, 2);
    put(out, "my diary\n");
    ran r = batch(11);
    cr_expect(strstr(ran_errs(&r), "out.jsonl:1: no result of a batch"), "%s", ran_errs(&r));
    ran_free(&r);
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, out, 100, NULL), ERR_OK);
    cr_expect_str_eq(t.ptr, "my diary\n");
    text_free(&t);
    int fd = open(out, O_RDWR | O_TRUNC | O_CLOEXEC);
    cr_assert(fd >= 0 && !flock(fd, LOCK_EX));
    r = batch(13);
    cr_expect(strstr(ran_errs(&r), "another batch is writing to it"), "%s", ran_errs(&r));
    ran_free(&r);
    close(fd);
}

/* ---- what a line of the output holds */

static void check_logprobs(const json_t *list, size_t tokens, size_t top, const char *shown)
{
    text all = { 0 };
    cr_assert_eq(json_array_size(list), tokens);
    for (size_t i = 0; i < tokens; i++) {
        const json_t *t = json_array_get(list, i), *tops = json_object_get(t, "top"), *best = json_array_get(tops, 0);
        double p = json_real_value(json_object_get(t, "logprob"));
        cr_expect(json_is_integer(json_object_get(t, "id")) && json_is_string(json_object_get(t, "text")));
        cr_expect(p <= 0 && p > -100, "%g", p);
        cr_expect_eq(json_array_size(tops), top);
        cr_expect(json_equal(json_object_get(t, "id"), json_object_get(best, "id")), "greedy takes the best");
        cr_expect(json_is_string(json_object_get(best, "text")) && json_is_real(json_object_get(best, "logprob")));
        text_adds(&all, json_string_value(json_object_get(t, "text")));
    }
    cr_expect(strstr(all.ptr, shown) || !strcmp(all.ptr, shown), "\"%s\" is made of \"%s\"", shown, all.ptr);
    text_free(&all);
}

Test(batch_resume, logprobs_name_every_token_with_its_text)
{
    put(in,
        "{\"custom_id\": \"with\", \"prompt\": \"Once upon a time\", \"max_tokens\": 4, \"logprobs\": 3, \"ignore_eos\": true}\n"
        "{\"custom_id\": \"without\", \"prompt\": \"Once upon a time\", \"max_tokens\": 4}\n");
    ran r = batch(0);
    found f = read_out();
    const json_t *with = json_object_get(f.by_id, "with");
    check_logprobs(json_object_get(with, "logprobs"), 4, 3, json_string_at(with, "text"));
    cr_expect(!json_object_get(json_object_get(f.by_id, "without"), "logprobs"));
    json_decref(f.by_id);
    ran_free(&r);
    const char *const one[] = { "--logprobs", "2" };
    r = program_run(0, SECONDS, NULL,
                    SLUICE("run", "--dir", c.dir, "-p", "Once upon a time", "-n", "5", "--ignore-eos", "--json", one[0], one[1]));
    json_t *o = ran_json(&r);
    check_logprobs(json_object_get(o, "logprobs"), 5, 2, json_string_at(o, "text"));
    json_decref(o);
    r = program_run(0, SECONDS, NULL,
                    SLUICE("submit", "--dir", c.dir, "-p", "Once upon a time", "-n", "5", "--ignore-eos", "--json", one[0],
                           one[1]));
    o = ran_json(&r);
    check_logprobs(json_object_get(o, "logprobs"), 5, 2, json_string_at(o, "text"));
    json_decref(o);
}

Test(batch_resume, slides_are_counted)
{
    const char *const small[] = { "--ctx", "32", "--stages", "1", "--context-full" };
    ran r = program_run(0, SECONDS, NULL,
                        SLUICE("run", "-p", "Once upon a time", "-n", "60", "--ignore-eos", "--json", small[0], small[1], small[2],
                               small[3], small[4], "slide"));
    json_t *o = ran_json(&r);
    cr_expect_geq(json_number_at(o, "slides"), 2);
    cr_expect_eq(json_number_at(o, "completion_tokens"), 60);
    json_decref(o);
    r = program_run(0, SECONDS, NULL,
                    SLUICE("run", "-p", "Once upon a time", "-n", "60", "--ignore-eos", "--json", small[0], small[1], small[2],
                           small[3], small[4], "stop"));
    o = ran_json(&r);
    cr_expect_eq(json_number_at(o, "slides"), 0);
    cr_expect_str_eq(json_string_at(o, "finish_reason"), "context");
    json_decref(o);
}
