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
    char dir[512];
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

static err_code connect_to(client *c, err *e)
{
    char addr[600];
    snprintf(addr, sizeof addr, "ipc://%s/client", c->dir);
    c->pid = client_read_pid(c->dir);
    return link_connect(&c->link, c->hub, LINK_DEALER, LINK_CLIENT, addr, e);
}

err_code client_open(client **out, const char *dir, err *e)
{
    *out = NULL;
    if (strlen(dir) >= sizeof ((client *)0)->dir) return err_set(e, ERR_CONFIG, "%.80s...: too long for a run directory", dir);
    if (!client_listens(dir)) return err_set(e, ERR_ABSENT, "no cluster is up in %s (sluice up starts one)", dir);
    client *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory");
    snprintf(c->dir, sizeof c->dir, "%s", dir);
    c->patience.busy_s = 600;
    err_code rc = hub_open(&c->hub, e);
    if (rc == ERR_OK) rc = connect_to(c, e);
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
    bool alive = c->pid ? client_pid_alive(c->pid) : client_listens(c->dir);
    return alive ? ERR_OK : err_set(e, ERR_GONE, "the coordinator in %s (pid %d) is gone", c->dir, (int)c->pid);
}

static err_code check_signal(err *e)
{
    int sig = signals_caught();
    return sig ? err_set(e, ERR_CANCELLED, "stopped by %s", sig == SIGINT ? "an interrupt" : strsignal(sig)) : ERR_OK;
}

err_code client_reopen(client *c, err *e)
{
    uint64_t end = clock_ns() + (uint64_t)(c->patience.lost_s * 1e9);
    packet_done(&c->in);
    if (c->link) link_close(&c->link);
    do {
        if (check_signal(e) != ERR_OK) return e->code;
        if (client_listens(c->dir)) return connect_to(c, e);
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
