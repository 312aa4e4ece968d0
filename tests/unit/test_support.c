/* The test helpers and tests/run.sh themselves: a rig that cannot see a failure makes every other test worthless. */
#include "tests/support.h"
#include "core/clock.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int run(const char *script, const char *in, double seconds, text *out, text *errs)
{
    int status = 0;
    cr_assert(support_run((const char *[]){ "/bin/sh", "-c", script, NULL }, in, seconds, &status, out, errs));
    return status;
}

Test(support, run_gives_status_output_and_errors)
{
    text out = { 0 }, errs = { 0 };
    cr_assert_eq(run("cat; echo bad >&2; exit 7", "hello", 10, &out, &errs), 7);
    cr_assert_str_eq(out.ptr, "hello");
    cr_assert_str_eq(errs.ptr, "bad\n");
    text_free(&out);
    text_free(&errs);
}

Test(support, run_names_the_signal_and_the_missing_program)
{
    cr_assert_eq(run("kill -TERM $$", NULL, 10, NULL, NULL), 128 + 15);
    int status;
    cr_assert(support_run((const char *[]){ "/nowhere/program", NULL }, NULL, 10, &status, NULL, NULL));
    cr_assert_eq(status, 127);
}

Test(support, run_kills_the_whole_group_in_time)
{
    text out = { 0 };
    uint64_t start = clock_ns();
    cr_assert_eq(run("sleep 30 & echo $!; wait", NULL, 0.3, &out, NULL), SUPPORT_TIMEOUT);
    cr_assert_lt((double)(clock_ns() - start), 5e9);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", atoi(out.ptr));
    text cmd = { 0 };
    for (int i = 0; i < 100 && !text_read_file(&cmd, path, 4096, NULL) && cmd.len; i++) {   /* a zombie's is empty */
        usleep(20000);
        text_clear(&cmd);
    }
    cr_assert_eq(cmd.len, 0, "the grandchild lives");
    text_free(&cmd);
    text_free(&out);
}

Test(support, run_carries_a_megabyte_both_ways)
{
    text in = { 0 }, out = { 0 };
    for (int i = 0; i < 100000; i++) text_addf(&in, "line %06d\n", i);
    cr_assert_eq(run("cat", in.ptr, 30, &out, NULL), 0);
    cr_assert_eq(out.len, in.len);
    cr_assert_eq(memcmp(out.ptr, in.ptr, in.len), 0);
    cr_assert_eq(run("exit 3", in.ptr, 30, NULL, NULL), 3, "a program that does not read its input is no mistake");
    text_free(&in);
    text_free(&out);
}

Test(support, compare_sees_a_bit_and_a_nan)
{
    float a[] = { 1, 2, 0.0f }, b[] = { 1, 2, -0.0f };
    cr_assert(support_same(a, a, 3, "itself"));
    cr_assert_not(support_same(a, b, 3, "minus zero"));
    cr_assert(support_near(a, b, 3, 0, 0, "minus zero"));
    b[1] = nextafterf(2, 3);
    cr_assert(support_near(a, b, 3, 0, 1e-6, "one ulp"));
    cr_assert_not(support_near(a, b, 3, 0, 1e-8, "one ulp"));
    a[0] = NAN;
    cr_assert_not(support_near(a, b, 3, 1, 1, "a NaN"));
    a[0] = b[0] = INFINITY;
    cr_assert(support_near(a, b, 3, 1e-6, 0, "infinities"));
    b[0] = 1;
    cr_assert_not(support_near(a, b, 3, 1e-6, 1, "an infinity"));
}

Test(support, fills_depend_on_the_seed_only)
{
    float a[100], b[100];
    support_fill(a, 100, 5, -1, 1);
    support_fill(b, 50, 5, -1, 1);
    cr_assert(support_same(b, a, 50, "the same seed"));
    support_fill(b, 100, 6, -1, 1);
    cr_assert_not(support_same(b, a, 100, "another seed"));
    for (int i = 0; i < 100; i++) cr_assert(a[i] >= -1 && a[i] < 1);
}

Test(support, tmpdir_goes_with_its_process)
{
    int pipefd[2];
    char path[128] = { 0 };
    cr_assert_eq(pipe(pipefd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        const char *dir = support_tmpdir();
        char file[128];
        snprintf(file, sizeof file, "%s/deep", dir);
        bool ok = !mkdir(file, 0700);
        strcat(file, "/file");
        ok = ok && support_write(file, "x", 1) && write(pipefd[1], dir, strlen(dir)) > 0;
        exit(ok ? 0 : 1);
    }
    close(pipefd[1]);
    cr_assert_gt(read(pipefd[0], path, sizeof path - 1), 0);
    close(pipefd[0]);
    for (int i = 0; i < 250 && !access(path, F_OK); i++) usleep(20000);
    cr_assert_neq(access(path, F_OK), 0, "%s is still there", path);
}

/* A stand-in for a Criterion binary: writes a TAP report to the file that --tap= names, then does `end`. */
static const char *stand_in(const char *name, const char *tap, const char *end)
{
    static char path[256];
    text t = { 0 };
    text_addf(&t, "#!/bin/sh\nfor a; do case $a in --tap=*) f=${a#--tap=};; esac; done\ncat >$f <<'END'\n%sEND\n%s\n", tap, end);
    snprintf(path, sizeof path, "%s/%s", support_tmpdir(), name);
    cr_assert(support_write(path, t.ptr, t.len));
    cr_assert_eq(chmod(path, 0700), 0);
    text_free(&t);
    return path;
}

static void judge(const char *tap, const char *end, int want_status, const char *want_line)
{
    text out = { 0 };
    int status = 0;
    const char *bin = stand_in("fake", tap, end);
    const char *argv[] = { "env", "TEST_LIMIT=1", "TEST_REPORTS=", support_root("tests/run.sh"), bin, NULL };
    cr_assert(support_run(argv, NULL, 30, &status, &out, NULL));
    cr_expect_eq(status, want_status, "\"%s\", \"%s\": exit status %d", tap, end, status);
    size_t n = strlen(want_line);
    cr_expect(out.len > n + 1 && !strncmp(out.ptr + out.len - n - 1, want_line, n), "\"%s\", \"%s\": %s", tap, end, out.ptr);
    text_free(&out);
}

Test(runner, counts_what_passed_failed_and_was_skipped)
{
    judge("1..2\nok - s::a  (0.00s)\nok - s::b  (0.00s)\n", "exit 0", 0, "\n2 passed, 0 failed");
    judge("1..2\nok - s::a  (0.00s)\nnot ok - s::b  (0.00s)\n", "exit 1", 1, "\n1 passed, 1 failed");
    judge("1..2\nok - s::a  (0.00s)\nok - s::b  # SKIP no data\n", "exit 0", 0, "\n1 passed, 0 failed, 1 skipped");
    judge("1..1\nok - s::b  # SKIP no data\n", "exit 0", 1, "\n0 passed, 0 failed, 1 skipped");
}

Test(runner, believes_no_binary_that_broke_off)
{
    judge("", "kill -SEGV $$", 1, "\n0 passed, 1 failed");
    judge("", "exit 0", 1, "\n0 passed, 1 failed");
    judge("", "sleep 20", 1, "\n0 passed, 1 failed");
    judge("1..3\nok - s::a  (0.00s)\n", "exit 0", 1, "\n1 passed, 2 failed");
    judge("1..1\nok - s::a  (0.00s)\n", "exit 66", 1, "\n1 passed, 1 failed");
}

Test(runner, counts_a_sanitizer_report_as_a_failure)
{
    text out = { 0 };
    int status = 0;
    char env[256];
    snprintf(env, sizeof env, "TEST_REPORTS=%s/report", support_tmpdir());
    const char *bin = stand_in("leaky", "1..1\nok - s::a  (0.00s)\n", "echo ERROR: leak > $TEST_REPORTS.123; exit 0");
    cr_assert(support_run((const char *[]){ "env", env, support_root("tests/run.sh"), bin, NULL }, NULL, 30, &status, &out, NULL));
    cr_assert_eq(status, 1);
    cr_assert(strstr(out.ptr, "| ERROR: leak") && strstr(out.ptr, "\n1 passed, 1 failed\n"), "%s", out.ptr);
    text_free(&out);
}

Test(runner, refuses_to_run_nothing)
{
    int status = 0;
    cr_assert(support_run((const char *[]){ support_root("tests/run.sh"), NULL }, NULL, 30, &status, NULL, NULL));
    cr_assert_eq(status, 1);
}
