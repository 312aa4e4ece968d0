/* Strangers at the door: no key, a wrong key, a key that was taken away, a peer in the clear, a wrong role, the bytes of an old
 * session, frames that are too large, a thousand peers that say nothing, floods of frames and of connections. Each is refused or bounded and counted, while a job that
 * is served at the same time ends with the text that it has when nobody disturbs it. */
#include "core/clock.h"
#include "proto/link.h"
#include "tests/support_keys.h"
#include "tests/support_programs.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define IDLE 1000               /* peers that say nothing */
#define FLOOD 40000             /* messages of one client: twice what --frame-rate lets through at once */
#define CROWD 4000              /* connections of one address: the same of --handshake-rate */
#define FILES 8192
#define RSS_MORE_KB (96u << 10) /* what they may cost: ~30 KB each in the library, and the allocator's slack */
enum { SECONDS = 60 };

static char model[512], list[160], workers[64], clients[64], dir[128];
static uint16_t port_workers, port_clients;
static key_owner host, box, anna, bob, eve;
static program up, worker;

/* ---- a cluster with keys ------------------------------------------------------------------------------------------- */

static void allow(bool with_bob, bool with_box)
{
    key_entry e[4] = { { "client", &anna } };
    size_t n = 1;
    if (with_bob) e[n++] = (key_entry){ "client", &bob };
    if (with_box) e[n++] = (key_entry){ "stage", &box };
    key_list_write(list, e);
}

static void start_up(void)
{
    cr_assert(program_start(&up, "up", SLUICE("up", "--dir", dir, "-m", model, "--stages", "1", "--join", "1", "--listen", workers, "--listen-clients",
                                              clients, "--key", host.file, "--allow", list, "--stage-timeout", "20")));
}

static void start_worker(const key_owner *o)
{
    cr_assert(program_start(&worker, "worker", SLUICE("worker", "--connect", workers, "-m", model, "--key", o->file, "--server-key", host.pub)));
}

static void begin(void)
{
    struct rlimit l;
    programs_begin();
    if (!getrlimit(RLIMIT_NOFILE, &l) && l.rlim_cur < FILES) l.rlim_cur = l.rlim_max < FILES ? l.rlim_max : FILES, setrlimit(RLIMIT_NOFILE, &l);
    signal(SIGPIPE, SIG_IGN);
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(list, sizeof list, "%s/allow", support_tmpdir());
    snprintf(dir, sizeof dir, "%s/auth", programs_place());
    port_workers = port_free();
    do port_clients = port_free();
    while (port_clients == port_workers);
    snprintf(workers, sizeof workers, "tcp://127.0.0.1:%u", port_workers);
    snprintf(clients, sizeof clients, "tcp://127.0.0.1:%u", port_clients);
    host = key_owner_make("host"), box = key_owner_make("box"), anna = key_owner_make("anna"), bob = key_owner_make("bob");
    eve = key_owner_make("eve");
    allow(true, true);
    start_up();
    start_worker(&box);
    cr_assert_eq(program_wait(&up, 0, SECONDS), 0);
}

TestSuite(auth, .init = begin, .timeout = 600);

static void down(void)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", dir));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    cr_assert(programs_ended(10));
    cr_expect(run_dir_clean(dir));
}

static json_t *status(void)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("status", "--dir", dir, "--json"));
    json_t *o = r.status ? (ran_free(&r), NULL) : ran_json(&r);
    cr_assert(o);
    return o;
}

static int64_t number(const char *path)
{
    json_t *o = status();
    int64_t v = json_number_at(o, path);
    json_decref(o);
    return v;
}

static int64_t until(const char *path, int64_t at_least)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    int64_t v;
    while ((v = number(path)) < at_least && clock_ns() < end) nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    cr_expect_geq(v, at_least, "%s", path);
    return v;
}

/* Refusals of handshakes, however they are noticed: which of two sides hangs up first is chance. */
static int64_t refusals(void)
{
    json_t *o = status();
    int64_t n = json_number_at(o, "trust.protocol") + json_number_at(o, "trust.unfinished") + json_number_at(o, "trust.unknown");
    json_decref(o);
    return n;
}

/* ---- the job that goes on ------------------------------------------------------------------------------------------ */

#define JOB(o) SLUICE("submit", "--connect", clients, "--key", (o).file, "--server-key", host.key, "--json", "-p", "The old house", "-n", "200", \
                      "--ignore-eos", "--temp", "0.9", "--seed", "7")

static char *text_of(json_t *o)
{
    char *s = o ? strdup(json_string_at(o, "text")) : NULL;
    cr_assert(s && *s);
    json_decref(o);
    return s;
}

static char *undisturbed(void)
{
    ran r = program_run(0, SECONDS, NULL, JOB(anna));
    cr_assert_eq(r.status, 0);
    return text_of(ran_json(&r));
}

static program job_start(void)
{
    program p;
    int64_t rows = number("pump.decode_rows");
    cr_assert(program_start(&p, "job", JOB(anna)));
    until("pump.decode_rows", rows + 5);
    return p;
}

static void job_end(program *p, const char *want, const char *what)
{
    cr_assert_eq(program_wait(p, 0, SECONDS), 0, "%s", what);
    char *got = text_of(json_load_file(p->out, 0, NULL));
    cr_expect_str_eq(got, want, "%s changed the text", what);
    free(got);
}

/* ---- raw tcp ------------------------------------------------------------------------------------------------------- */

static int dial(uint16_t port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0, "port %u: %s", port, strerror(errno));
    return fd;
}

/* Read until the other side hangs up; false: it did not within `seconds`. */
static bool hung_up(int fd, double seconds)
{
    char buf[4096];
    uint64_t end = clock_ns() + (uint64_t)(seconds * programs_patience() * 1e9);
    while (clock_left_ms(end)) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, clock_left_ms(end)) == 1 && read(fd, buf, sizeof buf) <= 0) return true;
    }
    return false;
}

/* ZMTP 3.0: signature, version, mechanism, as-server. */
static void greeting(uint8_t out[64], const char *mechanism)
{
    memset(out, 0, 64);
    out[0] = 0xff, out[9] = 0x7f, out[10] = 3;
    memcpy(out + 12, mechanism, strlen(mechanism));
}

/* ---- the matrix ---------------------------------------------------------------------------------------------------- */

static void refused(const char *what, const char *const argv[], const char *word)
{
    ran r = program_run(-1, SECONDS, NULL, argv);
    cr_expect(r.status == 16 || r.status == 7, "%s: status %d", what, r.status);
    cr_expect(strstr(ran_errs(&r), word), "%s: \"%s\" does not say \"%s\"", what, ran_errs(&r), word);
    ran_free(&r);
}

#define SUBMIT(...) SLUICE("submit", "--connect", clients, "-n", "4", "-p", "x", __VA_ARGS__)

static void no_key(void)
{
    int64_t before = refusals();
    refused("no key", SUBMIT("--json"), "use");
    cr_expect_gt(refusals(), before);
}

static void wrong_key(void)
{
    int64_t before = number("trust.unknown");
    refused("a key that nobody listed", SUBMIT("--key", eve.file, "--server-key", host.key), eve.key);
    refused("a worker's", SLUICE("worker", "--connect", workers, "-m", model, "--key", eve.file, "--server-key", host.key), eve.key);
    cr_expect_geq(number("trust.unknown"), before + 2);
    before = refusals();
    refused("the key of another coordinator", SUBMIT("--key", anna.file, "--server-key", eve.key), "is --server-key its key");
    cr_expect_gt(refusals(), before);
}

typedef struct { hub *h; link_t *l; } guest;
static guest knock(const key_owner *o);

/* A listed client asks for what only this host may. */
static void overreach(message m, const char *word)
{
    guest g = knock(&anna);
    packet p = { 0 };
    err e;
    view none[MSG_FRAMES_MAX] = { { 0 } };
    cr_assert_eq(link_send(g.l, NULL, &m, none, 20000, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_recv(g.l, &p, (int)(20000 * programs_patience()), &e), ERR_OK, "%s", e.text);
    cr_expect(p.head.type == MSG_FAIL && p.head.fail.code == ERR_DENIED && strstr(p.head.fail.text, word), "%s: %s", word, p.head.fail.text);
    packet_done(&p);
    link_close(&g.l);
    hub_close(&g.h);
}

static void wrong_role(void)
{
    int64_t before = number("trust.role");
    message stop = msg_init(MSG_STOP), cache = msg_init(MSG_SUBMIT);
    cache.submit.ref = 1;
    snprintf(cache.submit.cache, sizeof cache.submit.cache, "%s/taken", support_tmpdir());
    overreach(stop, "role client may not send stop");
    overreach(cache, "not over a network");
    refused("a stage that submits", SUBMIT("--key", box.file, "--server-key", host.key), "role stage may not send submit");
    refused("a client that joins", SLUICE("worker", "--connect", workers, "-m", model, "--key", anna.file, "--server-key", host.key),
            "role client may not send hello");
    cr_expect_geq(number("trust.role"), before + 3);
}

static void plaintext(void)
{
    static const char web[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    uint8_t hello[64];
    int64_t before = refusals() + number("trust.lost"); /* a peer that never greeted is lost, not refused */
    greeting(hello, "NULL");
    int fd[2] = { dial(port_clients), dial(port_workers) };
    cr_expect_eq(write(fd[0], web, sizeof web - 1), (ssize_t)sizeof web - 1);
    cr_expect_eq(write(fd[1], hello, sizeof hello), (ssize_t)sizeof hello);
    for (int i = 0; i < 2; i++) {
        cr_expect(hung_up(fd[i], 15), "a peer in the clear is still connected");
        close(fd[i]);
    }
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    while (refusals() + number("trust.lost") < before + 2 && clock_ns() < end) continue;
    cr_expect_geq(refusals() + number("trust.lost"), before + 2);
}

/* ---- a key that is taken away ---- */

static guest knock(const key_owner *o)
{
    guest g;
    err e;
    cr_assert_eq(hub_open(&g.h, &e), ERR_OK);
    cr_assert_eq(hub_trust(g.h, &(hub_trusts){ .key = o->file, .server_key = host.key, .watch = true }, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_connect(&g.l, g.h, LINK_DEALER, LINK_CLIENT, clients, &e), ERR_OK, "%s", e.text);
    return g;
}

static msg_type asked(guest *g, uint64_t ref)
{
    packet p = { 0 };
    err e;
    message m = msg_init(MSG_ASK);
    m.ask.ref = ref;
    cr_assert_eq(link_send(g->l, NULL, &m, NULL, 20000, &e), ERR_OK, "%s", e.text);
    err_code rc = link_recv(g->l, &p, (int)(20000 * programs_patience()), &e);
    msg_type t = rc ? MSG_NONE : p.head.type;
    if (t == MSG_FAIL) cr_expect(strstr(p.head.fail.text, "not on the list any more") && p.head.fail.ref == ref, "%s", p.head.fail.text);
    packet_done(&p);
    return t;
}

static void removed_key(void)
{
    guest g = knock(&bob);
    cr_expect_eq(asked(&g, 1), MSG_REPORT);
    int64_t reloads = number("trust.reloads"), cut = number("trust.cut");
    allow(false, true);
    until("trust.reloads", reloads + 1);
    cr_expect_eq(asked(&g, 2), MSG_FAIL, "a live connection of a key that was taken away is served");
    until("trust.cut", cut + 1);
    link_close(&g.l);
    hub_close(&g.h);
    refused("a key that was taken away", SUBMIT("--key", bob.file, "--server-key", host.key), bob.key);
    allow(true, true);
    until("trust.reloads", reloads + 2);
    g = knock(&bob);
    cr_expect_eq(asked(&g, 3), MSG_REPORT, "a key that came back");
    link_close(&g.l);
    hub_close(&g.h);
}

/* ---- an old session's bytes ---- */

typedef struct { int listener, to; text said; uint16_t port; } tap;

static void pass(int from, int to, text *keep)
{
    char buf[65536];
    ssize_t n = read(from, buf, sizeof buf);
    if (n <= 0) {
        shutdown(to, SHUT_RDWR);
        shutdown(from, SHUT_RDWR);
        return;
    }
    if (keep) text_add(keep, buf, (size_t)n);
    for (ssize_t at = 0, w; at < n; at += w)
        if ((w = write(to, buf + at, (size_t)(n - at))) <= 0) return;
}

/* One connection through us, and what its client said. */
static void *tap_run(void *arg)
{
    tap *t = arg;
    int fd[2] = { accept(t->listener, NULL, NULL), dial(port_clients) };
    for (;;) {
        struct pollfd p[2] = { { fd[0], POLLIN, 0 }, { fd[1], POLLIN, 0 } };
        if (poll(p, 2, -1) < 0 && errno != EINTR) break;
        if (p[0].revents) pass(fd[0], fd[1], &t->said);
        if (p[1].revents) pass(fd[1], fd[0], NULL);
        if ((p[0].revents | p[1].revents) & POLLHUP) break;
    }
    close(fd[0]);
    close(fd[1]);
    return NULL;
}

static uint16_t listen_any(int *fd)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(*fd >= 0 && !bind(*fd, (struct sockaddr *)&a, sizeof a) && !listen(*fd, 1) && !getsockname(*fd, (struct sockaddr *)&a, &n));
    return ntohs(a.sin_port);
}

static void replayed(void)
{
    tap t = { 0 };
    char through[64];
    pthread_t thread;
    t.port = listen_any(&t.listener);
    snprintf(through, sizeof through, "tcp://127.0.0.1:%u", t.port);
    cr_assert_eq(pthread_create(&thread, NULL, tap_run, &t), 0);
    ran r = program_run(0, SECONDS, NULL, SLUICE("submit", "--connect", through, "--key", anna.file, "--server-key", host.key, "-n", "4", "-p", "x", "--detach"));
    cr_assert_eq(r.status, 0);
    int64_t jobs = strtoll(ran_out(&r), NULL, 10);
    ran_free(&r);
    pthread_join(thread, NULL);
    close(t.listener);
    cr_assert_gt(t.said.len, 300, "a greeting, three commands and a job");
    int64_t before = refusals(), accepted = number("trust.accepted");
    int fd = dial(port_clients);
    if (write(fd, t.said.ptr, t.said.len) < 0) printf("# hung up while the bytes came\n");
    cr_expect(hung_up(fd, 15), "the bytes of an old session are heard to the end");
    close(fd);
    cr_expect_gt(refusals(), before);
    cr_expect_eq(number("trust.accepted"), accepted, "they passed for a handshake");
    r = program_run(-1, SECONDS, NULL, SLUICE("jobs", "--connect", clients, "--key", anna.file, "--server-key", host.key, "--json"));
    json_t *o = ran_json(&r), *all = json_object_get(o, "jobs");
    for (size_t i = 0; i < json_array_size(all); i++)
        cr_expect_leq(json_number_at(json_array_get(all, i), "id"), jobs + 1, "a job was submitted by old bytes"); /* + 1: the one that runs beside */
    json_decref(o);
    text_free(&t.said);
}

/* ---- too large ---- */

static void oversized_stranger(void)
{
    uint8_t hello[64], command[9] = { 0x06, 0, 0, 1, 0, 0, 0, 0, 0 }; /* a long command of 2^40 bytes */
    int64_t before = refusals() + number("trust.lost");
    uint64_t rss = process_rss_kb((pid_t)number("pid"));
    greeting(hello, "CURVE");
    for (int i = 0; i < 20; i++) {
        int fd = dial(i % 2 ? port_clients : port_workers);
        cr_expect_eq(write(fd, hello, sizeof hello), (ssize_t)sizeof hello);
        cr_expect_eq(write(fd, command, sizeof command), (ssize_t)sizeof command);
        cr_expect(hung_up(fd, 15), "a frame of 2^40 bytes is waited for");
        close(fd);
    }
    cr_expect_gt(refusals() + number("trust.lost"), before);
    cr_expect_lt(process_rss_kb((pid_t)number("pid")), rss + RSS_MORE_KB);
}

/* A listed worker, by the raw library: 5 MiB where the control lane takes 4. */
static void oversized_peer(void)
{
    key_pair k;
    uint8_t server[KEY_BYTES];
    int64_t lost = number("trust.lost"), accepted = number("trust.accepted");
    cr_assert_eq(key_pair_read(&k, box.file, NULL), ERR_OK);
    cr_assert_eq(key_public(server, host.key, NULL), ERR_OK);
    void *ctx = zmq_ctx_new(), *s = zmq_socket(ctx, ZMQ_DEALER);
    int zero = 0;
    zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, server, KEY_BYTES);
    zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, k.open, KEY_BYTES);
    zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, k.secret, KEY_BYTES);
    cr_assert_eq(zmq_connect(s, workers), 0);
    size_t n = 5u << 20;
    void *big = calloc(1, n);
    cr_assert_eq(zmq_send(s, big, n, 0), (int)n);
    until("trust.accepted", accepted + 1);
    until("trust.lost", lost + 1);
    free(big);
    zmq_close(s);
    zmq_ctx_term(ctx);
    key_pair_wipe(&k);
}

/* ---- a thousand ---- */

static void idle_peers(void)
{
    static int fd[IDLE];
    uint8_t hello[64];
    json_t *o = status();
    pid_t pid = (pid_t)json_number_at(o, "pid");
    int64_t before = json_number_at(o, "trust.unfinished");
    json_decref(o);
    uint64_t rss = process_rss_kb(pid), t = clock_ns();
    greeting(hello, "CURVE");
    for (int i = 0; i < IDLE; i++) {
        fd[i] = dial(i % 2 ? port_clients : port_workers);
        if (i % 4 > 1) cr_expect_eq(write(fd[i], hello, sizeof hello), (ssize_t)sizeof hello); /* half of them begin to speak */
    }
    guest g = knock(&bob);
    cr_expect_eq(asked(&g, 1), MSG_REPORT, "nobody gets in beside the idle ones");
    link_close(&g.l);
    hub_close(&g.h);
    uint64_t more = process_rss_kb(pid) - rss;
    cr_expect_lt(process_rss_kb(pid), rss + RSS_MORE_KB);
    for (int i = 0; i < IDLE; i++) {
        cr_expect(hung_up(fd[i], 30), "idle peer %d is still connected", i);
        close(fd[i]);
    }
    printf("# %d idle peers: %llu KB more in the coordinator, all gone after %.1f s\n", IDLE, (unsigned long long)more, (double)(clock_ns() - t) / 1e9);
    until("trust.unfinished", before + IDLE);
}

/* ---- too fast ---- */

/* A listed client says FLOOD messages as fast as the network carries them: each has an answer, or a refusal that says when to come
 * back; what does not fit the client's queue, as it reads too slowly, is left out. */
static void flood_of_frames(void)
{
    guest g = knock(&bob);
    packet p = { 0 };
    err e;
    int64_t before = number("trust.hurried");
    uint64_t refused = 0, answered = 0, sent = 0, t = clock_ns(), end = t + (uint64_t)(SECONDS * programs_patience() * 1e9);
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = 999999999; /* nobody's: the cheapest thing to be asked */
    while (answered + refused < FLOOD && clock_ns() < end) {
        bool room = sent < FLOOD && link_send(g.l, NULL, &m, NULL, 0, &e) == ERR_OK;
        sent += room;
        bool all = sent == FLOOD;
        if (link_recv(g.l, &p, room ? 0 : all ? (int)(1000 * programs_patience()) : 20, &e)) {
            if (all && !room) break;
            continue;
        }
        bool hurried = p.head.type == MSG_FAIL && p.head.fail.code == ERR_FULL;
        if (hurried) cr_expect(strstr(p.head.fail.text, "frames a second") && p.head.fail.retry_ms > 0 && p.head.fail.ref == m.cancel.job, "%s", p.head.fail.text);
        refused += hurried;
        answered += !hurried;
    }
    double s = (double)(clock_ns() - t) / 1e9;
    printf("# %d messages of one client in %.1f s: %llu heard, %llu refused\n", FLOOD, s, (unsigned long long)answered, (unsigned long long)refused);
    int64_t least = before + (int64_t)(refused ? refused : 1);      /* refusals may all be among what was left out */
    cr_expect_geq(until("trust.hurried", least), least);
    packet_done(&p);
    link_close(&g.l);
    hub_close(&g.h);
}

static void flood_of_handshakes(void)
{
    static int fd[CROWD];
    int64_t before = number("trust.crowded");
    uint64_t t = clock_ns();
    for (int i = 0; i < CROWD; i++) fd[i] = dial(i % 2 ? port_clients : port_workers);
    int64_t crowded = until("trust.crowded", before + 1) - before;
    guest g = knock(&bob);
    cr_expect_eq(asked(&g, 1), MSG_REPORT, "an honest peer of the same address gets in when the crowd is through");
    link_close(&g.l);
    hub_close(&g.h);
    for (int i = 0; i < CROWD; i++) close(fd[i]);
    printf("# %d connections of one address: %lld hung up on at once, another peer in after %.1f s\n", CROWD, (long long)crowded, (double)(clock_ns() - t) / 1e9);
}

Test(auth, every_stranger_is_refused_and_counted_while_a_job_is_served)
{
    static const struct { const char *what; void (*f)(void); } matrix[] = {
        { "no key", no_key },           { "a wrong key", wrong_key },       { "a wrong role", wrong_role },
        { "a peer in the clear", plaintext }, { "a removed key", removed_key }, { "replayed bytes", replayed },
        { "a stranger's huge frame", oversized_stranger }, { "a peer's huge frame", oversized_peer }, { "idle peers", idle_peers },
        { "a flood of frames", flood_of_frames }, { "a flood of handshakes", flood_of_handshakes },
    };
    char *want = undisturbed();
    for (size_t i = 0; i < sizeof matrix / sizeof *matrix; i++) {
        uint64_t t = clock_ns();
        program p = job_start();
        matrix[i].f();
        job_end(&p, want, matrix[i].what);
        printf("# %s: refused, the job beside it unchanged (%.1f s)\n", matrix[i].what, (double)(clock_ns() - t) / 1e9);
    }
    json_t *o = status();
    cr_expect_str_eq(json_string_at(o, "trust.public_key"), host.key);
    cr_expect_eq(json_number_at(o, "epoch"), 1, "the cluster was disturbed");
    json_decref(o);
    free(want);
    down();
}

/* ---- workers ------------------------------------------------------------------------------------------------------- */

Test(auth, a_worker_whose_key_is_taken_away_is_let_go_and_the_job_goes_on)
{
    char *want = undisturbed();
    program p = job_start();
    allow(true, false);
    job_end(&p, want, "a worker that lost its key");
    cr_expect_eq(program_wait(&worker, 16, SECONDS), 16, "it hears why and ends");
    text errs = program_errs(&worker);
    cr_expect(strstr(errs.ptr, "taken off the list") || strstr(errs.ptr, "not on the list any more"), "%s", errs.ptr);
    text_free(&errs);
    json_t *o = status();
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    while (json_array_size(json_object_get(o, "stages")) != 1 && clock_ns() < end) json_decref(o), o = status();
    cr_expect_eq(json_array_size(json_object_get(o, "stages")), 1, "its layers are with the others");
    json_decref(o);
    allow(true, true);
    until("trust.reloads", 2);
    start_worker(&box);
    p = job_start();
    job_end(&p, want, "a worker that came back");
    end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    size_t spares = 0;
    while (!spares && clock_ns() < end) {
        o = status();
        spares = json_array_size(json_object_get(o, "spares")) + (json_array_size(json_object_get(o, "stages")) > 1);
        json_decref(o);
    }
    cr_expect_eq(spares, 1, "it is here again");
    free(want);
    down();
}

Test(auth, a_worker_finds_a_killed_coordinator_again_and_proves_itself_anew)
{
    char *want = undisturbed();
    pid_t pid = (pid_t)number("pid");
    cr_assert_eq(kill(pid, SIGKILL), 0);
    while (!kill(pid, 0)) nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    start_up();
    cr_assert_eq(program_wait(&up, 0, SECONDS), 0);
    cr_expect_eq(worker.over, false);
    cr_expect_geq(number("trust.accepted"), 1);
    char *got = undisturbed();
    cr_expect_str_eq(got, want);
    free(got);
    free(want);
    down();
}
