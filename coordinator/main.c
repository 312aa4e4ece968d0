/* sluice-coordinator: the coordinator as a process of its own (started by `sluice run` and `sluice up`). */
#include "coordinator/coordinator.h"
#include "core/log.h"
#include "core/signals.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>

static void on_child(int sig) { (void)sig; } /* only to interrupt the poll */

static err_code coordinator_main(settings *s, atomic_bool *stop, err *e)
{
    hub *h = NULL;
    int fd = settings_was_given(s, "notify-fd") ? (int)s->notify_fd : -1;
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    err_code rc = s->config ? settings_ini(s, s->config, e) : ERR_OK;
    if (!rc) rc = signals_log_level(s->log_level, e);
    if (!rc) rc = hub_open(&h, e);
    if (!rc) rc = hub_trust(h, &(hub_trusts){ .key = s->key, .allow = s->allow, .insecure = s->insecure, .handshakes = s->handshake_rate }, e);
    if (!rc) rc = coordinator_run(s, h, stop, fd, e);
    if (h) hub_close(&h);
    return rc;
}

int main(int argc, char **argv)
{
    settings s;
    err e = { 0 };
    log_role("coordinator", false);
    atomic_bool *stop = signals_catch();
    sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = on_child }, NULL);
    settings_init(&s, CMD_COORDINATOR);
    err_code rc = settings_argv(&s, argc, argv, &e);
    if (!rc && s.help) {
        puts("sluice-coordinator: takes jobs, plans, schedules and samples\n");
        settings_help(CMD_COORDINATOR, stdout);
        puts("\nexample: sluice up -m model.gguf --stages 2  # starts it");
        settings_free(&s);
        return 0;
    }
    if (!rc && s.die_with_parent) signals_die_with_parent();
    if (!rc) rc = coordinator_main(&s, stop, &e);
    if (rc && !settings_was_given(&s, "notify-fd")) fprintf(stderr, "sluice-coordinator: %s\n", e.text); /* else the starter says it */
    settings_free(&s);
    return err_exit_status(rc);
}
