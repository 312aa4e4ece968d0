/* Links over all three transports, waiting, and bad peers (a raw zmq socket plays them). Addresses: test_endpoint.c. */
#include "core/clock.h"
#include "proto/link.h"
#include "proto/message_table.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)
enum { WAIT_MS = 5000, SOON_MS = 50 };

typedef struct { char dir[32], ipc[128]; } place;

static place make_place(void)
{
    place p = { .dir = "/tmp/linkXXXXXX" };
    cr_assert(mkdtemp(p.dir));
    snprintf(p.ipc, sizeof p.ipc, "ipc://%s/a.sock", p.dir);
    return p;
}

static void drop_place(const place *p)
{
    unlink(p->ipc + strlen("ipc://"));
    cr_assert_eq(rmdir(p->dir), 0, "something is left in %s", p->dir);
}

static message ping(uint64_t nonce)
{
    message m = msg_init(MSG_PING);
    m.ping.nonce = nonce;
    return m;
}

/* A STEP of two rows of four values; the arrays outlive the call. */
static message small_step(view *v)
{
    static const step_row rows[2] = { { .session = 1, .token = 7 }, { .session = 2, .token = 8 } };
    static const hop_rec hops[1] = { { 3, 1 } };
    static const float hidden[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    message m = msg_init(MSG_STEP);
    m.step = (msg_step){ .epoch = 1, .step = 5, .n_rows = 2, .n_hops = 1, .n_hidden = 2, .dim = 4, .top = 64 };
    v[STEP_ROWS] = (view){ rows, sizeof rows };
    v[STEP_OPS] = (view){ NULL, 0 };
    v[STEP_HOPS] = (view){ hops, sizeof hops };
    v[STEP_HIDDEN] = (view){ hidden, sizeof hidden };
    v[STEP_PICKS] = (view){ NULL, 0 };
    return m;
}

/* ---- both ways, every transport -------------------------------------------------------------------------------- */

static void talk_router_dealer(const char *addr)
{
    err e = { 0 };
    hub *h;
    link_t *router, *dealer;
    OK(hub_open(&h, &e));
    OK(link_bind(&router, h, LINK_ROUTER, LINK_CONTROL, addr, &e));
    OK(link_connect(&dealer, h, LINK_DEALER, LINK_CONTROL, link_addr(router), &e));
    packet p = { 0 };
    for (uint64_t i = 0; i < 100; i++) {
        message m = ping(i), back = msg_init(MSG_PONG);
        OK(link_send(dealer, NULL, &m, NULL, WAIT_MS, &e));
        OK(link_recv(router, &p, WAIT_MS, &e));
        cr_assert(p.head.type == MSG_PING && p.head.ping.nonce == i && p.n_frames == 0 && p.from.len > 0);
        back.pong.nonce = i + 1;
        OK(link_send(router, &p.from, &back, NULL, WAIT_MS, &e));
        OK(link_recv(dealer, &p, WAIT_MS, &e));
        cr_assert(p.head.type == MSG_PONG && p.head.pong.nonce == i + 1 && p.from.len == 0);
    }
    uint64_t in, out, in2, out2;
    link_counted(router, &in, &out);
    link_counted(dealer, &in2, &out2);
    cr_assert(in > 0 && in == out2 && out == in2);
    packet_done(&p);
    link_close(&dealer);
    link_close(&router);
    hub_close(&h);
}

static void talk_push_pull(const char *addr)
{
    err e = { 0 };
    hub *h;
    link_t *pull, *push;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_DATA, addr, &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_DATA, link_addr(pull), &e));
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    packet p = { 0 };
    for (int i = 0; i < 50; i++) OK(link_send(push, NULL, &m, v, WAIT_MS, &e));
    for (int i = 0; i < 50; i++) {
        OK(link_recv(pull, &p, WAIT_MS, &e));
        cr_assert(p.head.type == MSG_STEP && p.n_frames == 5);
        for (int k = 0; k < 5; k++)
            cr_assert(p.frame[k].len == v[k].len && (!v[k].len || !memcmp(p.frame[k].ptr, v[k].ptr, v[k].len)));
    }
    packet_done(&p);
    packet_done(&p); /* an empty one may be emptied again */
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
}

static void talk(const char *addr)
{
    talk_router_dealer(addr);
    talk_push_pull(addr);
}

Test(link, messages_cross_inproc) { talk("inproc://x"); }
Test(link, messages_cross_tcp_loopback) { talk("tcp://127.0.0.1:*"); }

Test(link, messages_cross_ipc)
{
    place at = make_place();
    talk(at.ipc);
    drop_place(&at);
}

Test(link, large_frames_arrive_whole)
{
    err e = { 0 };
    hub *h;
    link_t *pull, *push;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_BULK, "tcp://127.0.0.1:0", &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_BULK, link_addr(pull), &e));
    size_t n = 9u << 20;
    uint8_t *bytes = malloc(n);
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    message m = msg_init(MSG_KV_PUSH);
    m.kv_push.epoch = m.kv_push.session = 1;
    OK(link_send(push, NULL, &m, &(view){ bytes, n }, WAIT_MS, &e));
    packet p = { 0 };
    OK(link_recv(pull, &p, WAIT_MS, &e));
    cr_assert(p.frame[0].len == n && !memcmp(p.frame[0].ptr, bytes, n));
    packet_done(&p);
    free(bytes);
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

Test(link, receive_waits_as_long_as_asked_and_no_longer)
{
    err e = { 0 };
    hub *h;
    link_t *l;
    OK(hub_open(&h, &e));
    OK(link_bind(&l, h, LINK_PULL, LINK_DATA, "tcp://127.0.0.1:*", &e));
    packet p = { 0 };
    static const int waits[] = { 0, 1, SOON_MS };
    for (int i = 0; i < 3; i++) {
        uint64_t t = clock_ns();
        cr_assert_eq(link_recv(l, &p, waits[i], &e), ERR_TIMEOUT);
        t = (clock_ns() - t) / 1000000u;
        cr_assert(t + 1 >= (uint64_t)waits[i] && t < (uint64_t)waits[i] + 1000, "%d ms took %llu", waits[i], (unsigned long long)t);
    }
    link_close(&l);
    hub_close(&h);
}

static volatile sig_atomic_t signals;
static void count_signal(int s) { (void)s; signals++; }

typedef struct { pthread_t to; } knock;
static void *knock_run(void *p)
{
    usleep(SOON_MS * 1000);
    pthread_kill(((knock *)p)->to, SIGUSR1);
    return NULL;
}

Test(link, signal_ends_a_wait_so_that_its_flag_is_seen, .timeout = 20)
{
    err e = { 0 };
    hub *h;
    link_t *l;
    OK(hub_open(&h, &e));
    OK(link_bind(&l, h, LINK_PULL, LINK_DATA, "tcp://127.0.0.1:*", &e));
    struct sigaction sa = { .sa_handler = count_signal };
    sigaction(SIGUSR1, &sa, NULL);
    knock k = { pthread_self() };
    for (int polled = 0; polled < 2; polled++) {
        pthread_t t;
        pthread_create(&t, NULL, knock_run, &k);
        packet p = { 0 };
        bool ready = true;
        if (polled) OK(link_poll(&l, 1, &ready, -1, 0, &e));
        else cr_assert_eq(link_recv(l, &p, -1, &e), ERR_TIMEOUT);
        cr_assert_eq(signals, polled + 1);
        if (polled) cr_assert_not(ready);
        pthread_join(t, NULL);
    }
    link_close(&l);
    hub_close(&h);
}

Test(link, poll_names_the_link_that_is_ready)
{
    err e = { 0 };
    hub *h;
    link_t *pull[3], *push;
    OK(hub_open(&h, &e));
    for (int i = 0; i < 3; i++) OK(link_bind(&pull[i], h, LINK_PULL, LINK_CONTROL, "tcp://127.0.0.1:*", &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_CONTROL, link_addr(pull[1]), &e));
    bool ready[3] = { true, true, true };
    uint64_t t = clock_ns();
    OK(link_poll(pull, 3, ready, SOON_MS, 2000, &e));
    cr_assert(!ready[0] && !ready[1] && !ready[2] && clock_ns() - t >= (SOON_MS - 1) * 1000000ull);
    message m = ping(1);
    OK(link_send(push, NULL, &m, NULL, WAIT_MS, &e));
    for (uint32_t spin = 0; spin < 2; spin++) {
        OK(link_poll(pull, 3, ready, WAIT_MS, spin * 1000000u, &e));
        cr_assert(!ready[0] && ready[1] && !ready[2]);
    }
    t = clock_ns();
    OK(link_poll(pull, 1, ready, 5, 1000000u, &e)); /* spinning is inside the time asked for */
    cr_assert_lt(clock_ns() - t, 500000000u);
    link_t *many[65] = { 0 };
    cr_assert_eq(link_poll(many, 65, ready, 0, 0, &e), ERR_FULL);
    link_close(&push);
    for (int i = 0; i < 3; i++) link_close(&pull[i]);
    hub_close(&h);
}

Test(link, push_without_a_peer_waits_in_the_sender)
{
    place at = make_place();
    err e = { 0 };
    hub *h;
    link_t *push, *pull;
    OK(hub_open(&h, &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_DATA, at.ipc, &e));
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    cr_assert_eq(link_send(push, NULL, &m, v, SOON_MS, &e), ERR_TIMEOUT);
    cr_assert_eq(link_send(push, NULL, &m, v, 0, &e), ERR_TIMEOUT);
    OK(link_bind(&pull, h, LINK_PULL, LINK_DATA, at.ipc, &e));
    OK(link_send(push, NULL, &m, v, WAIT_MS, &e));
    packet p = { 0 };
    OK(link_recv(pull, &p, WAIT_MS, &e));
    cr_assert_eq(link_recv(pull, &p, SOON_MS, &e), ERR_TIMEOUT, "what timed out was sent all the same");
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
    drop_place(&at);
}

Test(link, dealer_may_speak_before_its_peer_is_there)
{
    place at = make_place();
    err e = { 0 };
    hub *h;
    link_t *dealer, *router;
    OK(hub_open(&h, &e));
    OK(link_connect(&dealer, h, LINK_DEALER, LINK_CONTROL, at.ipc, &e));
    message m = ping(9);
    OK(link_send(dealer, NULL, &m, NULL, 0, &e));
    OK(link_bind(&router, h, LINK_ROUTER, LINK_CONTROL, at.ipc, &e));
    packet p = { 0 };
    OK(link_recv(router, &p, WAIT_MS, &e));
    cr_assert_eq(p.head.ping.nonce, 9);
    packet_done(&p);
    link_close(&dealer);
    link_close(&router);
    hub_close(&h);
    drop_place(&at);
}

Test(link, full_queue_times_out_and_nothing_is_half_sent)
{
    err e = { 0 };
    hub *h;
    link_t *push, *pull;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_DATA, "inproc://full", &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_DATA, "inproc://full", &e));
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    uint64_t sent = 0, got = 0;
    err_code rc;
    while (!(rc = link_send(push, NULL, &m, v, SOON_MS, &e))) cr_assert_lt(sent++, 100000u);
    cr_assert_eq(rc, ERR_TIMEOUT);
    packet p = { 0 };
    while (!link_recv(pull, &p, 0, &e)) got++;
    cr_assert_eq(got, sent);
    OK(link_send(push, NULL, &m, v, WAIT_MS, &e));
    OK(link_recv(pull, &p, WAIT_MS, &e));
    packet_done(&p);
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
}

Test(link, router_waits_for_one_full_peer_and_not_for_the_others)
{
    err e = { 0 };
    hub *h;
    link_t *router, *dealer[2];
    link_id id[2];
    packet p = { 0 };
    message m = ping(1);
    OK(hub_open(&h, &e));
    OK(link_bind(&router, h, LINK_ROUTER, LINK_BULK, "inproc://full", &e)); /* bulk: the shortest queue */
    for (int i = 0; i < 2; i++) {
        OK(link_connect(&dealer[i], h, LINK_DEALER, LINK_BULK, "inproc://full", &e));
        OK(link_send(dealer[i], NULL, &m, NULL, WAIT_MS, &e));
        OK(link_recv(router, &p, WAIT_MS, &e));
        id[i] = p.from;
    }
    uint64_t sent = 0, got = 0;
    while (!link_send(router, &id[0], &m, NULL, 0, &e)) cr_assert_lt(sent++, 1000u);
    uint64_t t = clock_ns();
    cr_assert_eq(link_send(router, &id[0], &m, NULL, SOON_MS, &e), ERR_TIMEOUT, "%s", e.text);
    cr_assert_geq(clock_ns() - t, (SOON_MS - 1) * 1000000ull);
    OK(link_send(router, &id[1], &m, NULL, 0, &e));
    OK(link_recv(dealer[1], &p, WAIT_MS, &e));
    while (!link_recv(dealer[0], &p, SOON_MS, &e)) got++;
    cr_assert_eq(got, sent);
    OK(link_send(router, &id[0], &m, NULL, WAIT_MS, &e));
    OK(link_recv(dealer[0], &p, WAIT_MS, &e));
    packet_done(&p);
    for (int i = 0; i < 2; i++) link_close(&dealer[i]);
    link_close(&router);
    hub_close(&h);
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

Test(link, router_says_when_a_peer_is_unknown)
{
    err e = { 0 };
    hub *h;
    link_t *router, *dealer;
    OK(hub_open(&h, &e));
    OK(link_bind(&router, h, LINK_ROUTER, LINK_CONTROL, "tcp://127.0.0.1:*", &e));
    OK(link_connect(&dealer, h, LINK_DEALER, LINK_CONTROL, link_addr(router), &e));
    message m = ping(1);
    link_id nobody = { 4, "nope", 0 };
    cr_assert_eq(link_send(router, &nobody, &m, NULL, WAIT_MS, &e), ERR_GONE);
    cr_assert_eq(link_send(router, NULL, &m, NULL, WAIT_MS, &e), ERR_GONE);
    OK(link_send(dealer, NULL, &m, NULL, WAIT_MS, &e));
    packet p = { 0 };
    OK(link_recv(router, &p, WAIT_MS, &e));
    link_id was = p.from;
    link_close(&dealer);
    err_code rc = ERR_OK;
    for (int i = 0; i < 200 && rc != ERR_GONE; i++, usleep(10000)) rc = link_send(router, &was, &m, NULL, 0, &e);
    cr_assert_eq(rc, ERR_GONE, "a peer that left is still known");
    packet_done(&p);
    link_close(&router);
    hub_close(&h);
}

Test(link, wrong_messages_are_refused_before_they_are_sent)
{
    err e = { 0 };
    hub *h;
    link_t *push, *pull;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_CONTROL, "inproc://x", &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_CONTROL, "inproc://x", &e));
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    v[STEP_HIDDEN].len--;
    cr_assert_eq(link_send(push, NULL, &m, v, WAIT_MS, &e), ERR_PROTO);
    m = small_step(v);
    m.step.epoch = 0;
    cr_assert_eq(link_send(push, NULL, &m, v, WAIT_MS, &e), ERR_PROTO);
    m = msg_init(MSG_NONE);
    cr_assert_eq(link_send(push, NULL, &m, v, WAIT_MS, &e), ERR_PROTO);
    m = msg_init(MSG_KV_PUSH);
    m.kv_push.epoch = m.kv_push.session = 1;
    size_t n = (4u << 20) + 1;
    char *big = calloc(1, n);
    cr_assert_eq(link_send(push, NULL, &m, &(view){ big, n }, WAIT_MS, &e), ERR_PROTO);
    cr_assert(strstr(e.text, "limit of this lane"), "%s", e.text);
    free(big);
    m = ping(1);
    packet p = { 0 };
    cr_assert_eq(link_send(pull, NULL, &m, NULL, 0, &e), ERR_STATE);
    cr_assert_eq(link_recv(push, &p, 0, &e), ERR_STATE);
    cr_assert_eq(link_recv(pull, &p, 0, &e), ERR_TIMEOUT, "something was sent");
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
}

Test(link, control_frames_of_the_table_fit_their_lane)
{
    const message_desc *d;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        uint32_t n;
        const frame_desc *f = d->frames(&n);
        for (uint32_t k = 0; k < n; k++) {
            if (!strcmp(d->lane, "control")) cr_assert_leq(f[k].max, 4u << 20, "%s.%s", d->name, f[k].name);
            if (!strcmp(d->lane, "client")) cr_assert_leq(f[k].max, 256u << 20, "%s.%s", d->name, f[k].name);
            if (!strcmp(d->lane, "bulk")) cr_assert_leq(f[k].max, 256u << 20, "%s.%s", d->name, f[k].name);
        }
    }
}

/* ---- bad peers: a raw socket --------------------------------------------------------------------------------------- */

typedef struct { hub *h; link_t *router; void *ctx, *raw; packet p; } rig;

static rig open_rig(link_lane lane, const char *name, size_t name_len)
{
    rig r = { 0 };
    err e = { 0 };
    int linger = 0;
    OK(hub_open(&r.h, &e));
    OK(link_bind(&r.router, r.h, LINK_ROUTER, lane, "tcp://127.0.0.1:*", &e));
    r.ctx = zmq_ctx_new();
    r.raw = zmq_socket(r.ctx, ZMQ_DEALER);
    zmq_setsockopt(r.raw, ZMQ_LINGER, &linger, sizeof linger);
    cr_assert_eq(zmq_setsockopt(r.raw, ZMQ_ROUTING_ID, name, name_len), 0);
    cr_assert_eq(zmq_connect(r.raw, link_addr(r.router)), 0);
    return r;
}

static void close_rig(rig *r)
{
    packet_done(&r->p);
    zmq_close(r->raw);
    zmq_ctx_term(r->ctx);
    link_close(&r->router);
    hub_close(&r->h);
}

static void send_raw(void *sock, const view *v, int n)
{
    for (int i = 0; i < n; i++) cr_assert_geq(zmq_send(sock, v[i].ptr, v[i].len, i + 1 < n ? ZMQ_SNDMORE : 0), 0);
}

static const view good_ping = { "\x82\x00\x04\x01\x07", 5 };

static void still_works(rig *r)
{
    err e = { 0 };
    send_raw(r->raw, &good_ping, 1);
    OK(link_recv(r->router, &r->p, WAIT_MS, &e));
    cr_assert(r->p.head.type == MSG_PING && r->p.head.ping.nonce == 7);
}

Test(link, bad_multipart_is_dropped_whole_and_its_sender_known)
{
    static const view bad[][7] = {
        { { "", 0 } },
        { { "\xc1", 1 } },
        { { "", 0 }, { "\x82\x00\x04\x01\x07", 5 } },
        { { "\x82\x00\x04\x01\x07", 5 }, { "too", 3 } },
        { { "\x82\x00\x04\x01\x07", 5 }, { "a", 1 }, { "b", 1 }, { "c", 1 }, { "d", 1 }, { "e", 1 }, { "f", 1 } },
        { { "\x82\x00\x18\x18\x01\x01\x05\x01", 8 } },
        { { "\xdf\xff\xff\xff\xff", 5 }, { "x", 1 } },
    };
    static const int n[] = { 1, 1, 2, 2, 7, 1, 2 };
    rig r = open_rig(LINK_CONTROL, "mallory", 7);
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        err e = { 0 };
        send_raw(r.raw, bad[i], n[i]);
        cr_assert_eq(link_recv(r.router, &r.p, WAIT_MS, &e), ERR_PROTO, "case %zu: %s", i, e.text);
        cr_assert(r.p.from.len == 7 && !memcmp(r.p.from.bytes, "mallory", 7), "case %zu", i);
        cr_assert(r.p.n_frames == 0 && r.p.head.type == MSG_NONE && e.text[0]);
        still_works(&r);
    }
    message fail = msg_init(MSG_FAIL);
    fail.fail.code = ERR_PROTO;
    strcpy(fail.fail.text, "no");
    err e = { 0 };
    OK(link_send(r.router, &r.p.from, &fail, NULL, WAIT_MS, &e));
    char buf[64];
    cr_assert_gt(zmq_recv(r.raw, buf, sizeof buf, 0), 0);
    close_rig(&r);
}

Test(link, peer_with_a_name_too_long_is_not_believed)
{
    char name[LINK_ID_MAX + 1];
    memset(name, 'n', sizeof name);
    rig r = open_rig(LINK_CONTROL, name, sizeof name);
    err e = { 0 };
    send_raw(r.raw, &good_ping, 1);
    cr_assert_eq(link_recv(r.router, &r.p, WAIT_MS, &e), ERR_PROTO);
    cr_assert_eq(r.p.from.len, 0);
    close_rig(&r);
}

Test(link, oversized_frame_of_a_peer_never_arrives_and_others_go_on)
{
    rig r = open_rig(LINK_CONTROL, "large", 5);
    still_works(&r);
    err e = { 0 };
    link_t *other;
    OK(link_connect(&other, r.h, LINK_DEALER, LINK_CONTROL, link_addr(r.router), &e));
    size_t n = (4u << 20) + 1;
    char *big = calloc(1, n);
    view v[2] = { good_ping, { big, n } };
    send_raw(r.raw, v, 2);
    cr_assert_eq(link_recv(r.router, &r.p, 4 * SOON_MS, &e), ERR_TIMEOUT, "%d", r.p.head.type);
    message m = ping(1);
    OK(link_send(other, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(r.router, &r.p, WAIT_MS, &e));
    cr_assert_eq(r.p.head.ping.nonce, 1);
    free(big);
    link_close(&other);
    close_rig(&r);
}

Test(link, oversized_frame_over_inproc_is_refused_too)
{
    err e = { 0 };
    hub *h;
    link_t *pull, *push;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_CONTROL, "inproc://x", &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_BULK, "inproc://x", &e)); /* the sender has another idea of the lane */
    size_t n = (4u << 20) + 1;
    char *big = calloc(1, n);
    message m = msg_init(MSG_KV_PUSH);
    m.kv_push.epoch = m.kv_push.session = 1;
    OK(link_send(push, NULL, &m, &(view){ big, n }, WAIT_MS, &e));
    packet p = { 0 };
    cr_assert_eq(link_recv(pull, &p, WAIT_MS, &e), ERR_PROTO);
    cr_assert(strstr(e.text, "limit of this lane"), "%s", e.text);
    free(big);
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
}

/* ---- several threads --------------------------------------------------------------------------------------------- */

enum { HOPS = 2000 };
typedef struct { hub *h; const char *in, *out; } relay;

static void *relay_run(void *ud)
{
    relay *r = ud;
    err e = { 0 };
    link_t *in, *out;
    OK(link_bind(&in, r->h, LINK_PULL, LINK_DATA, r->in, &e));
    OK(link_connect(&out, r->h, LINK_PUSH, LINK_DATA, r->out, &e));
    packet p = { 0 };
    for (int i = 0; i < HOPS; i++) {
        OK(link_recv(in, &p, WAIT_MS, &e));
        p.head.step.hop++;
        OK(link_send(out, NULL, &p.head, p.frame, WAIT_MS, &e));
    }
    packet_done(&p);
    bool ready;
    OK(link_poll(&in, 1, &ready, WAIT_MS, 0, &e)); /* linger is 0: stay until the other end says it has everything */
    link_close(&in);
    link_close(&out);
    return NULL;
}

static void run_ring(const char *first, const char *last)
{
    err e = { 0 };
    relay r = { .in = first, .out = last };
    OK(hub_open(&r.h, &e));
    link_t *in, *out;
    OK(link_bind(&in, r.h, LINK_PULL, LINK_DATA, last, &e));
    OK(link_connect(&out, r.h, LINK_PUSH, LINK_DATA, first, &e));
    pthread_t t;
    pthread_create(&t, NULL, relay_run, &r);
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    packet p = { 0 };
    uint64_t start = clock_ns();
    for (uint64_t i = 0; i < HOPS; i++) {
        m.step.step = i + 1;
        OK(link_send(out, NULL, &m, v, WAIT_MS, &e));
        OK(link_recv(in, &p, WAIT_MS, &e));
        cr_assert(p.head.step.step == i + 1 && p.head.step.hop == 1);
        cr_assert(!memcmp(p.frame[STEP_HIDDEN].ptr, v[STEP_HIDDEN].ptr, v[STEP_HIDDEN].len));
    }
    fprintf(stderr, "# %-30s two hops in %.1f us\n", first, (double)(clock_ns() - start) / HOPS / 1000);
    OK(link_send(out, NULL, &m, v, WAIT_MS, &e));
    pthread_join(t, NULL);
    packet_done(&p);
    link_close(&in);
    link_close(&out);
    hub_close(&r.h);
}

Test(link, steps_go_round_through_another_thread)
{
    place at = make_place();
    run_ring("inproc://first", "inproc://last");
    run_ring(at.ipc, "inproc://last");
    drop_place(&at);
}

/* ---- frames that are lent --------------------------------------------------------------------------------------- */

/* Wait until the I/O thread has let go: the time is the library's, the end is certain. */
static bool comes_back(const loan *l)
{
    for (uint64_t end = clock_ns() + WAIT_MS * 1000000ull; !loan_is_back(l);)
        if (clock_ns() > end) return false;
    return true;
}

static void lend_over(const char *addr)
{
    err e = { 0 };
    hub *h;
    link_t *in, *out;
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    loan *l = loan_new(v[STEP_HIDDEN].len), *lent[MSG_FRAMES_MAX] = { [STEP_HIDDEN] = l };
    cr_assert(l && loan_is_back(l));
    memcpy(loan_data(l), v[STEP_HIDDEN].ptr, v[STEP_HIDDEN].len);
    view f[MSG_FRAMES_MAX];
    memcpy(f, v, sizeof f);
    f[STEP_HIDDEN].ptr = loan_data(l);
    OK(hub_open(&h, &e));
    OK(link_bind(&in, h, LINK_PULL, LINK_DATA, addr, &e));
    OK(link_connect(&out, h, LINK_PUSH, LINK_DATA, link_addr(in), &e));
    OK(link_send_lent(out, NULL, &m, f, lent, WAIT_MS, &e));
    packet p = { 0 };
    OK(link_recv(in, &p, WAIT_MS, &e));
    cr_expect_eq(memcmp(p.frame[STEP_HIDDEN].ptr, v[STEP_HIDDEN].ptr, v[STEP_HIDDEN].len), 0);
    bool shared = p.frame[STEP_HIDDEN].ptr == loan_data(l);
    cr_expect_eq(shared, !strncmp(addr, "inproc", 6), "%s: inproc hands over the very bytes", addr);
    if (shared) cr_expect(!loan_is_back(l), "somebody reads it");
    packet_done(&p);
    cr_expect(comes_back(l), "%s", addr);
    OK(link_send_lent(out, NULL, &m, f, lent, WAIT_MS, &e)); /* nobody takes this one: closing lets go of it */
    link_close(&in);
    link_close(&out);
    hub_close(&h);
    cr_expect(loan_is_back(l), "%s: an unread message has let go", addr);
    loan_drop(l);
}

Test(link, lent_frames_arrive_and_come_back)
{
    place at = make_place();
    lend_over("inproc://lent");
    lend_over(at.ipc);
    lend_over("tcp://127.0.0.1:*");
    drop_place(&at);
}

Test(link, a_frame_that_could_not_be_sent_is_not_held)
{
    err e = { 0 };
    hub *h;
    link_t *out;
    view v[MSG_FRAMES_MAX];
    message m = small_step(v);
    loan *l = loan_new(v[STEP_HIDDEN].len), *lent[MSG_FRAMES_MAX] = { [STEP_HIDDEN] = l };
    memcpy(loan_data(l), v[STEP_HIDDEN].ptr, v[STEP_HIDDEN].len);
    v[STEP_HIDDEN].ptr = loan_data(l);
    OK(hub_open(&h, &e));
    OK(link_connect(&out, h, LINK_PUSH, LINK_DATA, "ipc:///tmp/nobody-is-here.sock", &e));
    cr_expect_eq(link_send_lent(out, NULL, &m, v, lent, SOON_MS, &e), ERR_TIMEOUT);
    cr_expect(loan_is_back(l));
    m.step.n_hidden = 7;
    cr_expect_eq(link_send_lent(out, NULL, &m, v, lent, SOON_MS, &e), ERR_PROTO, "a frame that does not fit its header");
    cr_expect(loan_is_back(l));
    link_close(&out);
    hub_close(&h);
    loan_drop(l);
}
