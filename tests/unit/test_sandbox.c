/* The sandbox from the inside: a child enters it, tries one thing, and its end tells what came of it. */
#include "core/sandbox.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FINE = 0, REFUSED = 1, ODD = 2, NOT_ENTERED = 3, LEFT_OUT = 4, KILLED = 100 };

typedef int deed(void);

static int come_to(int status)
{
    return WIFSIGNALED(status) ? KILLED + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What the child's end was; its stderr is appended to `said` [256] (NULL: not looked at). */
static int try_as(deed *d, const sandbox_want *w, char *said)
{
    int ends[2], status = 0;
    err e;
    bool on;
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        prctl(PR_SET_DUMPABLE, 0);
        if (sandbox_enter(w, &on, &e)) dprintf(STDERR_FILENO, "%s", e.text), _exit(NOT_ENTERED);
        _exit(on || w->user ? d() : LEFT_OUT);
    }
    close(ends[1]);
    ssize_t n = said ? read(ends[0], said, 255) : 0;
    if (said) said[n > 0 ? n : 0] = 0;
    close(ends[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return come_to(status);
}

static int try(deed *d) { return try_as(d, &(sandbox_want){ 0 }, NULL); }

/* Sanitizers and coverage open files as they please: their builds have no filter. */
static int nothing(void) { return FINE; }
#define SKIP_WITHOUT_FILTER() \
    if (try(nothing) == LEFT_OUT) cr_skip_test("this build has a sanitizer or coverage instead of the filter")

static int refused(bool failed, int want) { return !failed ? FINE : errno == want ? REFUSED : ODD; }

/* ---- what goes on ---- */

static int model_fd = -1;

static int work(void)
{
    char byte[16];
    int ep = epoll_create1(EPOLL_CLOEXEC), ev = eventfd(0, EFD_CLOEXEC), fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    void *map = mmap(NULL, 1, PROT_READ, MAP_SHARED, model_fd, 0);
    void *much = malloc(64 << 20);
    struct timespec t = { .tv_nsec = 1000 };
    struct rlimit lim;
    bool ok = ep >= 0 && ev >= 0 && fd >= 0 && read(fd, byte, sizeof byte) > 0 && map != MAP_FAILED && much;
    ok = ok && !epoll_ctl(ep, EPOLL_CTL_ADD, ev, &(struct epoll_event){ .events = EPOLLIN }) && write(ev, "\1\0\0\0\0\0\0\0", 8) == 8;
    ok = ok && epoll_wait(ep, &(struct epoll_event){ 0 }, 1, 0) == 1 && !madvise(map, 1, MADV_WILLNEED) && !nanosleep(&t, NULL);
    ok = ok && !clock_gettime(CLOCK_MONOTONIC, &t) && !getrlimit(RLIMIT_NOFILE, &lim) && !sched_yield() && !raise(0);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ok = ok && s >= 0 && tcp >= 0 && connect(s, (struct sockaddr *)&(struct sockaddr_un){ AF_UNIX, "/nowhere" }, 110) && errno == ENOENT;
    free(much);
    return ok ? FINE : ODD;
}

Test(sandbox, the_work_of_a_stage_goes_on)
{
    SKIP_WITHOUT_FILTER();
    model_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    cr_assert_geq(model_fd, 0);
    cr_expect_eq(try(work), FINE);
}

static int die_loudly(void) { abort(); }

Test(sandbox, an_abort_is_an_abort)
{
    SKIP_WITHOUT_FILTER();
    cr_expect_eq(try(die_loudly), KILLED + SIGABRT);
}

/* ---- what ends the process ---- */

static int start_program(void) { return execl("/bin/true", "true", (char *)NULL), refused(true, EPERM); }
static int make_process(void) { return fork() == 0 ? FINE : REFUSED; }
static void *thread_main(void *arg) { return arg; }
static int make_thread(void)
{
    pthread_t t;
    return pthread_create(&t, NULL, thread_main, NULL) ? REFUSED : FINE;
}
static int trace_parent(void) { return refused(ptrace(PTRACE_ATTACH, getppid(), 0, 0) < 0, EPERM); }
static int become_root(void) { return refused(syscall(SYS_setuid, 0) < 0, EPERM); }
static int io_ring(void) { return refused(syscall(425 /* io_uring_setup */, 1, NULL) < 0, EPERM); }
static int new_namespace(void) { return refused(unshare(CLONE_NEWUSER) < 0, EPERM); }
static int another_filter(void) { return refused(syscall(SYS_seccomp, 0, 0, NULL) < 0, EPERM); }

Test(sandbox, what_nobody_does_by_mistake_ends_the_process)
{
    SKIP_WITHOUT_FILTER();
    static const struct { const char *what; deed *d; } all[] = {
        { "execve", start_program },   { "fork", make_process },   { "pthread_create", make_thread }, { "ptrace", trace_parent },
        { "setuid", become_root },     { "io_uring", io_ring },    { "unshare", new_namespace },      { "seccomp", another_filter },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cr_expect_eq(try(all[i].d), KILLED + SIGSYS, "%s ended with %d", all[i].what, try(all[i].d));
}

Test(sandbox, the_last_words_name_the_call)
{
    SKIP_WITHOUT_FILTER();
    char said[256];
    cr_expect_eq(try_as(start_program, &(sandbox_want){ 0 }, said), KILLED + SIGSYS);
    cr_expect(strstr(said, "SANDBOX-KILL call=execve"), "%s", said);
}

/* ---- what is refused ---- */

static char victim[64];

static int write_file(void) { return refused(open(victim, O_WRONLY | O_CLOEXEC) < 0, EPERM); }
static int write_both(void) { return refused(open(victim, O_RDWR | O_CLOEXEC) < 0, EPERM); }
static int cut_file(void) { return refused(open(victim, O_RDONLY | O_TRUNC | O_CLOEXEC) < 0, EPERM); }
static int make_file(void) { return refused(open("/tmp/sluice-sandbox-new", O_RDONLY | O_CREAT | O_CLOEXEC, 0600) < 0, EPERM); }
static int make_nameless(void) { return refused(open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600) < 0, EPERM); }
static int remove_file(void) { return refused(unlink(victim) < 0, EPERM); }
static int rename_file(void) { return refused(rename(victim, "/tmp/sluice-sandbox-new") < 0, EPERM); }
static int shorten_file(void) { return refused(truncate(victim, 0) < 0, EPERM); }
static int open_to_all(void) { return refused(chmod(victim, 0777) < 0, EPERM); }
static int make_folder(void) { return refused(mkdir("/tmp/sluice-sandbox-new", 0700) < 0, EPERM); }
static int memory_file(void) { return refused(memfd_create("x", 0) < 0, EPERM); }
static int code(void) { return refused(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, EPERM); }
static int to_code(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? ODD : refused(mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0, EPERM);
}
static int raw_socket(void) { return refused(socket(AF_INET, SOCK_RAW, 1) < 0, EPERM); }
static int packet_socket(void) { return refused(socket(AF_PACKET, SOCK_DGRAM, 0) < 0, EPERM); }
static int other_netlink(void) { return refused(socket(AF_NETLINK, SOCK_RAW, 15) < 0, EPERM); }
static int socket_pair(void)
{
    int s[2];
    return refused(socketpair(AF_UNIX, SOCK_STREAM, 0, s) < 0, EPERM);
}
static int listen_on(void)
{
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    return refused(bind(s, (struct sockaddr *)&(struct sockaddr_un){ AF_UNIX, "/tmp/sluice-sandbox-new" }, 110) < 0, EPERM);
}
static int signal_parent(void) { return refused(kill(getppid(), 0) < 0, EPERM); }
static int raise_limit(void) { return refused(setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }) < 0, EPERM); }
static int read_file(void) { return refused(open(victim, O_RDONLY | O_CLOEXEC) < 0, EPERM); }

static void make_victim(void)
{
    snprintf(victim, sizeof victim, "/tmp/sluice-sandbox-XXXXXX");
    int fd = mkstemp(victim);
    cr_assert(fd >= 0 && write(fd, "safe", 4) == 4);
    close(fd);
}

Test(sandbox, nothing_is_written_made_listened_to_or_turned_into_code)
{
    SKIP_WITHOUT_FILTER();
    static const struct { const char *what; deed *d; } all[] = {
        { "open to write", write_file }, { "open for both", write_both }, { "open to truncate", cut_file },  { "create", make_file },
        { "O_TMPFILE", make_nameless },  { "unlink", remove_file },       { "rename", rename_file },         { "truncate", shorten_file },
        { "chmod", open_to_all },        { "mkdir", make_folder },        { "memfd", memory_file },          { "mmap of code", code },
        { "mprotect to code", to_code }, { "raw socket", raw_socket },    { "packet socket", packet_socket }, { "netlink", other_netlink },
        { "socketpair", socket_pair },   { "bind", listen_on },           { "kill", signal_parent },         { "setrlimit", raise_limit },
    };
    struct stat st;
    make_victim();
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) cr_expect_eq(try(all[i].d), REFUSED, "%s: %d", all[i].what, try(all[i].d));
    cr_expect(!stat(victim, &st) && st.st_size == 4 && (st.st_mode & 0777) == 0600);
    cr_expect(access("/tmp/sluice-sandbox-new", F_OK));
    cr_expect_eq(try(read_file), FINE);
    cr_expect_eq(try_as(read_file, &(sandbox_want){ .no_files = true }, NULL), REFUSED);
    unlink(victim);
}

/* ---- every thread ---- */

static int go[2], come[2];

static void *older_thread(void *arg)
{
    char c;
    if (read(go[0], &c, 1) != 1) return arg;
    c = (char)write_file();
    return write(come[1], &c, 1) == 1 ? NULL : arg;
}

static int ask_older_thread(void)
{
    char c = 0;
    return write(go[1], "x", 1) == 1 && read(come[0], &c, 1) == 1 ? c : ODD;
}

Test(sandbox, threads_from_before_are_in_it_too)
{
    SKIP_WITHOUT_FILTER();
    make_victim();
    cr_assert(!pipe2(go, O_CLOEXEC) && !pipe2(come, O_CLOEXEC));
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t t;
        bool on;
        if (pthread_create(&t, NULL, older_thread, NULL) || sandbox_enter(&(sandbox_want){ 0 }, &on, NULL)) _exit(NOT_ENTERED);
        _exit(ask_older_thread());
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_expect_eq(come_to(status), REFUSED);
    unlink(victim);
}

/* ---- who ---- */

static int who(void)
{
    const struct passwd *p = getpwnam("nobody");
    return p && getuid() == p->pw_uid && geteuid() == p->pw_uid && getegid() == p->pw_gid && setuid(0) < 0 ? FINE : ODD;
}

static int death_signal(void)
{
    int sig = 0;
    return !prctl(PR_GET_PDEATHSIG, &sig) && sig == SIGTERM ? FINE : ODD;
}

static int as_nobody(deed *d, bool with_parent)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        bool on;
        if (with_parent) prctl(PR_SET_PDEATHSIG, SIGTERM);
        /* the user alone: what comes after is asked without the filter */
        if (sandbox_enter(&(sandbox_want){ .user = "nobody", .no_filter = true }, &on, NULL)) _exit(NOT_ENTERED);
        _exit(d());
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return come_to(status);
}

Test(sandbox, root_becomes_the_user_for_good_and_still_dies_with_its_parent)
{
    if (geteuid() || !getpwnam("nobody")) cr_skip_test("not root, or no user \"nobody\"");
    cr_expect_eq(as_nobody(who, false), FINE);
    cr_expect_eq(as_nobody(death_signal, true), FINE);
}

Test(sandbox, a_user_that_cannot_be_is_an_error_that_names_it)
{
    char said[256];
    cr_expect_eq(try_as(nothing, &(sandbox_want){ .user = "no-such-user-here" }, said), NOT_ENTERED);
    cr_expect(strstr(said, "--user no-such-user-here"), "%s", said);
}
