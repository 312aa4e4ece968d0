#include "core/buf.h"
#include "core/log.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Send stderr to a file from here on. */
static const char *capture(void)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/log", support_tmpdir());
    int fd = open(path, O_CREAT | O_TRUNC | O_APPEND | O_WRONLY, 0600);
    cr_assert(fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    close(fd);
    return path;
}

static text captured(const char *path)
{
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, path, 1 << 24, NULL), ERR_OK);
    return t;
}

Test(log, a_line_has_time_level_role_id_and_text)
{
    const char *path = capture();
    log_role("stage-3", false);
    LOG(LOG_WARN, "PEER-GONE", "peer=%s after_ms=%d", "co", 250);
    text t = captured(path);
    unsigned long long s;
    unsigned ms;
    char rest[128];
    cr_assert_eq(sscanf(t.ptr, "%llu.%3u %127[^\n]", &s, &ms, rest), 3, "%s", t.ptr);
    cr_assert_gt(s, 1600000000ull);
    cr_assert_str_eq(rest, "warn  stage-3 PEER-GONE peer=co after_ms=250");
    cr_assert_eq(t.ptr[t.len - 1], '\n');
    text_free(&t);
}

Test(log, levels_above_the_limit_are_dropped_and_their_arguments_not_evaluated)
{
    const char *path = capture();
    int asked = 0;
    cr_assert_eq(log_get_level(), LOG_WARN);
    LOG(LOG_INFO, "A", "%d", ++asked);
    LOG(LOG_DEBUG, "B", "%d", ++asked);
    cr_assert_eq(asked, 0);
    log_set_level(LOG_DEBUG);
    LOG(LOG_DEBUG, "C", "%d", ++asked);
    log_set_level(LOG_ERROR);
    LOG(LOG_WARN, "D", "%d", ++asked);
    LOG(LOG_ERROR, "E", "%d", ++asked);
    cr_assert_eq(asked, 2);
    text t = captured(path);
    cr_assert(strstr(t.ptr, " C 1\n") && strstr(t.ptr, " E 2\n") && !strstr(t.ptr, " D ") && !strstr(t.ptr, " A "), "%s", t.ptr);
    text_free(&t);
}

Test(log, levels_have_names_and_nothing_else_has)
{
    const char *names[] = { "error", "warn", "info", "debug" };
    for (int i = 0; i < 4; i++) {
        log_level l = LOG_DEBUG;
        cr_assert(log_level_parse(names[i], &l));
        cr_assert_eq((int)l, i);
    }
    const char *wrong[] = { "", "Error", "warning", "info ", "4", "debu" };
    for (int i = 0; i < 6; i++) {
        log_level l = LOG_INFO;
        cr_expect_not(log_level_parse(wrong[i], &l), "\"%s\" was taken", wrong[i]);
        cr_expect_eq(l, LOG_INFO);
    }
}

Test(log, a_long_event_is_one_cut_line)
{
    const char *path = capture();
    char longer[5000];
    memset(longer, 'z', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    LOG(LOG_ERROR, "LONG", "%s", longer);
    LOG(LOG_ERROR, "NEXT", "x=%d", 1);
    text t = captured(path);
    char *nl = strchr(t.ptr, '\n');
    cr_assert(nl && nl - t.ptr < 1100 && nl - t.ptr > 900);
    cr_assert(strstr(nl, "NEXT x=1\n"));
    text_free(&t);
}

Test(log, a_long_role_is_cut)
{
    const char *path = capture();
    log_role("a-role-with-a-very-long-name", false);
    LOG(LOG_ERROR, "X", "y=%d", 1);
    text t = captured(path);
    cr_assert(strstr(t.ptr, " a-role-with-a-v X y=1\n"), "%s", t.ptr);
    text_free(&t);
}

enum { THREADS = 4, LINES = 500 };

static void *talk(void *arg)
{
    char role[16];
    snprintf(role, sizeof role, "thread-%d", *(int *)arg);
    log_role(role, true);
    for (int i = 0; i < LINES; i++) LOG(LOG_ERROR, "TALK", "n=%d end", i);
    return NULL;
}

Test(log, lines_of_threads_do_not_mix_and_carry_their_own_role)
{
    const char *path = capture();
    pthread_t t[THREADS];
    int id[THREADS];
    for (int i = 0; i < THREADS; i++) {
        id[i] = i;
        cr_assert_eq(pthread_create(&t[i], NULL, talk, &id[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    text log = captured(path);
    int next[THREADS] = { 0 };
    for (char *line = strtok(log.ptr, "\n"); line; line = strtok(NULL, "\n")) {
        int who, n, used = 0;
        cr_assert(sscanf(line, "%*s error thread-%d TALK n=%d end%n", &who, &n, &used) == 2 && !line[used] && used, "\"%s\"", line);
        cr_assert(who >= 0 && who < THREADS && n == next[who]++);
    }
    for (int i = 0; i < THREADS; i++) cr_assert_eq(next[i], LINES);
    text_free(&log);
}
