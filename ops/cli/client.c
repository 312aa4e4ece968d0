#include "ops/cli/client.h"
#include "core/clock.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Owns the client connection and the question whether its coordinator lives. It starts and stops nobody. */

/* A host that answers at all has said who it is by then. */
enum { HANDSHAKE_MS = 15000 };
/* One that hangs up in the handshake for so long will not do better later. */
enum { REFUSED_MS = 3000 };
/* How long a signal or a dead coordinator goes unnoticed at most. */
enum { SLICE_MS = 100 };
/* A coordinator answers ASK between two steps; longer means that it hangs. */
enum { ANSWER_MS = 30000 };

struct client {
    hub *hub;
    link_t *link;
    packet in;
    pid_t pid;
    uint64_t last_ref;
    client_patience patience;
    bool remote;
    char dir[512];          /* or endpoint */
};

pid_t client_read_pid(const char *dir)
{
    char path[600], word[32] = "";
    snprintf(path, sizeof path, "%s/pid", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, word, sizeof word - 1);
    if (fd >= 0) close(fd);
    long pid = n > 0 ? strtol(word, NULL, 10) : 0;
    return pid > 1 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

bool client_pid_alive(pid_t pid)
{
    char path[64], stat[512] = "";
    if (kill(pid, 0) && errno == ESRCH) return false;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT;
    ssize_t n = read(fd, stat, sizeof stat - 1);
    close(fd);
    const char *after = n > 0 ? strrchr(stat, ')') : NULL; /* the name may hold anything, even brackets */
    return !after || (after[1] && after[2] != 'Z' && after[2] != 'X');
}

bool client_listens(const char *dir)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int n = snprintf(a.sun_path, sizeof a.sun_path, "%s/client", dir);
    if (n < 0 || (size_t)n >= sizeof a.sun_path) return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a);
    if (fd >= 0) close(fd);
    return up;
}

/* ---- here: ipc in a run directory ---- */

static err_code connect_here(client *c, err *e)
{
    char addr[600];
    snprintf(addr, sizeof addr, "ipc://%s/client", c->dir);
    c->pid = client_read_pid(c->dir);
    return link_connect(&c->link, c->hub, LINK_DEALER, LINK_CLIENT, addr, e);
}

static err_code open_here(client *c, err *e)
{
    if (!client_listens(c->dir)) return err_set(e, ERR_ABSENT, "no cluster is up in %s (sluice up starts one)", c->dir);
    return connect_here(c, e);
}

static err_code check_signal(err *e)
{
    int sig = signals_caught();
    return sig ? err_set(e, ERR_CANCELLED, "stopped by %s", sig == SIGINT ? "an interrupt" : strsignal(sig)) : ERR_OK;
}

/* ---- elsewhere: tcp ---- */

static err_code not_there(const client *c, lookout_state st, const err *why, uint64_t since, err *e)
{
    bool late = !clock_left_ms(since + HANDSHAKE_MS * 1000000ull), hung_up = st == LOOKOUT_LOST && !clock_left_ms(since + REFUSED_MS * 1000000ull);
    if (st == LOOKOUT_REFUSED && hub_has_keys(c->hub)) return err_set(e, ERR_DENIED, "%s (this key is %s)", why->text, hub_key(c->hub));
    if (st == LOOKOUT_REFUSED) return err_set(e, ERR_DENIED, "%s (--key FILE)", why->text);
    if (late || hung_up) return err_set(e, ERR_GONE, "%s%s", st == LOOKOUT_LOST ? why->text : c->dir, st == LOOKOUT_LOST ? "" : ": nobody answers");
    return check_signal(e);
}

/* Wait until both sides know each other, so that a wrong key is an error and not a silence. */
static err_code connect_there(client *c, err *e)
{
    err why = { 0 };
    err_code rc = link_connect(&c->link, c->hub, LINK_DEALER, LINK_CLIENT, c->dir, e);
    uint64_t since = clock_ns();
    for (lookout_state st = LOOKOUT_TRYING; rc == ERR_OK && (st = link_state(c->link, &why)) != LOOKOUT_UP;) {
        rc = not_there(c, st, &why, since, e);
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
    return rc;
}

static err_code open_there(client *c, const settings *s, err *e)
{
    hub_trusts t = { .key = s->key, .server_key = s->server_key, .watch = true, .insecure = s->insecure };
    err_code rc = hub_trust(c->hub, &t, e);
    if (rc == ERR_OK && hub_has_keys(c->hub) && !hub_server(c->hub))
        rc = err_set(e, ERR_USAGE, "--server-key KEY is missing: which coordinator is the right one?");
    return rc == ERR_OK ? connect_there(c, e) : rc;
}

/* ---- either ---- */

err_code client_open(client **out, const settings *s, const char *where, err *e)
{
    *out = NULL;
    if (strlen(where) >= sizeof ((client *)0)->dir) return err_set(e, ERR_CONFIG, "%.80s...: too long for a run directory", where);
    client *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory");
    snprintf(c->dir, sizeof c->dir, "%s", where);
    c->remote = strstr(where, "://") != NULL;
    c->patience.busy_s = 600;
    err_code rc = hub_open(&c->hub, e);
    if (rc == ERR_OK) rc = c->remote ? open_there(c, s, e) : open_here(c, e);
    if (rc == ERR_OK) *out = c;
    else client_close(&c);
    return rc;
}

void client_close(client **pc)
{
    client *c = *pc;
    if (!c) return;
    packet_done(&c->in);
    if (c->link) link_close(&c->link);
    if (c->hub) hub_close(&c->hub);
    free(c);
    *pc = NULL;
}

pid_t client_pid(const client *c) { return c->pid; }
uint64_t client_ref(client *c) { return ++c->last_ref; }
void client_be_patient(client *c, client_patience p) { c->patience = p; }
client_patience client_patience_of(const client *c) { return c->patience; }

static err_code check_alive(const client *c, err *e)
{
    err why;
    lookout_state st = c->remote ? link_state(c->link, &why) : LOOKOUT_UP;
    if (st == LOOKOUT_LOST || st == LOOKOUT_REFUSED) return err_set(e, ERR_GONE, "%s", why.text); /* answers went with the connection */
    if (c->remote) return ERR_OK;
    bool alive = c->pid ? client_pid_alive(c->pid) : client_listens(c->dir);
    return alive ? ERR_OK : err_set(e, ERR_GONE, "the coordinator in %s (pid %d) is gone", c->dir, (int)c->pid);
}

/* Whether somebody may be there at all: over tcp only the attempt tells. */
static err_code try_again(client *c, bool *made, err *e)
{
    *made = c->remote || client_listens(c->dir);
    if (!*made) return ERR_OK;
    err_code rc = c->remote ? connect_there(c, e) : connect_here(c, e);
    if (rc == ERR_GONE) *made = false, link_close(&c->link), rc = ERR_OK;
    return rc;
}

err_code client_reopen(client *c, err *e)
{
    uint64_t end = clock_ns() + (uint64_t)(c->patience.lost_s * 1e9);
    packet_done(&c->in);
    if (c->link) link_close(&c->link);
    do {
        if (check_signal(e) != ERR_OK) return e->code;
        bool made;
        err_code rc = try_again(c, &made, e);
        if (rc != ERR_OK || made) return rc;
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    } while (clock_left_ms(end));
    return err_set(e, ERR_GONE, "the coordinator in %s (pid %d) is gone, and for %g s no other one came", c->dir, (int)c->pid, c->patience.lost_s);
}

err_code client_send(client *c, const message *m, const view *frames, err *e)
{
    err_code rc;
    while ((rc = link_send(c->link, NULL, m, frames, SLICE_MS, e)) == ERR_TIMEOUT) {
        if ((rc = check_signal(e)) != ERR_OK || (rc = check_alive(c, e)) != ERR_OK) return rc;
    }
    return rc;
}

err_code client_next(client *c, int timeout_ms, bool deaf, const packet **out, err *e)
{
    uint64_t end = clock_ns() + (timeout_ms < 0 ? 0 : (uint64_t)timeout_ms * 1000000u);
    for (;;) {
        int left = timeout_ms < 0 ? SLICE_MS : clock_left_ms(end);
        err_code rc = deaf ? ERR_OK : check_signal(e);
        if (rc != ERR_OK) return rc;
        rc = link_recv(c->link, &c->in, left < SLICE_MS ? left : SLICE_MS, e);
        *out = &c->in;
        if (rc != ERR_TIMEOUT) return rc;
        if ((rc = check_alive(c, e)) != ERR_OK) return rc;
        if (timeout_ms >= 0 && !clock_left_ms(end)) return err_set(e, ERR_TIMEOUT, "no answer from the coordinator in time");
    }
}

err_code client_ask(client *c, unsigned what, uint64_t *ref, err *e)
{
    message m = msg_init(MSG_ASK);
    *ref = m.ask.ref = client_ref(c);
    m.ask.what = what;
    return client_send(c, &m, NULL, e);
}

err_code client_report(const packet *p, json_t **out, err *e)
{
    json_error_t je;
    *out = json_loadb(p->frame[0].ptr, p->frame[0].len, 0, &je);
    return *out && json_is_object(*out) ? ERR_OK : err_set(e, ERR_PROTO, "the coordinator's report is no JSON object: %s", je.text);
}

err_code client_failed(const packet *p, err *e)
{
    err_code code = p->head.fail.code < ERR_COUNT ? (err_code)p->head.fail.code : ERR_STATE;
    return err_set(e, code, "%s", p->head.fail.text);
}

err_code client_status(client *c, unsigned what, json_t **out, err *e)
{
    uint64_t ref;
    const packet *p;
    err_code rc = client_ask(c, what, &ref, e);
    while (rc == ERR_OK) {
        rc = client_next(c, ANSWER_MS, false, &p, e);
        if (rc == ERR_OK && p->head.type == MSG_REPORT && p->head.report.ref == ref) return client_report(p, out, e);
        if (rc == ERR_OK && p->head.type == MSG_FAIL && p->head.fail.ref == ref) return client_failed(p, e);
    }
    return rc;
}
