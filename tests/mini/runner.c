#include "criterion/criterion.h"
#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

enum { SKIPPED = 77, SLOWER = 10 };      /* SLOWER: what ThreadSanitizer costs; time limits are meant for plain builds */
static mini_test *first, **last = &first;
static int failures;                     /* of this child */
static FILE *said;                       /* what children have to say; read by the parent after each */

void mini_add(mini_test *t)
{
    *last = t;
    last = &t->next;
}

void mini_fail(bool fatal, const char *file, int line, const char *expr, const char *fmt, ...)
{
    va_list ap;
    fprintf(said, "  - %s:%d: %s%s", file, line, expr, *fmt ? ": " : "");
    va_start(ap, fmt);
    vfprintf(said, fmt, ap);
    va_end(ap);
    fprintf(said, "\n");
    fflush(said);
    __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    if (fatal) exit(1);
}

_Noreturn void mini_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(said, fmt, ap);
    va_end(ap);
    fflush(said);
    exit(SKIPPED);
}

static const mini_extra *suite_of(const mini_test *t)
{
    static const mini_extra none;
    for (const mini_test *s = first; s; s = s->next)
        if (!s->name && !strcmp(s->suite, t->suite)) return &s->extra;
    return &none;
}

static _Noreturn void child(const mini_test *t)
{
    const mini_extra *s = suite_of(t), *x = &t->extra;
    double limit = x->timeout > 0 ? x->timeout : s->timeout;
    if (limit > 0) alarm((unsigned)ceil(limit * SLOWER));
    void (*init)(void) = x->init ? x->init : s->init, (*fini)(void) = x->fini ? x->fini : s->fini;
    if (init) init();
    t->run();
    if (fini) fini();
    exit(failures != 0);
}

static void report(const mini_test *t, int how, FILE *tap)
{
    static char text[1 << 16];
    rewind(said);
    size_t n = fread(text, 1, sizeof text - 1, said);
    text[n] = 0;
    int sig = WIFSIGNALED(how) ? WTERMSIG(how) : 0, code = WIFEXITED(how) ? WEXITSTATUS(how) : 0;
    if (!sig && code == SKIPPED) {
        fprintf(tap, "ok - %s::%s  # SKIP %s\n", t->suite, t->name, text);
        return;
    }
    bool ok = sig == t->extra.signal && (sig || code == t->extra.exit_code);
    fprintf(tap, "%sok - %s::%s", ok ? "" : "not ", t->suite, t->name);
    if (!ok && sig) fprintf(tap, sig == SIGALRM ? " timed out" : " killed by signal %d", sig);
    else if (!ok) fprintf(tap, " exit status %d", code);
    fprintf(tap, "\n%s", ok ? "" : text);
    printf("[%s] %s::%s\n", ok ? "PASS" : "FAIL", t->suite, t->name);
}

static void run(const mini_test *t, FILE *tap)
{
    if (t->extra.disabled || suite_of(t)->disabled) {
        fprintf(tap, "ok - %s::%s  # SKIP disabled\n", t->suite, t->name);
        return;
    }
    if (ftruncate(fileno(said), 0)) abort();
    rewind(said);
    fflush(NULL);
    int how = 0;
    pid_t pid = fork();
    if (pid == 0) child(t);
    while (pid > 0 && waitpid(pid, &how, 0) < 0 && errno == EINTR) continue;
    report(t, pid < 0 ? W_EXITCODE(1, 0) : how, tap);
}

int main(int argc, char **argv)
{
    const char *path = "/dev/stderr", *filter = "*";
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--tap=", 6)) path = argv[i] + 6;
        if (!strncmp(argv[i], "--filter=", 9)) filter = argv[i] + 9;
    }
    FILE *tap = fopen(path, "w");
    said = tmpfile();
    if (!tap || !said) return 1;
    char name[512];
    int n = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) fprintf(tap, "1..%d\n", n);
        for (const mini_test *t = first; t; t = t->next) {
            snprintf(name, sizeof name, "%s/%s", t->suite, t->name ? t->name : "");
            if (!t->name || fnmatch(filter, name, 0)) continue;
            if (pass) run(t, tap);
            else n++;
        }
    }
    fclose(tap);
    return 0;
}
