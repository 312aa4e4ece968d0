/* The proxy: every connection between coordinator and workers goes through this process (the shim sees to it). It reads the
 * wire's framing (ZMTP 3), passes whole messages on, keeps count of what is under way, and on the driver's order spoils one:
 * delays, drops, truncates, shortens, doubles, reorders, corrupts it or cuts the connection. It never spoils unasked.
 *   proxy SOCKET PAGE */
#include "core/clock.h"
#include "proto/message.h"
#include "tests/faults/observed.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAIRS 1024u
#define GREETING 64u            /* ZMTP 3: bytes before the first frame */
#define BACKLOG (16u << 20)     /* bytes that wait for a slow reader before we stop reading for it */
#define FLAG_MORE 1u
#define FLAG_LONG 2u
#define FLAG_COMMAND 4u

typedef struct {                /* one direction of a connection */
    text in, out;               /* bytes not understood yet; bytes to be written */
    size_t at;                  /* of out, written */
    size_t greeted;             /* bytes of the greeting so far */
    uint64_t held_until;        /* nothing is written before: a delay */
    text late;                  /* a message that the next one overtakes */
    uint64_t late_until;
    bool cut_when_written;
} way;
typedef struct { int fd[2]; fault_lane lane; bool used; way way[2]; } pair;    /* fd[0]: who connected; way[0]: from it */
typedef struct { uint64_t step; uint32_t epoch; bool prefill, probe, used; } seen;

static observed *o;
static pair pairs[PAIRS];
static seen flying[256];

/* ---- what is under way --------------------------------------------------------------------------------------------- */

static void forget_steps(void)
{
    memset(flying, 0, sizeof flying);
    atomic_store(&o->prefill, 0);
    atomic_store(&o->decode, 0);
    atomic_store(&o->pushes, 0);
}

static void count_steps(void)
{
    uint32_t n[2] = { 0 };
    for (size_t i = 0; i < sizeof flying / sizeof *flying; i++)
        if (flying[i].used && !flying[i].probe) n[flying[i].prefill]++;
    atomic_store(&o->decode, n[0]);
    atomic_store(&o->prefill, n[1]);
}

static bool is_prefill(const msg_step *m, view rows)
{
    step_row a, b;
    for (uint64_t i = 1; i < m->n_rows; i++) {
        memcpy(&a, (const char *)rows.ptr + (i - 1) * sizeof a, sizeof a);
        memcpy(&b, (const char *)rows.ptr + i * sizeof b, sizeof b);
        if (a.session == b.session) return true;
    }
    return false;
}

static bool is_probe(const msg_step *m, view rows)
{
    step_row a;
    if (m->n_rows != 1) return false;
    memcpy(&a, rows.ptr, sizeof a);
    return a.session < 64;
}

static phase now_is(void)
{
    if (atomic_load(&o->loading)) return PHASE_LOAD;
    if (atomic_load(&o->prefill) || atomic_load(&o->pushes)) return PHASE_PREFILL;
    if (atomic_load(&o->decode)) return PHASE_DECODE;
    return atomic_load(&o->queries) ? PHASE_RETRIEVE : PHASE_IDLE;
}

static phase see_step(const msg_step *m, view rows)
{
    bool prefill = is_prefill(m, rows);
    seen *s = &flying[m->step % (sizeof flying / sizeof *flying)];
    bool probe = is_probe(m, rows);
    if (m->hop == 0 && m->epoch == atomic_load(&o->epoch) && !(s->used && s->step == m->step)) {
        *s = (seen){ m->step, (uint32_t)m->epoch, prefill, probe, m->n_rows > 0 };
        atomic_fetch_add(&o->steps, 1);
        count_steps();
    }
    return probe ? PHASE_LOAD : prefill ? PHASE_PREFILL : PHASE_DECODE;
}

static phase see_result(const msg_result *m)
{
    seen *s = &flying[m->step % (sizeof flying / sizeof *flying)];
    if (!s->used || s->step != m->step) return now_is();
    return s->probe ? PHASE_LOAD : s->prefill ? PHASE_PREFILL : PHASE_DECODE;
}

static void saw_result(const msg_result *m)
{
    seen *s = &flying[m->step % (sizeof flying / sizeof *flying)];
    if (!s->used || s->step != m->step) return;
    s->used = false;
    count_steps();
    if (m->epoch != atomic_load(&o->epoch)) return;
    atomic_store(&o->loading, 0);
    if (s->probe) return;
    if (atomic_load(&o->served) == (uint32_t)m->epoch) return;
    atomic_store(&o->t_served, clock_ns());
    atomic_store(&o->served, (uint32_t)m->epoch);
}

static phase see_control(const message *m)
{
    switch (m->type) {
    case MSG_PLAN:
        if (m->plan.epoch != atomic_load(&o->epoch)) atomic_store(&o->loading, 1), forget_steps();
        atomic_store(&o->epoch, (uint32_t)m->plan.epoch);
        break;
    case MSG_QUERY: atomic_fetch_add(&o->queries, 1); break;
    case MSG_PASSAGES: atomic_store(&o->queries, 0); break;
    case MSG_KV_DONE: atomic_store(&o->pushes, 0); break;
    default: break;
    }
    return now_is();
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

typedef struct { size_t at, len; } span;
typedef struct { span body[8]; uint32_t n; bool command; } shape;   /* frames of one message, by place in its bytes */

/* Bytes of the first whole message in the text; 0: not yet. */
static size_t whole(const text *t, shape *s)
{
    const uint8_t *p = (const uint8_t *)t->ptr;
    size_t at = 0;
    *s = (shape){ .n = 0 };
    for (;;) {
        if (t->len - at < 2) return 0;
        uint8_t flags = p[at];
        size_t head = flags & FLAG_LONG ? 9 : 2, n = 0;
        if (t->len - at < head) return 0;
        for (size_t i = 1; i < head; i++) n = n << 8 | p[at + i];
        if (t->len - at - head < n) return 0;
        if (s->n < 8) s->body[s->n++] = (span){ at + head, n };
        s->command = flags & FLAG_COMMAND;
        at += head + n;
        if (!(flags & FLAG_MORE)) return at;
    }
}

static phase look(const pair *c, const char *p, const shape *s, message *m)
{
    err e;
    view rows = s->n > 1 ? (view){ p + s->body[1].at, s->body[1].len } : (view){ NULL, 0 };
    if (s->command || msg_decode(m, p + s->body[0].at, s->body[0].len, &e)) return PHASE_IDLE;
    if (m->type == MSG_STEP && rows.len == m->step.n_rows * sizeof(step_row)) return see_step(&m->step, rows);
    if (m->type == MSG_RESULT) return see_result(&m->result);
    if (m->type == MSG_KV_PUSH) return atomic_fetch_add(&o->pushes, 1), PHASE_PREFILL;
    return c->lane == LANE_CONTROL ? see_control(m) : now_is();
}

static fault_lane lane_of(const pair *c, const message *m)
{
    if (m->type == MSG_STEP) return m->step.hop ? LANE_HOP : LANE_FIRST;
    return c->lane;
}

static void close_pair(pair *c)
{
    for (int i = 0; i < 2; i++) {
        close(c->fd[i]);
        text_free(&c->way[i].in);
        text_free(&c->way[i].out);
        text_free(&c->way[i].late);
    }
    memset(c, 0, sizeof *c);
}

static void put(way *w, const char *p, size_t n)
{
    if (!text_add(&w->out, p, n)) abort();
}

/* The message with its longest frame a few bytes shorter, the framing still right. */
static void put_short(way *w, const char *p, size_t n, const shape *s, uint64_t draw)
{
    uint32_t k = 0;
    for (uint32_t i = 1; i < s->n; i++)
        if (s->body[i].len > s->body[k].len) k = i;
    size_t at = 0, less = s->body[k].len ? 1 + draw % s->body[k].len : 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint8_t head[9] = { (uint8_t)(FLAG_LONG | (i + 1 < s->n ? FLAG_MORE : 0)) };
        size_t len = s->body[i].len - (i == k ? less : 0);
        for (int b = 0; b < 8; b++) head[1 + b] = (uint8_t)(len >> (8 * (7 - b)));
        put(w, (const char *)head, sizeof head);
        put(w, p + s->body[i].at, len);
        at = s->body[i].at + s->body[i].len;
    }
    if (at != n) abort();
}

static void spoil(way *w, char *p, size_t n, const shape *s, uint32_t fault, uint64_t draw)
{
    const span *f = &s->body[(draw >> 8) % s->n];
    uint64_t now = clock_ns();
    for (uint32_t i = 0; !f->len && i < s->n; i++) f = &s->body[i];
    switch (fault) {
    case FRAME_DELAY: w->held_until = now + (20 + draw % 400) * 1000000; break;
    case FRAME_DROP: return;
    case FRAME_TRUNCATE:
        put(w, p, 1 + draw % (n - 1));
        w->cut_when_written = true;
        return;
    case FRAME_SHORTEN: put_short(w, p, n, s, draw); return;
    case FRAME_DOUBLE: put(w, p, n); break;
    case FRAME_REORDER:
        if (w->late.len) break;
        if (!text_add(&w->late, p, n)) abort();
        w->late_until = now + 150000000;
        return;
    case FRAME_CORRUPT: p[f->at + draw % f->len] ^= (char)(1 << (draw >> 40) % 8); break;
    case FRAME_CUT: w->cut_when_written = true; return;
    default: break;
    }
    put(w, p, n);
}

static void pass(pair *c, way *w, char *p, size_t n, const shape *s)
{
    message m = { 0 };
    phase at = look(c, p, s, &m);
    uint32_t fault = atomic_load(&o->fault), want = atomic_load(&o->want);
    bool fits = fault && m.type && lane_of(c, &m) == atomic_load(&o->lane) && at != PHASE_IDLE && (want == PHASE_IDLE || want == at);
    if (fits) {
        atomic_store(&o->hit_phase, at);
        spoil(w, p, n, s, fault, atomic_load(&o->draw));
        atomic_store(&o->fault, FRAME_NONE);
        atomic_fetch_add(&o->hits, 1);
    } else {
        put(w, p, n);
    }
    if (!fits && w->late.len) put(w, w->late.ptr, w->late.len), text_clear(&w->late);
    if (m.type == MSG_RESULT && !(fits && fault != FRAME_DELAY && fault != FRAME_DOUBLE)) saw_result(&m.result);
    atomic_fetch_add(&o->messages, 1);
}

static void understand(pair *c, way *w)
{
    size_t used = 0;
    if (w->greeted < GREETING) { /* each side waits for the other's first bytes before it sends the rest */
        used = GREETING - w->greeted < w->in.len ? GREETING - w->greeted : w->in.len;
        put(w, w->in.ptr, used);
        w->greeted += used;
    }
    for (;;) {
        text rest = { w->in.ptr + used, w->in.len - used, 0 };
        shape s;
        size_t n = whole(&rest, &s);
        if (!n) break;
        pass(c, w, rest.ptr, n, &s);
        used += n;
    }
    memmove(w->in.ptr, w->in.ptr + used, w->in.len - used);
    w->in.len -= used;
}

/* ---- bytes --------------------------------------------------------------------------------------------------------- */

/* false: the connection is over. */
static bool read_some(pair *c, int i)
{
    way *w = &c->way[i];
    if (!text_reserve(&w->in, 1 << 16)) abort();
    ssize_t n = recv(c->fd[i], w->in.ptr + w->in.len, 1 << 16, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    w->in.len += (size_t)n;
    understand(c, w);
    return true;
}

static bool write_some(pair *c, int i)
{
    way *w = &c->way[i];
    uint64_t now = clock_ns();
    if (w->late.len && now > w->late_until) put(w, w->late.ptr, w->late.len), text_clear(&w->late);
    if (now < w->held_until) return true;
    while (w->at < w->out.len) {
        ssize_t n = send(c->fd[!i], w->out.ptr + w->at, w->out.len - w->at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        w->at += (size_t)n;
    }
    w->at = 0;
    if (w->out.cap > 1 << 20) text_free(&w->out);
    text_clear(&w->out);
    return !w->cut_when_written;
}

static fault_lane lane_of_path(const char *path)
{
    const char *dot = strrchr(path, '.');
    if (dot && !strcmp(dot, ".data")) return LANE_HOP;
    if (dot && !strcmp(dot, ".bulk")) return LANE_BULK;
    return strstr(path, "/result") ? LANE_RESULT : LANE_CONTROL;
}

static void take_connection(int listener)
{
    union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } c;
    char path[109] = "";
    struct iovec v = { path, 108 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c };
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), other;
    if (fd < 0) return;
    pair *p = pairs;
    while (p < pairs + PAIRS && p->used) p++;
    bool ok = p < pairs + PAIRS && recvmsg(fd, &m, MSG_WAITALL | MSG_CMSG_CLOEXEC) == 108 && m.msg_controllen >= CMSG_LEN(sizeof(int));
    if (!ok) {
        close(fd);
        return;
    }
    memcpy(&other, CMSG_DATA(&c.h), sizeof other);
    *p = (pair){ .fd = { fd, other }, .lane = lane_of_path(path), .used = true };
    atomic_fetch_add(&o->connections, 1);
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

static void serve(int listener)
{
    static struct pollfd at[1 + 2 * PAIRS];
    static pair *whose[1 + 2 * PAIRS];
    for (;;) {
        nfds_t n = 1;
        bool timed = false;
        at[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
        for (pair *p = pairs; p < pairs + PAIRS; p++)
            for (int i = 0; p->used && i < 2; i++) {
                way *from = &p->way[i], *to = &p->way[!i];
                bool held = clock_ns() < to->held_until;
                timed = timed || held || to->late.len;
                short events = (short)((from->out.len < BACKLOG ? POLLIN : 0) | (to->out.len && !held ? POLLOUT : 0));
                whose[n] = p;
                at[n++] = (struct pollfd){ .fd = p->fd[i], .events = events };
            }
        if (poll(at, n, timed ? 5 : -1) < 0 && errno != EINTR) exit(1);
        if (at[0].revents) take_connection(listener);
        for (nfds_t k = 1; k < n; k++) {
            pair *p = whose[k];
            if (!p->used || (p->fd[0] != at[k].fd && p->fd[1] != at[k].fd)) continue;
            int i = p->fd[1] == at[k].fd;
            bool alive = true;
            if (at[k].revents & (POLLIN | POLLHUP | POLLERR)) alive = read_some(p, i);
            if (alive) alive = write_some(p, i) && write_some(p, !i);
            if (!alive) close_pair(p);
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int page = argc == 3 ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
    if (page < 0) return 2;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    if (o == MAP_FAILED) return 2;
    strncpy(a.sun_path, argv[1], sizeof a.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 256)) return 3;
    serve(listener);
}
