#ifndef PROTO_MSGPACK_SCAN_H
#define PROTO_MSGPACK_SCAN_H
/* Walks msgpack bytes without building anything. msgpack-c reserves memory for as many elements as a container claims
 * before it sees them (five hostile bytes can ask for gigabytes), so every header is walked here first. Any thread. */
#include "core/err.h"
#include <stddef.h>

#define MSGPACK_DEPTH_MAX 4u   /* the map itself is 1; our own headers are flat, the rest is room for unknown keys */

/* OK: the bytes are exactly one whole map, nested at most MSGPACK_DEPTH_MAX deep, every count within the bytes there are. */
err_code msgpack_scan_map(const void *bytes, size_t n, err *e);
#endif
