/* The monitors' other ends. Judges nobody: who connects too fast, the turnstile says. */
#include "proto/lookout.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define SAY_NS 1000000000ull      /* a kind of trouble is worth one log line in so much time ... */
#define SAY_MAX_NS 60000000000ull /* ... and while it goes on, in twice as much, at last in so much */

struct lookout {
    void *pair;                   /* the monitor's other end; the reader's thread reads it */
    char addr[256], what[16];
    bool listens, given_back;
    uint16_t port;                /* where it listens */
    _Atomic int state;
    err why;                      /* guarded by the set's lock */
    lookout *next;
};

bool limiter_lets(limiter *l, uint64_t *held)
{
    uint64_t now = clock_ns();
    *held = l->held;
    if (l->last && now - l->last < l->gap) return l->held++, false;
    bool on = l->last && now - l->last < 3 * l->gap;
    *l = (limiter){ .last = now, .gap = !on ? SAY_NS : l->gap * 2 < SAY_MAX_NS ? l->gap * 2 : SAY_MAX_NS };
    return true;
}

#define EVENTS (ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL \
                | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_ACCEPTED)

static void wake(const lookout_set *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->wake, &one, sizeof one);
    (void)n;
}

err_code lookout_open(lookout **out, lookout_set *s, void *sock, const char *what, const char *addr, bool listens, err *e)
{
    static _Atomic unsigned count;
    char at[64];
    int zero = 0;
    lookout *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "out of memory for a lookout");
    snprintf(at, sizeof at, "inproc://lookout-%u", atomic_fetch_add(&count, 1));
    snprintf(w->addr, sizeof w->addr, "%s", addr);
    snprintf(w->what, sizeof w->what, "%s", what);
    w->listens = listens;
    const char *colon = strrchr(addr, ':');
    if (colon) w->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    w->pair = zmq_socket(s->ctx, ZMQ_PAIR);
    /* no high-water mark: the library writes events with its I/O thread, which must never wait for us */
    if (!w->pair || zmq_setsockopt(w->pair, ZMQ_RCVHWM, &zero, sizeof zero) || zmq_setsockopt(w->pair, ZMQ_LINGER, &zero, sizeof zero)
        || zmq_socket_monitor(sock, at, EVENTS) || zmq_connect(w->pair, at)) {
        err_set(e, ERR_IO, "cannot watch %s: %s", addr, zmq_strerror(zmq_errno()));
        zmq_socket_monitor(sock, NULL, 0);
        if (w->pair) zmq_close(w->pair);
        free(w);
        return ERR_IO;
    }
    pthread_mutex_lock(&s->lock);
    w->next = s->first;
    s->first = w;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    *out = w;
    return ERR_OK;
}

void lookout_give_back(lookout_set *s, lookout **w, void *sock)
{
    if (!*w) return;
    zmq_socket_monitor(sock, NULL, 0); /* first: an event that nobody takes would hold up the library */
    pthread_mutex_lock(&s->lock);
    (*w)->given_back = true;
    pthread_mutex_unlock(&s->lock);
    *w = NULL;
    wake(s);
}

lookout_state lookout_look(lookout_set *s, const lookout *w, err *why)
{
    lookout_state st = (lookout_state)atomic_load(&((lookout *)(uintptr_t)w)->state);
    if (why && (st == LOOKOUT_LOST || st == LOOKOUT_REFUSED)) {
        pthread_mutex_lock(&s->lock);
        *why = w->why;
        pthread_mutex_unlock(&s->lock);
    }
    return st;
}

static const char *protocol_words(uint32_t value)
{
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) return "one side uses keys and the other does not";
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) return "the other side's words do not open with these keys (a wrong --server-key, or a replay)";
    return "what came is no handshake of ours";
}

/* A connecting socket: whether it got through, and why not. */
static void note(lookout_set *s, lookout *w, lookout_state st, const char *words)
{
    pthread_mutex_lock(&s->lock);
    if (st == LOOKOUT_LOST || st == LOOKOUT_REFUSED) err_set(&w->why, st == LOOKOUT_LOST ? ERR_GONE : ERR_DENIED, "%s: %s", w->addr, words);
    pthread_mutex_unlock(&s->lock);
    atomic_store(&w->state, st);
}

/* What a client of ours cannot do it says itself; everybody else has a log. */
static void trouble(lookout_set *s, lookout *w, limiter *l, lookout_state st, const char *words)
{
    uint64_t held;
    if (!w->listens) note(s, w, st, words);
    if (limiter_lets(l, &held))
        LOG(w->listens || strcmp(w->what, "client") ? LOG_WARN : LOG_INFO, "HANDSHAKE-FAILED", "lane=%s %s=%s text=\"%s\" more=%" PRIu64, w->what, w->listens ? "at" : "to", w->addr, words, held);
}

static void on_accepted(lookout_set *s, lookout *w, int fd)
{
    char who[64], words[160];
    if (!s->turns || turnstile_lets(s->turns, fd, w->port, who)) return;
    atomic_fetch_add(&s->crowded, 1);
    snprintf(words, sizeof words, "too many connections a second (--handshake-rate): %s was hung up on", who);
    trouble(s, w, &s->said[3], LOOKOUT_LOST, words);
}

static void on_event(lookout_set *s, lookout *w, uint16_t event, uint32_t value)
{
    switch (event) {
    case ZMQ_EVENT_ACCEPTED: on_accepted(s, w, (int)value); break;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        if (!w->listens) note(s, w, LOOKOUT_UP, "");
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        atomic_fetch_add(&s->protocol, 1);
        trouble(s, w, &s->said[0], LOOKOUT_REFUSED, protocol_words(value));
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        atomic_fetch_add(&s->unfinished, 1);
        trouble(s, w, &s->said[1], LOOKOUT_LOST,
                w->listens ? "a peer hung up or stayed silent in the handshake" : "the other side hung up in the handshake (is --server-key its key, and does it use keys?)");
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH: /* a listener's own refusals are counted where they are made */
        if (!w->listens) trouble(s, w, &s->said[2], LOOKOUT_REFUSED, "the other side does not have this key on its list");
        break;
    case ZMQ_EVENT_DISCONNECTED:
        atomic_fetch_add(&s->lost, 1);
        if (!w->listens && atomic_load(&w->state) == LOOKOUT_UP) note(s, w, LOOKOUT_LOST, "the connection was lost");
        break;
    default: break;
    }
}

/* One event: a frame of number and value, a frame of the address. false: none is there. */
bool lookout_take(lookout_set *s, lookout *w)
{
    uint8_t head[6] = { 0 };
    char addr[8] = "";
    int more = 0;
    size_t n = sizeof more;
    int rc = zmq_recv(w->pair, head, sizeof head, ZMQ_DONTWAIT);
    if (rc < 0) return zmq_errno() == EINTR;
    while (!zmq_getsockopt(w->pair, ZMQ_RCVMORE, &more, &n) && more)
        if (zmq_recv(w->pair, addr, sizeof addr, ZMQ_DONTWAIT) < 0 && zmq_errno() != EINTR) return false;
    uint16_t event;
    uint32_t value;
    memcpy(&event, head, sizeof event);
    memcpy(&value, head + 2, sizeof value);
    bool local = !strncmp(addr, "ipc:", 4); /* somebody looks whether the socket is there */
    if (rc == sizeof head && !local) on_event(s, w, event, value);
    return true;
}

/* Only the reader removes watches, so the pointers stay good until it does. */
uint32_t lookout_list(lookout_set *s, void **sock, lookout **of, uint32_t cap)
{
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (lookout *w = s->first; w && n < cap; w = w->next, n++) sock[n] = w->pair, of[n] = w;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void lookout_sweep(lookout_set *s)
{
    lookout *gone = NULL;
    pthread_mutex_lock(&s->lock);
    for (lookout **at = &s->first; *at;) {
        lookout *w = *at;
        if (w->given_back) *at = w->next, w->next = gone, gone = w;
        else at = &w->next;
    }
    pthread_mutex_unlock(&s->lock);
    while (gone) {
        lookout *next = gone->next;
        zmq_close(gone->pair);
        free(gone);
        gone = next;
    }
}
