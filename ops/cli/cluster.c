#include "ops/cli/cluster.h"
#include "core/clock.h"
#include "core/signals.h"
#include "ops/cli/client.h"
#include "ops/cli/packing.h"
#include "ops/cli/paths.h"
#include "ops/cli/progress.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Owns starting and stopping a coordinator. The coordinator starts and stops its own stages; none is touched here. */

enum {
    STOP_MS = 10000,        /* from SIGTERM to SIGKILL: a drain of short jobs fits */
    GRACE_MS = 5000,        /* over --start-timeout, which the coordinator itself keeps */
    LINE_MAX_BYTES = 1 << 16
};

typedef struct {
    string_list argv;
    text program;
    int notify[2];          /* read end, write end */
    int err_fd;             /* where the child's stdout and stderr go, -1: our stderr */
} launch;

static void launch_free(launch *l)
{
    for (int i = 0; i < 2; i++)
        if (l->notify[i] >= 0) close(l->notify[i]);
    if (l->err_fd >= 0) close(l->err_fd);
    string_list_free(&l->argv);
    text_free(&l->program);
}

/* Every program the cluster will need, so that a missing one is named now and not by a child's child. */
static err_code check_programs(const settings *s, err *e)
{
    static const char *const names[] = { "sluice-stage", "sluice-rag" };
    for (size_t i = 0; i < 2; i++) {
        text path = { 0 };
        bool needed = i ? s->rag != NULL : s->stages > 0;
        err_code rc = needed ? path_program(&path, s, names[i], e) : ERR_OK;
        text_free(&path);
        if (rc != ERR_OK) return rc;
    }
    return ERR_OK;
}

static bool add_words(string_list *l, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!string_list_add(l, words[i])) return false;
    return true;
}

static err_code launch_prepare(launch *l, const settings *s, const char *dir, bool ours, err *e)
{
    char fd[16];
    err_code rc = path_program(&l->program, s, "sluice-coordinator", e);
    if (rc == ERR_OK) rc = check_programs(s, e);
    if (rc != ERR_OK) return rc;
    if (pipe2(l->notify, O_CLOEXEC)) return err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    if (!string_list_add(&l->argv, l->program.ptr)) return err_set(e, ERR_NOMEM, "out of memory");
    rc = settings_to_argv(s, CMD_COORDINATOR, &l->argv, e);
    if (rc != ERR_OK) return rc;
    snprintf(fd, sizeof fd, "%d", l->notify[1]);
    const char *const own[] = { "--dir", dir, "--notify-fd", fd, "--die-with-parent" };
    return add_words(&l->argv, own, ours ? 5 : 4) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* A coordinator of our own ends with us even when we are killed, and then removes the directory. SIGTERM stays blocked until
 * it can catch it (core/signals.c). The directory is made here and not by the parent: one that is killed in front of its fork
 * has made nothing. */
static void tie_to_parent(pid_t parent, const char *dir, int notify)
{
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(126);
    if (!mkdir(dir, 0700)) return;
    char line[512];
    int n = snprintf(line, sizeof line, "ERROR %d run directory %s: %s\n", ERR_IO, dir, strerror(errno));
    if (n > 0 && write(notify, line, (size_t)n) < 0) _exit(126);
    _exit(127);
}

/* After fork. A session of its own: a Ctrl-C on the terminal reaches us alone, and we stop the cluster in order. */
static _Noreturn void child(const launch *l, pid_t parent, const char *dir)
{
    char line[512];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), to = l->err_fd >= 0 ? l->err_fd : STDERR_FILENO;
    signals_reset();
    if (dir) tie_to_parent(parent, dir, l->notify[1]);
    setsid();
    dup2(null, STDIN_FILENO);
    dup2(to, STDOUT_FILENO);
    dup2(to, STDERR_FILENO);
    fcntl(l->notify[1], F_SETFD, 0);
    execv(l->program.ptr, l->argv.at);
    int n = snprintf(line, sizeof line, "ERROR %d %s: %s\n", ERR_IO, l->program.ptr, strerror(errno));
    if (n > 0 && write(l->notify[1], line, (size_t)n) < 0) _exit(126);
    _exit(127);
}

err_code cluster_read_line(const char *line, err *e)
{
    char *end;
    if (!strncmp(line, "READY", 5)) return ERR_OK;
    if (strncmp(line, "ERROR ", 6)) return err_set(e, ERR_PROTO, "the coordinator said \"%.200s\" instead of READY", line);
    long code = strtol(line + 6, &end, 10);
    if (code <= 0 || code >= ERR_COUNT) code = ERR_STATE;
    return err_set(e, (err_code)code, "%.*s", (int)strcspn(end + (*end == ' '), "\n"), end + (*end == ' '));
}

static err_code how_it_ended(int status, const char *when, err *e)
{
    if (WIFSIGNALED(status))
        return err_set(e, ERR_GONE, "the coordinator died %s with signal %d (%s)", when, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
    return err_set(e, ERR_GONE, "the coordinator ended %s with status %d", when, WEXITSTATUS(status));
}

err_code cluster_check(cluster *c, err *e)
{
    int status;
    if (!c->pid || waitpid(c->pid, &status, WNOHANG) != c->pid) return ERR_OK;
    c->pid = 0;
    return how_it_ended(status, "at work", e);
}

/* The pipe is closed without a line. */
static err_code died_early(cluster *c, err *e)
{
    int status;
    pid_t got;
    while ((got = waitpid(c->pid, &status, 0)) < 0 && errno == EINTR) continue;
    if (got != c->pid) return err_set(e, ERR_GONE, "the coordinator died before it was ready");
    c->pid = 0;
    return how_it_ended(status, "before it was ready", e);
}

static err_code read_more(int fd, text *line, bool *eof, err *e)
{
    char buf[4096];
    ssize_t n = read(fd, buf, sizeof buf);
    if (n < 0 && errno != EINTR && errno != EAGAIN) return err_set(e, ERR_IO, "reading from the coordinator: %s", strerror(errno));
    *eof = n == 0;
    if (n > 0 && (line->len + (size_t)n > LINE_MAX_BYTES || !text_add(line, buf, (size_t)n)))
        return err_set(e, ERR_PROTO, "the coordinator's first line is longer than %d bytes", LINE_MAX_BYTES);
    return ERR_OK;
}

/* Lines in front of READY say how far the stages are. */
static void take_loading(text *line, progress *bar)
{
    unsigned n = 0, of = 0;
    char *nl;
    while (line->len && !strncmp(line->ptr, "LOADING ", 8) && (nl = memchr(line->ptr, '\n', line->len))) {
        if (sscanf(line->ptr + 8, "%u %u", &n, &of) == 2) progress_set(bar, n, of);
        size_t gone = (size_t)(nl + 1 - line->ptr);
        memmove(line->ptr, nl + 1, line->len - gone + 1);
        line->len -= gone;
    }
}

static err_code wait_line(int fd, text *line, double timeout_s, err *e)
{
    bool eof = false;
    err_code rc = ERR_OK;
    progress bar = progress_open("loading stages");
    uint64_t end = clock_ns() + (uint64_t)(timeout_s * 1e9) + (uint64_t)GRACE_MS * 1000000u;
    while (rc == ERR_OK && !eof && !(line->len && memchr(line->ptr, '\n', line->len))) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (signals_caught()) rc = err_set(e, ERR_CANCELLED, "stopped while the cluster was starting");
        else if (!clock_left_ms(end))
            rc = err_set(e, ERR_TIMEOUT, "the cluster was not ready after %g s (--start-timeout)", timeout_s);
        else if (poll(&p, 1, 100) > 0) rc = read_more(fd, line, &eof, e);
        if (rc == ERR_OK) take_loading(line, &bar);
    }
    progress_close(&bar);
    return rc;
}

static err_code wait_ready(cluster *c, int fd, double timeout_s, err *e)
{
    text line = { 0 };
    err_code rc = wait_line(fd, &line, timeout_s, e);
    if (rc == ERR_OK && !(line.len && memchr(line.ptr, '\n', line.len))) rc = died_early(c, e);
    else if (rc == ERR_OK) rc = cluster_read_line(line.ptr, e);
    text_free(&line);
    return rc;
}

static err_code start(cluster *c, launch *l, const settings *s, const char *dir, bool ours, err *e)
{
    err_code rc = launch_prepare(l, s, dir, ours, e);
    if (rc != ERR_OK) return rc;
    fflush(NULL);
    pid_t self = getpid(), pid = signals_fork();
    if (pid < 0) return err_set(e, ERR_IO, "fork: %s", strerror(errno));
    if (!pid) child(l, self, ours ? dir : NULL);
    c->pid = pid;
    close(l->notify[1]);
    l->notify[1] = -1;
    return wait_ready(c, l->notify[0], s->start_timeout, e);
}

static bool gone_within(cluster *c, int ms)
{
    uint64_t end = clock_ns() + (uint64_t)ms * 1000000u;
    int patience = signals_count();
    for (;;) {
        int status;
        pid_t got = waitpid(c->pid, &status, WNOHANG);
        if (got == c->pid || (got < 0 && errno == ECHILD)) return true;
        if (!clock_left_ms(end) || signals_count() > patience) return false;
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
}

void cluster_leave(cluster *c)
{
    if (c->pid) {
        kill(c->pid, SIGTERM);
        if (!gone_within(c, STOP_MS)) {
            kill(c->pid, SIGKILL); /* its children ask to die with it */
            gone_within(c, STOP_MS);
        }
        c->pid = 0;
    }
    if (c->private_dir) path_remove_dir(c->dir.ptr);
    text_free(&c->dir);
    *c = (cluster){ 0 };
}

static err_code start_private(cluster *c, settings *s, err *e)
{
    launch l = { .notify = { -1, -1 }, .err_fd = -1 };
    err_code rc = path_default_model(s, e);
    if (rc == ERR_OK && s->stages) packing_before_start(s);
    if (rc == ERR_OK) rc = path_private_dir(&c->dir, e);
    c->private_dir = rc == ERR_OK;
    if (rc == ERR_OK) rc = start(c, &l, s, c->dir.ptr, true, e);
    launch_free(&l);
    if (rc != ERR_OK) cluster_leave(c);
    return rc;
}

err_code cluster_join(cluster *c, settings *s, err *e)
{
    *c = (cluster){ 0 };
    if (settings_given_only_for(s, CMD_COORDINATOR, CMD_SUBMIT)) return start_private(c, s, e);
    err_code rc = path_run_dir(&c->dir, s, e);
    if (rc != ERR_OK) return rc;
    if (path_check_dir(c->dir.ptr, false, NULL) == ERR_OK && client_listens(c->dir.ptr)) return ERR_OK;
    text_clear(&c->dir);
    return start_private(c, s, e);
}

static int open_log(const char *dir, err *e)
{
    char path[600];
    snprintf(path, sizeof path, "%s/log", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND | O_NOFOLLOW, 0600);
    if (fd < 0) err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    return fd;
}

err_code cluster_start_detached(cluster *c, settings *s, const char *dir, err *e)
{
    launch l = { .notify = { -1, -1 }, .err_fd = -1 };
    *c = (cluster){ 0 };
    err_code rc = path_default_model(s, e);
    if (rc == ERR_OK && s->stages) packing_before_start(s);
    if (rc == ERR_OK && (l.err_fd = open_log(dir, e)) < 0) rc = ERR_IO;
    if (rc == ERR_OK && !text_adds(&c->dir, dir)) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = start(c, &l, s, dir, false, e);
    launch_free(&l);
    if (rc != ERR_OK) cluster_leave(c);
    return rc;
}
