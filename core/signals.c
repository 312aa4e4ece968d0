#include "core/signals.h"
#include "core/log.h"
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

static atomic_bool stop_flag;
static atomic_int last_signal;

static void on_signal(int sig)
{
    atomic_store(&last_signal, sig);
    atomic_store(&stop_flag, true);
}

atomic_bool *signals_catch(void)
{
    struct sigaction a = { .sa_handler = on_signal };
    sigemptyset(&a.sa_mask);
    int sigs[] = { SIGTERM, SIGINT, SIGHUP };
    sigset_t open;
    sigemptyset(&open);
    for (int i = 0; i < 3; i++) sigaction(sigs[i], &a, NULL), sigaddset(&open, sigs[i]);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of a write, like a full disk */
    sigprocmask(SIG_UNBLOCK, &open, NULL); /* whoever started us may have blocked them until now */
    return &stop_flag;
}

int signals_last(void) { return atomic_load(&last_signal); }

void signals_die_with_parent(void)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) on_signal(SIGTERM);
}

pid_t signals_fork(void)
{
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    static const int caught[] = { SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE, SIGXFSZ };
    for (size_t i = 0; pid == 0 && i < sizeof caught / sizeof *caught; i++) signal(caught[i], SIG_DFL);
    if (pid == 0) sigemptyset(&old);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return pid;
}

err_code signals_log_level(const char *name, err *e)
{
    log_level l;
    if (!name) return ERR_OK;
    if (!log_level_parse(name, &l)) return err_set(e, ERR_USAGE, "--log-level %s: want error, warn, info or debug", name);
    log_set_level(l);
    return ERR_OK;
}
