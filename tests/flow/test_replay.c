/* What a stage was told and what it answered is in its trace; a fresh stage that is told the same answers the same, bit for
 * bit, on another instruction set too. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(replay, .timeout = 120);

#define STAGES 2u
#define PATIENCE_MS 60000

typedef struct {
    hub *hub;
    link_t *control, *result, *next, *data, *bulk;
    link_id id;
    rig_stage stage;
    packet in;
    uint32_t compared, steps, pushes;
} player;

/* ---- recording --------------------------------------------------------------------------------------------------------- */

/* A scored prompt, choices by fork, whole rows, and a prompt prefilled by the coordinator. */
static void record(char *dir, size_t cap)
{
    uint64_t seed = support_seed();
    uint32_t ids[48];
    for (uint32_t i = 0; i < 48; i++) ids[i] = 300 + (uint32_t)support_draw(seed, i, 3000);
    rig *g = rig_open(&(rig_options){ .model = support_root("models/sluice-tiny-aux-Q8_0.gguf"), .stages = STAGES, .chunk = 16, .trace = true,
                                      .use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN });
    message local = rig_generate(8), choices = rig_generate(12);
    local.submit.prefill = 2;
    choices.submit.n = 3;
    choices.submit.temperature = 1.2;
    rig_submit(g, rig_score(0), &(rig_input){ .ids = ids, .n = 48 });
    rig_submit(g, choices, &(rig_input){ .ids = ids, .n = 40 });
    rig_do(g, local, &(rig_input){ .ids = ids, .n = 33 });
    rig_wait_all(g);
    for (rig_job *j = *rig_jobs(g); j; j = j->next) cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    cr_assert(rig_idle(g, 10));
    snprintf(dir, cap, "%s", rig_dir(g));
    rig_close(&g);
}

/* ---- comparing ---------------------------------------------------------------------------------------------------------- */

static void same_frames(const message *got, const view *got_frame, const trace_event *want, const char *what)
{
    uint8_t a[MSG_HEADER_MAX], b[MSG_HEADER_MAX];
    size_t n = sizeof a, m = sizeof b;
    err e;
    cr_assert_eq(got->type, want->head.type, "%s: %s came, %s was recorded", what, msg_name(got->type), msg_name(want->head.type));
    cr_assert_eq(msg_encode(got, a, &n, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(msg_encode(&want->head, b, &m, &e), ERR_OK, "%s", e.text);
    cr_expect(n == m && !memcmp(a, b, n), "%s: headers of %s differ", what, msg_name(got->type));
    for (uint32_t i = 0; i < msg_frames(got->type); i++) {
        bool same = got_frame[i].len == want->frame[i].len && (!want->frame[i].len || !memcmp(got_frame[i].ptr, want->frame[i].ptr, want->frame[i].len));
        cr_expect(same, "%s: frame %u of %s differs (%zu and %zu bytes)", what, i, msg_name(got->type), got_frame[i].len, want->frame[i].len);
    }
}

/* ---- playing ------------------------------------------------------------------------------------------------------------- */

static void receive(player *p, link_t *l, const trace_event *want, bool bits)
{
    err e;
    cr_assert_not_null(l, "%s went out on %s, which the plan does not name", msg_name(want->head.type), want->link);
    cr_assert_eq(link_recv(l, &p->in, PATIENCE_MS, &e), ERR_OK, "waiting for %s: %s", msg_name(want->head.type), e.text);
    if (bits) same_frames(&p->in.head, p->in.frame, want, "replay");
    else cr_assert_eq(p->in.head.type, want->head.type, "%s came, %s was recorded", msg_name(p->in.head.type), msg_name(want->head.type));
    p->compared += bits;
}

static void send(link_t *l, const link_id *to, const trace_event *ev)
{
    err e;
    cr_assert_eq(link_send(l, to, &ev->head, ev->frame, 5000, &e), ERR_OK, "%s: %s", msg_name(ev->head.type), e.text);
}

/* The plan names where answers go: the test takes these places. */
static void take_places(player *p, const trace_event *ev)
{
    const msg_plan *m = &ev->head.plan;
    err e;
    char addrs[512];
    snprintf(addrs, sizeof addrs, "%.*s", (int)ev->frame[0].len, (const char *)ev->frame[0].ptr);
    cr_assert_eq(link_bind(&p->result, p->hub, LINK_PULL, LINK_DATA, m->result_addr, &e), ERR_OK, "%s", e.text);
    char *at = addrs, *line;
    for (uint32_t i = 0; (line = strsep(&at, "\n")) && *line; i++)
        if (i == m->stage + 1) cr_assert_eq(link_bind(&p->next, p->hub, LINK_PULL, LINK_DATA, line, &e), ERR_OK, "%s", e.text);
}

static void told(player *p, const trace_event *ev)
{
    msg_type t = ev->head.type;
    if (t == MSG_BYE) return;                       /* it must stay until all is compared */
    if (t == MSG_PLAN) take_places(p, ev);
    if (!strcmp(ev->link, "control")) send(p->control, &p->id, ev);
    else if (t == MSG_STEP) send(p->data, NULL, ev), p->steps++;
    else if (t == MSG_KV_PUSH) send(p->bulk, NULL, ev), p->pushes++;
}

static void said(player *p, const trace_event *ev)
{
    msg_type t = ev->head.type;
    if (t == MSG_HELLO || t == MSG_BYE) return;     /* taken when the stage came; said when it was stopped, which here comes later */
    bool bits = t == MSG_SESSION_READY || t == MSG_KV_DONE || t == MSG_STEP || t == MSG_RESULT;   /* others tell time and load */
    receive(p, !strcmp(ev->link, "control") ? p->control : !strcmp(ev->link, "next") ? p->next : p->result, ev, bits);
}

static void player_open(player *p, uint32_t i, isa use, uint32_t threads)
{
    err e;
    *p = (player){ 0 };
    cr_assert_eq(hub_open(&p->hub, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_bind(&p->control, p->hub, LINK_ROUTER, LINK_CONTROL, "inproc://control", &e), ERR_OK, "%s", e.text);
    rig_stage_start(&p->stage, p->hub, i, "inproc://control", support_root("models/sluice-tiny-aux-Q8_0.gguf"), use, threads, NULL, false);
    cr_assert_eq(link_recv(p->control, &p->in, PATIENCE_MS, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(p->in.head.type, MSG_HELLO);
    p->id = p->in.from;
    cr_assert_eq(link_connect(&p->data, p->hub, LINK_PUSH, LINK_DATA, p->stage.data, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_connect(&p->bulk, p->hub, LINK_PUSH, LINK_BULK, p->stage.bulk, &e), ERR_OK, "%s", e.text);
}

static void player_close(player *p)
{
    rig_stage_stop(&p->stage);
    packet_done(&p->in);
    link_t **all[] = { &p->control, &p->result, &p->next, &p->data, &p->bulk };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (*all[i]) link_close(all[i]);
    hub_close(&p->hub);
}

static void replay(const char *dir, uint32_t i, isa use, uint32_t threads)
{
    char path[160];
    err e = { 0 };
    trace_reader *r;
    trace_event ev;
    player p;
    snprintf(path, sizeof path, "%s/trace.s%u", dir, i);
    cr_assert_eq(trace_read_open(&r, path, &e), ERR_OK, "%s", e.text);
    player_open(&p, i, use, threads);
    while (trace_next(r, &ev, &e)) (ev.dir == 'R' ? told : said)(&p, &ev);
    cr_assert_eq(e.code, ERR_OK, "%s", e.text);
    printf("# stage %u on %s, %u threads: %u steps and %u pushes replayed, %u answers bit for bit the same\n", i, isa_name(use), threads, p.steps,
           p.pushes, p.compared);
    cr_expect_gt(p.steps, 20u);
    cr_expect_gt(p.pushes, 0u);
    cr_expect_geq(p.compared, p.steps);
    trace_read_close(&r);
    player_close(&p);
}

Test(replay, a_recorded_stage_answers_the_same_again)
{
    char dir[96];
    record(dir, sizeof dir);
    for (uint32_t i = 0; i < STAGES; i++)
        for (int use = 0; use < ISA_COUNT; use++)
            if (isa_supported() >> use & 1) replay(dir, i, (isa)use, 1 + (uint32_t)use);
}

/* ---- both ends of a link -------------------------------------------------------------------------------------------------- */

/* The next message on `link` in that direction; false at the end. */
static bool next_on(trace_reader *r, const char *link_name, char dir, trace_event *ev)
{
    err e = { 0 };
    while (trace_next(r, ev, &e))
        if (ev->dir == dir && !strcmp(ev->link, link_name)) return true;
    cr_assert_eq(e.code, ERR_OK, "%s", e.text);
    return false;
}

static uint32_t same_ends(const char *dir, const char *from, const char *out, const char *to, const char *in)
{
    char path[160];
    err e = { 0 };
    trace_reader *a, *b;
    trace_event x, y;
    uint32_t n = 0;
    snprintf(path, sizeof path, "%s/%s", dir, from);
    cr_assert_eq(trace_read_open(&a, path, &e), ERR_OK, "%s", e.text);
    snprintf(path, sizeof path, "%s/%s", dir, to);
    cr_assert_eq(trace_read_open(&b, path, &e), ERR_OK, "%s", e.text);
    for (; next_on(a, out, 'S', &x); n++) {
        cr_assert(next_on(b, in, 'R', &y), "message %u from %s did not arrive in %s", n, from, to);
        same_frames(&y.head, y.frame, &x, in);
        cr_expect_leq(x.t_ns, y.t_ns + 1000000000u, "it arrived long before it was sent");
    }
    cr_expect(!next_on(b, in, 'R', &y), "%s received more than %s sent", to, from);
    trace_read_close(&a);
    trace_read_close(&b);
    return n;
}

/* Stages take their places in the order in which they came: the trace of the one that is `place` in the plan. */
static const char *trace_of(const char *dir, uint64_t place)
{
    static const char *const files[STAGES] = { "trace.s0", "trace.s1" };
    for (uint32_t i = 0; i < STAGES; i++) {
        char path[160];
        err e = { 0 };
        trace_reader *r;
        trace_event ev;
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        cr_assert_eq(trace_read_open(&r, path, &e), ERR_OK, "%s", e.text);
        bool here = false;
        while (next_on(r, "control", 'R', &ev)) here |= ev.head.type == MSG_PLAN && ev.head.plan.stage == place;
        trace_read_close(&r);
        if (here) return files[i];
    }
    cr_assert(false, "no trace of stage %d", (int)place);
    return "";
}

Test(replay, the_traces_of_both_ends_of_a_hop_hold_the_same_frames)
{
    char dir[96];
    record(dir, sizeof dir);
    const char *s0 = trace_of(dir, 0), *s1 = trace_of(dir, 1);
    uint32_t first = same_ends(dir, "trace", "first", s0, "data");
    uint32_t next = same_ends(dir, s0, "next", s1, "data");
    uint32_t back = same_ends(dir, s1, "result", "trace", "result");
    printf("# %u steps to stage 0, %u to stage 1, %u results\n", first, next, back);
    cr_expect_gt(first, 20u);
    cr_expect(first == next && next == back, "a step went missing on its way");
}
