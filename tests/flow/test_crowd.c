/* More work than fits: jobs with many choices under small limits, more finished jobs than are kept. Every job gets the
 * answer it would get alone, and the limits hold all the time. Nothing dies here; that is test_survival.c. */
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECONDS 60
#define KEPT 1000                      /* finished jobs that a coordinator keeps (coordinator.c) */

static char model[512], in[128], out[128];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    snprintf(in, sizeof in, "%s", programs_file("in.jsonl"));
    snprintf(out, sizeof out, "%s", programs_file("out.jsonl"));
}

TestSuite(crowd, .init = begin, .timeout = 600);

#define UP(...) ((const char *const[]){ "-m", model, "--stages", "2", "--ctx", "256", __VA_ARGS__, NULL })

typedef struct { unsigned jobs, n, tokens, same; } crowd;      /* same: jobs i and i + same are equal */

static void write_jobs(const crowd *w)
{
    text t = { 0 };
    for (unsigned i = 0; i < w->jobs; i++)
        text_addf(&t, "{\"custom_id\":\"j%u\",\"prompt\":\"Once upon\",\"max_tokens\":%u,\"n\":%u,\"temperature\":0.9,\"seed\":%u,\"ignore_eos\":true}\n", i,
                  w->tokens, w->n, i % w->same);
    cr_assert(support_write(in, t.ptr, t.len));
    text_free(&t);
    unlink(out);
}

static const char *const *batch_words(const standing *c)
{
    static const char *words[16];
    size_t n = 0;
    for (const char *const *w = SLUICE("submit", "--dir", c->dir, "--batch", in, "-o", out); *w; w++) words[n++] = *w;
    words[n] = NULL;
    return words;
}

/* The texts and tokens of an answer; a new string. */
static char *essence(const json_t *o)
{
    json_t *part = json_object(), *v = json_object_get(o, "choices");
    json_object_set(part, "choices", v ? v : json_object_get(o, "tokens"));
    char *s = json_dumps(part, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(part);
    return s;
}

/* Answer of one line alone: of job `seed` while nobody else asks. */
static char *alone(const standing *c, const crowd *w, unsigned seed)
{
    char tokens[16], n[16], s[16];
    snprintf(tokens, sizeof tokens, "%u", w->tokens);
    snprintf(n, sizeof n, "%u", w->n);
    snprintf(s, sizeof s, "%u", seed);
    ran r = program_run(0, SECONDS, NULL, SLUICE("submit", "--dir", c->dir, "--json", "-p", "Once upon", "-n", tokens, "--choices", n, "--temp", "0.9",
                                                 "--seed", s, "--ignore-eos"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    char *got = essence(o);
    json_decref(o);
    return got;
}

/* Sends the jobs and looks at the status all the time; returns the most sessions seen. */
static int64_t run_batch(const standing *c)
{
    program p;
    int64_t most = 0;
    cr_assert(program_start(&p, "batch", batch_words(c)));
    while (program_wait(&p, -1, 0.02) == SUPPORT_TIMEOUT) {
        json_t *o = standing_status(c);
        cr_assert(o, "the cluster is gone");
        int64_t n = json_number_at(o, "sessions");
        most = n > most ? n : most;
        json_decref(o);
    }
    if (p.status) {
        text errs = program_errs(&p);
        printf("# %s\n", errs.ptr);
        text_free(&errs);
        standing_print_log(c);
    }
    cr_assert_eq(p.status, 0);
    return most;
}

static void check_line(const crowd *w, char *const want[], bool *seen, const json_t *o)
{
    unsigned i = w->jobs;
    sscanf(json_string_at(o, "custom_id"), "j%u", &i);
    cr_assert(i < w->jobs && !seen[i], "\"%s\" is wrong or there twice", json_string_at(o, "custom_id"));
    seen[i] = true;
    cr_expect(!json_object_get(o, "error"), "job %u: %s", i, json_string_at(o, "error.message"));
    if (w->n > 1) cr_expect_eq(json_array_size(json_object_get(o, "choices")), w->n, "job %u", i);
    char *got = essence(o);
    cr_expect_str_eq(got, want[i % w->same], "job %u", i);
    free(got);
}

static void check_answers(const crowd *w, char *const want[])
{
    text t = { 0 };
    bool *seen = calloc(w->jobs, 1);
    unsigned lines = 0;
    cr_assert(seen && text_read_file(&t, out, 1 << 27, NULL) == ERR_OK);
    for (char *line = strtok(t.ptr, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        json_t *o = json_loads(line, 0, NULL);
        cr_assert(o, "%s", line);
        check_line(w, want, seen, o);
        json_decref(o);
    }
    cr_expect_eq(lines, w->jobs);
    free(seen);
    text_free(&t);
}

static void check_crowd(const char *rows, const char *sessions, crowd w)
{
    standing c;
    char *want[8];
    cr_assert(w.same <= 8 && standing_up(&c, "crowd", UP("--max-rows", rows, "--max-sessions", sessions)));
    for (unsigned i = 0; i < w.same; i++) want[i] = alone(&c, &w, i);
    write_jobs(&w);
    int64_t most = run_batch(&c), limit = atoi(sessions), allowed = limit > w.n ? limit : w.n;     /* one job alone may have more */
    printf("# %u jobs of %u, at most %s rows and %s sessions: %lld sessions seen\n", w.jobs, w.n, rows, sessions, (long long)most);
    cr_expect_leq(most, allowed, "more sessions than allowed");
    cr_expect_gt(most, 0, "the status never showed a session");
    check_answers(&w, want);
    for (unsigned i = 0; i < w.same; i++) free(want[i]);
    cr_expect(standing_down(&c));
}

Test(crowd, eighty_jobs_of_thirty_two_answers) { check_crowd("512", "64", (crowd){ 80, 32, 8, 4 }); }
Test(crowd, eighty_jobs_of_thirty_two_answers_where_seven_rows_and_five_sessions_fit) { check_crowd("7", "5", (crowd){ 80, 32, 3, 4 }); }
Test(crowd, sixty_four_answers_one_row_and_one_session_at_a_time) { check_crowd("1", "1", (crowd){ 3, 64, 20, 2 }); }
Test(crowd, single_answers_three_at_a_time) { check_crowd("2", "3", (crowd){ 60, 1, 12, 8 }); }

/* ---- more finished jobs than are kept */

static char id_word[24];

static ran result_of(const standing *c, unsigned id, int want)
{
    snprintf(id_word, sizeof id_word, "%u", id);
    return program_run(want, SECONDS, NULL, SLUICE("result", "--dir", c->dir, "--json", id_word));
}

static void expect_result(const standing *c, unsigned id, const char *want)
{
    ran r = result_of(c, id, 0);
    cr_assert_eq(r.status, 0, "job %u", id);
    json_t *o = ran_json(&r);
    char *got = essence(o);
    cr_expect_str_eq(got, want, "job %u", id);
    cr_expect_eq(json_number_at(o, "id"), id);
    free(got);
    json_decref(o);
}

static void expect_forgotten(const standing *c, unsigned id)
{
    ran r = result_of(c, id, -1);
    cr_expect(r.status > 0 && r.status < 128, "status %d for job %u", r.status, id);
    cr_expect(strstr(ran_errs(&r), "there is no job"), "%s", ran_errs(&r));
    ran_free(&r);
}

static void check_kept(const standing *c, unsigned last, char *const want[1])
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("jobs", "--dir", c->dir, "--json"));
    json_t *o = ran_json(&r), *list = json_object_get(o, "jobs");
    cr_expect_eq(json_array_size(list), KEPT);
    cr_expect_eq(json_number_at(json_array_get(list, 0), "id"), last - KEPT + 1);
    cr_expect_eq(json_number_at(json_array_get(list, KEPT - 1), "id"), last);
    json_decref(o);
    expect_result(c, last, want[0]);
    expect_result(c, last - KEPT / 2, want[0]);
    expect_result(c, last - KEPT + 1, want[0]);
    expect_forgotten(c, last - KEPT);
    expect_forgotten(c, 1);
}

Test(crowd, the_newest_thousand_results_stay_and_older_ones_go)
{
    standing c;
    crowd w = { 1100, 1, 1, 1 };
    cr_assert(standing_up(&c, "many", UP("--max-rows", "512")));
    char *want[1] = { alone(&c, &w, 0) };
    write_jobs(&w);
    run_batch(&c);
    check_answers(&w, want);
    check_kept(&c, w.jobs + 1, want);
    expect_result(&c, w.jobs + 1, want[0]);
    free(want[0]);
    cr_expect(standing_down(&c));
}

Test(crowd, the_newest_thousand_results_outlive_the_cluster)
{
    standing c;
    crowd w = { 1050, 1, 1, 1 };
    cr_assert(standing_up(&c, "many", UP("--max-rows", "512")));
    char *want[1] = { alone(&c, &w, 0) };
    write_jobs(&w);
    run_batch(&c);
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", c.dir));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    json_decref(c.status);
    cr_assert(standing_up(&c, "many", UP("--max-rows", "512")));
    check_kept(&c, w.jobs + 1, want);
    char *next = alone(&c, &w, 0);
    cr_expect_str_eq(next, want[0]);
    expect_result(&c, w.jobs + 2, want[0]);
    free(next);
    free(want[0]);
    cr_expect(standing_down(&c));
}
