/* Links with keys: who gets through, who does not, what a change of the list does, and what is counted. */
#include "core/clock.h"
#include "proto/link.h"
#include "tests/support.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)
enum { WAIT_MS = 20000, SILENCE_MS = 300 };

typedef struct { char file[128], key[KEY_TEXT]; } owner;      /* of a key */
typedef struct { hub *h; link_t *l; char list[128]; owner host; } house;

static owner make_owner(const char *name)
{
    err e = { 0 };
    owner o;
    key_pair k;
    snprintf(o.file, sizeof o.file, "%s/%s", support_tmpdir(), name);
    OK(key_pair_make(&k, &e));
    OK(key_pair_write(&k, o.file, true, &e));
    key_show(k.open, o.key);
    return o;
}

/* In one move, as an editor does. */
static void write_list(const house *b, const char *words)
{
    char tmp[160];
    snprintf(tmp, sizeof tmp, "%s.new", b->list);
    cr_assert(support_write(tmp, words, strlen(words)));
    cr_assert_eq(chmod(tmp, 0644), 0);
    cr_assert_eq(rename(tmp, b->list), 0);
}

static house open_house(link_kind k, link_lane lane, const char *words)
{
    err e = { 0 };
    house b = { .host = make_owner("host") };
    snprintf(b.list, sizeof b.list, "%s/allow", support_tmpdir());
    write_list(&b, words);
    OK(hub_open(&b.h, &e));
    OK(hub_trust(b.h, &(hub_trusts){ .key = b.host.file, .allow = b.list }, &e));
    OK(link_bind(&b.l, b.h, k, lane, "tcp://127.0.0.1:*", &e));
    return b;
}

static void close_house(house *b)
{
    link_close(&b->l);
    hub_close(&b->h);
}

typedef struct { hub *h; link_t *l; } guest;

static guest knock(const house *b, const owner *o, const char *server, link_kind k, link_lane lane)
{
    err e = { 0 };
    guest g = { 0 };
    OK(hub_open(&g.h, &e));
    OK(hub_trust(g.h, &(hub_trusts){ .key = o ? o->file : NULL, .server_key = o ? server : NULL, .watch = true }, &e));
    OK(link_connect(&g.l, g.h, k, lane, link_addr(b->l), &e));
    return g;
}

static void leave(guest *g)
{
    link_close(&g->l);
    hub_close(&g->h);
}

static message ask(uint64_t ref)
{
    message m = msg_init(MSG_ASK);
    m.ask.ref = ref;
    return m;
}

static gate_counts counts(const house *b)
{
    gate_counts n;
    gate_count(hub_gate(b->h), &n);
    return n;
}

static lookout_state settled(const guest *g, lookout_state not, err *why)
{
    uint64_t end = clock_ns() + WAIT_MS * 1000000ull;
    lookout_state s;
    while ((s = link_state(g->l, why)) == not && clock_left_ms(end)) nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    return s;
}

#define UNTIL(cond) do { \
    uint64_t end_ = clock_ns() + WAIT_MS * 1000000ull; \
    while (!(cond) && clock_left_ms(end_)) nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL); \
    cr_assert(cond); \
} while (0)

static char *one_line(const char *role, const owner *o, const char *name)
{
    static char line[160];
    snprintf(line, sizeof line, "%s %s %s\n", role, o->key, name);
    return line;
}

Test(gate, a_listed_key_gets_in_and_its_messages_carry_its_name)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = open_house(LINK_ROUTER, LINK_CLIENT, one_line("client", &me, "anna"));
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT);
    packet p = { 0 };
    for (uint64_t i = 1; i <= 50; i++) {
        message m = ask(i), back = msg_init(MSG_FAIL);
        back.fail.code = 1;
        OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
        OK(link_recv(b.l, &p, WAIT_MS, &e));
        cr_assert(p.head.ask.ref == i && p.from.who == 1);
        OK(link_send(b.l, &p.from, &back, NULL, WAIT_MS, &e));
        OK(link_recv(g.l, &p, WAIT_MS, &e));
    }
    gate_peer who;
    cr_assert(gate_look(hub_gate(b.h), 1, &who));
    cr_expect(who.role == PEER_CLIENT && who.allowed && !strcmp(who.name, "anna"));
    cr_expect(counts(&b).accepted == 1 && counts(&b).unknown == 0 && counts(&b).role == 0);
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

/* word NULL: one side has no keys; which of the two notices first is chance. */
static void stays_out(const house *b, guest *g, lookout_state want, const char *word)
{
    err e = { 0 }, why = { 0 };
    message m = ask(1);
    packet p = { 0 };
    link_send(g->l, NULL, &m, NULL, 0, &e);
    lookout_state s = settled(g, LOOKOUT_TRYING, &why);
    cr_expect(word ? s == want : s == LOOKOUT_REFUSED || s == LOOKOUT_LOST, "%d", s);
    cr_expect(strstr(why.text, word ? word : "use keys") || strstr(why.text, word ? word : "uses keys"), "\"%s\"", why.text);
    cr_expect_eq(link_recv(b->l, &p, SILENCE_MS, &e), ERR_TIMEOUT, "a message came through");
    leave(g);
}

Test(gate, strangers_stay_out_and_are_counted)
{
    owner me = make_owner("me"), other = make_owner("other");
    house b = open_house(LINK_ROUTER, LINK_CLIENT, one_line("client", &me, "anna"));
    guest g = knock(&b, &other, b.host.key, LINK_DEALER, LINK_CLIENT);
    stays_out(&b, &g, LOOKOUT_REFUSED, "does not have this key");
    UNTIL(counts(&b).unknown == 1);
    g = knock(&b, &me, other.key, LINK_DEALER, LINK_CLIENT);
    stays_out(&b, &g, LOOKOUT_LOST, "is --server-key its key");
    UNTIL(counts(&b).protocol >= 1);
    uint64_t before = counts(&b).protocol + counts(&b).unfinished;
    g = knock(&b, NULL, NULL, LINK_DEALER, LINK_CLIENT);
    stays_out(&b, &g, LOOKOUT_REFUSED, NULL);
    UNTIL(counts(&b).protocol + counts(&b).unfinished > before);
    cr_expect_eq(counts(&b).accepted, 0);
    close_house(&b);
}

Test(gate, a_client_with_keys_does_not_talk_to_a_server_without)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = { 0 };
    OK(hub_open(&b.h, &e));
    OK(link_bind(&b.l, b.h, LINK_ROUTER, LINK_CLIENT, "tcp://127.0.0.1:*", &e));
    guest g = knock(&b, &me, me.key, LINK_DEALER, LINK_CLIENT);
    stays_out(&b, &g, LOOKOUT_REFUSED, NULL);
    close_house(&b);
}

Test(gate, a_wrong_role_is_refused_by_message_with_its_reference)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = open_house(LINK_ROUTER, LINK_CLIENT, one_line("stage", &me, "box"));
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT);
    message m = ask(77);
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    cr_expect_eq(link_recv(b.l, &p, WAIT_MS, &e), ERR_DENIED);
    cr_expect(strstr(e.text, "box") && strstr(e.text, "role stage may not send ask"), "%s", e.text);
    cr_expect(p.from.len && p.head.type == MSG_ASK && p.head.ask.ref == 77, "who asked and what must be known, to be answered");
    cr_expect_eq(counts(&b).role, 1);
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

Test(gate, a_key_that_is_taken_off_the_list_is_cut_off_both_ways)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = open_house(LINK_ROUTER, LINK_CLIENT, one_line("client", &me, "anna"));
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT);
    message m = ask(1), back = msg_init(MSG_FAIL);
    back.fail.code = 1;
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    link_id to = p.from;
    OK(link_send(b.l, &to, &back, NULL, WAIT_MS, &e));
    uint64_t version = gate_version(hub_gate(b.h));
    write_list(&b, "# nobody\n");
    UNTIL(gate_version(hub_gate(b.h)) > version);
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    cr_expect_eq(link_recv(b.l, &p, WAIT_MS, &e), ERR_DENIED, "a message of a key that is off the list was taken");
    cr_expect_eq(link_send(b.l, &to, &back, NULL, WAIT_MS, &e), ERR_GONE, "and it was answered");
    cr_expect(counts(&b).cut == 1 && counts(&b).reloads == 1);
    write_list(&b, one_line("client", &me, "anna"));
    UNTIL(counts(&b).reloads == 2);
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(p.from.who, to.who, "a key keeps its number");
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

Test(gate, a_list_that_cannot_be_read_leaves_the_old_one)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = open_house(LINK_ROUTER, LINK_CLIENT, one_line("client", &me, "anna"));
    write_list(&b, "boss pk_nobody\n");
    nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 200000000 }, NULL);
    cr_expect_eq(unlink(b.list), 0);
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT);
    message m = ask(1);
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(counts(&b).reloads, 0);
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

/* A stage hears of its peers by a PLAN, which may come after their first try. */
Test(gate, a_key_that_is_admitted_later_gets_in_on_its_own)
{
    err e = { 0 };
    owner me = make_owner("me"), host = make_owner("host");
    house b = { .host = host };
    OK(hub_open(&b.h, &e));
    OK(hub_trust(b.h, &(hub_trusts){ .key = host.file }, &e));
    OK(link_bind(&b.l, b.h, LINK_PULL, LINK_DATA, "tcp://127.0.0.1:*", &e));
    guest g = knock(&b, &me, b.host.key, LINK_PUSH, LINK_DATA);
    UNTIL(counts(&b).unknown >= 1);
    allow_entry a = { .role = PEER_STAGE, .name = "stage 0" };
    OK(key_parse(a.key, me.key, strlen(me.key), &e));
    OK(hub_admit(b.h, &a, 1, &e));
    message m = msg_init(MSG_KV_ROWS);
    m.kv_rows = (msg_kv_rows){ .epoch = 1, .session = 1, .to = 1 };
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, &(view){ "x", 1 }, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(p.from.who, 1);
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

Test(gate, ipc_and_tcp_share_a_router_and_only_tcp_needs_a_key)
{
    err e = { 0 };
    owner me = make_owner("me"), other = make_owner("other");
    house b = { .host = make_owner("host") };
    char ipc[160], real[256];
    snprintf(b.list, sizeof b.list, "%s/allow", support_tmpdir());
    snprintf(ipc, sizeof ipc, "ipc://%s/client", support_tmpdir());
    write_list(&b, one_line("client", &me, "anna"));
    OK(hub_open(&b.h, &e));
    OK(hub_trust(b.h, &(hub_trusts){ .key = b.host.file, .allow = b.list }, &e));
    OK(link_bind(&b.l, b.h, LINK_ROUTER, LINK_CLIENT, ipc, &e));
    OK(link_bind_also(b.l, "tcp://127.0.0.1:*", real, &e));
    packet p = { 0 };
    message m = msg_init(MSG_STOP);
    guest here = { 0 };
    OK(hub_open(&here.h, &e));
    OK(link_connect(&here.l, here.h, LINK_DEALER, LINK_CLIENT, ipc, &e));
    OK(link_send(here.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect(p.from.who == 0 && p.head.type == MSG_STOP, "this host may stop the cluster");
    guest there = { 0 }, clear = { 0 }, stranger = { 0 };
    OK(hub_open(&there.h, &e));
    OK(hub_trust(there.h, &(hub_trusts){ .key = me.file, .server_key = b.host.key }, &e));
    OK(link_connect(&there.l, there.h, LINK_DEALER, LINK_CLIENT, real, &e));
    OK(link_send(there.l, NULL, &m, NULL, WAIT_MS, &e));
    cr_expect_eq(link_recv(b.l, &p, WAIT_MS, &e), ERR_DENIED, "nobody else may");
    m = ask(3);
    OK(link_send(there.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(p.from.who, 1);
    OK(hub_open(&clear.h, &e));
    OK(link_connect(&clear.l, clear.h, LINK_DEALER, LINK_CLIENT, real, &e));
    OK(hub_open(&stranger.h, &e));
    OK(hub_trust(stranger.h, &(hub_trusts){ .key = other.file, .server_key = b.host.key }, &e));
    OK(link_connect(&stranger.l, stranger.h, LINK_DEALER, LINK_CLIENT, real, &e));
    link_send(clear.l, NULL, &m, NULL, 0, &e);
    link_send(stranger.l, NULL, &m, NULL, 0, &e);
    cr_expect_eq(link_recv(b.l, &p, SILENCE_MS, &e), ERR_TIMEOUT);
    UNTIL(counts(&b).unknown == 1 && counts(&b).protocol + counts(&b).unfinished >= 1);
    packet_done(&p);
    leave(&here);
    leave(&there);
    leave(&clear);
    leave(&stranger);
    close_house(&b);
}

/* ---- too much of it ---- */

Test(gate, a_key_that_talks_too_fast_is_refused_and_another_is_heard)
{
    err e = { 0 };
    owner me = make_owner("me"), other = make_owner("other");
    char words[320];
    int n = snprintf(words, sizeof words, "%s", one_line("client", &me, "anna"));
    snprintf(words + n, sizeof words - (size_t)n, "%s", one_line("client", &other, "bob"));
    house b = open_house(LINK_ROUTER, LINK_CLIENT, words);
    OK(link_limit(b.l, 1, &e)); /* and 4 at once */
    guest fast = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT), slow = knock(&b, &other, b.host.key, LINK_DEALER, LINK_CLIENT);
    packet p = { 0 };
    err_code rc = ERR_OK;
    uint64_t t = clock_ns(), took = 0, refused = 0;
    uint32_t me_is = 0;
    for (uint64_t i = 1; i <= 40; i++) {
        message m = ask(i);
        OK(link_send(fast.l, NULL, &m, NULL, WAIT_MS, &e));
    }
    for (uint64_t i = 1; i <= 40; i++) {
        rc = link_recv(b.l, &p, WAIT_MS, &e);
        cr_assert(rc == ERR_OK || rc == ERR_FULL, "%s", e.text);
        cr_expect(p.from.who && (!me_is || p.from.who == me_is) && p.head.ask.ref == i, "what is refused is known, so that it can be answered");
        me_is = p.from.who;
        took += rc == ERR_OK;
        refused += rc == ERR_FULL && p.wait_ms > 0 && p.n_frames == 0;
    }
    cr_expect(took >= 4 && took <= 5 + (clock_ns() - t) / 1000000000u && took + refused == 40, "%lu and %lu", (unsigned long)took, (unsigned long)refused);
    message m = ask(99);
    OK(link_send(slow.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect(p.from.who && p.from.who != me_is);
    cr_expect_eq(link_hurried(b.l), refused);
    packet_done(&p);
    leave(&fast);
    leave(&slow);
    close_house(&b);
}

static int dial(const house *b)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    a.sin_port = htons((uint16_t)strtoul(strrchr(link_addr(b->l), ':') + 1, NULL, 10));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a));
    return fd;
}

Test(gate, an_address_that_connects_too_fast_is_hung_up_on_and_gets_in_later)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = { .host = make_owner("host") };
    snprintf(b.list, sizeof b.list, "%s/allow", support_tmpdir());
    write_list(&b, one_line("client", &me, "anna"));
    OK(hub_open(&b.h, &e));
    OK(hub_trust(b.h, &(hub_trusts){ .key = b.host.file, .allow = b.list, .handshakes = 2 }, &e)); /* and 20 at once */
    OK(link_bind(&b.l, b.h, LINK_ROUTER, LINK_CLIENT, "tcp://127.0.0.1:*", &e));
    uint64_t t = clock_ns();
    int fd[200];
    for (int i = 0; i < 200; i++) fd[i] = dial(&b);
    UNTIL(counts(&b).crowded + 20 + 2 * ((clock_ns() - t) / 1000000000u + 1) >= 200);
    cr_expect(counts(&b).crowded > 100 && counts(&b).crowded <= 180, "%lu", (unsigned long)counts(&b).crowded);
    for (int i = 0; i < 200; i++) close(fd[i]);
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CLIENT);
    message m = ask(1);
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, NULL, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(p.from.who, 1);
    packet_done(&p);
    leave(&g);
    close_house(&b);
}

Test(gate, a_frame_at_the_limit_of_its_lane_passes_sealed)
{
    err e = { 0 };
    owner me = make_owner("me");
    house b = open_house(LINK_ROUTER, LINK_CONTROL, one_line("rag", &me, "books"));
    guest g = knock(&b, &me, b.host.key, LINK_DEALER, LINK_CONTROL);
    size_t n = 1u << 22; /* PASSAGES.bytes, the control lane's limit */
    char *bytes = calloc(1, n);
    message m = msg_init(MSG_PASSAGES);
    m.passages.id = 1;
    view f[MSG_FRAMES_MAX] = { [PASSAGES_BYTES] = { bytes, n } };
    packet p = { 0 };
    OK(link_send(g.l, NULL, &m, f, WAIT_MS, &e));
    OK(link_recv(b.l, &p, WAIT_MS, &e));
    cr_expect_eq(p.frame[PASSAGES_BYTES].len, n);
    packet_done(&p);
    free(bytes);
    leave(&g);
    close_house(&b);
}

Test(gate, what_needs_keys_says_so)
{
    err e = { 0 };
    hub *h;
    link_t *l;
    owner me = make_owner("me");
    OK(hub_open(&h, &e));
    cr_expect_eq(link_bind(&l, h, LINK_PULL, LINK_DATA, "tcp://0.0.0.0:*", &e), ERR_CONFIG);
    cr_expect(strstr(e.text, "--insecure listens in the clear"), "%s", e.text);
    cr_expect_eq(link_connect(&l, h, LINK_PUSH, LINK_DATA, "tcp://10.1.2.3:5", &e), ERR_CONFIG);
    cr_expect(strstr(e.text, "--insecure connects in the clear"), "%s", e.text);
    cr_expect_eq(hub_trust(h, &(hub_trusts){ .insecure = true, .key = me.file }, &e), ERR_USAGE);
    cr_expect_eq(hub_trust(h, &(hub_trusts){ .server_key = me.key }, &e), ERR_USAGE);
    OK(hub_trust(h, &(hub_trusts){ .insecure = true }, &e));
    OK(link_bind(&l, h, LINK_PULL, LINK_DATA, "tcp://0.0.0.0:*", &e));
    link_close(&l);
    hub_close(&h);
    OK(hub_open(&h, &e));
    OK(hub_trust(h, &(hub_trusts){ .key = me.file }, &e));
    OK(link_bind(&l, h, LINK_PULL, LINK_DATA, "tcp://0.0.0.0:*", &e));
    link_close(&l);
    cr_expect_eq(link_connect_to(&l, h, LINK_PUSH, LINK_DATA, "tcp://10.1.2.3:5", "", &e), ERR_CONFIG, "a peer without a key is not reached off loopback");
    cr_expect_eq(link_connect_to(&l, h, LINK_PUSH, LINK_DATA, "tcp://10.1.2.3:5", "pk_x", &e), ERR_CONFIG);
    hub_close(&h);
}
