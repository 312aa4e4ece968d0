/* The list of what a worker still may do, and the handler that says what it tried. It refuses to guess: a rule that cannot be
 * made is an error, never left out. */
#include "core/sandbox.h"
#include "core/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/netlink.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SLUICE_NO_SANDBOX)
#define SANDBOX_POSSIBLE false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANDBOX_POSSIBLE false
#endif
#endif
#ifndef SANDBOX_POSSIBLE
#define SANDBOX_POSSIBLE true
#endif

/* ---- the lists; names that a machine does not have are passed over ---- */

static const char *const allowed[] = {
    /* descriptors that are there */
    "read", "readv", "pread64", "preadv", "write", "writev", "close", "lseek", "fstat", "newfstatat", "stat", "lstat", "statx", "access",
    "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd", "fcntl", "flock", "fsync", "fdatasync", "fadvise64", "dup",
    /* sockets */
    "connect", "accept", "accept4", "getsockopt", "setsockopt", "getsockname", "getpeername", "sendto", "recvfrom", "sendmsg", "recvmsg",
    "sendmmsg", "recvmmsg", "shutdown", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "eventfd2",
    /* memory and threads that are there */
    "munmap", "mremap", "brk", "madvise", "mlock", "munlock", "futex", "sched_yield", "sched_getaffinity", "sched_setaffinity",
    "sched_getscheduler", "sched_getparam", "get_mempolicy", "set_mempolicy", "mbind", "set_robust_list", "rseq", "gettid", "getcpu",
    /* signals, time, who one is, the end */
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "restart_syscall", "clock_gettime", "clock_getres",
    "clock_nanosleep", "nanosleep", "gettimeofday", "time", "getrandom", "uname", "sysinfo", "getrusage", "times", "getpid", "getppid",
    "getuid", "geteuid", "getgid", "getegid", "exit", "exit_group",
};

/* Nobody tries these by mistake. */
#define KILL_MAP(X)                                                                                                               \
    X(execve) X(execveat) X(fork) X(vfork) X(clone) X(ptrace) X(process_vm_readv) X(process_vm_writev) X(pidfd_getfd) X(bpf)       \
    X(perf_event_open) X(init_module) X(finit_module) X(delete_module) X(kexec_load) X(kexec_file_load) X(mount) X(umount2)       \
    X(pivot_root) X(chroot) X(setns) X(unshare) X(swapon) X(swapoff) X(reboot) X(add_key) X(request_key) X(keyctl) X(userfaultfd) \
    X(io_uring_setup) X(personality) X(setuid) X(setgid) X(setreuid) X(setregid) X(setresuid) X(setresgid) X(setgroups) X(capset) \
    X(open_by_handle_at) X(modify_ldt) X(iopl) X(ioperm) X(seccomp)
static const char *const killers[] = {
#define X(name) #name,
    KILL_MAP(X)
#undef X
};

/* The C library has another way, and asks for it only when told so. */
static const char *const absent[] = { "clone3", "openat2", "epoll_pwait2", "futex_waitv", "rt_tgsigqueueinfo" };

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- what was tried ---- */

static size_t put(char *to, size_t at, const char *s)
{
    while (*s) to[at++] = *s++;
    return at;
}

static const char *killer_name(int nr)
{
    static const struct { int nr; const char *name; } known[] = {
#define X(n) { __SNR_##n, #n },
        KILL_MAP(X)
#undef X
    };
    for (size_t i = 0; i < COUNT(known); i++)
        if (known[i].nr == nr) return known[i].name;
    return "?";
}

/* Only what is safe in a signal handler; then the default action, so that whoever waits for us sees SIGSYS. */
static void on_trap(int sig, siginfo_t *info, void *context)
{
    (void)context;
    char line[128];
    size_t n = put(line, 0, "error SANDBOX-KILL call=");
    n = put(line, n, killer_name(info->si_syscall));
    n = put(line, n, " this worker may not do that any more\n");
    if (write(STDERR_FILENO, line, n) < 0) n = 0; /* nobody listens: the signal must do */
    signal(sig, SIG_DFL);
    syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), sig);
}

/* ---- rules ---- */

typedef struct { scmp_filter_ctx f; int bad; const char *what; } rules;

static void rule(rules *r, uint32_t action, const char *name, unsigned n, struct scmp_arg_cmp a, struct scmp_arg_cmp b)
{
    int nr = seccomp_syscall_resolve_name(name);
    if (r->bad || nr == __NR_SCMP_ERROR || nr < 0) return; /* negative: a call of another architecture */
    r->bad = seccomp_rule_add(r->f, action, nr, n, a, b);
    r->what = name;
}

static void allow_if(rules *r, const char *name, struct scmp_arg_cmp a) { rule(r, SCMP_ACT_ALLOW, name, 1, a, a); }

static void plain_rules(rules *r)
{
    struct scmp_arg_cmp none = { 0 };
    for (size_t i = 0; i < COUNT(allowed); i++) rule(r, SCMP_ACT_ALLOW, allowed[i], 0, none, none);
    for (size_t i = 0; i < COUNT(killers); i++) rule(r, SCMP_ACT_TRAP, killers[i], 0, none, none);
    for (size_t i = 0; i < COUNT(absent); i++) rule(r, SCMP_ACT_ERRNO(ENOSYS), absent[i], 0, none, none);
}

static void file_rules(rules *r, bool no_files)
{
    const scmp_datum_t writing = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);
    if (no_files) return;
    allow_if(r, "open", SCMP_A1(SCMP_CMP_MASKED_EQ, writing, 0));
    allow_if(r, "utimensat", SCMP_A1(SCMP_CMP_EQ, 0));      /* through a descriptor: times of a file that was opened before */
    allow_if(r, "openat", SCMP_A2(SCMP_CMP_MASKED_EQ, writing, 0));
}

static void memory_rules(rules *r)
{
    allow_if(r, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    allow_if(r, "mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

static void socket_rules(rules *r)
{
    const int families[] = { AF_UNIX, AF_INET, AF_INET6 }, kinds[] = { SOCK_STREAM, SOCK_DGRAM };
    const scmp_datum_t flags = ~(scmp_datum_t)(SOCK_NONBLOCK | SOCK_CLOEXEC);
    for (size_t i = 0; i < COUNT(families); i++)
        for (size_t k = 0; k < COUNT(kinds); k++)
            rule(r, SCMP_ACT_ALLOW, "socket", 2, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]),
                 SCMP_A1(SCMP_CMP_MASKED_EQ, flags, (scmp_datum_t)kinds[k]));
    rule(r, SCMP_ACT_ALLOW, "socket", 2, SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, NETLINK_ROUTE));
    const unsigned long asks[] = { FIONREAD, FIONBIO, FIOCLEX, TCGETS };
    for (size_t i = 0; i < COUNT(asks); i++) allow_if(r, "ioctl", SCMP_A1(SCMP_CMP_EQ, asks[i]));
}

static void process_rules(rules *r)
{
    const int names[] = { PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP };
    for (size_t i = 0; i < COUNT(names); i++) allow_if(r, "prctl", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)names[i]));
    allow_if(r, "tgkill", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));     /* abort */
    allow_if(r, "sched_setscheduler", SCMP_A1(SCMP_CMP_EQ, SCHED_OTHER));    /* a hub's thread that has only just begun */
    allow_if(r, "prlimit64", SCMP_A2(SCMP_CMP_EQ, 0));                       /* look, do not set */
#ifdef __x86_64__
    const int tiles[] = { 0x1021, 0x1022, 0x1023 }; /* ARCH_GET_XCOMP_SUPP, _GET_XCOMP_PERM, _REQ_XCOMP_PERM: AMX */
    for (size_t i = 0; i < COUNT(tiles); i++) allow_if(r, "arch_prctl", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)tiles[i]));
#endif
}

static err_code load(bool no_files, err *e)
{
    rules r = { .f = seccomp_init(SCMP_ACT_ERRNO(EPERM)) };
    if (!r.f) return err_set(e, ERR_NOMEM, "out of memory for the sandbox");
    plain_rules(&r);
    file_rules(&r, no_files);
    memory_rules(&r);
    socket_rules(&r);
    process_rules(&r);
    if (!r.bad) r.bad = seccomp_attr_set(r.f, SCMP_FLTATR_CTL_TSYNC, 1), r.what = "all threads"; /* hub and pool have started theirs */
    if (!r.bad) r.bad = seccomp_load(r.f), r.what = "loading";
    seccomp_release(r.f);
    return r.bad ? err_set(e, ERR_CONFIG, "sandbox: %s: %s (--no-sandbox goes without)", r.what, strerror(-r.bad)) : ERR_OK;
}

/* ---- who ---- */

static err_code become(const char *user, err *e)
{
    if (!user) return ERR_OK;
    errno = 0;
    const struct passwd *p = getpwnam(user);
    int death = 0;
    if (!p) return err_set(e, ERR_CONFIG, "--user %s: %s", user, errno ? strerror(errno) : "no such user");
    if (geteuid()) return err_set(e, ERR_CONFIG, "--user %s: only root can become somebody else", user);
    prctl(PR_GET_PDEATHSIG, &death);
    if (initgroups(p->pw_name, p->pw_gid) || setresgid(p->pw_gid, p->pw_gid, p->pw_gid) || setresuid(p->pw_uid, p->pw_uid, p->pw_uid))
        return err_set(e, ERR_CONFIG, "--user %s: %s", user, strerror(errno));
    if (death) signals_die_with_parent(); /* the kernel forgets that with the old user */
    return ERR_OK;
}

err_code sandbox_enter(const sandbox_want *w, bool *on, err *e)
{
    *on = false;
    err_code rc = become(w->user, e);
    if (rc) return rc;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return err_set(e, ERR_CONFIG, "sandbox: no-new-privileges: %s", strerror(errno));
    if (!SANDBOX_POSSIBLE || w->no_filter) return ERR_OK;
    sigaction(SIGSYS, &(struct sigaction){ .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, NULL);
    if ((rc = load(w->no_files, e))) return rc;
    *on = true;
    return ERR_OK;
}
