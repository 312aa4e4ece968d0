#ifndef PROTO_ENDPOINT_H
#define PROTO_ENDPOINT_H
/* Addresses of links, checked before any socket sees them. Knows nothing of zmq. Any thread. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>

#define ENDPOINT_MAX 255u       /* bytes of an address; messages carry at most 127 */
#define ENDPOINT_IPC_MAX 107u   /* bytes of a unix socket path: sockaddr_un.sun_path is 108 with its NUL */

typedef enum { ENDPOINT_INPROC, ENDPOINT_IPC, ENDPOINT_TCP } endpoint_kind;
typedef struct {
    endpoint_kind kind;
    bool v6, loopback;             /* loopback: a tcp address that never leaves this host; names other than localhost may */
    char addr[ENDPOINT_MAX + 1];   /* "localhost" and "lo" are spelled out when binding */
} endpoint;

/* Read an address. ERR_CONFIG: unknown transport, too long, no port, or a host with characters that hosts do not have. */
err_code endpoint_parse(endpoint *out, const char *addr, bool to_bind, err *e);
/* The host of a tcp address as it stands there ("[::1]", "10.0.0.1"); false for other transports. */
bool endpoint_host(const char *addr, char *out, size_t cap);
/* Does the address stand for all of this host's (0.0.0.0, [::], *)? Nobody can connect to that. */
bool endpoint_is_any(const char *addr);
/* This host's address on the way to a tcp endpoint, as others can use it in an address ("10.0.0.2", "[fd00::2]"). */
err_code endpoint_local_host(const char *to, char *out, size_t cap, err *e);
/* May this be bound? ERR_IO: a live process answers on the ipc path, or something that is no socket lies there (the
 * library unlinks whatever it finds). A stale socket file is fine. */
err_code endpoint_check_free(const endpoint *ep, err *e);
#endif
