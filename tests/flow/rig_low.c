#include "tests/flow/rig_low.h"
#include <criterion/criterion.h>
#include <stdio.h>

#define PATIENCE_MS 60000       /* ThreadSanitizer and a loaded machine included */

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static void expect(low_rig *r, link_t *l, msg_type t)
{
    err e;
    cr_assert_eq(link_recv(l, &r->in, PATIENCE_MS, &e), ERR_OK, "waiting for %s: %s", msg_name(t), e.text);
    if (r->in.head.type == MSG_FAIL) cr_assert_eq(t, MSG_FAIL, "waiting for %s: %s", msg_name(t), r->in.head.fail.text);
    cr_assert_eq(r->in.head.type, t, "waiting for %s: %s came", msg_name(t), msg_name(r->in.head.type));
}

static void to_stage(low_rig *r, uint32_t i, const message *m, view frame)
{
    err e;
    cr_assert_eq(link_send(r->control, &r->id[i], m, &frame, 5000, &e), ERR_OK, "%s", e.text);
}

static void take_hellos(low_rig *r)
{
    for (uint32_t k = 0; k < r->n; k++) {
        unsigned i;
        expect(r, r->control, MSG_HELLO);
        cr_assert_eq(sscanf(r->in.head.hello.name, "s%u", &i), 1);
        r->id[i] = r->in.from;
    }
}

static void send_plans(low_rig *r, const model_shape *s, uint32_t n_ctx)
{
    char addrs[512] = "";
    for (uint32_t i = 0; i < r->n; i++) snprintf(addrs + strlen(addrs), sizeof addrs - strlen(addrs), "%s\n", r->stage[i].data);
    for (uint32_t i = 0; i < r->n; i++) {
        message m = msg_init(MSG_PLAN);
        m.plan = (msg_plan){ .epoch = LOW_EPOCH, .stage = i, .n_stages = r->n, .first = s->L * i / r->n, .last = s->L * (i + 1) / r->n,
                             .embed = i == 0, .head = i + 1 == r->n, .n_ctx = n_ctx, .max_rows = LOW_ROWS, .kv_format = KV_F16,
                             .prompt_path = PATH_I8B32, .decode_path = PATH_I8B32, .in_flight = 8 };
        snprintf(m.plan.digest, sizeof m.plan.digest, "%s", s->digest);
        snprintf(m.plan.result_addr, sizeof m.plan.result_addr, "inproc://result");
        to_stage(r, i, &m, (view){ addrs, strlen(addrs) });
    }
    for (uint32_t i = 0; i < r->n; i++) expect(r, r->control, MSG_READY);
}

static void read_shape(const char *file, model_shape *s)
{
    err e;
    gguf *f;
    cr_assert_eq(gguf_open(&f, file, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(s, f, &e), ERR_OK, "%s", e.text);
    gguf_close(&f);
}

void low_open(low_rig *r, const char *file, uint32_t n, isa use, uint32_t n_ctx)
{
    err e;
    model_shape s;
    *r = (low_rig){ .n = n, .next_step = 1 };
    read_shape(file, &s);
    r->V = s.V;
    r->D = s.D;
    cr_assert_eq(hub_open(&r->hub, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_bind(&r->control, r->hub, LINK_ROUTER, LINK_CONTROL, "inproc://control", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_bind(&r->result, r->hub, LINK_PULL, LINK_DATA, "inproc://result", &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < n; i++) rig_stage_start(&r->stage[i], r->hub, i, "inproc://control", file, use, 1, NULL, false);
    take_hellos(r);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(link_connect(&r->first[i], r->hub, LINK_PUSH, LINK_DATA, r->stage[i].data, &e), ERR_OK, "%s", e.text);
    send_plans(r, &s, n_ctx);
}

void low_close(low_rig *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        rig_stage_stop(&r->stage[i]);
        cr_expect_eq(r->stage[i].rc, ERR_OK, "stage %u ended with: %s", i, r->stage[i].why.text);
    }
    packet_done(&r->in);
    for (uint32_t i = 0; i < r->n; i++) link_close(&r->first[i]);
    link_close(&r->control);
    link_close(&r->result);
    hub_close(&r->hub);
}

void low_session(low_rig *r, uint64_t id)
{
    message m = msg_init(MSG_SESSION_OPEN);
    m.session_open.epoch = LOW_EPOCH;
    m.session_open.session = id;
    for (uint32_t i = 0; i < r->n; i++) to_stage(r, i, &m, (view){ NULL, 0 });
    for (uint32_t i = 0; i < r->n; i++) expect(r, r->control, MSG_SESSION_READY);
}

void low_ask_session(low_rig *r, const message *m, view recs)
{
    for (uint32_t i = 0; i < r->n; i++) to_stage(r, i, m, recs);
}

void low_drop(low_rig *r, uint64_t id)
{
    message m = msg_init(MSG_DROP);
    m.drop.session = id;
    for (uint32_t i = 0; i < r->n; i++) to_stage(r, i, &m, (view){ NULL, 0 });
}

/* ---- steps ---------------------------------------------------------------------------------------------------------- */

low_step low_begin(low_rig *r)
{
    low_step s = { .head = msg_init(MSG_STEP) };
    s.head.step.epoch = LOW_EPOCH;
    s.head.step.step = r->next_step++;
    s.head.step.dim = r->D;
    s.head.step.n_hops = r->n;
    for (uint32_t i = 0; i < r->n; i++) s.hop[i].stage = i;
    return s;
}

void low_op(low_step *s, uint32_t kind, uint64_t session, uint32_t row, uint64_t other)
{
    s->op[s->head.step.n_ops++] = (step_op){ .session = session, .other = other, .row = row, .kind = kind };
}

step_row *low_row(low_step *s, uint64_t session, uint32_t row, uint32_t pos, uint32_t parent, uint32_t token)
{
    step_row *w = &s->row[s->head.step.n_rows++];
    *w = (step_row){ .session = session, .row = row, .pos = pos, .parent = parent, .token = token, .target = MSG_NO_ROW, .path = PATH_I8B32,
                     .want = WANT_ROW };
    return w;
}

void low_send_to(low_rig *r, const low_step *s, uint32_t stage)
{
    err e;
    const msg_step *m = &s->head.step;
    view f[MSG_FRAMES_MAX] = { [STEP_ROWS] = { s->row, m->n_rows * sizeof *s->row }, [STEP_OPS] = { s->op, m->n_ops * sizeof *s->op },
                               [STEP_HOPS] = { s->hop, m->n_hops * sizeof *s->hop },
                               [STEP_HIDDEN] = { s->hidden, m->n_hidden * m->dim * sizeof *s->hidden } };
    cr_assert_eq(link_send(r->first[stage], NULL, &s->head, f, 5000, &e), ERR_OK, "%s", e.text);
}

void low_send(low_rig *r, const low_step *s) { low_send_to(r, s, 0); }

/* ---- answers -------------------------------------------------------------------------------------------------------- */

const msg_result *low_result(low_rig *r, const low_step *s)
{
    expect(r, r->result, MSG_RESULT);
    cr_assert_eq(r->in.head.result.step, s->head.step.step, "the result of another step came");
    return &r->in.head.result;
}

result_row low_result_row(const low_rig *r, uint32_t i)
{
    result_row w;
    cr_assert_lt(i, r->in.head.result.n_rows);
    memcpy(&w, (const uint8_t *)r->in.frame[RESULT_ROWS].ptr + i * sizeof w, sizeof w);
    return w;
}

bool low_logits(const low_rig *r, uint32_t i, float *out)
{
    result_row w = low_result_row(r, i);
    if (w.status || w.full >= r->in.head.result.n_full) return false;
    memcpy(out, (const uint8_t *)r->in.frame[RESULT_FULL].ptr + (size_t)w.full * r->V * sizeof *out, r->V * sizeof *out);
    return true;
}

const msg_fail *low_fail(low_rig *r, int timeout_ms)
{
    err e;
    while (!link_recv(r->control, &r->in, timeout_ms, &e))
        if (r->in.head.type == MSG_FAIL) return &r->in.head.fail;
    return NULL;
}

bool low_silent(low_rig *r, int timeout_ms)
{
    err e;
    return link_recv(r->result, &r->in, timeout_ms, &e) == ERR_TIMEOUT;
}
