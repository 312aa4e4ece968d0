/* Parses and refuses addresses; asks the file system about ipc paths. Opens no link and removes no file. */
#include "proto/endpoint.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const struct { const char *prefix; endpoint_kind kind; } transports[] = {
    { "inproc://", ENDPOINT_INPROC }, { "ipc://", ENDPOINT_IPC }, { "tcp://", ENDPOINT_TCP },
};

/* 127.0.0.0/8, ::1 and their names. A host name would be looked up, and a look-up can say anything. */
static bool is_loopback(const char *host, bool v6)
{
    if (v6) {
        struct in6_addr a;
        return inet_pton(AF_INET6, host, &a) == 1 && IN6_IS_ADDR_LOOPBACK(&a);
    }
    struct in_addr a;
    return inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127;
}

static bool is_port(const char *s, bool to_bind)
{
    if (to_bind && !strcmp(s, "*")) return true;
    size_t n = strlen(s);
    if (n < 1 || n > 5 || strspn(s, "0123456789") != n) return false;
    long v = strtol(s, NULL, 10);
    return v <= 65535 && (to_bind || v > 0);
}

static err_code split_tcp(endpoint *ep, const char *addr, char *host, const char **port, err *e)
{
    const char *rest = addr + strlen("tcp://"), *colon = strrchr(rest, ':');
    if (!colon || colon == rest) return err_set(e, ERR_CONFIG, "address %s has no host and port", addr);
    size_t n = (size_t)(colon - rest);
    ep->v6 = n > 2 && rest[0] == '[' && rest[n - 1] == ']';
    if (ep->v6) rest++, n -= 2;
    memcpy(host, rest, n);
    host[n] = 0;
    *port = colon + 1;
    return ERR_OK;
}

static err_code parse_tcp(endpoint *ep, const char *addr, bool to_bind, err *e)
{
    char host[ENDPOINT_MAX + 1];
    const char *port = NULL;
    err_code rc = split_tcp(ep, addr, host, &port, e);
    if (rc) return rc;
    if (!is_port(port, to_bind)) return err_set(e, ERR_CONFIG, "address %s has no valid port", addr);
    /* the library reads a list of addresses behind ';', which would pass for the first of them */
    size_t n = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:%_-*");
    if (host[n]) return err_set(e, ERR_CONFIG, "address %s: \"%c\" belongs to no host", addr, host[n]);
    bool named = !ep->v6 && (!strcmp(host, "localhost") || !strcmp(host, "lo"));
    if (named) snprintf(ep->addr, sizeof ep->addr, "tcp://127.0.0.1:%s", port);
    ep->loopback = named || is_loopback(host, ep->v6);
    return ERR_OK;
}

bool endpoint_host(const char *addr, char *out, size_t cap)
{
    const char *host = addr + strlen("tcp://"), *colon = strrchr(addr, ':');
    if (strncmp(addr, "tcp://", strlen("tcp://")) || colon < host) return false;
    int n = snprintf(out, cap, "%.*s", (int)(colon - host), host);
    return n > 0 && (size_t)n < cap;
}

bool endpoint_is_any(const char *addr)
{
    char host[ENDPOINT_MAX + 1];
    return endpoint_host(addr, host, sizeof host) && (!strcmp(host, "*") || !strcmp(host, "0.0.0.0") || !strcmp(host, "[::]"));
}

/* Connecting a UDP socket sends nothing: the kernel only says which way it would go. */
static bool way_to(const struct addrinfo *to, char *out, size_t cap)
{
    struct sockaddr_storage me;
    socklen_t n = sizeof me;
    char text[INET6_ADDRSTRLEN] = "";
    int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && !connect(fd, to->ai_addr, to->ai_addrlen) && !getsockname(fd, (struct sockaddr *)&me, &n)
              && !getnameinfo((struct sockaddr *)&me, n, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    if (fd >= 0) close(fd);
    snprintf(out, cap, to->ai_family == AF_INET6 ? "[%s]" : "%s", text);
    return ok;
}

err_code endpoint_local_host(const char *to, char *out, size_t cap, err *e)
{
    char host[ENDPOINT_MAX + 1];
    struct addrinfo hints = { .ai_socktype = SOCK_DGRAM }, *all = NULL;
    if (!endpoint_host(to, host, sizeof host)) return err_set(e, ERR_CONFIG, "%s is no tcp address", to);
    char *name = host;
    size_t len = strlen(host);
    if (host[0] == '[' && host[len - 1] == ']') host[len - 1] = 0, name++;
    int rc = getaddrinfo(name, strrchr(to, ':') + 1, &hints, &all);
    if (rc) return err_set(e, ERR_CONFIG, "%s: %s", to, gai_strerror(rc));
    bool ok = false;
    for (struct addrinfo *a = all; a && !ok; a = a->ai_next) ok = way_to(a, out, cap);
    freeaddrinfo(all);
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s: no way there from this host (--address names ours)", to);
}

static err_code parse_ipc(const char *addr, err *e)
{
    size_t n = strlen(addr + strlen("ipc://"));
    if (n <= ENDPOINT_IPC_MAX) return ERR_OK;
    return err_set(e, ERR_CONFIG, "ipc path of %zu bytes is too long, limit %u: %s", n, ENDPOINT_IPC_MAX, addr);
}

err_code endpoint_parse(endpoint *out, const char *addr, bool to_bind, err *e)
{
    if (strlen(addr) > ENDPOINT_MAX)
        return err_set(e, ERR_CONFIG, "address of %zu bytes is too long, limit %u: %.60s...", strlen(addr), ENDPOINT_MAX, addr);
    for (size_t i = 0; i < sizeof transports / sizeof *transports; i++) {
        size_t n = strlen(transports[i].prefix);
        if (strncmp(addr, transports[i].prefix, n)) continue;
        if (!addr[n]) return err_set(e, ERR_CONFIG, "address %s is empty", addr);
        *out = (endpoint){ .kind = transports[i].kind };
        snprintf(out->addr, sizeof out->addr, "%s", addr);
        if (out->kind == ENDPOINT_TCP) return parse_tcp(out, addr, to_bind, e);
        return out->kind == ENDPOINT_IPC ? parse_ipc(addr, e) : ERR_OK;
    }
    return err_set(e, ERR_CONFIG, "unknown transport in address \"%s\" (ipc://, tcp:// or inproc://)", addr);
}

/* Does a process accept on this unix socket? EAGAIN: it is there, its backlog is full. */
static bool answers(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    size_t n = strlen(path);
    memcpy(un.sun_path, path, n);
    if (un.sun_path[0] == '@') un.sun_path[0] = 0; /* abstract name, as the library spells it */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false; /* the bind itself will say why */
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] != '@'));
    bool yes = !connect(fd, (const struct sockaddr *)&un, len) || errno == EAGAIN || errno == EINPROGRESS;
    close(fd);
    return yes;
}

err_code endpoint_check_free(const endpoint *ep, err *e)
{
    if (ep->kind != ENDPOINT_IPC) return ERR_OK;
    const char *path = ep->addr + strlen("ipc://");
    struct stat st;
    if (!strcmp(path, "*")) return ERR_OK;
    if (path[0] != '@') {
        if (lstat(path, &st)) return ERR_OK;
        if (!S_ISSOCK(st.st_mode))
            return err_set(e, ERR_IO, "cannot bind %s: something that is not a socket lies there", ep->addr);
    }
    if (!answers(path)) return ERR_OK;
    return err_set(e, ERR_IO, "cannot bind %s: address already in use (a live process answers there)", ep->addr);
}
