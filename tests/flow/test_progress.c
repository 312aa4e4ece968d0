#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Progress bars: on a terminal, never in a pipe, without colour when NO_COLOR says so. The terminal is a pty. */

#define SECONDS 120

static int open_pty(char name[static 64])
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY);
    if (fd < 0) cr_skip_test("no pseudo-terminal on this machine: %s", strerror(errno));
    cr_assert(!grantpt(fd) && !unlockpt(fd) && !ptsname_r(fd, name, 64), "no pty: %s", strerror(errno));
    return fd;
}

/* Everything that a program writes to the terminal that is its standard error. */
static text on_terminal(const char *const argv[])
{
    char name[64], buf[4096];
    text all = { 0 };
    int fd = open_pty(name), status = -1;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        int tty = open(name, O_RDWR | O_NOCTTY), null = open("/dev/null", O_RDWR);
        if (tty < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(tty, 2) < 0) _exit(126);
        if (tty > 2) close(tty);
        alarm((unsigned)(SECONDS * programs_patience()));
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    for (ssize_t n;;) { /* EIO: nobody has the other end any more (or not yet) */
        n = read(fd, buf, sizeof buf);
        if (n > 0) cr_assert(text_add(&all, buf, (size_t)n));
        else if (waitpid(pid, &status, n < 0 && errno == EIO ? WNOHANG : 0) == pid) break;
        else usleep(2000);
    }
    close(fd);
    cr_expect(WIFEXITED(status) && !WEXITSTATUS(status), "status %d: %s", status, all.ptr ? all.ptr : "");
    if (!all.ptr) text_adds(&all, "");
    return all;
}

static void begin(void)
{
    programs_begin();
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
}
TestSuite(progress, .init = begin, .timeout = 600);

#define RUN SLUICE("run", "-p", "Once", "-n", "2", "--stages", "1")

Test(progress, loading_is_shown_on_a_terminal_and_wiped)
{
    text t = on_terminal(RUN);
    const char *bar = strstr(t.ptr, "loading stages ["), *after = bar ? strrchr(bar, '\r') : NULL;
    cr_expect(bar && strstr(t.ptr, "0/1"), "%s", t.ptr);
    cr_expect(after && strstr(t.ptr, "tokens"), "the summary comes behind: %s", t.ptr);
    cr_expect(strstr(t.ptr, "\033[32m"), "what is done is green");
    text_free(&t);
}

Test(progress, NO_COLOR_is_obeyed)
{
    setenv("NO_COLOR", "1", 1);
    text t = on_terminal(RUN);
    cr_expect(strstr(t.ptr, "loading stages [") && !strchr(t.ptr, '\033'), "%s", t.ptr);
    text_free(&t);
}

Test(progress, a_dumb_terminal_gets_no_bar)
{
    setenv("TERM", "dumb", 1);
    text t = on_terminal(RUN);
    cr_expect(!strstr(t.ptr, "loading stages"), "%s", t.ptr);
    text_free(&t);
}

Test(progress, a_pipe_gets_no_bar)
{
    ran r = program_run(0, SECONDS, NULL, RUN);
    cr_expect(!strchr(ran_errs(&r), '\033') && !strstr(ran_errs(&r), "loading"), "%s", ran_errs(&r));
    cr_expect(!strchr(ran_errs(&r), '\r'), "%s", ran_errs(&r));
    ran_free(&r);
}

Test(progress, a_batch_shows_what_is_done_and_how_fast)
{
    standing c;
    text in = { 0 };
    char path[200], out[200];
    cr_assert(standing_up(&c, "batch", (const char *const[]){ "--stages", "1", NULL }));
    for (int i = 0; i < 40; i++)
        text_addf(&in, "{\"custom_id\": \"n%d\", \"prompt\": \"Once upon\", \"max_tokens\": 60, \"ignore_eos\": true}\n", i);
    snprintf(path, sizeof path, "%s", programs_file("in.jsonl"));
    snprintf(out, sizeof out, "%s", programs_file("out.jsonl"));
    cr_assert(support_write(path, in.ptr, in.len));
    text t = on_terminal(SLUICE("submit", "--dir", c.dir, "--batch", path, "-o", out));
    cr_expect(strstr(t.ptr, "batch [") && strstr(t.ptr, "0/40"), "%s", t.ptr);
    cr_expect(strstr(t.ptr, "batch: 40 answered, 0 failed"), "%s", t.ptr);
    text_free(&t);
    text_free(&in);
    cr_assert(standing_down(&c));
}

Test(progress, an_eval_shows_its_windows)
{
    char path[200];
    text in = { 0 };
    for (int i = 0; i < 200; i++) text_adds(&in, "Once upon a time there was a fox. ");
    snprintf(path, sizeof path, "%s", programs_file("text.txt"));
    cr_assert(support_write(path, in.ptr, in.len));
    text t = on_terminal(SLUICE("eval", "ppl", "-f", path, "-c", "64", "--stages", "1"));
    cr_expect(strstr(t.ptr, "perplexity ["), "%s", t.ptr);
    text_free(&t);
    text_free(&in);
}
