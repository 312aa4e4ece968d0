#ifndef PROTO_LINK_H
#define PROTO_LINK_H
/* Sockets that carry messages. A link belongs to one thread.
 * Bounded high-water marks, ZMQ_MAXMSGSIZE, heartbeats on tcp. Closing a link never waits, and what has not
 * left it then is lost, so whoever has a last word (DONE, BYE) keeps the link until it is answered or a moment has passed.
 * A PUSH has no queue before its peer is there: link_send waits for the peer (inproc: it queues). A DEALER's first words queue.
 * Data and bulk messages are sealed (proto/seal.h): one that was changed on its way is refused whole.
 * ipc by default, tcp and inproc by address. With keys (hub.h) every tcp link is CURVE and every message is checked against
 * the list of peers as it is at that moment (gate.h); without, tcp stays on loopback unless the hub was told to be insecure.
 * A peer that never ends a multipart message can fill memory: the library gathers it whole before limits apply. */
#include "proto/hub.h"
#include "proto/loan.h"
#include "proto/message.h"
#include "proto/trace.h"

typedef struct link link_t;

typedef enum { LINK_ROUTER, LINK_DEALER, LINK_PUSH, LINK_PULL } link_kind;
typedef enum { LINK_CONTROL, LINK_DATA, LINK_BULK, LINK_CLIENT } link_lane;   /* decides HWM and message size limits */

#define LINK_ID_MAX 32
typedef struct {                 /* ROUTER's name of a peer */
    uint8_t len;
    uint8_t bytes[LINK_ID_MAX];
    uint32_t who;               /* number of its key (gate.h), 0: it came over ipc, inproc or a tcp without keys */
} link_id;
bool link_id_same(const link_id *a, const link_id *b);

/* A received message: header decoded and checked, frames checked against it. Views live until packet_done or the next
 * receive into the same packet. A packet must not be copied or moved while it is full. Start with {0}. */
typedef struct {
    message head;
    link_id from;                /* set by a ROUTER; `who` by all */
    view frame[MSG_FRAMES_MAX];  /* payload; may be unaligned: copy records out with memcpy */
    uint32_t n_frames;
    uint32_t wait_ms;            /* ERR_FULL of link_recv: when to come back */
    uint64_t held[(2 + MSG_FRAMES_MAX) * 8 + 1];   /* the zmq messages behind the views */
} packet;
void packet_done(packet *p);

/* Bind or connect. `addr` is a zmq endpoint; tcp with port * or 0 picks a port. ERR_IO quotes address and reason
 * ("address already in use"), ERR_CONFIG for an unknown transport, a too long ipc path, or a tcp address off loopback without
 * keys. To connect by tcp with keys one must know the other side's: link_connect takes the hub's server key, link_connect_to a
 * public key as text ("": none, the other side speaks in the clear, which is fine on loopback only). */
err_code link_bind(link_t **out, hub *h, link_kind k, link_lane l, const char *addr, err *e);
err_code link_connect(link_t **out, hub *h, link_kind k, link_lane l, const char *addr, err *e);
err_code link_connect_to(link_t **out, hub *h, link_kind k, link_lane l, const char *addr, const char *key, err *e);
/* Let a link that is bound listen at one more address, too (a ROUTER at ipc and tcp: one space of names). `real`: the endpoint. */
err_code link_bind_also(link_t *l, const char *addr, char real[static 256], err *e);
void link_close(link_t **l);
const char *link_addr(const link_t *l);                     /* the real endpoint after the first bind */
/* How a DEALER that connects by tcp fares, in a hub with keys or one that watches; others are always LOOKOUT_UP. */
lookout_state link_state(const link_t *l, err *why);

/* Send header + payload frames (as many as the message type has; the views are copied or sent before return).
 * `to` only for ROUTER. Waits at most timeout_ms when the peer's queue is full (-1: for ever): ERR_TIMEOUT.
 * ERR_GONE: a ROUTER knows no such peer, or its key is off the list. */
err_code link_send(link_t *l, const link_id *to, const message *m, const view *frames, int timeout_ms, err *e);
/* The same without copying frame i when lent[i] is not NULL: its bytes lie in that loan, which the message holds until they
 * have left (or, over inproc, have been read). lent has as many entries as there are frames; NULL: none is lent. */
err_code link_send_lent(link_t *l, const link_id *to, const message *m, const view *frames, loan *const *lent, int timeout_ms, err *e);
/* Receive one message into *p (emptied first). ERR_TIMEOUT when nothing came in time. ERR_PROTO: a bad message came and
 * was dropped whole; *p then holds the sender (from) only, so that the caller can answer with FAIL. ERR_DENIED: the sender may
 * not say that (any more), ERR_FULL: it says too much in a second; its frames were dropped, the head is there to be answered. */
err_code link_recv(link_t *l, packet *p, int timeout_ms, err *e);

/* Wait until one of n links is readable, at most timeout_ms; ready[i] is set. Spins up to spin_us first. */
err_code link_poll(link_t *const *l, uint32_t n, bool *ready, int timeout_ms, uint32_t spin_us, err *e);
/* Bytes received and sent so far, header and payload. */
void link_counted(const link_t *l, uint64_t *in, uint64_t *out);

/* Refuse what a peer that comes over tcp says above so many frames a second, PACE_BURST_S seconds' worth at once (pace.h; 0: no limit). */
err_code link_limit(link_t *l, uint64_t frames_per_second, err *e);
uint64_t link_hurried(const link_t *l);                     /* messages refused for that */

/* Record every message of this link into t from now on (NULL: stop). */
void link_trace(link_t *l, trace *t, const char *name);
#endif
