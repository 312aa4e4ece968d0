#ifndef PROTO_ENDPOINT_H
#define PROTO_ENDPOINT_H
/* Addresses of links, checked before any socket sees them. Knows nothing of zmq. Any thread. */
#include "core/err.h"
#include <stdbool.h>

#define ENDPOINT_MAX 255u       /* bytes of an address; messages carry at most 127 */
#define ENDPOINT_IPC_MAX 107u   /* bytes of a unix socket path: sockaddr_un.sun_path is 108 with its NUL */

typedef enum { ENDPOINT_INPROC, ENDPOINT_IPC, ENDPOINT_TCP } endpoint_kind;
typedef struct {
    endpoint_kind kind;
    bool v6;
    char addr[ENDPOINT_MAX + 1];   /* "localhost" and "lo" are spelled out when binding: only loopback is ever bound */
} endpoint;

/* Read an address. ERR_CONFIG: unknown transport, too long, no port, or (to bind) a tcp address that is not loopback. */
err_code endpoint_parse(endpoint *out, const char *addr, bool to_bind, err *e);
/* May this be bound? ERR_IO: a live process answers on the ipc path, or something that is no socket lies there (the
 * library unlinks whatever it finds). A stale socket file is fine. */
err_code endpoint_check_free(const endpoint *ep, err *e);
#endif
