/* Sockets that carry messages. Decides nothing about what a message means, and never answers a peer. */
#include "proto/link.h"
#include "core/clock.h"
#include "proto/endpoint.h"
#include "proto/pace.h"
#include "proto/seal.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define MiB (INT64_C(1) << 20)
#define LINKS_POLLED_MAX 64u      /* most links one thread waits on: a coordinator has four */
#define RECONNECT_MS 20           /* a cluster starts in any order; the default 100 ms would show in its start-up time */
#define RECONNECT_MAX_MS 1000     /* and a peer that stays away is asked once a second */
#define CLOSE_MS 1000             /* a message that is half written when its link is closed has so long for its other half */
#define CONNECT_MS 2000           /* the kernel asks a host that does not answer less and less often: after a partition nobody waits for that */
#define HEARTBEAT_MS 1000
#define HEARTBEAT_DEAD_MS 5000
#define KEYED_RECONNECT_MS 200   /* every try costs both sides a few curve operations, and the library backs off only from closed ports */
#define HANDSHAKE_MS 5000         /* a peer that has not said who it is by then is dropped: it costs a descriptor and ~30 KB */
#define BACKLOG 1024              /* a crowd of strangers must not keep a worker out; the kernel caps it at somaxconn */
#define CURVE_EXTRA 64            /* a frame grows by so much at most when it is encrypted */

/* What a lane may hold. A frame above frame_max is refused before it is sent; a peer's closes that peer's connection. */
static const struct { int hwm; int64_t frame_max; bool sealed; } lanes[] = {
    [LINK_CONTROL] = { 4096, 4 * MiB, false },   /* PASSAGES.bytes is the largest control frame; many small messages queue */
    [LINK_DATA] = { 256, 512 * MiB, true },      /* 4,096 rows of 32,768 values, or 512 whole rows of a 256k vocabulary */
    [LINK_BULK] = { 16, 256 * MiB, true },       /* KV_PUSH.stream; few, so that a queue never holds more than a node's memory */
    [LINK_CLIENT] = { 1000, 256 * MiB, false },  /* SUBMIT.prompt is 64 MiB, TOKEN.tokens of the longest job 256 MiB */
};

static const struct { const char *name; int zmq; bool sends, receives; } kinds[] = {
    [LINK_ROUTER] = { "router", ZMQ_ROUTER, true, true }, [LINK_DEALER] = { "dealer", ZMQ_DEALER, true, true },
    [LINK_PUSH] = { "push", ZMQ_PUSH, true, false },      [LINK_PULL] = { "pull", ZMQ_PULL, false, true },
};

struct link {
    void *sock;
    hub *hub;
    link_kind kind;
    link_lane lane;
    int send_ms;                     /* ZMQ_SNDTIMEO as it is set now */
    bool guarded, open_too;          /* takes peers by key; and others too (ipc beside tcp) */
    lookout *watch;
    pace *pace;                      /* NULL: peers talk as fast as they like */
    uint64_t in, out;                /* bytes */
    trace *trace;
    char trace_name[16];
    char addr[ENDPOINT_MAX + 1];
};

/* ---- open and close -------------------------------------------------------------------------------------------- */

static const char *reason(int code) { return code == EADDRINUSE ? "address already in use" : zmq_strerror(code); }

static bool set_int(void *sock, int option, int value) { return !zmq_setsockopt(sock, option, &value, sizeof value); }

static bool set_options(link_t *l, const endpoint *ep)
{
    int hwm = lanes[l->lane].hwm;
    int64_t frame_max = lanes[l->lane].frame_max;
    bool ok = set_int(l->sock, ZMQ_SNDHWM, hwm) && set_int(l->sock, ZMQ_RCVHWM, hwm) && set_int(l->sock, ZMQ_LINGER, 0)
              && set_int(l->sock, ZMQ_RECONNECT_IVL, RECONNECT_MS) && set_int(l->sock, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
              && !zmq_setsockopt(l->sock, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max);
    if (l->kind == LINK_ROUTER) ok = ok && set_int(l->sock, ZMQ_ROUTER_MANDATORY, 1);
    /* A STEP for a peer that is not there must wait in the sender, where it can time out, not in a queue nobody reads.
     * A DEALER's first HELLO may queue. */
    if (l->kind == LINK_PUSH) ok = ok && set_int(l->sock, ZMQ_IMMEDIATE, 1);
    if (ep->kind == ENDPOINT_TCP)
        ok = ok && set_int(l->sock, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) && set_int(l->sock, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_DEAD_MS)
             && set_int(l->sock, ZMQ_CONNECT_TIMEOUT, CONNECT_MS);
    return ep->v6 ? ok && set_int(l->sock, ZMQ_IPV6, 1) : ok;
}

static const char *const lane_names[] = { [LINK_CONTROL] = "control", [LINK_DATA] = "data", [LINK_BULK] = "bulk", [LINK_CLIENT] = "client" };

/* May this address be used in the clear? */
static err_code check_clear(const hub *h, const endpoint *ep, bool bind, err *e)
{
    if (ep->kind != ENDPOINT_TCP || ep->loopback || hub_is_insecure(h)) return ERR_OK;
    return err_set(e, ERR_CONFIG, "refused: %s is not a loopback address and there are no keys%s (--key FILE; --insecure %s in the clear)", ep->addr,
                   !bind && hub_keys(h) ? " of the other side (--server-key)" : "", bind ? "listens" : "connects");
}

static bool use_keys(const link_t *l)
{
    const hub *h = l->hub;
    int64_t frame_max = lanes[l->lane].frame_max + CURVE_EXTRA;
    return set_int(l->sock, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) && !zmq_setsockopt(l->sock, ZMQ_CURVE_SECRETKEY, hub_keys(h)->secret, KEY_BYTES)
           && !zmq_setsockopt(l->sock, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max);
}

static err_code guard_listener(link_t *l, const endpoint *ep, err *e)
{
    if (ep->kind != ENDPOINT_TCP) return ERR_OK;
    bool ok = set_int(l->sock, ZMQ_BACKLOG, BACKLOG) && set_int(l->sock, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    if (ok && hub_keys(l->hub)) {
        l->guarded = true;
        ok = use_keys(l) && set_int(l->sock, ZMQ_CURVE_SERVER, 1)
             && !zmq_setsockopt(l->sock, ZMQ_ZAP_DOMAIN, lane_names[l->lane], strlen(lane_names[l->lane]));
    }
    return ok ? ERR_OK : err_set(e, ERR_IO, "cannot guard %s: %s", ep->addr, reason(zmq_errno()));
}

static err_code guard_connection(link_t *l, const endpoint *ep, const uint8_t *server, err *e)
{
    const hub *h = l->hub;
    bool ok = use_keys(l) && set_int(l->sock, ZMQ_RECONNECT_IVL, KEYED_RECONNECT_MS) && !zmq_setsockopt(l->sock, ZMQ_CURVE_PUBLICKEY, hub_keys(h)->open, KEY_BYTES)
              && !zmq_setsockopt(l->sock, ZMQ_CURVE_SERVERKEY, server, KEY_BYTES);
    return ok ? ERR_OK : err_set(e, ERR_IO, "cannot use keys for %s: %s", ep->addr, reason(zmq_errno()));
}

/* Of connections only those are watched that somebody waits for; the others' troubles are seen where they arrive. */
static err_code watch_connection(link_t *l, const endpoint *ep, err *e)
{
    gate *g = hub_gate(l->hub);
    if (!g || ep->kind != ENDPOINT_TCP || l->kind != LINK_DEALER) return ERR_OK;
    return lookout_open(&l->watch, gate_watches(g), l->sock, lane_names[l->lane], ep->addr, false, e);
}

static err_code make(link_t **out, hub *h, link_kind k, link_lane lane, const endpoint *ep, err *e)
{
    link_t *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "out of memory for a link");
    *l = (link_t){ .sock = zmq_socket(hub_context(h), kinds[k].zmq), .hub = h, .kind = k, .lane = lane, .send_ms = -1 };
    memcpy(l->addr, ep->addr, sizeof l->addr);
    if (!l->sock) {
        err_code rc = err_set(e, ERR_IO, "cannot open a %s for %s: %s", kinds[k].name, ep->addr, reason(zmq_errno()));
        free(l);
        return rc;
    }
    hub_count_link(h, 1);
    if (!set_options(l, ep)) {
        err_set(e, ERR_IO, "cannot set up a %s for %s: %s", kinds[k].name, ep->addr, reason(zmq_errno()));
        link_close(&l);
        return ERR_IO;
    }
    *out = l;
    return ERR_OK;
}

static err_code listen_at(link_t *l, const endpoint *ep, char real[static ENDPOINT_MAX + 1], err *e)
{
    size_t n = ENDPOINT_MAX + 1;
    err_code rc = ep->kind == ENDPOINT_TCP && !hub_keys(l->hub) ? check_clear(l->hub, ep, true, e) : ERR_OK;
    if (!rc) rc = guard_listener(l, ep, e);
    if (!rc && (zmq_bind(l->sock, ep->addr) || zmq_getsockopt(l->sock, ZMQ_LAST_ENDPOINT, real, &n)))
        rc = err_set(e, ERR_IO, "cannot bind %s: %s", ep->addr, reason(zmq_errno()));
    if (!rc && l->guarded && !l->watch) rc = lookout_open(&l->watch, gate_watches(hub_gate(l->hub)), l->sock, lane_names[l->lane], real, true, e);
    return rc;
}

err_code link_bind(link_t **out, hub *h, link_kind k, link_lane lane, const char *addr, err *e)
{
    *out = NULL;
    endpoint ep;
    link_t *l;
    err_code rc = endpoint_parse(&ep, addr, true, e);
    if (!rc) rc = endpoint_check_free(&ep, e);
    if (!rc) rc = make(&l, h, k, lane, &ep, e);
    if (rc) return rc;
    if ((rc = listen_at(l, &ep, l->addr, e))) link_close(&l);
    *out = l;
    return rc;
}

/* Options of a socket hold for what is bound after they were set, so what listens already stays as it is. */
err_code link_bind_also(link_t *l, const char *addr, char real[static 256], err *e)
{
    endpoint ep;
    err_code rc = endpoint_parse(&ep, addr, true, e);
    if (!rc) rc = endpoint_check_free(&ep, e);
    if (!rc && ep.kind == ENDPOINT_TCP && !set_options(l, &ep)) rc = err_set(e, ERR_IO, "cannot set up %s: %s", addr, reason(zmq_errno()));
    l->open_too = !l->guarded;
    return rc ? rc : listen_at(l, &ep, real, e);
}

/* key: NULL: the hub's server key, where there is one. */
err_code link_connect_to(link_t **out, hub *h, link_kind k, link_lane lane, const char *addr, const char *key, err *e)
{
    *out = NULL;
    endpoint ep;
    link_t *l = NULL;
    uint8_t server[KEY_BYTES] = { 0 };
    bool keyed = hub_keys(h) && (key ? key[0] != 0 : hub_server(h) != NULL);
    if (hub_server(h)) memcpy(server, hub_server(h), KEY_BYTES);
    err_code rc = endpoint_parse(&ep, addr, false, e);
    keyed = keyed && !rc && ep.kind == ENDPOINT_TCP;
    if (!rc && keyed && key) rc = key_parse(server, key, strlen(key), e);
    if (!rc && !keyed) rc = check_clear(h, &ep, false, e);
    if (!rc) rc = make(&l, h, k, lane, &ep, e);
    if (!rc && keyed) rc = guard_connection(l, &ep, server, e);
    if (!rc) rc = watch_connection(l, &ep, e);
    if (!rc && zmq_connect(l->sock, ep.addr)) rc = err_set(e, ERR_IO, "cannot connect to %s: %s", addr, reason(zmq_errno()));
    if (rc) link_close(&l);
    *out = l;
    return rc;
}

err_code link_connect(link_t **out, hub *h, link_kind k, link_lane lane, const char *addr, err *e)
{
    return link_connect_to(out, h, k, lane, addr, NULL, e);
}

/* Without linger the library takes the queue away at once, and when the peer's connection breaks in the same moment with half a
 * message of several frames written, it misses the other half and aborts the process (libzmq 4.3, issue 3442). The queue of a
 * PUSH whose peer is gone is empty, so this makes nobody wait. */
void link_close(link_t **l)
{
    if (!*l) return;
    bool last_words = (*l)->lane == LINK_CONTROL && !strncmp((*l)->addr, "tcp:", 4); /* BYE to other hosts, and theirs */
    if ((*l)->kind == LINK_PUSH || last_words) set_int((*l)->sock, ZMQ_LINGER, CLOSE_MS);
    if ((*l)->watch) lookout_give_back(gate_watches(hub_gate((*l)->hub)), &(*l)->watch, (*l)->sock);
    zmq_close((*l)->sock);
    pace_close(&(*l)->pace);
    hub_count_link((*l)->hub, -1);
    free(*l);
    *l = NULL;
}

lookout_state link_state(const link_t *l, err *why) { return l->watch ? lookout_look(gate_watches(hub_gate(l->hub)), l->watch, why) : LOOKOUT_UP; }

bool link_id_same(const link_id *a, const link_id *b) { return a->len == b->len && a->who == b->who && !memcmp(a->bytes, b->bytes, a->len); }

const char *link_addr(const link_t *l) { return l->addr; }

void link_counted(const link_t *l, uint64_t *in, uint64_t *out)
{
    *in = l->in;
    *out = l->out;
}

err_code link_limit(link_t *l, uint64_t frames_per_second, err *e)
{
    if (!frames_per_second) return ERR_OK;
    l->pace = pace_open(frames_per_second);
    return l->pace ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a limit of %s", l->addr);
}

uint64_t link_hurried(const link_t *l) { return l->pace ? pace_refused(l->pace) : 0; }

void link_trace(link_t *l, trace *t, const char *name)
{
    l->trace = t;
    size_t n = t ? strnlen(name, sizeof l->trace_name - 1) : 0;
    if (n) memcpy(l->trace_name, name, n);
    l->trace_name[n] = 0;
}

/* ---- send ------------------------------------------------------------------------------------------------------ */

typedef struct { view part[3 + MSG_FRAMES_MAX]; loan *lent[3 + MSG_FRAMES_MAX]; uint32_t n; } parts;   /* name of the peer, header, payload, seal */

static err_code check_lane(const link_t *l, const parts *p, err *e)
{
    int64_t max = lanes[l->lane].frame_max;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->part[i].len > (uint64_t)max)
            return err_set(e, ERR_PROTO, "frame of %zu bytes to %s, limit of this lane %" PRId64, p->part[i].len, l->addr, max);
    return ERR_OK;
}

/* The first part may wait: the library then waits for this peer's queue, which a poll on a ROUTER cannot. */
static int send_first(link_t *l, const view *v, int flags, int timeout_ms)
{
    if (timeout_ms == 0) return zmq_send(l->sock, v->ptr, v->len, flags | ZMQ_DONTWAIT);
    uint64_t deadline = clock_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    for (;;) {
        if (l->send_ms != timeout_ms && set_int(l->sock, ZMQ_SNDTIMEO, timeout_ms)) l->send_ms = timeout_ms;
        int rc = zmq_send(l->sock, v->ptr, v->len, flags);
        if (rc >= 0 || zmq_errno() != EINTR || timeout_ms < 0) return rc; /* waiting for ever: let the caller see its signal */
        timeout_ms = clock_left_ms(deadline);
        if (!timeout_ms) return rc;
    }
}

static err_code send_failed(const link_t *l, const char *what, int code, err *e)
{
    if (code == EAGAIN || code == EINTR) return err_set(e, ERR_TIMEOUT, "%s to %s: no room at the peer in time", what, l->addr);
    if (code == EHOSTUNREACH) return err_set(e, ERR_GONE, "%s over %s: no such peer", what, l->addr);
    return err_set(e, ERR_GONE, "%s to %s: %s", what, l->addr, reason(code));
}

static void give_back(void *data, void *lent)
{
    (void)data;
    loan_drop(lent);
}

/* Never the first part, which is the header or a name. */
static int send_lent(link_t *l, const view *v, loan *lent, int flags)
{
    zmq_msg_t m;
    loan_hold(lent);
    if (zmq_msg_init_data(&m, (void *)v->ptr, v->len, give_back, lent)) return loan_drop(lent), -1;
    int rc;
    do rc = zmq_msg_send(&m, l->sock, flags | ZMQ_DONTWAIT);
    while (rc < 0 && zmq_errno() == EINTR);
    if (rc < 0) zmq_msg_close(&m);
    return rc;
}

static int send_next(link_t *l, const view *v, int flags)
{
    int rc;
    do rc = zmq_send(l->sock, v->ptr, v->len, flags | ZMQ_DONTWAIT);
    while (rc < 0 && zmq_errno() == EINTR);
    return rc;
}

/* Room is counted in whole messages, so once the first part is in, the others can only fail with the connection itself;
 * the library then takes the whole message back, and drops what follows up to the message's last part: that one must come, or
 * the next message would be dropped in its stead. */
static err_code send_parts(link_t *l, const parts *p, const char *what, int timeout_ms, err *e)
{
    bool broken = false;
    for (uint32_t i = 0; i < p->n; i++) {
        const view *v = &p->part[i];
        int flags = i + 1 < p->n ? ZMQ_SNDMORE : 0;
        int rc = i == 0 ? send_first(l, v, flags, timeout_ms) : p->lent[i] && v->len ? send_lent(l, v, p->lent[i], flags) : send_next(l, v, flags);
        if (rc < 0 && i == 0) return send_failed(l, what, zmq_errno(), e);
        broken = broken || rc < 0;
    }
    return broken ? send_failed(l, what, ECONNRESET, e) : ERR_OK;
}

static err_code gather(const link_t *l, const link_id *to, const message *m, const view *frames, loan *const *lent, parts *p, err *e)
{
    *p = (parts){ .n = 0 };
    if (!kinds[l->kind].sends) return err_set(e, ERR_STATE, "a %s (%s) cannot send", kinds[l->kind].name, l->addr);
    if (l->kind == LINK_ROUTER) {
        if (!to || !to->len || to->len > LINK_ID_MAX)
            return err_set(e, ERR_GONE, "%s over %s: no peer named", msg_name(m->type), l->addr);
        gate_peer peer;
        if (to->who && hub_gate(l->hub) && (!gate_look(hub_gate(l->hub), to->who, &peer) || !peer.allowed))
            return err_set(e, ERR_GONE, "%s over %s: the peer's key is off the list", msg_name(m->type), l->addr);
        p->part[p->n++] = (view){ to->bytes, to->len };
    }
    uint32_t n = msg_frames(m->type);
    err_code rc = msg_check_frames(m, frames, n, e);
    if (rc) return rc;
    p->n++; /* the header's place */
    for (uint32_t i = 0; i < n; i++) {
        p->lent[p->n] = lent ? lent[i] : NULL;
        p->part[p->n++] = frames[i];
    }
    return ERR_OK;
}

err_code link_send(link_t *l, const link_id *to, const message *m, const view *frames, int timeout_ms, err *e)
{
    return link_send_lent(l, to, m, frames, NULL, timeout_ms, e);
}

err_code link_send_lent(link_t *l, const link_id *to, const message *m, const view *frames, loan *const *lent, int timeout_ms, err *e)
{
    parts p;
    err_code rc = gather(l, to, m, frames, lent, &p, e);
    if (rc) return rc;
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    if ((rc = msg_encode(m, head, &n, e))) return rc;
    uint32_t at = l->kind == LINK_ROUTER;
    p.part[at] = (view){ head, n };
    if ((rc = check_lane(l, &p, e))) return rc;
    uint32_t said = p.n;
    uint64_t seal = 0;
    if (lanes[l->lane].sealed) seal = seal_of(p.part + at, p.n - at), p.part[p.n++] = (view){ &seal, SEAL_BYTES };
    if ((rc = send_parts(l, &p, msg_name(m->type), timeout_ms, e))) return rc;
    for (uint32_t i = at; i < p.n; i++) l->out += p.part[i].len;
    if (l->trace) trace_write(l->trace, 'S', l->trace_name, p.part + at, said - at);
    return ERR_OK;
}

/* ---- receive --------------------------------------------------------------------------------------------------- */

#define HELD_WORDS 8u   /* packet.held: word 0 counts the open messages, each has 8 words behind it */
_Static_assert(sizeof(zmq_msg_t) <= HELD_WORDS * sizeof(uint64_t), "a zmq message does not fit its place in a packet");
_Static_assert(_Alignof(zmq_msg_t) <= _Alignof(uint64_t), "a zmq message wants a stricter alignment");
_Static_assert(sizeof ((packet *)0)->held >= ((2 + MSG_FRAMES_MAX) * HELD_WORDS + 1) * sizeof(uint64_t), "packet.held: too small");

static zmq_msg_t *held(packet *p, uint64_t i) { return (zmq_msg_t *)(void *)&p->held[1 + i * HELD_WORDS]; }

static void drop_parts(packet *p)
{
    for (uint64_t i = 0; i < p->held[0]; i++) zmq_msg_close(held(p, i));
    p->held[0] = 0;
    p->n_frames = 0;
    p->head.type = MSG_NONE;
}

void packet_done(packet *p)
{
    drop_parts(p);
    p->from.len = 0;
    p->from.who = 0;
}

static err_code receive_failed(const link_t *l, int code, err *e)
{
    if (code == EAGAIN || code == EINTR) return err_set(e, ERR_TIMEOUT, "nothing came on %s in time", l->addr);
    return err_set(e, ERR_GONE, "cannot receive on %s: %s", l->addr, reason(code));
}

/* Try first: in a busy link the next message is there already. A signal ends the wait, so that its flag is seen. */
static err_code receive_first(link_t *l, zmq_msg_t *m, int timeout_ms, err *e)
{
    uint64_t deadline = timeout_ms > 0 ? clock_ns() + (uint64_t)timeout_ms * 1000000u : 0;
    for (;;) {
        if (zmq_msg_recv(m, l->sock, ZMQ_DONTWAIT) >= 0) return ERR_OK;
        int left = timeout_ms < 0 ? -1 : timeout_ms == 0 ? 0 : clock_left_ms(deadline);
        if (zmq_errno() != EAGAIN || left == 0) return receive_failed(l, zmq_errno(), e);
        zmq_pollitem_t item = { .socket = l->sock, .events = ZMQ_POLLIN };
        if (zmq_poll(&item, 1, left) < 0) return receive_failed(l, zmq_errno(), e);
    }
}

/* A later part is here already: the library hands a message over whole. */
static err_code receive_next(link_t *l, zmq_msg_t *m, err *e)
{
    while (zmq_msg_recv(m, l->sock, ZMQ_DONTWAIT) < 0)
        if (zmq_errno() != EINTR) return receive_failed(l, zmq_errno() == EAGAIN ? ECONNRESET : zmq_errno(), e);
    return ERR_OK;
}

typedef struct { uint64_t parts, largest; bool id_bad; } intake;   /* what came in one message, the name aside */

static void take_name(packet *p, zmq_msg_t *m, intake *in)
{
    size_t n = zmq_msg_size(m);
    in->id_bad = n == 0 || n > LINK_ID_MAX;
    if (in->id_bad) return;
    p->from.len = (uint8_t)n;
    memcpy(p->from.bytes, zmq_msg_data(m), n);
}

/* Put a part into the packet; those past the most a message may have are counted and dropped. */
static bool take_part(link_t *l, packet *p, zmq_msg_t *m, intake *in)
{
    bool more = zmq_msg_more(m);
    size_t n = zmq_msg_size(m);
    l->in += n;
    if (n > in->largest) in->largest = n;
    if (in->parts++ < 2 + MSG_FRAMES_MAX) {
        zmq_msg_init(held(p, p->held[0]));
        zmq_msg_move(held(p, p->held[0]++), m);
    }
    return more;
}

static err_code receive_parts(link_t *l, packet *p, intake *in, int timeout_ms, err *e)
{
    zmq_msg_t m;
    zmq_msg_init(&m);
    err_code rc = receive_first(l, &m, timeout_ms, e);
    bool more = true;
    if (!rc && l->kind == LINK_ROUTER) {
        take_name(p, &m, in);
        more = zmq_msg_more(&m);
        if (more) rc = receive_next(l, &m, e);
    }
    while (!rc && more) {
        more = take_part(l, p, &m, in);
        if (more) rc = receive_next(l, &m, e);
    }
    zmq_msg_close(&m);
    return rc;
}

/* Which key a message came with. The library keeps it with the connection; a peer cannot say it itself. */
static uint32_t sender_of(packet *p)
{
    const char *user = p->held[0] ? zmq_msg_gets(held(p, 0), "User-Id") : NULL;
    return user ? (uint32_t)strtoul(user, NULL, 10) : 0;
}

static err_code check_sender(const link_t *l, packet *p, err *e)
{
    if (!l->guarded) return ERR_OK;
    if (p->from.who) return gate_check(hub_gate(l->hub), p->from.who, &p->head, e);
    return l->open_too ? ERR_OK : gate_nameless(hub_gate(l->hub), l->addr, e);
}

static err_code check_pace(const link_t *l, packet *p, const intake *in, err *e)
{
    if (!l->pace) return ERR_OK;
    const char *address = p->held[0] ? zmq_msg_gets(held(p, 0), "Peer-Address") : NULL;
    uint32_t frames = in->parts < 1 ? 1 : in->parts < UINT32_MAX ? (uint32_t)in->parts : UINT32_MAX;
    return pace_check(l->pace, p->from.who, address, l->addr, frames, &p->wait_ms, e);
}

static view part_view(packet *p, uint64_t i) { return (view){ zmq_msg_data(held(p, i)), zmq_msg_size(held(p, i)) }; }

static err_code check_intake(const link_t *l, const intake *in, err *e)
{
    int64_t max = lanes[l->lane].frame_max;
    if (in->id_bad) return err_set(e, ERR_PROTO, "a peer of %s has a name longer than %d bytes", l->addr, LINK_ID_MAX);
    if (in->parts == 0) return err_set(e, ERR_PROTO, "a message without a header on %s", l->addr);
    uint32_t most = 1 + MSG_FRAMES_MAX + lanes[l->lane].sealed;
    if (in->parts > most) return err_set(e, ERR_PROTO, "a message of %" PRIu64 " frames on %s, limit %u", in->parts, l->addr, most);
    if (in->largest > (uint64_t)max) /* inproc knows no limit of its own */
        return err_set(e, ERR_PROTO, "frame of %" PRIu64 " bytes on %s, limit of this lane %" PRId64, in->largest, l->addr, max);
    return ERR_OK;
}

/* The last frame is the seal of the others, which are all that remains. */
static err_code break_seal(const link_t *l, packet *p, err *e)
{
    view all[2 + MSG_FRAMES_MAX];
    uint32_t n = (uint32_t)p->held[0];
    uint64_t said;
    for (uint32_t i = 0; i < n; i++) all[i] = part_view(p, i);
    if (n < 2 || all[n - 1].len != SEAL_BYTES) return err_set(e, ERR_PROTO, "a message without a seal on %s", l->addr);
    memcpy(&said, all[n - 1].ptr, sizeof said);
    if (said != seal_of(all, n - 1)) return err_set(e, ERR_PROTO, "a message on %s was changed on its way: its seal is broken", l->addr);
    zmq_msg_close(held(p, --p->held[0]));
    return ERR_OK;
}

static err_code open_packet(const link_t *l, packet *p, const intake *in, err *e)
{
    err_code rc = check_intake(l, in, e);
    if (!rc && lanes[l->lane].sealed) rc = break_seal(l, p, e);
    if (rc) return rc;
    view head = part_view(p, 0);
    if ((rc = msg_decode(&p->head, head.ptr, head.len, e))) return rc;
    p->n_frames = (uint32_t)p->held[0] - 1;
    for (uint32_t i = 0; i < p->n_frames; i++) p->frame[i] = part_view(p, i + 1);
    return msg_check_frames(&p->head, p->frame, p->n_frames, e);
}

static void trace_packet(const link_t *l, packet *p)
{
    view all[1 + MSG_FRAMES_MAX];
    for (uint64_t i = 0; i < p->held[0]; i++) all[i] = part_view(p, i);
    trace_write(l->trace, 'R', l->trace_name, all, (uint32_t)p->held[0]);
}

err_code link_recv(link_t *l, packet *p, int timeout_ms, err *e)
{
    packet_done(p);
    if (!kinds[l->kind].receives) return err_set(e, ERR_STATE, "a %s (%s) cannot receive", kinds[l->kind].name, l->addr);
    intake in = { 0 };
    err_code rc = receive_parts(l, p, &in, timeout_ms, e);
    if (rc) {
        packet_done(p);
        return rc;
    }
    if (l->guarded) p->from.who = sender_of(p);
    rc = open_packet(l, p, &in, e);
    err why; /* a bad message stays bad, but who says them too fast is told that */
    err_code denied = check_pace(l, p, &in, &why);
    if (denied) *e = why;
    else if (!rc) denied = check_sender(l, p, e);
    if (denied) { /* the head stays: a refusal names what was asked */
        message head = p->head;
        drop_parts(p);
        p->head = head;
        return denied;
    }
    if (rc) drop_parts(p); /* the sender's name stays, so that the caller can answer it */
    else if (l->trace) trace_packet(l, p);
    return rc;
}

/* ---- wait ------------------------------------------------------------------------------------------------------ */

err_code link_poll(link_t *const *l, uint32_t n, bool *ready, int timeout_ms, uint32_t spin_us, err *e)
{
    if (n > LINKS_POLLED_MAX) return err_set(e, ERR_FULL, "cannot wait on %u links, limit %u", n, LINKS_POLLED_MAX);
    zmq_pollitem_t items[LINKS_POLLED_MAX];
    for (uint32_t i = 0; i < n; i++) items[i] = (zmq_pollitem_t){ .socket = l[i]->sock, .events = ZMQ_POLLIN };
    uint64_t start = clock_ns(), spin_end = start + (uint64_t)spin_us * 1000u;
    uint64_t deadline = start + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    if (timeout_ms >= 0 && spin_end > deadline) spin_end = deadline;
    int got;
    do got = zmq_poll(items, (int)n, 0);
    while (got == 0 && clock_ns() < spin_end);
    if (got == 0 && timeout_ms != 0) got = zmq_poll(items, (int)n, timeout_ms < 0 ? -1 : clock_left_ms(deadline));
    for (uint32_t i = 0; i < n; i++) ready[i] = got > 0 && (items[i].revents & ZMQ_POLLIN);
    if (got >= 0 || zmq_errno() == EINTR) return ERR_OK; /* a signal: nothing is ready, the caller looks at its flag */
    return err_set(e, ERR_GONE, "cannot wait for messages: %s", reason(zmq_errno()));
}
