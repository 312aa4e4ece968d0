/* sluice-stage: one pipeline stage as a process of its own. */
#include "core/log.h"
#include "core/settings.h"
#include "core/signals.h"
#include "workers/stage/stage.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static err_code stage_main(settings *s, atomic_bool *stop, err *e)
{
    if (!s->connect) return err_set(e, ERR_USAGE, "--connect ENDPOINT is missing");
    if (!s->model) return err_set(e, ERR_USAGE, "--model FILE is missing");
    char name[64], host[40] = "";
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s-%d", host, (int)getpid());
    unsigned part = 0, parts = 1;
    if (s->share && (sscanf(s->share, "%u/%u", &part, &parts) != 2 || part >= parts))
        return err_set(e, ERR_USAGE, "--share %s: want I/N with I < N", s->share);
    stage_options o = { .connect = s->connect, .model = s->model, .profile = s->profile, .name = s->name ? s->name : name, .data_dir = s->data_dir,
                        .address = s->address, .trace = s->trace, .threads = (uint32_t)s->threads, .cookie = s->cookie, .joined = !s->cookie,
                        .stop = stop, .pack = { !s->no_pack, s->pack_dir, s->pack_cap << 20 } };
    const sandbox_want box = { .user = s->user, .no_filter = s->no_sandbox };
    o.sandbox = &box;
    err_code rc = isa_pick(&o.isa, e);
    if (!rc) rc = topo_open(&o.where, s->bind, part, parts, e);
    if (!rc) rc = topo_bind(o.where, e);
    if (!rc) rc = hub_open(&o.hub, e);
    log_role(o.name, false);
    /* a coordinator's child is told the coordinator's key and makes a pair of its own; anybody else brings one */
    hub_trusts trust = { .key = s->key, .server_key = s->server_key, .own = s->cookie && s->server_key, .watch = !strncmp(s->connect, "tcp:", 4),
                         .insecure = s->insecure, .handshakes = s->handshake_rate };
    bool tcp = !s->cookie || s->server_key || s->insecure; /* a child without these meets ipc and loopback only, whatever credentials lie there */
    if (!rc && tcp) rc = hub_trust(o.hub, &trust, e);
    if (!rc && hub_has_keys(o.hub) && !hub_server(o.hub)) rc = err_set(e, ERR_USAGE, "--key without --server-key: which coordinator is the right one?");
    if (!rc) rc = stage_run(&o, e);
    if (o.hub) hub_close(&o.hub);
    if (o.where) topo_close(&o.where);
    return rc;
}

int main(int argc, char **argv)
{
    settings s;
    err e = { 0 };
    atomic_bool *stop = signals_catch();
    settings_init(&s, CMD_STAGE);
    err_code rc = settings_argv(&s, argc, argv, &e);
    if (!rc && s.help) {
        puts("sluice-stage: one pipeline stage\n");
        settings_help(CMD_STAGE, stdout);
        puts("\nexample: sluice worker --connect tcp://127.0.0.1:7711 -m model.gguf");
        settings_free(&s);
        return 0;
    }
    if (!rc && s.die_with_parent) signals_die_with_parent();
    if (!rc) rc = signals_log_level(s.log_level, &e);
    if (!rc) rc = stage_main(&s, stop, &e);
    if (rc) fprintf(stderr, "sluice-stage: %s\n", e.text);
    settings_free(&s);
    return err_exit_status(rc);
}
