/* Who connects too fast is hung up on. Closes no descriptor, and looks at no key. */
#include "proto/turnstile.h"
#include "core/clock.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

struct turnstile { rate_table *each; rate_limit all; uint64_t all_full_ns; };

turnstile *turnstile_open(uint64_t per_second)
{
    turnstile *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->each = rate_table_open(rate_of(per_second, TURNSTILE_BURST_S));
    t->all = rate_of(per_second * TURNSTILE_ALL, TURNSTILE_BURST_S);
    if (!t->each) turnstile_close(&t);
    return t;
}

void turnstile_close(turnstile **t)
{
    if (!*t) return;
    rate_table_close(&(*t)->each);
    free(*t);
    *t = NULL;
}

typedef union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } address;

static bool at_port(int fd, uint16_t port)
{
    address a;
    socklen_t n = sizeof a;
    if (getsockname(fd, &a.any, &n)) return false;
    if (a.any.sa_family == AF_INET) return ntohs(a.v4.sin_port) == port;
    return a.any.sa_family == AF_INET6 && ntohs(a.v6.sin6_port) == port;
}

/* The bytes that name an address; 0: neither kind. */
static size_t name_of(const address *a, uint8_t name[static 8], char who[static 64])
{
    bool six = a->any.sa_family == AF_INET6, mapped = six && IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr);
    const uint8_t *from = mapped ? a->v6.sin6_addr.s6_addr + 12 : six ? a->v6.sin6_addr.s6_addr : (const uint8_t *)&a->v4.sin_addr;
    size_t n = six && !mapped ? 8 : 4;
    if (!six && a->any.sa_family != AF_INET) return 0;
    if (!inet_ntop(a->any.sa_family, six ? (const void *)&a->v6.sin6_addr : &a->v4.sin_addr, who, 64)) who[0] = 0;
    for (size_t i = 0; i < n; i++) name[i] = from[i];
    return n;
}

bool turnstile_lets(turnstile *t, int fd, uint16_t port, char who[static 64])
{
    address a;
    socklen_t len = sizeof a;
    uint8_t name[8];
    uint64_t wait, now = clock_ns();
    if (!at_port(fd, port) || getpeername(fd, &a.any, &len)) return true;
    size_t n = name_of(&a, name, who);
    if (!n || (rate_table_take(t->each, name, n, 1, now, &wait) && rate_take(&t->all, &t->all_full_ns, 1, now, &wait))) return true;
    shutdown(fd, SHUT_RDWR);
    return false;
}
