/* Every worker of a running cluster is in its sandbox, also one that was started again, and the answers are those of workers
 * that are in none. */
#include "tests/support_lora.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As in core/sandbox.c: sanitizers and coverage leave the filter out. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SLUICE_NO_SANDBOX)
#define FILTER false
#else
#define FILTER true
#endif
#define PROMPT "Once upon a time there was"
static char model_file[512];

static void begin(void)
{
    programs_begin();
    snprintf(model_file, sizeof model_file, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(sandbox, .init = begin, .timeout = 240);

/* A number behind "NAME:" in /proc/PID/status. */
static long status_of(pid_t pid, const char *name)
{
    char path[64], line[256];
    long v = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':') v = strtol(line + strlen(name) + 1, NULL, 10);
    if (f) fclose(f);
    return v;
}

static void expect_worker(const json_t *status, const char *where, bool inside)
{
    char at[64];
    snprintf(at, sizeof at, "%s.sandbox", where);
    cr_expect_str_eq(json_string_at(status, at), inside ? "on" : "off", "%s", where);
    snprintf(at, sizeof at, "%s.pid", where);
    pid_t pid = (pid_t)json_number_at(status, at);
    cr_expect_eq(status_of(pid, "Seccomp"), inside ? 2 : 0, "%s", where);
    cr_expect_eq(status_of(pid, "NoNewPrivs"), 1, "%s", where);
}

static void expect_workers(const standing *c, bool inside)
{
    json_t *s = standing_status(c);
    cr_assert(s);
    expect_worker(s, "stages.0", inside);
    expect_worker(s, "stages.1", inside);
    expect_worker(s, "rag", inside);
    json_decref(s);
}

/* Answers of: a plain job, one with an adapter (opened by stages that are in their sandbox already), one with passages. */
typedef struct { char *text[3]; } answers;

static char *answer(const standing *c, const char *const more[2])
{
    const char *argv[] = { support_bin("sluice"), "submit", "--dir", c->dir, "--json", "-n", "24", "-p", PROMPT, more[0], more[0] ? more[1] : NULL, NULL };
    ran r = program_run(0, 120, NULL, argv);
    if (r.status) standing_print_log(c);
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    char *s = strdup(json_string_at(o, "text"));
    json_decref(o);
    return s;
}

static answers ask(const standing *c, const char *adapter)
{
    return (answers){ { answer(c, (const char *const[]){ NULL, NULL }), answer(c, (const char *const[]){ "--lora", adapter }),
                        answer(c, (const char *const[]){ "--use-rag", NULL }) } };
}

static void make_files(char adapter[256], char corpus[256])
{
    static adapter_file f;
    snprintf(adapter, 256, "%s", programs_file("adapter.gguf"));
    snprintf(corpus, 256, "%s", programs_file("corpus.md"));
    cr_assert(adapter_for(&f, model_file, 4, true, 5));
    cr_assert(adapter_write(&f, adapter));
    static const char words[] = "# Time\nOnce upon a time there was a beekeeper in North Grove.\n";
    cr_assert(support_write(corpus, words, sizeof words - 1));
}

static void expect_same(const answers *a, const answers *b)
{
    for (int i = 0; i < 3; i++) cr_expect_str_eq(a->text[i], b->text[i], "answer %d", i);
    cr_expect_str_neq(a->text[0], a->text[1], "the adapter changes nothing");
}

static void answers_free(answers *a)
{
    for (int i = 0; i < 3; i++) free(a->text[i]);
}

/* By its new pid. */
static void wait_for_another(const standing *c, pid_t old)
{
    for (int i = 0; i < 600; i++) {
        json_t *s = standing_status(c);
        pid_t now = s ? (pid_t)json_number_at(s, "stages.0.pid") : old;
        bool back = s && json_is_true(json_object_get(s, "ready")) && now > 0 && now != old;
        json_decref(s);
        if (back) return;
        usleep(100000);
    }
    cr_assert_fail("the stage did not come back");
}

Test(sandbox, every_worker_is_in_it_and_answers_as_without)
{
    char adapter[256], corpus[256];
    standing c;
    make_files(adapter, corpus);
    const bool possible = FILTER;
    cr_assert(standing_up(&c, "inside", (const char *const[]){ "-m", model_file, "--stages", "2", "--rag", corpus, NULL }));
    expect_workers(&c, possible);
    answers in = ask(&c, adapter);
    json_t *s = standing_status(&c);
    pid_t first = (pid_t)json_number_at(s, "stages.0.pid");
    json_decref(s);
    cr_assert_eq(kill(first, SIGKILL), 0);
    wait_for_another(&c, first);
    expect_workers(&c, possible);
    answers again = ask(&c, adapter);
    cr_assert(standing_down(&c));
    cr_assert(standing_up(&c, "outside", (const char *const[]){ "-m", model_file, "--stages", "2", "--rag", corpus, "--no-sandbox", NULL }));
    expect_workers(&c, false);
    answers out = ask(&c, adapter);
    cr_assert(standing_down(&c));
    expect_same(&in, &out);
    expect_same(&in, &again);
    answers_free(&in);
    answers_free(&again);
    answers_free(&out);
    cr_assert(programs_gone(5));
}
