#include "ops/cli/client.h"
#include "ops/cli/cluster.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/describe.h"
#include "ops/cli/show.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* sluice up and down: a cluster that stays. Files in its directory: client and other sockets and pid (the coordinator's),
 * log and lock (ours). */

/* Two `up` at the same moment: the second one is refused instead of taking the first one's sockets away. */
static int take_lock(const char *dir, err *e)
{
    char path[600];
    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno)), -1;
    if (!flock(fd, LOCK_EX | LOCK_NB)) return fd;
    err_set(e, ERR_STATE, "another sluice up is at work in %s", dir);
    close(fd);
    return -1;
}

static err_code announce(const settings *s, const char *dir, err *e)
{
    client *c = NULL;
    json_t *status = NULL;
    err_code rc = client_open(&c, s, dir, e);
    if (rc == ERR_OK) rc = client_status(c, 0, &status, e);
    if (rc == ERR_OK && s->json) rc = show_json(json_incref(status), e);
    else if (rc == ERR_OK) {
        printf("up in %s, coordinator pid %d\n", dir, (int)client_pid(c));
        describe_status(stdout, status);
        rc = show_write("", 0, e);
    }
    json_decref(status);
    client_close(&c);
    return rc;
}

/* Nothing stays of a start that failed, but what the coordinator had to say. */
static void tidy_failure(const char *dir, bool made, err *e)
{
    struct stat st;
    char path[600];
    snprintf(path, sizeof path, "%s/lock", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/log", dir);
    if (!stat(path, &st) && !st.st_size) unlink(path);
    else if (!stat(path, &st)) err_wrap(e, "not up (%s may say more)", path);
    if (made) rmdir(dir);
}

static err_code up_in(settings *s, const char *dir, err *e)
{
    cluster c = { 0 };
    bool made = access(dir, F_OK) != 0;
    err_code rc = path_check_dir(dir, true, e);
    int lock = rc == ERR_OK ? take_lock(dir, e) : -1;
    if (rc == ERR_OK && lock < 0) rc = e->code;
    if (rc == ERR_OK && client_listens(dir))
        rc = err_set(e, ERR_STATE, "a cluster is already up in %s (pid %d); sluice down stops it", dir, (int)client_read_pid(dir));
    if (rc == ERR_OK) {
        rc = cluster_start_detached(&c, s, dir, e);
        if (rc != ERR_OK) tidy_failure(dir, made, e);
    }
    if (rc == ERR_OK) {
        c.pid = 0; /* it outlives us */
        rc = announce(s, dir, e);
    }
    cluster_leave(&c);
    if (lock >= 0) close(lock);
    return rc;
}

static err_code no_words(const settings *s, err *e)
{
    return s->args.n ? err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[0]) : ERR_OK;
}

err_code cmd_up(settings *s, err *e)
{
    text dir = { 0 };
    err_code rc = no_words(s, e);
    if (rc == ERR_OK) rc = path_run_dir(&dir, s, e);
    if (rc == ERR_OK) rc = up_in(s, dir.ptr, e);
    text_free(&dir);
    return rc;
}

/* ---- down ---- */

static bool still_there(const char *dir, pid_t pid) { return pid ? client_pid_alive(pid) : client_listens(dir); }

/* Draining may take as long as the longest job: only a signal ends the wait. */
static err_code wait_gone(const char *dir, pid_t pid, err *e)
{
    while (still_there(dir, pid)) {
        if (signals_caught()) return err_set(e, ERR_CANCELLED, "not waiting any longer; the cluster still finishes its jobs");
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
    return ERR_OK;
}

static void tidy(const char *dir, bool ours)
{
    static const char *const left[] = { "lock", "log" };
    char path[600];
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, left[i]);
        unlink(path);
    }
    if (ours) rmdir(dir); /* a directory that the user named stays */
}

static err_code stop(const settings *s, const char *dir, err *e)
{
    client *c = NULL;
    message m = msg_init(MSG_STOP);
    m.stop.now = s->now;
    err_code rc = client_open(&c, s, dir, e);
    pid_t pid = rc == ERR_OK ? client_pid(c) : 0;
    if (rc == ERR_OK) rc = client_send(c, &m, NULL, e);
    if (rc == ERR_OK) rc = wait_gone(dir, pid, e); /* the link stays open meanwhile, so that the message is not lost */
    client_close(&c);
    return rc;
}

err_code cmd_down(settings *s, err *e)
{
    text dir = { 0 };
    err_code rc = no_words(s, e);
    if (rc == ERR_OK) rc = path_live_dir(&dir, s, e);
    if (rc == ERR_OK) rc = stop(s, dir.ptr, e);
    if (rc == ERR_OK) tidy(dir.ptr, path_is_default_dir(s));
    text_free(&dir);
    return rc;
}
