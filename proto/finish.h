#ifndef PROTO_FINISH_H
#define PROTO_FINISH_H
/* Why a choice ended: DONE.finish, and its name in JSON. A row: X(NAME, number on the wire, name). Numbers are never used again. */
#include <stdint.h>
#define FINISH_MAP(X)                 \
    X(NONE,        0, "none")         \
    X(STOP,        1, "stop")         \
    X(STOP_STRING, 2, "stop_string")  \
    X(LENGTH,      3, "length")       \
    X(CONTEXT,     4, "context")      \
    X(CANCELLED,   5, "cancelled")    \
    X(ERROR,       6, "error")        \
    X(SCORED,      7, "scored")
typedef enum {
#define X(N, id, name) FINISH_##N = id,
    FINISH_MAP(X)
#undef X
} finish_reason;

static inline const char *finish_name(uint64_t f)
{
    switch (f) {
#define X(N, id, name) case id: return name;
    FINISH_MAP(X)
#undef X
    }
    return "unknown";
}
#endif
