/* Ten thousand broken messages at the sockets of a live cluster, by raw zmq: well-formed ones with bytes changed, words
 * that no field may have, frames too many, too few, too long. The cluster refuses or ignores them, keeps its memory, and a
 * normal job afterwards gives the text it gave before. */
#include "core/rng.h"
#include "engine/tokenizer.h"
#include "proto/message.h"
#include "proto/seal.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define THROWN 10000
#define PER_SOCKET 250                /* then another connection, with another identity */
#define GROWTH_KB 8192u               /* of the coordinator, over ten thousand more: finished jobs are kept, up to a bound */
#define PROMPT "Once upon a time there was"

static char model[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(mutated_messages, .init = begin, .timeout = 240);

typedef struct { uint64_t seed, next; } dice;
static uint64_t roll(dice *d, uint64_t below) { return rng_u64(d->seed, d->next++) % below; }

/* ---- well-formed messages to begin with */

typedef struct { uint8_t head[MSG_HEADER_MAX]; size_t len; text frame[MSG_FRAMES_MAX + 2]; uint32_t n; } raw;

static void raw_free(raw *r)
{
    for (uint32_t i = 0; i < MSG_FRAMES_MAX + 2; i++) text_free(&r->frame[i]);
}

static void encode(raw *r, const message *m)
{
    err e;
    r->len = sizeof r->head;
    r->n = msg_frames(m->type);
    for (uint32_t i = 0; i < MSG_FRAMES_MAX + 2; i++) text_clear(&r->frame[i]);
    cr_assert_eq(msg_encode(m, r->head, &r->len, &e), ERR_OK, "%s", e.text);
}

static void client_message(dice *d, raw *r)
{
    static const msg_type types[] = { MSG_SUBMIT, MSG_SUBMIT, MSG_SUBMIT, MSG_CANCEL, MSG_FETCH, MSG_ASK, MSG_HELLO };
    static const uint32_t ids[3] = { 1, 300, 4095 };
    message m = msg_init(types[roll(d, sizeof types / sizeof *types)]);
    switch (m.type) {
    case MSG_SUBMIT:
        m.submit.ref = 1 + roll(d, 1000);
        m.submit.max_tokens = roll(d, 4);
        m.submit.stream = roll(d, 2);
        m.submit.kind = roll(d, 4) == 0;
        m.submit.n_tokens = m.submit.kind ? 3 : 0;
        m.submit.n_bias = roll(d, 2);
        break;
    case MSG_CANCEL: m.cancel.job = 1 + roll(d, 100000); break;
    case MSG_FETCH: m.fetch.ref = 1, m.fetch.job = 1 + roll(d, 100000); break;
    case MSG_ASK: m.ask.ref = 1 + roll(d, 100), m.ask.what = roll(d, 2); break;
    default: m.hello.major = PROTO_MAJOR;
    }
    encode(r, &m);
    if (m.type != MSG_SUBMIT) return;
    if (!m.submit.kind) text_adds(&r->frame[SUBMIT_PROMPT], "hi there");
    text_add(&r->frame[SUBMIT_TOKENS], ids, m.submit.n_tokens * 4);
    if (roll(d, 2)) text_add(&r->frame[SUBMIT_STOP], "abc", 4);
    bias_rec b = { .id = (uint32_t)roll(d, 5000), .bias = 1 };
    text_add(&r->frame[SUBMIT_BIAS], &b, m.submit.n_bias * sizeof b);
}

static void hello(dice *d, msg_hello *h)
{
    *h = (msg_hello){ .major = PROTO_MAJOR, .role = roll(d, 2), .pid = 1, .cores = 1, .threads = 1, .paths = 3, .n_models = 1, .spare = roll(d, 2),
                      .cookie = roll(d, 4) };
    snprintf(h->name, sizeof h->name, "stage-%d", (int)roll(d, 3));
    snprintf(h->data_addr, sizeof h->data_addr, "ipc:///nowhere/data");
    snprintf(h->bulk_addr, sizeof h->bulk_addr, "ipc:///nowhere/bulk");
}

static void control_message(dice *d, raw *r)
{
    static const msg_type types[] = { MSG_HELLO, MSG_HELLO, MSG_READY, MSG_PONG, MSG_SESSION_READY, MSG_KV_DONE, MSG_STATS, MSG_FAIL, MSG_BYE, MSG_PASSAGES };
    message m = msg_init(types[roll(d, sizeof types / sizeof *types)]);
    digest_rec digest = { 1, 2 };
    switch (m.type) {
    case MSG_HELLO: hello(d, &m.hello); break;
    case MSG_READY: m.ready.epoch = 1 + roll(d, 2), m.ready.stage = roll(d, 3); break;
    case MSG_SESSION_READY: m.session_ready.epoch = 1, m.session_ready.session = 1 + roll(d, 1000); break;
    case MSG_KV_DONE: m.kv_done.epoch = 1, m.kv_done.session = 1 + roll(d, 1000); break;
    case MSG_FAIL: m.fail.code = 1 + roll(d, 63), m.fail.step = roll(d, 100); break;
    case MSG_PASSAGES: m.passages.id = 1 + roll(d, 100); break;
    default: break;
    }
    encode(r, &m);
    if (m.type == MSG_HELLO) text_add(&r->frame[0], &digest, sizeof digest);
}

/* To the coordinator's result socket: answers to steps that nobody made. */
static void result_message(dice *d, raw *r)
{
    message m = msg_init(MSG_RESULT);
    result_row row = { .session = 64 * (1 + roll(d, 50)), .n_candidates = 1, .full = MSG_NO_ROW, .hidden = MSG_NO_ROW };
    cand_rec cand = { .id = 5, .logit = 1 };
    m.result = (msg_result){ .epoch = 1, .step = 1 + roll(d, 5000), .n_rows = 1, .n_cands = 1 };
    encode(r, &m);
    text_add(&r->frame[RESULT_ROWS], &row, sizeof row);
    text_add(&r->frame[RESULT_CANDS], &cand, sizeof cand);
}

/* To a stage's data socket: a step of sessions that are not open. */
static void step_message(dice *d, raw *r)
{
    message m = msg_init(MSG_STEP);
    step_row row = { .session = 64 * (1 + roll(d, 50)), .row = (uint32_t)roll(d, 4), .parent = MSG_NO_ROW, .target = UINT32_MAX, .want = 1 };
    step_op op = { .session = row.session, .kind = (uint32_t)roll(d, 5), .row = (uint32_t)roll(d, 4), .other = roll(d, 100) };
    hop_rec hops[2] = { { 0, 0 }, { 1, 0 } };
    m.step = (msg_step){ .epoch = 1, .step = 1 + roll(d, 5000), .n_rows = 1, .n_ops = roll(d, 2), .n_hops = 2, .dim = 256, .top = 64 };
    encode(r, &m);
    text_add(&r->frame[STEP_ROWS], &row, sizeof row);
    text_add(&r->frame[STEP_OPS], &op, m.step.n_ops * sizeof op);
    text_add(&r->frame[STEP_HOPS], hops, sizeof hops);
}

/* ---- breaking one */

static void break_head(dice *d, raw *r)
{
    static const uint8_t odd[] = { 0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xC0, 0xC2, 0xC4, 0xC6, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF };
    for (uint64_t i = 0, n = 1 + roll(d, 4); i < n && r->len; i++) {
        size_t at = roll(d, r->len);
        switch (roll(d, 5)) {
        case 0: r->head[at] = odd[roll(d, sizeof odd)]; break;
        case 1: r->head[at] = (uint8_t)(r->head[at] ^ 1u << roll(d, 8)); break;
        case 2: r->len = at; break;
        case 3: memset(r->head + at, 0xFF, r->len - at < 5 ? r->len - at : 5); break;
        default: r->head[at] = (uint8_t)roll(d, 256);
        }
    }
}

static void break_frames(dice *d, raw *r)
{
    text *f = &r->frame[roll(d, MSG_FRAMES_MAX)];
    static const char junk[300] = { 1, 2, 3 };
    switch (roll(d, 5)) {
    case 0: r->n = (uint32_t)roll(d, MSG_FRAMES_MAX + 2); break;
    case 1: f->len = f->len ? roll(d, f->len) : 0; break;
    case 2: text_add(f, junk, roll(d, sizeof junk)); break;
    case 3: text_add(f, "", 1); break;
    default: for (size_t i = 0; i < f->len; i++) f->ptr[i] = (char)roll(d, 256);
    }
}

/* STOP is the one message that is meant to end the cluster. */
static bool is_stop(const raw *r)
{
    message m;
    err e;
    return !msg_decode(&m, r->head, r->len, &e) && m.type == MSG_STOP;
}

/* ---- throwing */

typedef struct { const char *file; int kind; void (*make)(dice *, raw *); uint32_t share; uint64_t sent, valid, answers; } lane;

static void *connect_to(void *zmq, const standing *c, const lane *l)
{
    char addr[256];
    int linger = 1000, patience = 20000;
    void *s = zmq_socket(zmq, l->kind);
    snprintf(addr, sizeof addr, "ipc://%s/%s", c->dir, l->file);
    cr_assert(s && !zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger) && !zmq_setsockopt(s, ZMQ_SNDTIMEO, &patience, sizeof patience)
              && !zmq_setsockopt(s, ZMQ_RCVTIMEO, &patience, sizeof patience));
    cr_assert(!zmq_connect(s, addr), "%s", addr);
    return s;
}

static void send_raw(void *s, const raw *r, bool sealed)
{
    view part[2 + MSG_FRAMES_MAX] = { { r->head, r->len } };
    uint32_t n = 1;
    for (uint32_t i = 0; i < r->n; i++) part[n++] = (view){ r->frame[i].ptr, r->frame[i].len };
    uint64_t seal = seal_of(part, n);
    bool ok = true;
    for (uint32_t i = 0; ok && i < n; i++) ok = zmq_send(s, part[i].ptr, part[i].len, i + 1 < n || sealed ? ZMQ_SNDMORE : 0) >= 0;
    if (ok && sealed) ok = zmq_send(s, &seal, sizeof seal, 0) >= 0;
    cr_assert(ok, "the cluster does not take messages any more: %s", zmq_strerror(zmq_errno()));
}

static void drain(void *s, lane *l)
{
    zmq_msg_t m;
    if (l->kind != ZMQ_DEALER) return;
    zmq_msg_init(&m);
    while (zmq_msg_recv(&m, s, ZMQ_DONTWAIT) >= 0) l->answers += !zmq_msg_more(&m);
    zmq_msg_close(&m);
}

/* A well-formed message whose answer cannot come before everything thrown so far was read. */
static void sync_with(void *s, lane *l)
{
    static raw r;
    message m = msg_init(l->make == client_message ? MSG_ASK : MSG_HELLO);
    zmq_msg_t got;
    err e;
    digest_rec nobody = { 3, 4 };
    uint64_t mark = 0x5E1F000000 + l->sent;
    if (m.type == MSG_ASK) m.ask.ref = mark, m.ask.what = 1;
    else m.hello = (msg_hello){ .major = PROTO_MAJOR, .name = "sync", .n_models = 1, .spare = true };
    if (l->kind != ZMQ_DEALER) return;
    encode(&r, &m);
    if (m.type == MSG_HELLO) {
        snprintf(m.hello.name, sizeof m.hello.name, "sync-%llu", (unsigned long long)l->sent);
        encode(&r, &m);
        text_add(&r.frame[0], &nobody, sizeof nobody);
    }
    send_raw(s, &r, false);
    zmq_msg_init(&got);
    for (bool there = false; !there;) {
        cr_assert(zmq_msg_recv(&got, s, 0) >= 0, "no answer to a good message after bad ones: %s", zmq_strerror(zmq_errno()));
        bool last = !zmq_msg_more(&got);
        l->answers += last;
        if (m.type == MSG_ASK) there = !msg_decode(&m, zmq_msg_data(&got), zmq_msg_size(&got), &e) && m.type == MSG_REPORT && m.report.ref == mark;
        else there = memmem(zmq_msg_data(&got), zmq_msg_size(&got), "worker sync-", 12) != NULL;
        if (l->make == client_message) m.type = MSG_ASK;
    }
    zmq_msg_close(&got);
    raw_free(&r);
    memset(&r, 0, sizeof r);
}

static void throw_at(void *zmq, const standing *c, lane *l, uint32_t n, dice *d)
{
    static raw r;
    message m;
    err e;
    for (uint32_t i = 0; i < n;) {
        void *s = connect_to(zmq, c, l);
        for (uint32_t k = 0; k < PER_SOCKET && i < n; k++, i++) {
            l->make(d, &r);
            if (roll(d, 3)) break_head(d, &r);
            if (roll(d, 2)) break_frames(d, &r);
            if (is_stop(&r)) continue;
            send_raw(s, &r, l->kind == ZMQ_PUSH && roll(d, 4)); /* those without a seal go no further */
            l->sent++;
            l->valid += !msg_decode(&m, r.head, r.len, &e);
            drain(s, l);
        }
        sync_with(s, l);
        zmq_close(s);
    }
    raw_free(&r);
    memset(&r, 0, sizeof r);
}

static void wait_idle(const standing *c)
{
    for (int i = 0; i < 200; i++) {
        json_t *s = standing_status(c);
        if (!s) standing_print_log(c);
        cr_assert(s, "the coordinator does not answer");
        bool idle = json_number_at(s, "jobs.queued") == 0 && json_number_at(s, "jobs.running") == 0 && json_number_at(s, "sessions") == 0;
        json_decref(s);
        if (idle) return;
        usleep(100000);
    }
    ran r = program_run(0, 20, NULL, SLUICE("jobs", "--dir", c->dir));
    for (char *line = r.out.len ? strtok(r.out.ptr, "\n") : NULL; line; line = strtok(NULL, "\n"))
        if (!strstr(line, " done ")) printf("# %s\n", line);
    ran_free(&r);
    standing_print_log(c);
    cr_assert_fail("jobs of clients that are gone go on");
}

static void throw_all(const standing *c, uint32_t n, dice *d)
{
    lane lanes[] = { { "client", ZMQ_DEALER, client_message, 50, 0, 0, 0 }, { "control", ZMQ_DEALER, control_message, 30, 0, 0, 0 },
                     { "result", ZMQ_PUSH, result_message, 10, 0, 0, 0 }, { "stage-0.data", ZMQ_PUSH, step_message, 10, 0, 0, 0 } };
    void *zmq = zmq_ctx_new();
    cr_assert(zmq);
    for (size_t i = 0; i < 4; i++) {
        wait_idle(c);                  /* a forged answer to a step in flight would be believed: data comes from peers */
        throw_at(zmq, c, &lanes[i], n * lanes[i].share / 100, d);
        printf("# %s: %llu messages, %llu of them with a valid header; %llu answers\n", lanes[i].file, (unsigned long long)lanes[i].sent,
               (unsigned long long)lanes[i].valid, (unsigned long long)lanes[i].answers);
        if (lanes[i].kind == ZMQ_DEALER && i == 0) cr_expect_gt(lanes[i].answers, lanes[i].sent / 10, "nobody says what is wrong");
    }
    fflush(stdout);
    zmq_ctx_term(zmq);
}

/* ---- what must still be so */

static char *job_text(const standing *c)
{
    ran r = program_run(0, 60, NULL, SLUICE("submit", "--dir", c->dir, "--json", "-n", "24", "-p", PROMPT));
    if (r.status) standing_print_log(c);
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    char *s = strdup(json_string_at(o, "text"));
    json_decref(o);
    return s;
}

Test(mutated_messages, ten_thousand_change_neither_text_nor_memory)
{
    dice d = { support_seed(), 0 };
    standing c;
    cr_assert(standing_up(&c, "target", (const char *const[]){ "-m", model, "--stages", "2", "--log-level", "error", NULL }));
    pid_t stage = (pid_t)json_number_at(c.status, "stages.0.pid");
    char *before = job_text(&c);
    throw_all(&c, THROWN, &d);
    wait_idle(&c);
    uint64_t coordinator_kb = process_rss_kb(c.pid), stage_kb = process_rss_kb(stage);
    throw_all(&c, THROWN, &d);
    wait_idle(&c);
    uint64_t coordinator_after = process_rss_kb(c.pid), stage_after = process_rss_kb(stage);
    printf("# resident: coordinator %llu, then %llu KB; stage 0 %llu, then %llu KB\n", (unsigned long long)coordinator_kb,
           (unsigned long long)coordinator_after, (unsigned long long)stage_kb, (unsigned long long)stage_after);
    char *after = job_text(&c);
    cr_expect_str_eq(after, before);
    json_t *status = standing_status(&c);
    cr_expect_eq(json_number_at(status, "pid"), c.pid, "the same coordinator");
    cr_expect_eq(json_number_at(status, "stages.0.pid"), stage, "the same stage");
    if (programs_patience() == 1) {    /* a sanitizer holds on to freed memory */
        cr_expect(coordinator_kb && coordinator_after <= coordinator_kb + GROWTH_KB);
        cr_expect(stage_kb && stage_after <= stage_kb + GROWTH_KB);
    }
    json_decref(status);
    free(before);
    free(after);
    cr_assert(standing_down(&c));
    cr_assert(programs_gone(5));
}
