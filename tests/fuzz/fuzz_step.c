/* STEPs that a peer may forge, at a stage's shard: sessions, operations, rows, hops and hidden states as the bytes say, mostly
 * near what is right. Frames have the sizes that the door (msg_check_frames) lets through.
 * Parser: workers/stage/step.c kvstore/cells.c */
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include "workers/stage/step.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SESSIONS = 6, ROWS = 8, OPS = 4, HOPS = 3, PICKS = 12, STEPS = 12, EPOCH = 7, CTX = 32 };

static shard_state *held[3];   /* the whole model; its first layer with the embedding; its second with the head */

static void open_shards(void)
{
    static gguf *g; /* stays open, as in a stage */
    view file = made_file(MADE_MODEL, 0);
    pool *p;
    err e = { 0 };
    kit_must(gguf_open(&g, kit_file(0, file.ptr, file.len), &e), &e);
    isa use;
    kit_must(isa_pick(&use, &e), &e);
    kit_must(pool_open(&p, 1, NULL, NULL, &e), &e);
    for (uint32_t i = 0; i < 3; i++) {
        msg_plan plan = msg_init(MSG_PLAN).plan;
        plan.epoch = EPOCH;
        plan.stage = i;
        plan.n_stages = 3;
        plan.first = i == 2;
        plan.last = i == 1 ? 1 : 2;
        plan.embed = i != 2;
        plan.head = i != 1;
        plan.n_ctx = CTX;
        plan.max_rows = ROWS;
        plan.kv_max_bytes = i == 1 ? 1 << 16 : 0;
        memcpy(plan.digest, gguf_digest(g), 33);
        kit_must(shard_open(&held[i], g, NULL, NULL, &plan, p, i ? ISA_PLAIN : use, &e), &e);
    }
}

static uint64_t take_session(feed *b)
{
    uint32_t c = take_byte(b);
    return c == 255 ? take_u64(b) : c % SESSIONS;
}

static uint32_t take_row(feed *b)
{
    uint32_t c = take_byte(b);
    return c == 255 ? MSG_NO_ROW : c == 254 ? take_u32(b) : c % (2 * CTX);
}

static step_row make_row(feed *b, const step_row *before)
{
    uint32_t c = take_byte(b);
    step_row r = *before;
    r.row++;
    r.pos++;
    if (c & 1) r.session = take_session(b);
    if (c & 2) r.row = take_row(b);
    if (c & 4) r.pos = take_row(b);
    if (c & 8) r.parent = take_row(b);
    if (c & 16) r.token = take_row(b), r.target = take_row(b);
    if (c & 32) r.path = (uint8_t)(take_byte(b) % 3), r.status = (uint8_t)(take_byte(b) % 3), r.provenance = (uint8_t)take_byte(b);
    if (c & 64) r.want = (uint8_t)take_byte(b), r.segment = (uint16_t)take_byte(b);
    return r;
}

typedef struct { step_row row[ROWS + 1]; step_op op[OPS]; hop_rec hop[HOPS]; pick_rec pick[PICKS]; float hidden[(ROWS + 1) * 16]; } payload;

static msg_step make_step(feed *b, payload *p, uint32_t stage)
{
    uint32_t c = take_byte(b), live = 0;
    msg_step m = msg_init(MSG_STEP).step;
    step_row row = { .parent = MSG_NO_ROW, .target = MSG_NO_ROW, .row = UINT32_MAX, .pos = UINT32_MAX, .want = 1, .session = c % SESSIONS };
    m.epoch = c == 200 ? take_u32(b) : EPOCH;
    m.step = 1 + c;
    m.n_rows = take_byte(b) % (ROWS + 2);
    m.n_ops = take_byte(b) % (OPS + 1);
    m.n_hops = 1 + c % HOPS;
    m.hop = c % 16 == 15 ? take_byte(b) % 4 : stage == 2 && m.n_hops > 1;
    m.top = take_byte(b);
    m.dim = c % 32 == 31 ? take_byte(b) % 17 : made_shape().D;
    for (uint32_t i = 0; i < m.n_rows; i++) row = p->row[i] = make_row(b, &row), live += !row.status;
    for (uint32_t i = 0; i < m.n_ops; i++) p->op[i] = (step_op){ take_session(b), take_byte(b) % SESSIONS, take_row(b), take_byte(b) % 5 };
    for (uint32_t i = 0; i < m.n_hops; i++) p->hop[i].stage = i == m.hop ? stage : c % 7 == 6 ? take_u32(b) : i;
    m.n_picks = c % 16 == 14 ? take_byte(b) % (PICKS + 1) : 0;
    for (uint32_t i = 0; i < m.n_picks; i++) p->pick[i] = (pick_rec){ take_byte(b) % (ROWS + 2), take_row(b) };
    m.n_hidden = m.hop ? live : 0;
    if (c % 64 == 63) m.n_hidden = take_byte(b) % (ROWS + 2);
    for (size_t i = 0; i < m.n_hidden * m.dim; i++) {
        uint32_t bits = take_u32(b);
        memcpy(&p->hidden[i], &bits, 4);
    }
    return m;
}

static void check_result(const step_out *o)
{
    err e;
    kit_must(msg_check_frames(&o->head, o->frame, msg_frames(o->head.type), &e), &e);
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    kit_must(msg_encode(&o->head, head, &n, &e), &e);
}

static void sessions(shard_state *s, bool open)
{
    kv_seq *q;
    err e;
    for (uint64_t id = 0; id < SESSIONS; id++) {
        kv_seq_close(s->store, id);
        if (open && id % 2) kit_must(kv_seq_open(s->store, id, &q, &e), &e);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static step_out out;
    static payload p;
    if (!out.h && !(out.h = loan_new((ROWS + 2) * made_shape().D * sizeof(float)))) abort();
    if (!held[0]) open_shards();
    feed b = { data, size };
    uint32_t stage = take_byte(&b) % 3;
    shard_state *s = held[stage];
    sessions(s, true);
    for (int i = 0; i < STEPS && b.n; i++) {
        message m = { .type = MSG_STEP, .step = make_step(&b, &p, stage) };
        const msg_step *h = &m.step;
        view frame[MSG_FRAMES_MAX] = { [STEP_ROWS] = { p.row, h->n_rows * sizeof *p.row }, [STEP_OPS] = { p.op, h->n_ops * sizeof *p.op },
                                       [STEP_HOPS] = { p.hop, h->n_hops * sizeof *p.hop }, [STEP_HIDDEN] = { p.hidden, h->n_hidden * h->dim * 4 },
                                       [STEP_PICKS] = { p.pick, h->n_picks * sizeof *p.pick } };
        err e = { 0 };
        if (msg_check_frames(&m, frame, MSG_FRAMES_MAX, &e)) continue;
        err_code rc = step_run(s, &m, frame, &out, &e);
        kit_said(rc, &e);
        if (rc == ERR_OK) check_result(&out);
        if (out.failed_session && !out.failure.text[0]) abort();
    }
    sessions(s, false);
    return 0;
}
