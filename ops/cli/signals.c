#include "ops/cli/signals.h"
#include <signal.h>
#include <stddef.h>

/* Owns the signal flag of the process. Handlers do nothing else. */

static volatile sig_atomic_t first, count;
static const int handled[] = { SIGINT, SIGTERM, SIGHUP };

static void note(int sig)
{
    if (!first) first = sig;
    if (count < 100) count++;
}

/* nohup stays in force. An ignored SIGINT does not: shells give it to every background job, and kill -INT is meant. */
void signals_install(void)
{
    struct sigaction a = { .sa_handler = note }, ignore = { .sa_handler = SIG_IGN }, old;
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++)
        if (handled[i] != SIGHUP || (!sigaction(SIGHUP, NULL, &old) && old.sa_handler != SIG_IGN)) sigaction(handled[i], &a, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

int signals_caught(void) { return first; }
int signals_count(void) { return count; }
void signals_forget(void) { first = count = 0; }

void signals_reset(void)
{
    struct sigaction a = { .sa_handler = SIG_DFL };
    sigset_t none;
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++) sigaction(handled[i], &a, NULL);
    sigaction(SIGPIPE, &a, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}
