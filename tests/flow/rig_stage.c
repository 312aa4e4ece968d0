#include "tests/flow/rig_stage.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static void *stage_thread(void *arg)
{
    rig_stage *s = arg;
    s->rc = stage_run(&s->o, &s->why);
    return NULL;
}

const char *rig_stage_pack_dir(void)
{
    static char dir[128];
    snprintf(dir, sizeof dir, "%s/packed", support_tmpdir());
    return dir;
}

void rig_stage_start(rig_stage *s, hub *h, uint32_t i, const char *connect, const char *model, isa use, uint32_t threads, const char *trace_file,
                     bool packed)
{
    *s = (rig_stage){ .running = true };
    snprintf(s->name, sizeof s->name, "s%u", i);
    snprintf(s->data, sizeof s->data, "inproc://stage-%u.data", i);
    snprintf(s->bulk, sizeof s->bulk, "inproc://stage-%u.bulk", i);
    snprintf(s->connect, sizeof s->connect, "%s", connect);
    if (trace_file) snprintf(s->trace, sizeof s->trace, "%s", trace_file);
    s->o = (stage_options){ .hub = h, .connect = s->connect, .model = model, .name = s->name, .data_addr = s->data, .bulk_addr = s->bulk,
                            .trace = trace_file ? s->trace : NULL, .threads = threads ? threads : 1, .isa = use, .joined = true, .stop = &s->stop,
                            .pack = { packed, rig_stage_pack_dir(), 0 } };
    cr_assert_eq(pthread_create(&s->thread, NULL, stage_thread, s), 0, "no thread for a stage");
}

/* A stage that is told to stop asks its coordinator to be let go, and ends when it is told again: here there may be no coordinator any
 * more. It sees its flag when a wait of up to 250 ms ends; a message that means nothing on the bulk lane ends that at once. */
void rig_stage_stop(rig_stage *s)
{
    link_t *l = NULL;
    err e;
    message m = msg_init(MSG_PING);
    if (!s->running) return;
    if (link_connect(&l, s->o.hub, LINK_PUSH, LINK_BULK, s->bulk, &e)) l = NULL;
    do {
        atomic_store(&s->stop, true);
        if (l) link_send(l, NULL, &m, NULL, 0, &e);
        usleep(500);
    } while (pthread_tryjoin_np(s->thread, NULL));
    if (l) link_close(&l);
    s->running = false;
}
