/* Damaged, forged and random messages at every socket of a live cluster, while jobs run whose texts are compared. First those
 * that a broken wire makes: valid ones (from a trace) with a seal that no longer fits, at any moment. Then those that somebody
 * makes on purpose: odd contents under a right seal, between jobs, since a peer that may speak and lies well is believed.
 * CORRUPT_FRAMES says how many (make corrupt FRAMES=100000). */
#include "core/rng.h"
#include "proto/message_table.h"
#include "proto/seal.h"
#include "proto/trace.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define FRAMES 3000u                  /* messages of the short run */
#define BURST 100u                    /* on one connection */
#define JOBS 8
#define GROWTH_KB 3072u               /* of a process, from a tenth of the way to the end: pages of KV come in pieces of 2 MiB */
enum { PARTS = 1 + MSG_FRAMES_MAX, SAMPLES = 600, SAMPLE_BYTES = 1 << 16 };

static char model_file[512];

static void begin(void)
{
    programs_begin();
    snprintf(model_file, sizeof model_file, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(corrupt, .init = begin, .timeout = 7200);

typedef struct { uint64_t seed, next; } dice;
static uint64_t roll(dice *d, uint64_t below) { return rng_u64(d->seed, d->next++) % below; }

/* ---- messages to begin with: what a cluster said ---- */

typedef struct { text part[PARTS + 1]; uint32_t n; } raw;
typedef struct { raw m; const char *lane; } sample;
static sample samples[SAMPLES];
static uint32_t n_samples;

static void raw_free(raw *r)
{
    for (uint32_t i = 0; i <= PARTS; i++) text_free(&r->part[i]);
    r->n = 0;
}

static void keep(const trace_event *ev)
{
    uint8_t head[MSG_HEADER_MAX];
    size_t len = sizeof head, all = 0;
    err e;
    for (uint32_t i = 0; i < ev->n_frames; i++) all += ev->frame[i].len;
    if (n_samples == SAMPLES || all > SAMPLE_BYTES || msg_encode(&ev->head, head, &len, &e)) return;
    sample *s = &samples[n_samples++];
    s->lane = message_desc_of(ev->head.type)->lane;
    s->m.n = 1 + ev->n_frames;
    bool ok = text_add(&s->m.part[0], head, len);
    for (uint32_t i = 0; i < ev->n_frames; i++) ok = ok && text_add(&s->m.part[1 + i], ev->frame[i].ptr, ev->frame[i].len);
    cr_assert(ok);
}

static void read_trace(const char *path)
{
    trace_reader *r;
    trace_event ev;
    err e;
    cr_assert_eq(trace_read_open(&r, path, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; trace_next(r, &ev, &e) && i < SAMPLES / 3; i++) keep(&ev);
    trace_read_close(&r);
}

static void submit(const standing *c, const char *const more[2])
{
    const char *argv[] = { support_bin("sluice"), "submit", "--dir", c->dir, "--json", "-n", "6", "-p", "Once upon a time", more[0], more[0] ? more[1] : NULL, NULL };
    ran r = program_run(0, 120, NULL, argv);
    cr_assert_eq(r.status, 0);
    ran_free(&r);
}

static void collect(void)
{
    char path[256], of_stage[300];
    standing c;
    snprintf(path, sizeof path, "%s", programs_file("trace"));
    cr_assert(standing_up(&c, "traced", (const char *const[]){ "-m", model_file, "--stages", "2", "--trace", path, NULL }));
    submit(&c, (const char *const[]){ "--prefill", "local" });
    submit(&c, (const char *const[]){ "--choices", "2" });
    submit(&c, (const char *const[]){ NULL, NULL });
    cr_assert(standing_down(&c));
    read_trace(path);
    for (int i = 0; i < 2; i++) {
        snprintf(of_stage, sizeof of_stage, "%s.stage-%d", path, i);
        read_trace(of_stage);
    }
    printf("# %u messages of a traced cluster to begin with\n", n_samples);
    cr_assert_gt(n_samples, 50);
}

/* ---- damage ---- */

static void add_junk(dice *d, text *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = (char)roll(d, 256);
        cr_assert(text_add(t, &c, 1));
    }
}

static void damage_part(dice *d, text *t)
{
    if (!t->len) {
        add_junk(d, t, 1 + roll(d, 40));
        return;
    }
    size_t at = roll(d, t->len), n = 1 + roll(d, 8);
    switch (roll(d, 6)) {
    case 0: t->ptr[at] = (char)(t->ptr[at] ^ 1 << roll(d, 8)); break;
    case 1: for (size_t i = at; i < t->len && i < at + n; i++) t->ptr[i] = (char)roll(d, 256); break;
    case 2: t->len = at; break;
    case 3: add_junk(d, t, n); break;
    case 4: memset(t->ptr + at, roll(d, 2) ? 0xFF : 0, t->len - at < n ? t->len - at : n); break;
    default: memmove(t->ptr + at / 2, t->ptr + at, t->len - at);
    }
}

static void make_random(dice *d, raw *r)
{
    raw_free(r);
    r->n = 1 + (uint32_t)roll(d, PARTS);
    for (uint32_t i = 0; i < r->n; i++) add_junk(d, &r->part[i], roll(d, roll(d, 8) ? 64 : 5000));
}

static void copy_sample(raw *r, const raw *from)
{
    raw_free(r);
    r->n = from->n;
    for (uint32_t i = 0; i < r->n; i++) cr_assert(text_add(&r->part[i], from->part[i].ptr, from->part[i].len));
}

/* For this lane mostly; a message on the wrong socket is as good. */
static const raw *pick(dice *d, const char *lane)
{
    for (int tries = 0; tries < 200; tries++) {
        const sample *s = &samples[roll(d, n_samples)];
        if (!strcmp(s->lane, lane) || tries == 199 || roll(d, 100) == 0) return &s->m;
    }
    return &samples[0].m;
}

static void damage(dice *d, raw *r)
{
    for (uint64_t i = 0, n = 1 + roll(d, 4); i < n; i++) {
        uint32_t a = (uint32_t)roll(d, r->n), b = (uint32_t)roll(d, r->n);
        switch (roll(d, 12)) {
        case 0: if (r->n > 1) r->n--; break;
        case 1: if (r->n <= PARTS) text_clear(&r->part[r->n]), r->n++; break;
        case 2: { text t = r->part[a]; r->part[a] = r->part[b]; r->part[b] = t; break; }
        case 3: case 4: case 5: damage_part(d, &r->part[0]); break;
        default: damage_part(d, &r->part[a]);
        }
    }
}

/* Words that are meant to do harm and whose sender is believed: end the cluster, cancel a job, be a child of the coordinator. Jobs
 * are let through now and then, as they cost time. */
static bool is_meant(dice *d, const raw *r)
{
    message m;
    err e;
    if (msg_decode(&m, r->part[0].ptr, r->part[0].len, &e)) return false;
    if (m.type == MSG_SUBMIT) return m.submit.max_tokens > 64 || m.submit.n > 4 || roll(d, 20);
    return m.type == MSG_STOP || m.type == MSG_CANCEL || (m.type == MSG_HELLO && m.hello.cookie);
}

/* ---- throwing ---- */

typedef struct { const char *name, *begins, *ends; int kind; const char *lane; uint32_t share; uint64_t sent, answers; } target;
static target targets[] = {
    { "client", "client", "client", ZMQ_DEALER, "client", 25, 0, 0 },   { "control", "control", "control", ZMQ_DEALER, "control", 25, 0, 0 },
    { "result", "result", "result", ZMQ_PUSH, "data", 15, 0, 0 },       { "stage 0", "stage-0", ".data", ZMQ_PUSH, "data", 15, 0, 0 },
    { "stage 1", "stage-1", ".data", ZMQ_PUSH, "data", 10, 0, 0 },      { "bulk", "stage-0", ".bulk", ZMQ_PUSH, "bulk", 10, 0, 0 },
};
enum { N_TARGETS = sizeof targets / sizeof *targets };

/* The socket's file: stages put their pid into the name. */
static bool find_socket(const standing *c, const target *t, char addr[300])
{
    DIR *dir = opendir(c->dir);
    bool found = false;
    for (struct dirent *f; dir && !found && (f = readdir(dir));) {
        size_t n = strlen(f->d_name), b = strlen(t->begins), z = strlen(t->ends);
        found = n >= b && n >= z && !strncmp(f->d_name, t->begins, b) && !strcmp(f->d_name + n - z, t->ends);
        if (found) snprintf(addr, 300, "ipc://%s/%s", c->dir, f->d_name);
    }
    if (dir) closedir(dir);
    return found;
}

static void *connect_to(void *zmq, const standing *c, const target *t)
{
    char addr[300];
    int linger = 2000, patience = 60000, now = 1;
    for (int i = 0; !find_socket(c, t, addr); i++) {
        cr_assert_lt(i, 600, "%s: no socket in %s", t->name, c->dir);
        usleep(100000);
    }
    void *s = zmq_socket(zmq, t->kind);
    cr_assert(s && !zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger) && !zmq_setsockopt(s, ZMQ_SNDTIMEO, &patience, sizeof patience)
              && !zmq_setsockopt(s, ZMQ_IMMEDIATE, &now, sizeof now));
    cr_assert(!zmq_connect(s, addr), "%s", addr);
    return s;
}

/* `seal`: of what it was before the damage, or of what it is now. A broken wire never makes a message whose seal fits. */
static void send_raw(void *s, const raw *r, const uint64_t *seal)
{
    view part[PARTS + 2];
    uint32_t n = r->n;
    for (uint32_t i = 0; i < n; i++) part[i] = (view){ r->part[i].ptr, r->part[i].len };
    if (seal) part[n++] = (view){ seal, sizeof *seal };
    for (uint32_t i = 0; i < n; i++) {
        int rc = zmq_send(s, part[i].len ? part[i].ptr : "", part[i].len, i + 1 < n ? ZMQ_SNDMORE : 0);
        cr_assert(rc >= 0, "the cluster does not take messages any more: %s", zmq_strerror(zmq_errno()));
    }
}

static uint64_t seal_now(const raw *r)
{
    view part[PARTS + 1];
    for (uint32_t i = 0; i < r->n; i++) part[i] = (view){ r->part[i].ptr, r->part[i].len };
    return seal_of(part, r->n);
}

static void drain(void *s, target *t)
{
    zmq_msg_t m;
    if (t->kind != ZMQ_DEALER) return;
    zmq_msg_init(&m);
    while (zmq_msg_recv(&m, s, ZMQ_DONTWAIT) >= 0) t->answers += !zmq_msg_more(&m);
    zmq_msg_close(&m);
}

/* *seal: of what it was before the damage, or any. */
static void make_bad(raw *r, const char *lane, dice *d, uint64_t *seal)
{
    do {
        *seal = roll(d, UINT64_MAX);
        if (roll(d, 4) == 0) make_random(d, r);
        else {
            copy_sample(r, pick(d, lane));
            if (roll(d, 3)) *seal = seal_now(r);
            damage(d, r);
        }
    } while (is_meant(d, r));
}

static void throw_one(void *s, target *t, dice *d, bool forged)
{
    static raw r;
    uint64_t seal;
    make_bad(&r, t->lane, d, &seal);
    bool sealed = t->kind == ZMQ_PUSH;
    if (sealed && forged) seal = seal_now(&r);
    else if (sealed && seal == seal_now(&r)) seal++;
    send_raw(s, &r, sealed && (forged || roll(d, 4)) ? &seal : NULL);
    t->sent++;
}

static void throw_burst(void *zmq, const standing *c, dice *d, bool forged)
{
    uint64_t at = roll(d, 100);
    target *t = targets;
    for (uint32_t sum = t->share; at >= sum && t + 1 < targets + N_TARGETS; sum += t->share) t++;
    void *s = connect_to(zmq, c, t);
    for (uint32_t i = 0; i < BURST; i++) {
        throw_one(s, t, d, forged);
        drain(s, t);
    }
    zmq_close(s);
}

/* ---- jobs ---- */

static char batch_file[256];

static void write_batch(void)
{
    text t = { 0 };
    for (int i = 0; i < JOBS; i++)
        cr_assert(text_addf(&t, "{\"custom_id\":\"j%d\",\"prompt\":\"Once upon a time there was number %d\",\"max_tokens\":%d,\"seed\":%d,\"temperature\":%s}\n",
                            i, i, 8 + 4 * i, i, i % 2 ? "0.8" : "0"));
    snprintf(batch_file, sizeof batch_file, "%s", programs_file("jobs.jsonl"));
    cr_assert(support_write(batch_file, t.ptr, t.len));
    text_free(&t);
}

static void start_batch(program *p, const standing *c, char out[256], uint32_t no)
{
    char name[32];
    snprintf(name, sizeof name, "batch-%u", no);
    snprintf(out, 256, "%s/%s.out", support_tmpdir(), name);
    cr_assert(program_start(p, name, SLUICE("submit", "--dir", c->dir, "--batch", batch_file, "-o", out)));
}

/* custom_id -> text of every line. */
static json_t *read_texts(const char *path)
{
    text all = { 0 };
    err e;
    json_t *o = json_object();
    cr_assert_eq(text_read_file(&all, path, 1 << 24, &e), ERR_OK, "%s", e.text);
    for (char *line = strtok(all.ptr, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *l = json_loads(line, 0, NULL);
        cr_assert(l && json_string_value(json_object_get(l, "text")), "%s", line);
        json_object_set(o, json_string_at(l, "custom_id"), json_object_get(l, "text"));
        json_decref(l);
    }
    text_free(&all);
    unlink(path);
    return o;
}

static void check_batch(program *p, const standing *c, const char *out, const json_t *want)
{
    int status = program_wait(p, 0, 600);
    if (status) standing_print_log(c);
    cr_assert_eq(status, 0);
    json_t *got = read_texts(out);
    cr_assert_eq(json_object_size(got), JOBS);
    cr_assert(json_equal(got, (json_t *)want), "a text is another one");
    json_decref(got);
}

/* ---- the whole ---- */

typedef struct { pid_t pid[3]; uint64_t kb[3], then[3]; uint64_t batches, damaged[2]; } watch;

static void look(watch *w, const standing *c)
{
    static const char *const where[] = { "pid", "stages.0.pid", "stages.1.pid" };
    json_t *s = standing_status(c);
    if (!s) standing_print_log(c);
    cr_assert(s, "the coordinator does not answer");
    for (int i = 0; i < 3; i++) {
        pid_t now = (pid_t)json_number_at(s, where[i]);
        cr_assert(!w->pid[i] || w->pid[i] == now, "%s: was %d, is %d", where[i], (int)w->pid[i], (int)now);
        w->pid[i] = now;
        w->kb[i] = process_rss_kb(now);
    }
    for (int i = 0; i < 2; i++) w->damaged[i] = (uint64_t)json_number_at(s, i ? "stages.1.damaged" : "stages.0.damaged");
    json_decref(s);
}

/* Broken messages while a batch runs; when it has ended, the next one. */
static void while_jobs_run(void *zmq, const standing *c, dice *d, uint32_t n, const json_t *want, watch *w)
{
    program p;
    char out[256];
    for (uint32_t thrown = 0; thrown < n; w->batches++) {
        start_batch(&p, c, out, (uint32_t)w->batches);
        do throw_burst(zmq, c, d, false), thrown += BURST;
        while (thrown < n && program_wait(&p, -1, 0) == SUPPORT_TIMEOUT);
        check_batch(&p, c, out, want);
        if (!w->then[0] && thrown >= n / 5) look(w, c), memcpy(w->then, w->kb, sizeof w->then);
    }
}

/* Forged ones when none runs, then a batch. */
static void between_jobs(void *zmq, const standing *c, dice *d, uint32_t n, const json_t *want, watch *w)
{
    program p;
    char out[256];
    uint32_t most = n / 20 > 500 ? n / 20 : 500;
    for (uint32_t thrown = 0; thrown < n; w->batches++) {
        for (uint32_t i = 0; i < most && thrown < n; i += BURST, thrown += BURST) throw_burst(zmq, c, d, true);
        start_batch(&p, c, out, (uint32_t)w->batches);
        check_batch(&p, c, out, want);
    }
}

static void tell(const watch *w)
{
    uint64_t all = 0;
    for (int i = 0; i < N_TARGETS; i++) {
        all += targets[i].sent;
        printf("# %s: %llu messages, %llu answers\n", targets[i].name, (unsigned long long)targets[i].sent, (unsigned long long)targets[i].answers);
    }
    printf("# %llu messages, %llu batches of %d jobs with the same texts\n", (unsigned long long)all, (unsigned long long)w->batches, JOBS);
    printf("# refused by stage 0: %llu, by stage 1: %llu\n", (unsigned long long)w->damaged[0], (unsigned long long)w->damaged[1]);
    for (int i = 0; i < 3; i++)
        printf("# %s: %llu KB, then %llu KB\n", i ? i == 1 ? "stage 0" : "stage 1" : "coordinator", (unsigned long long)w->then[i],
               (unsigned long long)w->kb[i]);
}

Test(corrupt, messages_change_no_text_and_no_memory_and_end_no_process)
{
    dice d = { support_seed(), 0 };
    const char *asked = getenv("CORRUPT_FRAMES");
    uint32_t n = asked && atoi(asked) > 0 ? (uint32_t)atoi(asked) : FRAMES;
    program p;
    char out[256];
    standing c;
    watch w = { .batches = 1 };
    void *zmq = zmq_ctx_new();
    collect();
    write_batch();
    cr_assert(standing_up(&c, "target", (const char *const[]){ "-m", model_file, "--stages", "2", "--keep-jobs", "16", "--log-level", "error", NULL }));
    start_batch(&p, &c, out, 0);
    cr_assert_eq(program_wait(&p, 0, 600), 0);
    json_t *want = read_texts(out);
    look(&w, &c);
    while_jobs_run(zmq, &c, &d, n / 2, want, &w);
    between_jobs(zmq, &c, &d, n - n / 2, want, &w);
    look(&w, &c);
    tell(&w);
    for (int i = 0; i < 3 && programs_patience() == 1; i++) cr_expect_leq(w.kb[i], w.then[i] + GROWTH_KB, "process %d grows", i);
    cr_expect_gt(w.damaged[0], (targets[3].sent + targets[5].sent) / 4, "the messages do not arrive");
    cr_expect_geq(w.damaged[1], targets[4].sent / 4, "the messages do not arrive");
    json_decref(want);
    zmq_ctx_term(zmq);
    cr_assert(standing_down(&c));
    cr_assert(programs_gone(10));
    for (uint32_t i = 0; i < n_samples; i++) raw_free(&samples[i].m);
}
