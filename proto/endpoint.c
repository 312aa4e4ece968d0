/* Parses and refuses addresses; asks the file system about ipc paths. Opens no link and removes no file. */
#include "proto/endpoint.h"
#include <arpa/inet.h>
#include <errno.h>
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
    if (!to_bind) return ERR_OK;
    bool named = !ep->v6 && (!strcmp(host, "localhost") || !strcmp(host, "lo"));
    if (named) snprintf(ep->addr, sizeof ep->addr, "tcp://127.0.0.1:%s", port);
    if (named || is_loopback(host, ep->v6)) return ERR_OK;
    return err_set(e, ERR_CONFIG, "refused: %s is not a loopback address and this build has no keys for it", addr);
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
