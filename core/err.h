#ifndef CORE_ERR_H
#define CORE_ERR_H
/* One error type for the whole tree: a code to branch on, a line for a person.
 * Bad input (file, flag, peer, prompt) is an err; a mistake of ours is an assert. The two never mix.
 * A row: X(NAME, process exit status, text). */
#define ERR_MAP(X)                                          \
    X(OK,        0,  "ok")                                  \
    X(USAGE,     2,  "bad command line")                    \
    X(CONFIG,    3,  "bad configuration")                   \
    X(IO,        4,  "i/o error")                           \
    X(MODEL,     5,  "model file does not fit")             \
    X(PROTO,     6,  "message does not follow the schema")  \
    X(GONE,      7,  "peer is gone")                        \
    X(TIMEOUT,   8,  "timed out")                           \
    X(FULL,      9,  "no room")                             \
    X(NOMEM,     10, "out of memory")                       \
    X(INPUT,     11, "bad request")                         \
    X(CANCELLED, 12, "cancelled")                           \
    X(STATE,     13, "not possible now")                    \
    X(ABSENT,    14, "no such thing")                       \
    X(DIFFERS,   15, "not the same")                        \
    X(DENIED,    16, "not allowed")

typedef enum {
#define X(name, status, text) ERR_##name,
    ERR_MAP(X)
#undef X
    ERR_COUNT
} err_code;

typedef struct {
    err_code code;
    char text[504];
} err;

/* The fixed text of a code; never NULL, any thread. */
const char *err_name(err_code c);
/* Process exit status of a code (documented in the README); any thread. */
int err_exit_status(err_code c);
/* Fill *e (NULL is fine) and return `c`, so `return err_set(e, ERR_IO, ...)` is the whole failure path. */
err_code err_set(err *e, err_code c, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Put "fmt: " in front of the text *e already has; returns e's code. */
err_code err_wrap(err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#endif
