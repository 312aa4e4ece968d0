/* The list of peers in force, and the thread that asks and watches. It passes no message on and closes no connection: what a peer
 * without rights says is dropped where it is received (link.c). */
#include "proto/gate.h"
#include "core/clock.h"
#include "core/log.h"
#include "proto/zap.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define WATCHES_MAX 1024u     /* sockets that are watched at once: listeners, and DEALERs, of which a process has a few */
#define LOOK_MS 500           /* how soon a changed list is noticed; a question that is answered no looks too */
#define SETTLE_MS 60          /* a file that somebody is still writing is not read: it must look the same so long */
#define BURST 256u            /* questions or events of one socket in a row */

typedef struct { dev_t dev; ino_t ino; off_t size; struct timespec m, c; bool there; } signature;

struct gate {
    void *ctx, *zap;
    lookout_set watches;
    bool again, has_file;
    char file[1024];
    pthread_t thread;
    pthread_mutex_t lock;         /* guards everything below but counters, version and what is the thread's own */
    bool quit;
    gate_peer *peer;              /* [n_peers], number - 1 */
    uint32_t n_peers, cap_peers;
    allow_list from_file, beside;
    _Atomic uint64_t version;
#define X(name, doc) _Atomic uint64_t c_##name;
    GATE_COUNTS(X)
#undef X
    /* the thread's own */
    signature read, seen;
    uint64_t t_seen;
    limiter said_unknown;
    /* the receivers' (guarded by lock) */
    limiter said_cut, said_role;
};

/* ---- counting and saying ------------------------------------------------------------------------------------------- */

#define COUNT(g, name) atomic_fetch_add_explicit(&(g)->c_##name, 1, memory_order_relaxed)

void gate_count(const gate *g, gate_counts *out)
{
#define X(name, doc) out->name = atomic_load_explicit(&((gate *)(uintptr_t)g)->c_##name, memory_order_relaxed);
    GATE_COUNTS(X)
#undef X
    lookout_set *w = &((gate *)(uintptr_t)g)->watches;
    out->protocol = atomic_load(&w->protocol);
    out->unfinished = atomic_load(&w->unfinished);
    out->lost = atomic_load(&w->lost);
    out->crowded = atomic_load(&w->crowded);
}

/* ---- the peers ----------------------------------------------------------------------------------------------------- */

static gate_peer *peer_of(gate *g, const uint8_t *key)
{
    for (uint32_t i = 0; i < g->n_peers; i++)
        if (!memcmp(g->peer[i].key, key, KEY_BYTES)) return &g->peer[i];
    return NULL;
}

static gate_peer *new_peer(gate *g, const uint8_t *key)
{
    if (g->n_peers == g->cap_peers) {
        uint32_t more = g->cap_peers ? g->cap_peers * 2 : 32;
        gate_peer *at = more > 64 * ALLOW_MAX ? NULL : realloc(g->peer, more * sizeof *at);
        if (!at) return NULL;
        g->peer = at;
        g->cap_peers = more;
    }
    gate_peer *p = &g->peer[g->n_peers++];
    *p = (gate_peer){ .role = PEER_LOCAL };
    memcpy(p->key, key, KEY_BYTES);
    return p;
}

/* What both lists say now; a key that neither has keeps its number and loses its rights. */
static bool apply(gate *g)
{
    const allow_list *lists[] = { &g->beside, &g->from_file };
    bool ok = true;
    for (uint32_t i = 0; i < g->n_peers; i++) g->peer[i].allowed = false;
    for (size_t k = 0; k < 2; k++)
        for (uint32_t i = 0; i < lists[k]->n; i++) {
            const allow_entry *a = &lists[k]->at[i];
            gate_peer *p = peer_of(g, a->key);
            if (!p) p = new_peer(g, a->key);
            ok = ok && p;
            if (!p) continue;
            p->role = a->role;
            memcpy(p->name, a->name, sizeof p->name);
            p->allowed = true;
        }
    atomic_fetch_add(&g->version, 1);
    return ok;
}

err_code gate_set(gate *g, const allow_entry *at, uint32_t n, err *e)
{
    allow_entry *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!copy) return err_set(e, ERR_NOMEM, "out of memory for a list of peers");
    memcpy(copy, at, n * sizeof *copy);
    pthread_mutex_lock(&g->lock);
    free(g->beside.at);
    g->beside = (allow_list){ copy, n };
    bool ok = apply(g);
    pthread_mutex_unlock(&g->lock);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a list of peers");
}

bool gate_look(gate *g, uint32_t who, gate_peer *out)
{
    pthread_mutex_lock(&g->lock);
    bool is = who && who <= g->n_peers;
    if (is) *out = g->peer[who - 1];
    pthread_mutex_unlock(&g->lock);
    return is;
}

lookout_set *gate_watches(gate *g) { return &g->watches; }
uint64_t gate_version(const gate *g) { return atomic_load(&((gate *)(uintptr_t)g)->version); }

uint32_t gate_listed(gate *g)
{
    uint32_t n = 0;
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 0; i < g->n_peers; i++) n += g->peer[i].allowed;
    pthread_mutex_unlock(&g->lock);
    return n;
}

static bool worth_saying_now(gate *g, limiter *l, uint64_t *held)
{
    pthread_mutex_lock(&g->lock);
    bool yes = limiter_lets(l, held);
    pthread_mutex_unlock(&g->lock);
    return yes;
}

err_code gate_check(gate *g, uint32_t who, const message *m, err *e)
{
    gate_peer p = { .allowed = false };
    char key[KEY_TEXT];
    uint64_t held;
    bool known = gate_look(g, who, &p);
    if (known) key_show(p.key, key);
    if (known && p.allowed) {
        if (!allow_message(p.role, m, e)) return ERR_OK;
        COUNT(g, role);
        err_wrap(e, "refused: peer \"%s\" (key %s)", p.name, key);
        if (worth_saying_now(g, &g->said_role, &held)) LOG(LOG_WARN, "PEER-ROLE", "text=\"%s\" more=%" PRIu64, e->text, held);
        return ERR_DENIED;
    }
    COUNT(g, cut);
    err_set(e, ERR_DENIED, "refused: the key of peer \"%s\" (%s) is not on the list any more", p.name, known ? key : "unknown");
    if (worth_saying_now(g, &g->said_cut, &held)) LOG(LOG_WARN, "PEER-CUT", "text=\"%s\" more=%" PRIu64, e->text, held);
    return ERR_DENIED;
}

err_code gate_nameless(gate *g, const char *where, err *e)
{
    COUNT(g, cut);
    return err_set(e, ERR_DENIED, "a message without a key's name on %s was dropped", where);
}

/* ---- the file ------------------------------------------------------------------------------------------------------ */

static signature sign(const char *file)
{
    struct stat st;
    if (stat(file, &st)) return (signature){ .there = false };
    return (signature){ st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim, true };
}

static bool same(const signature *a, const signature *b)
{
    return a->there == b->there && a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->m.tv_sec == b->m.tv_sec
           && a->m.tv_nsec == b->m.tv_nsec && a->c.tv_sec == b->c.tv_sec && a->c.tv_nsec == b->c.tv_nsec;
}

static err_code load(gate *g, err *e)
{
    allow_list l;
    err_code rc = allow_read(&l, g->file, e);
    if (rc) return rc;
    pthread_mutex_lock(&g->lock);
    allow_free(&g->from_file);
    g->from_file = l;
    bool ok = apply(g);
    pthread_mutex_unlock(&g->lock);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a list of peers");
}

/* A list that cannot be read leaves the old one in force, and says so. */
static void reload(gate *g)
{
    err e;
    g->read = g->seen;
    if (load(g, &e)) {
        LOG(LOG_ERROR, "ALLOW-LIST-BAD", "text=\"%s\" in_force=\"the one before\"", e.text);
        return;
    }
    COUNT(g, reloads);
    LOG(LOG_WARN, "ALLOW-LIST-READ", "file=%s peers=%u", g->file, gate_listed(g));
}

/* Milliseconds until it should be called again. */
static int mind_file(gate *g)
{
    if (!g->has_file) return -1;
    signature now = sign(g->file);
    if (same(&now, &g->read)) {
        g->seen = now;
        return LOOK_MS;
    }
    if (!same(&now, &g->seen)) g->seen = now, g->t_seen = clock_ns();
    if (clock_ns() - g->t_seen < SETTLE_MS * 1000000ull) return SETTLE_MS;
    reload(g);
    return LOOK_MS;
}

/* ---- questions ----------------------------------------------------------------------------------------------------- */

static uint32_t number_of(gate *g, const uint8_t *key)
{
    pthread_mutex_lock(&g->lock);
    const gate_peer *p = peer_of(g, key);
    uint32_t who = p && p->allowed ? (uint32_t)(p - g->peer) + 1 : 0;
    pthread_mutex_unlock(&g->lock);
    return who;
}

static void answer(gate *g, const zap_question *q)
{
    uint32_t who = q->curve ? number_of(g, q->key) : 0;
    char user[16] = "", key[KEY_TEXT] = "none";
    uint64_t held;
    if (who) {
        COUNT(g, accepted);
        snprintf(user, sizeof user, "%u", who);
        zap_answer(g->zap, q, "200", user);
        return;
    }
    COUNT(g, unknown);
    zap_answer(g->zap, q, g->again ? "300" : "400", "");
    if (q->curve) key_show(q->key, key);
    if (limiter_lets(&g->said_unknown, &held))
        LOG(LOG_WARN, "PEER-UNKNOWN", "lane=%s from=%s key=%s text=\"not on the list\" more=%" PRIu64, q->domain, q->address, key, held);
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

static bool quits(gate *g)
{
    pthread_mutex_lock(&g->lock);
    bool q = g->quit;
    pthread_mutex_unlock(&g->lock);
    return q;
}

/* A burst of questions or events, before the rest gets its turn. */
static void take_all(gate *g, lookout *const *of, const zmq_pollitem_t *item, uint32_t n)
{
    zap_question q;
    for (uint32_t i = 0; i < BURST && zap_take(g->zap, &q); i++) answer(g, &q);
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; (item[k + 2].revents & ZMQ_POLLIN) && i < BURST && lookout_take(&g->watches, of[k]); i++) continue;
}

typedef struct { zmq_pollitem_t item[WATCHES_MAX + 2]; void *sock[WATCHES_MAX]; lookout *of[WATCHES_MAX]; } polled;

static bool wait_and_take(gate *g, polled *p)
{
    uint64_t woken;
    lookout_sweep(&g->watches);
    uint32_t n = lookout_list(&g->watches, p->sock, p->of, WATCHES_MAX);
    p->item[0] = (zmq_pollitem_t){ .socket = g->zap, .events = ZMQ_POLLIN };
    p->item[1] = (zmq_pollitem_t){ .fd = g->watches.wake, .events = ZMQ_POLLIN };
    for (uint32_t i = 0; i < n; i++) p->item[i + 2] = (zmq_pollitem_t){ .socket = p->sock[i], .events = ZMQ_POLLIN };
    if (zmq_poll(p->item, (int)n + 2, mind_file(g)) < 0) return zmq_errno() == EINTR;
    if (p->item[1].revents && read(g->watches.wake, &woken, sizeof woken) < 0 && errno != EAGAIN && errno != EINTR) return false;
    take_all(g, p->of, p->item, n);
    return true;
}

static void *run(void *arg)
{
    gate *g = arg;
    polled *p = calloc(1, sizeof *p);
    log_role("gate", true);
    while (p && !quits(g) && wait_and_take(g, p)) continue;
    if (!quits(g)) LOG(LOG_ERROR, "GATE-CLOSED", "text=\"nobody new can come in: %s\"", p ? strerror(errno) : "out of memory");
    free(p);
    return NULL;
}

/* Signals belong to the main thread: they must end its waits. */
static err_code start(gate *g, err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&g->thread, NULL, run, g);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc ? err_set(e, ERR_IO, "cannot start the gate's thread: %s", strerror(rc)) : ERR_OK;
}

static void free_all(gate *g)
{
    if (g->zap) zmq_close(g->zap);
    if (g->watches.wake >= 0) close(g->watches.wake);
    turnstile_close(&g->watches.turns);
    pthread_mutex_destroy(&g->watches.lock);
    pthread_mutex_destroy(&g->lock);
    allow_free(&g->from_file);
    allow_free(&g->beside);
    free(g->peer);
    free(g);
}

err_code gate_open(gate **out, const gate_options *o, err *e)
{
    *out = NULL;
    gate *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NOMEM, "out of memory for the gate");
    g->ctx = o->ctx;
    g->again = o->again;
    g->has_file = o->file != NULL;
    pthread_mutex_init(&g->lock, NULL);
    pthread_mutex_init(&g->watches.lock, NULL);
    g->watches.ctx = o->ctx;
    g->watches.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err_code rc = g->watches.wake < 0 ? err_set(e, ERR_IO, "eventfd: %s", strerror(errno)) : ERR_OK;
    if (!rc && o->handshakes && !(g->watches.turns = turnstile_open(o->handshakes))) rc = err_set(e, ERR_NOMEM, "out of memory for the gate");
    if (!rc && o->file && strlen(o->file) >= sizeof g->file) rc = err_set(e, ERR_CONFIG, "%.60s...: path is too long", o->file);
    if (!rc && o->file) {
        snprintf(g->file, sizeof g->file, "%s", o->file);
        g->read = g->seen = sign(g->file); /* before it is read: a change meanwhile is read again */
        rc = load(g, e);
    }
    if (!rc) rc = zap_open(&g->zap, g->ctx, e);
    if (!rc) rc = start(g, e);
    if (rc) free_all(g);
    else *out = g;
    return rc;
}

void gate_close(gate **pg)
{
    gate *g = *pg;
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->quit = true;
    pthread_mutex_unlock(&g->lock);
    uint64_t one = 1;
    ssize_t n = write(g->watches.wake, &one, sizeof one);
    (void)n;
    pthread_join(g->thread, NULL);
    lookout_sweep(&g->watches);
    free_all(g);
    *pg = NULL;
}
