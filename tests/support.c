#include "tests/support.h"
#include "core/clock.h"
#include "core/rng.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- places */
enum { SLOTS = 8, PATH_BYTES = 1024 };

static const char *join(const char *folder, const char *name)
{
    static _Thread_local char slot[SLOTS][PATH_BYTES];
    static _Thread_local unsigned next;
    char *s = slot[next++ % SLOTS];
    if (snprintf(s, PATH_BYTES, "%s/%s", folder, name) >= PATH_BYTES) abort();
    return s;
}

const char *support_bin(const char *name) { return join(TEST_BIN_DIR, name); }
const char *support_root(const char *name) { return join(TEST_ROOT, name); }

const char *support_shared(const char *name)
{
    const char *folder = getenv("SLUICE_SHARED");
    const char *path = join(folder && *folder ? folder : TEST_ROOT "/../shared", name);
    return access(path, R_OK) ? NULL : path;
}

/* ---- seeded data */
uint64_t support_seed(void)
{
    static uint64_t seed;
    static bool known;
    if (known) return seed;
    const char *s = getenv("TEST_SEED");
    seed = s && *s ? strtoull(s, NULL, 0) : rng_u64((uint64_t)getpid(), clock_ns()) % 1000000000u;   /* short: people type it */
    known = true;
    printf("# seed %llu (TEST_SEED)\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

uint64_t support_draw(uint64_t seed, uint64_t index, uint64_t below) { return rng_u64(seed, index) % below; }

void support_fill(float *x, size_t n, uint64_t seed, float lo, float hi)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)(lo + (hi - lo) * rng_unit(seed, i));
}

void support_fill_bytes(void *p, size_t n, uint64_t seed)
{
    unsigned char *b = p;
    for (size_t i = 0; i < n; i++) b[i] = (unsigned char)rng_u64(seed, i);
}

/* ---- comparing */
static uint32_t bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

bool support_same(const float *got, const float *want, size_t n, const char *what)
{
    size_t bad = 0, first = 0;
    for (size_t i = 0; i < n; i++)
        if (bits(got[i]) != bits(want[i]) && !bad++) first = i;
    if (!bad) return true;
    printf("# %s: %zu of %zu differ, first [%zu]: got %.9g (%08x), want %.9g (%08x)\n", what, bad, n, first, got[first],
           bits(got[first]), want[first], bits(want[first]));
    fflush(stdout);
    return false;
}

/* How far past its allowance an item is; NaN anywhere is infinitely far. */
static double excess(float got, float want, double abs, double rel)
{
    if (bits(got) == bits(want)) return 0;                        /* equal infinities too */
    double d = fabs((double)got - want) - (abs + rel * fabs((double)want));
    return d <= 0 ? 0 : isnan(d) ? INFINITY : d;
}

bool support_near(const float *got, const float *want, size_t n, double abs, double rel, const char *what)
{
    size_t bad = 0, first = 0, worst = 0;
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = isnan(got[i]) || isnan(want[i]) ? INFINITY : excess(got[i], want[i], abs, rel);
        if (d > 0 && !bad++) first = i;
        if (d > most) most = d, worst = i;
    }
    if (!bad) return true;
    printf("# %s: %zu of %zu too far (abs %g, rel %g), first [%zu]: got %.9g, want %.9g; worst [%zu]: got %.9g, want %.9g\n", what,
           bad, n, abs, rel, first, got[first], want[first], worst, got[worst], want[worst]);
    fflush(stdout);
    return false;
}

/* ---- files */
static char tmpdir[64];
static pid_t tmpdir_owner;

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static void tmpdir_remove(void)
{
    if (getpid() == tmpdir_owner) nftw(tmpdir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *support_tmpdir(void)
{
    if (tmpdir_owner == getpid()) return tmpdir;
    snprintf(tmpdir, sizeof tmpdir, "/tmp/sluice-test-XXXXXX");
    if (!mkdtemp(tmpdir)) return NULL;
    tmpdir_owner = getpid();
    char cache[80];
    snprintf(cache, sizeof cache, "%s/cache", tmpdir);
    setenv("XDG_CACHE_HOME", cache, 1);         /* packed weights of tests go with the folder */
    atexit(tmpdir_remove);
    return tmpdir;
}

bool support_write(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    bool ok = fwrite(bytes, 1, n, f) == n;
    return !fclose(f) && ok;
}

/* ---- programs */
enum { IN, OUT, ERR };
enum { TICK_MS = 10, LINGER_NS = 1000000000 };

typedef struct {
    pid_t pid;
    int fd[3];                  /* our ends, -1: closed */
    const char *in;             /* what is not yet written */
    size_t in_left;
    text *text[3];
} child;

static void child_close(child *c, int i)
{
    if (c->fd[i] >= 0) close(c->fd[i]);
    c->fd[i] = -1;
}

static _Noreturn void child_exec(const char *const argv[], int p[3][2])
{
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(p[IN][0], 0) < 0 || dup2(p[OUT][1], 1) < 0 || dup2(p[ERR][1], 2) < 0) _exit(126);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
}

static bool child_start(child *c, const char *const argv[])
{
    int p[3][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
    bool ok = !pipe2(p[IN], O_CLOEXEC) && !pipe2(p[OUT], O_CLOEXEC) && !pipe2(p[ERR], O_CLOEXEC);
    c->pid = ok ? fork() : -1;
    if (c->pid == 0) child_exec(argv, p);
    if (c->pid > 0) setpgid(c->pid, c->pid);          /* here and there: whoever comes first */
    for (int i = 0; i < 3; i++) {
        int ours = i == IN;
        c->fd[i] = p[i][ours];
        if (p[i][!ours] >= 0) close(p[i][!ours]);
        if (c->pid < 0) child_close(c, i);
        else fcntl(c->fd[i], F_SETFL, O_NONBLOCK);
    }
    return c->pid > 0;
}

static void child_write(child *c)
{
    ssize_t n = c->in_left ? write(c->fd[IN], c->in, c->in_left) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) c->in += n, c->in_left -= (size_t)n;
    if (n < 0 || !c->in_left) child_close(c, IN);
}

static void child_read(child *c, int i)
{
    char block[65536];
    ssize_t n = read(c->fd[i], block, sizeof block);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) child_close(c, i);
    else if (c->text[i] && !text_add(c->text[i], block, (size_t)n)) abort();
}

static void child_talk(child *c)
{
    struct pollfd f[3];
    for (int i = 0; i < 3; i++) f[i] = (struct pollfd){ .fd = c->fd[i], .events = i == IN ? POLLOUT : POLLIN };
    poll(f, 3, TICK_MS);
    if (f[IN].revents) child_write(c);
    for (int i = OUT; i <= ERR; i++)
        if (f[i].revents) child_read(c, i);
}

/* True when there is no more to wait for; *end is the time after which we no longer do. */
static bool child_step(child *c, bool *ended, int *status, uint64_t *end)
{
    child_talk(c);
    int how;
    if (!*ended && waitpid(c->pid, &how, WNOHANG) == c->pid) {
        *ended = true;
        *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
        *end = clock_ns() + LINGER_NS;
    }
    return (*ended && c->fd[OUT] < 0 && c->fd[ERR] < 0) || clock_ns() >= *end;
}

bool support_run(const char *const argv[], const char *in, double seconds, int *status, text *out, text *errs)
{
    child c = { .in = in, .in_left = in ? strlen(in) : 0, .text = { NULL, out, errs } };
    struct sigaction ignore = { .sa_handler = SIG_IGN }, before;
    sigaction(SIGPIPE, &ignore, &before);
    bool started = child_start(&c, argv), ended = false;
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    *status = SUPPORT_TIMEOUT;
    while (started && !child_step(&c, &ended, status, &end)) continue;
    if (started && !ended) {
        kill(-c.pid, SIGKILL);
        waitpid(c.pid, NULL, 0);
    }
    for (int i = 0; i < 3; i++) child_close(&c, i);
    sigaction(SIGPIPE, &before, NULL);
    return started;
}
