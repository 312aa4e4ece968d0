/* Preloaded into every program of the cluster: connections between them go through the proxy, and their wall clock can be set
 * off. Refuses to change a byte itself. Does nothing without its two environment variables. */
#include "tests/faults/observed.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static observed *shared;
static const char *proxy;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SLUICE_FAULT_PAGE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd >= 0 ? mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (at != MAP_FAILED) shared = at;
    proxy = getenv("SLUICE_FAULT_PROXY");
}

static void *next(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f) abort();
    return f;
}

/* ---- the wall clock ------------------------------------------------------------------------------------------------ */

static int64_t off(void) { return shared ? atomic_load(&shared->clock_ns) : 0; }

int clock_gettime(clockid_t id, struct timespec *t)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = next("clock_gettime");
    int rc = real(id, t);
    if (rc || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return rc;
    int64_t ns = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec + off();
    t->tv_sec = ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    *t = (struct timeval){ now.tv_sec, now.tv_nsec / 1000 };
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* ---- connections --------------------------------------------------------------------------------------------------- */

static int real_connect(int fd, const struct sockaddr *to, socklen_t n)
{
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real) *(void **)&real = next("connect");
    return real(fd, to, n);
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static int goes_round(const struct sockaddr *to, socklen_t n, char path[108])
{
    const struct sockaddr_un *u = (const struct sockaddr_un *)(const void *)to;
    if (!proxy || to->sa_family != AF_UNIX || n <= offsetof(struct sockaddr_un, sun_path) + 1 || !u->sun_path[0]) return 0;
    size_t len = n - offsetof(struct sockaddr_un, sun_path);
    memset(path, 0, 108);
    memcpy(path, u->sun_path, len < 107 ? len : 107);
    return ends_with(path, ".data") || ends_with(path, ".bulk") || ends_with(path, "/result") || ends_with(path, "/control");
}

/* The proxy gets the path and the connection to who was meant. */
static int hand_over(int fd, int other, const char path[108])
{
    union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } c = { .h = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
    struct iovec v = { (void *)(uintptr_t)path, 108 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c };
    memcpy(CMSG_DATA(&c.h), &other, sizeof other);
    return sendmsg(fd, &m, MSG_NOSIGNAL) == 108 ? 0 : -1;
}

int connect(int fd, const struct sockaddr *to, socklen_t n)
{
    char path[108];
    if (!goes_round(to, n, path)) return real_connect(fd, to, n);
    struct sockaddr_un p = { .sun_family = AF_UNIX };
    strncpy(p.sun_path, proxy, sizeof p.sun_path - 1);
    int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (other < 0) return -1;
    int rc = real_connect(other, to, n);
    if (!rc) rc = real_connect(fd, (const struct sockaddr *)(const void *)&p, sizeof p);
    if (!rc) rc = hand_over(fd, other, path);
    int why = errno;
    close(other);
    errno = why;
    return rc;
}
