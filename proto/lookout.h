#ifndef PROTO_LOOKOUT_H
#define PROTO_LOOKOUT_H
/* Sockets whose handshakes are watched (zmq_socket_monitor). Watches are opened and given back by the threads that own the sockets;
 * one thread, the gate's, reads the events. What goes wrong is counted and becomes a log line, of each kind one a second at
 * most, and less often while it goes on. */
#include "core/err.h"
#include "proto/turnstile.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct lookout lookout;     /* of one socket */
typedef struct { uint64_t last, gap, held; } limiter;
typedef struct {
    void *ctx;
    int wake;                   /* eventfd: a lookout has come or gone */
    pthread_mutex_t lock;       /* guards the list, and the reasons in it */
    lookout *first;
    limiter said[4];            /* the reader's */
    turnstile *turns;           /* the reader's; NULL: any number may come */
    _Atomic uint64_t protocol, unfinished, lost, crowded;
} lookout_set;

/* True when this one should be said; *held: how many were not since the last one. The caller keeps threads apart. */
bool limiter_lets(limiter *l, uint64_t *held);

/* `what` and `addr` go into log lines. Give it back from the same thread, before the socket is closed. */
typedef enum { LOOKOUT_TRYING, LOOKOUT_UP, LOOKOUT_LOST, LOOKOUT_REFUSED } lookout_state;
err_code lookout_open(lookout **out, lookout_set *s, void *sock, const char *what, const char *addr, bool listens, err *e);
void lookout_give_back(lookout_set *s, lookout **w, void *sock);
/* How a connecting socket fares; *why (NULL is fine) is filled for LOST (it tries again) and REFUSED (the library does not). */
lookout_state lookout_look(lookout_set *s, const lookout *w, err *why);

/* ---- the reader ---- */
/* The sockets to poll, at most cap; the watches stay good until the next sweep. */
uint32_t lookout_list(lookout_set *s, void **sock, lookout **of, uint32_t cap);
/* One event; false: none is there. */
bool lookout_take(lookout_set *s, lookout *w);
/* Close what was given back. */
void lookout_sweep(lookout_set *s);
#endif
