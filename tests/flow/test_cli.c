#include "tests/support.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The program `sluice` as people meet it: exit statuses, messages, and what it leaves behind (nothing). */

typedef struct { int status; text out, err; } result;
enum { SECONDS = 60 };

/* argv after the program's name; every run makes its private directories in a folder of the test. */
static result sluice_in(const char *in, const char *const *words)
{
    const char *argv[40] = { support_bin("sluice") };
    result r = { 0 };
    size_t n = 0;
    while (words[n] && n < 38) argv[n + 1] = words[n], n++;
    unsetenv("XDG_RUNTIME_DIR");
    setenv("TMPDIR", support_tmpdir(), 1);
    cr_assert(support_run(argv, in, SECONDS, &r.status, &r.out, &r.err));
    if (!r.out.ptr) text_adds(&r.out, "");
    if (!r.err.ptr) text_adds(&r.err, "");
    return r;
}
#define SLUICE(...) sluice_in(NULL, (const char *const[]){ __VA_ARGS__, NULL })

static void drop(result *r)
{
    text_free(&r->out);
    text_free(&r->err);
}

static void expect(result r, int status, const char *out, const char *err_text)
{
    cr_expect_eq(r.status, status, "status %d, stderr: %s", r.status, r.err.ptr);
    cr_expect(!out || strstr(r.out.ptr, out), "no \"%s\" in: %s", out, r.out.ptr);
    cr_expect(!err_text || strstr(r.err.ptr, err_text), "no \"%s\" in: %s", err_text, r.err.ptr);
    drop(&r);
}

static const char *in_tmp(const char *name)
{
    static char path[4][300];
    static int at;
    char *p = path[at++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", support_tmpdir(), name);
    return p;
}

static size_t entries(const char *prefix)
{
    DIR *d = opendir(support_tmpdir());
    size_t n = 0;
    for (struct dirent *f; d && (f = readdir(d));) n += !strncmp(f->d_name, prefix, strlen(prefix));
    if (d) closedir(d);
    return n;
}

Test(cli, without_words_the_commands_are_listed)
{
    const char *const none[] = { NULL };
    expect(sluice_in(NULL, none), 0, "detokenize", NULL);
    expect(SLUICE("--version"), 0, "revision", NULL);
    expect(SLUICE("help", "run"), 0, "sluice run", NULL);
}

static void expect_screen(result r, const char *what)
{
    int lines = 0;
    cr_expect(strstr(r.out.ptr, "\nexample: sluice "), "%s --help has no example", what);
    for (char *save = r.out.ptr, *l; (l = strsep(&save, "\n")); lines++) cr_expect_leq(strlen(l), 80, "%s", l);
    cr_expect_leq(lines, 48, "%s --help has %d lines", what, lines);
    drop(&r);
}

Test(cli, every_help_fits_a_screen_and_has_an_example)
{
    result all = SLUICE("--help");
    char name[32];
    int n = 0;
    for (char *save = all.out.ptr, *l; (l = strsep(&save, "\n"));) {
        cr_expect_leq(strlen(l), 80, "%s", l);
        if (strncmp(l, "  ", 2) || sscanf(l, "%31s", name) != 1) continue;
        expect_screen(SLUICE(name, "--help"), name);
        n++;
    }
    cr_expect_geq(n, 17);
    drop(&all);
}

Test(cli, every_help_of_the_other_programs_fits_a_screen_and_has_an_example)
{
    static const char *const names[] = { "sluice-coordinator", "sluice-stage", "sluice-rag" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        result r = { 0 };
        const char *argv[] = { support_bin(names[i]), "--help", NULL };
        cr_assert(support_run(argv, NULL, 60, &r.status, &r.out, &r.err), "%s", names[i]);
        cr_expect_eq(r.status, 0);
        expect_screen(r, names[i]);
    }
}

Test(cli, mistakes_on_the_command_line_are_explained_with_status_2)
{
    expect(SLUICE("rnu"), 2, NULL, "did you mean run?");
    expect(SLUICE("zzzzz"), 2, NULL, "unknown command \"zzzzz\"");
    expect(SLUICE("run", "--stges", "2"), 2, NULL, "did you mean --stages?");
    expect(SLUICE("run"), 2, NULL, "no prompt");
    expect(SLUICE("run", "-p", "x", "--temp", "-1"), 2, NULL, "\"-1\"");
    expect(SLUICE("eval", "pll"), 2, NULL, "did you mean ppl?");
    expect(SLUICE("model", "inf"), 2, NULL, "did you mean info?");
    expect(SLUICE("model", "random", "--shape", "zzz", "-o", "x"), 2, NULL, "tinyllama-1.1b");
    expect(SLUICE("result", "x"), 2, NULL, "\"x\" is no job id");
    expect(SLUICE("worker"), 2, NULL, "--connect");
    expect(SLUICE("submit", "-p", "x", "--detach", "--wait"), 2, NULL, "exclude");
}

Test(cli, a_configuration_file_is_read_and_its_mistakes_named_with_status_3)
{
    const char *conf = in_tmp("bad.ini");
    cr_assert(support_write(conf, "[cluster]\nstags = 2\n", 20));
    expect(SLUICE("run", "-c", conf, "-p", "x"), 3, NULL,
           "bad.ini:2: unknown key \"cluster.stags\" (did you mean cluster.stages?)");
}

Test(cli, without_a_cluster_the_client_commands_say_so_with_status_14)
{
    const char *dir = in_tmp("nobody");
    static const char *const names[] = { "status", "jobs", "down" };
    for (size_t i = 0; i < 3; i++) expect(SLUICE(names[i], "--dir", dir), 14, NULL, "no cluster is up in ");
    expect(SLUICE("submit", "--dir", dir, "-p", "x"), 14, NULL, "sluice up starts one");
    expect(SLUICE("result", "1", "--dir", dir), 14, NULL, NULL);
}

Test(cli, a_directory_that_others_may_write_to_is_refused)
{
    const char *dir = in_tmp("open");
    cr_assert_eq(mkdir(dir, 0777), 0);
    chmod(dir, 0777);
    expect(SLUICE("up", "--dir", dir, "-m", "x"), 4, NULL, "others may write there");
}

Test(cli, absent_things_are_named_and_nothing_stays, .timeout = 200)
{
    expect(SLUICE("run", "-m", "/nonexistent.gguf", "-p", "x"), 4, NULL, "/nonexistent.gguf");
    expect(SLUICE("run", "--bin-dir", "/nonexistent", "-m", "x", "-p", "x"), 4, NULL, "/nonexistent/sluice-coordinator");
    expect(SLUICE("run", "-m", "x", "-f", "/nonexistent.txt"), 4, NULL, "/nonexistent.txt");
    expect(SLUICE("run", "-m", support_root("Makefile"), "-p", "x"), 5, NULL, "Makefile");
    expect(SLUICE("tokenize", "-m", "/nonexistent.gguf", "-p", "x"), 4, NULL, "/nonexistent.gguf");
    cr_expect_eq(entries("sluice-"), 0, "private directories are left");
}

static void write_program(const char *dir, const char *name, const char *body)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    cr_assert(support_write(path, body, strlen(body)));
    chmod(path, 0755);
}

/* Coordinators that misbehave, as shell scripts: $5 is not fixed, so they look for the word after --notify-fd. */
Test(cli, a_coordinator_that_dies_or_talks_nonsense_is_reported, .timeout = 200)
{
    static const struct { const char *body; int status; const char *words;
    } rows[] = {
        { "#!/bin/sh\nexit 3\n", 7, "ended before it was ready with status 3" },
        { "#!/bin/sh\nkill -9 $$\n", 7, "signal 9" },
        { "#!/bin/bash\nwhile [ $1 != --notify-fd ]; do shift; done\necho ERROR 5 no such thing >&$2\n", 6,
          "sluice run: no such thing" },
        { "#!/bin/bash\nwhile [ $1 != --notify-fd ]; do shift; done\necho HELLO >&$2\nsleep 100\n", 6, "instead of READY" },
        { "#!/bin/sh\nexec sleep 100\n", 8, "not ready after 0.1 s" },
    };
    const char *bin = in_tmp("bin");
    cr_assert_eq(mkdir(bin, 0755), 0);
    write_program(bin, "sluice-stage", "#!/bin/sh\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_program(bin, "sluice-coordinator", rows[i].body);
        expect(SLUICE("run", "--bin-dir", bin, "-m", "x", "-p", "x", "--start-timeout", "0.1"), rows[i].status, NULL,
               rows[i].words);
    }
    cr_expect_eq(entries("sluice-"), 0, "private directories are left");
}

/* ---- with the bundled model ---- */

static const char *bundled(void)
{
    const char *m = support_root("models/sluice-tiny-Q8_0.gguf");
    return access(m, R_OK) ? NULL : m;
}
#define MODEL_OR_SKIP(m) const char *m = bundled(); if (!m) cr_skip_test("the bundled model is absent")

Test(cli, run_prints_text_and_summary_and_leaves_nothing, .timeout = 200)
{
    MODEL_OR_SKIP(m);
    result r = SLUICE("run", "-m", m, "-p", "Once upon a time", "-n", "6", "--stages", "2");
    cr_expect(r.out.len > 6, "%s", r.out.ptr);
    expect(r, 0, NULL, "stage 1  layers ");
    cr_expect_eq(entries("sluice-"), 0);
}

Test(cli, run_json_has_the_promised_fields_and_the_same_text, .timeout = 200)
{
    MODEL_OR_SKIP(m);
    static const char *const keys[] = { "text",    "tokens", "prompt_tokens", "completion_tokens", "finish_reason",
                                        "timings", "stages", "lossy",         "passages" };
    result plain = SLUICE("run", "-m", m, "-p", "Once upon a time", "-n", "6", "--stages", "1");
    result r =
        sluice_in("Once upon a time", (const char *const[]){ "run", "-m", m, "-", "-n", "6", "--stages", "3", "--json", NULL });
    json_t *o = json_loads(r.out.ptr, 0, NULL);
    cr_assert_not_null(o, "%s", r.out.ptr);
    cr_expect_str_eq(json_string_value(json_object_get(o, "schema")), "sluice.run/1");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) cr_expect_not_null(json_object_get(o, keys[i]), "%s", keys[i]);
    const char *said = json_string_value(json_object_get(o, "text"));
    cr_expect(said && !strncmp(plain.out.ptr, said, strlen(said)), "\"%s\" and \"%s\"", plain.out.ptr, said);
    cr_expect_eq(json_array_size(json_object_get(o, "tokens")), 6);
    cr_expect_eq(json_array_size(json_object_get(o, "stages")), 3);
    json_decref(o);
    drop(&plain);
    drop(&r);
}

Test(cli, no_tokens_wanted_is_fine_and_no_prompt_is_not, .timeout = 200)
{
    MODEL_OR_SKIP(m);
    result r = SLUICE("run", "-m", m, "-p", "Once", "-n", "0", "--json");
    cr_expect(strstr(r.out.ptr, "\"text\":\"\"") && strstr(r.out.ptr, "\"finish_reason\":\"length\""), "%s", r.out.ptr);
    expect(r, 0, NULL, NULL);
    expect(SLUICE("run", "-m", m, "-p", ""), 11, NULL, "the prompt is empty");
}

static pid_t start(const char *const argv[], int *out)
{
    int p[2];
    cr_assert_eq(pipe(p), 0);
    pid_t pid = fork();
    if (!pid) {
        setpgid(0, 0);
        dup2(p[1], 1);
        close(p[0]);
        close(p[1]);
        if (!freopen("/dev/null", "w", stderr)) _exit(126);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(p[1]);
    *out = p[0];
    return pid;
}

/* Status as a shell gives it, or -1 when it does not end within 15 s. */
static int reap(pid_t pid)
{
    int st;
    for (int i = 0; i < 1500; i++, nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL))
        if (waitpid(pid, &st, WNOHANG) == pid) return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
    kill(pid, SIGKILL);
    waitpid(pid, &st, 0);
    return -1;
}

/* Processes that have our temporary folder in their command line. */
static unsigned survivors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *f; d && (f = readdir(d));) {
        char path[300], line[4096] = "";
        snprintf(path, sizeof path, "/proc/%s/cmdline", f->d_name);
        FILE *c = f->d_name[0] >= '1' && f->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        size_t len = c ? fread(line, 1, sizeof line - 1, c) : 0;
        if (c) fclose(c);
        n += len && atoi(f->d_name) != getpid() && memmem(line, len, support_tmpdir(), strlen(support_tmpdir()));
    }
    if (d) closedir(d);
    return n;
}

static void end_by(int sig, int want)
{
    MODEL_OR_SKIP(m);
    char one;
    int out;
    unsetenv("XDG_RUNTIME_DIR");
    setenv("TMPDIR", support_tmpdir(), 1);
    pid_t pid = start((const char *const[]){ support_bin("sluice"), "run", "-m", m, "-p", "Once", "-n", "1000000", "--ignore-eos",
                                             "--context-full", "slide", NULL },
                      &out);
    cr_assert_eq(read(out, &one, 1), 1, "the first text should come");
    if (sig) kill(pid, sig);
    else close(out); /* the reader of the pipe has gone */
    cr_expect_eq(reap(pid), want);
    if (sig) close(out);
    cr_expect_eq(entries("sluice-"), 0, "the private directory is left");
    for (int i = 0; i < 200 && survivors(); i++) nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
    cr_expect_eq(survivors(), 0, "processes are left");
}

Test(cli, an_interrupt_ends_with_130_and_leaves_nothing, .timeout = 200) { end_by(SIGINT, 130); }
Test(cli, sigterm_ends_with_143_and_leaves_nothing, .timeout = 200) { end_by(SIGTERM, 143); }
Test(cli, sighup_ends_with_129_and_leaves_nothing, .timeout = 200) { end_by(SIGHUP, 129); }
Test(cli, a_closed_pipe_ends_with_4_and_leaves_nothing, .timeout = 200) { end_by(0, 4); }

Test(cli, up_submit_result_batch_and_down, .timeout = 200)
{
    MODEL_OR_SKIP(m);
    const char *dir = in_tmp("up"), *in = in_tmp("in.jsonl"), *to = in_tmp("out.jsonl");
    static const char lines[] = "{\"custom_id\":\"a\",\"prompt\":\"Once\",\"max_tokens\":3}\nnonsense\n{\"custom_id\":\"b\","
                                "\"prompt\":\"A\",\"n\":2,\"max_tokens\":2}\n";
    cr_assert(support_write(in, lines, strlen(lines)));
    expect(SLUICE("up", "--dir", dir, "-m", m, "--stages", "2"), 0, "ready", NULL);
    expect(SLUICE("up", "--dir", dir, "-m", m), 13, NULL, "already up");
    expect(SLUICE("status", "--dir", dir, "--json"), 0, "\"sluice.status/1\"", NULL);
    result r = SLUICE("submit", "--dir", dir, "-p", "Once upon", "-n", "5", "--detach");
    r.out.ptr[strcspn(r.out.ptr, "\n")] = 0;
    result waited = SLUICE("submit", "--dir", dir, "-p", "Once upon", "-n", "5"),
           fetched = SLUICE("result", r.out.ptr, "--dir", dir);
    cr_expect(waited.out.len > 3);
    cr_expect_str_eq(fetched.out.ptr, waited.out.ptr);
    expect(SLUICE("jobs", "--dir", dir), 0, "done", NULL);
    expect(SLUICE("submit", "--dir", dir, "--batch", in, "-o", to), 11, NULL, "1 of 3 lines failed");
    expect(SLUICE("run", "--dir", dir, "-p", "Once", "-n", "1"), 0, NULL, "stage 0");
    expect(SLUICE("cancel", "9999", "--dir", dir), 14, NULL, "no job 9999");
    expect(SLUICE("down", "--dir", dir), 0, NULL, NULL);
    expect(SLUICE("status", "--dir", dir), 14, NULL, NULL);
    char journal[600];
    snprintf(journal, sizeof journal, "%s/journal.db", dir);
    cr_expect_eq(unlink(journal), 0, "the record of jobs should stay: %s", strerror(errno));
    cr_expect_eq(rmdir(dir), 0, "files are left in the run directory: %s", strerror(errno));
    text got = { 0 };
    err e;
    cr_assert_eq(text_read_file(&got, to, 1 << 20, &e), ERR_OK, "%s", e.text);
    cr_expect(strstr(got.ptr, "\"custom_id\":\"a\"") && strstr(got.ptr, "\"line\":2") && strstr(got.ptr, "\"choices\""), "%s",
              got.ptr);
    text_free(&got);
    drop(&r);
    drop(&waited);
    drop(&fetched);
}

Test(cli, tokenize_and_detokenize_are_inverse)
{
    MODEL_OR_SKIP(m);
    static const char words[] = "Hello there, w\xc3\xb6rld \xe2\x98\x83!";
    result ids = SLUICE("tokenize", "-m", m, "-p", words);
    expect(sluice_in(ids.out.ptr, (const char *const[]){ "detokenize", "-m", m, "-", NULL }), 0, words, NULL);
    expect(SLUICE("tokenize", "-m", m, "-p", "a", "--bos"), 0, "1 ", NULL);
    expect(SLUICE("detokenize", "-m", m, "-t", "99999999"), 11, NULL, "99999999");
    drop(&ids);
}

Test(cli, tokenize_puts_an_end_behind_where_the_model_adds_one)
{
    MODEL_OR_SKIP(m);
    SHARED_OR_SKIP(bert, "data/vocabs/ggml-vocab-bert-bge.gguf");
    expect(SLUICE("tokenize", "-m", bert, "-p", "hello"), 0, "7592\n", NULL);
    expect(SLUICE("tokenize", "-m", bert, "-p", "hello", "--bos"), 0, "101 7592 102\n", NULL);
    result ids = SLUICE("tokenize", "-m", m, "-p", "a", "--bos");          /* this one has an end token and adds none */
    cr_expect(ids.out.len > 3 && memcmp(ids.out.ptr + ids.out.len - 3, " 2\n", 3), "%s", ids.out.ptr);
    drop(&ids);
}
