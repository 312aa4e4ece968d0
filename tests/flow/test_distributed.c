/* It is really distributed: separate processes on their own cores, frames that go one way through all of them, stages that
 * map nothing of the model but their own tensors, and workers that join over tcp. Everything is read from outside: /proc,
 * trace files, exit statuses. */
#include "engine/gguf.h"
#include "proto/trace.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <ctype.h>
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPT "Once upon a time there was"
#define NEW_TOKENS "24"

static char model[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(distributed, .init = begin, .timeout = 120);

static char *text_of(const standing *c)
{
    ran r = program_run(0, 20, NULL, SLUICE("submit", "--dir", c->dir, "--json", "-n", NEW_TOKENS, "-p", PROMPT));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    char *s = strdup(json_string_at(o, "text"));
    cr_assert(*s);
    json_decref(o);
    return s;
}

/* The text that one stage gives. */
static char *plain_text(void)
{
    ran r = program_run(0, 20, NULL, SLUICE("run", "-m", model, "--stages", "1", "--json", "-n", NEW_TOKENS, "-p", PROMPT));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    char *s = strdup(json_string_at(o, "text"));
    json_decref(o);
    return s;
}

/* A fact about stage i of a status. */
static int64_t stage_number(const json_t *status, size_t i, const char *key)
{
    char path[64];
    snprintf(path, sizeof path, "stages.%zu.%s", i, key);
    return json_number_at(status, path);
}

static bool stage_flag(const json_t *status, size_t i, const char *key)
{
    return json_is_true(json_object_get(json_array_get(json_object_get(status, "stages"), i), key));
}

/* ---- processes and cores */

/* "Name:\tvalue" of a status file in /proc, without the white space. */
static void proc_field(const char *path, const char *name, char *out, size_t cap)
{
    text t = { 0 };
    out[0] = 0;
    text_read_file(&t, path, 1 << 20, NULL);
    for (char *line = t.len ? strtok(t.ptr, "\n") : NULL; line; line = strtok(NULL, "\n")) {
        size_t n = strlen(name);
        if (strncmp(line, name, n) || line[n] != ':') continue;
        for (line += n + 1; isspace((unsigned char)*line);) line++;
        snprintf(out, cap, "%s", line);
    }
    text_free(&t);
}

/* "0-3,8" into a set; ascending lists only. */
static void add_list(cpu_set_t *set, const char *list)
{
    for (char *end; *list; list = *end ? end + 1 : end) {
        long a = strtol(list, &end, 10), b = a;
        if (*end == '-') b = strtol(end + 1, &end, 10);
        for (; a <= b && a < CPU_SETSIZE; a++) CPU_SET((size_t)a, set);
        if (*end && *end != ',') return;
    }
}

/* Where the threads of a process may run, all together. */
static cpu_set_t cores_of(pid_t pid)
{
    cpu_set_t set;
    char path[64], one[512], list[1024];
    struct dirent *f;
    CPU_ZERO(&set);
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    while (d && (f = readdir(d))) {
        if (!isdigit((unsigned char)f->d_name[0])) continue;
        snprintf(one, sizeof one, "%s/%s/status", path, f->d_name);
        proc_field(one, "Cpus_allowed_list", list, sizeof list);
        add_list(&set, list);
    }
    if (d) closedir(d);
    return set;
}

static int cores_here(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

static void check_program(pid_t pid, const char *name)
{
    char path[64], exe[1024];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    cr_assert_gt(n, 0, "pid %d", (int)pid);
    exe[n] = 0;
    cr_expect_str_eq(exe, support_bin(name));
}

static pid_t parent_of(pid_t pid)
{
    char path[64], value[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    proc_field(path, "PPid", value, sizeof value);
    return (pid_t)atoi(value);
}

static void check_processes(const json_t *status, size_t n)
{
    pid_t seen[8] = { (pid_t)json_number_at(status, "pid") };
    check_program(seen[0], "sluice-coordinator");
    for (size_t i = 0; i < n; i++) {
        seen[i + 1] = (pid_t)stage_number(status, i, "pid");
        for (size_t k = 0; k <= i; k++) cr_expect_neq(seen[k], seen[i + 1], "two roles in one process");
        check_program(seen[i + 1], "sluice-stage");
        cr_expect_eq(parent_of(seen[i + 1]), seen[0], "a stage is a child of the coordinator");
    }
}

static void check_cores(const json_t *status, size_t n)
{
    cpu_set_t all;
    CPU_ZERO(&all);
    int sum = 0;
    for (size_t i = 0; i < n; i++) {
        cpu_set_t said, real = cores_of((pid_t)stage_number(status, i, "pid"));
        char path[64];
        snprintf(path, sizeof path, "stages.%zu.cores", i);
        CPU_ZERO(&said);
        add_list(&said, json_string_at(status, path));
        cr_expect(CPU_EQUAL(&said, &real), "stage %zu says \"%s\"", i, json_string_at(status, path));
        sum += CPU_COUNT(&real);
        CPU_OR(&all, &all, &real);
    }
    if (cores_here() >= (int)n) cr_expect_eq(CPU_COUNT(&all), sum, "stages share a core although there are enough");
}

Test(distributed, coordinator_and_stages_are_processes_on_cores_of_their_own)
{
    standing c;
    cr_assert(standing_up(&c, "cores", (const char *const[]){ "-m", model, "--stages", "2", NULL }));
    check_processes(c.status, 2);
    if (cores_here() > 1) check_cores(c.status, 2);
    else printf("# one cpu here: cpusets are not compared\n");
    cr_assert(standing_down(&c));
}

Test(distributed, a_named_binding_is_the_one_in_proc)
{
    standing c;
    if (cores_here() < 2) cr_skip_test("one cpu here");
    cr_assert(standing_up(&c, "bind", (const char *const[]){ "-m", model, "--stages", "2", "--bind", "core:1;core:0", NULL }));
    check_cores(c.status, 2);
    cr_assert(standing_down(&c));
}

/* ---- the way of a frame */

typedef struct { uint64_t step, epoch, hop, rows, hidden; } frame_seen;
typedef struct { frame_seen *at; size_t n; } frames_seen;

/* What a trace file has of one message type in one direction, in order. */
static frames_seen frames_in(const char *path, char dir, msg_type type)
{
    frames_seen f = { 0 };
    trace_reader *r;
    static trace_event ev;
    err e = { 0 };
    cr_assert_eq(trace_read_open(&r, path, &e), ERR_OK, "%s", e.text);
    while (trace_next(r, &ev, &e)) {
        if (ev.head.type != type || ev.dir != dir) continue;
        f.at = realloc(f.at, (f.n + 1) * sizeof *f.at);
        cr_assert(f.at);
        f.at[f.n++] = type == MSG_STEP ? (frame_seen){ ev.head.step.step, ev.head.step.epoch, ev.head.step.hop, ev.head.step.n_rows, ev.frame[STEP_HIDDEN].len }
                                       : (frame_seen){ ev.head.result.step, ev.head.result.epoch, 0, ev.head.result.n_rows, 0 };
    }
    cr_assert_eq(e.code, ERR_OK, "%s: %s", path, e.text);
    trace_read_close(&r);
    return f;
}

static void expect_steps(const char *what, const char *path, char dir, msg_type type, const frames_seen *want, uint64_t hop)
{
    frames_seen got = frames_in(path, dir, type);
    cr_expect_eq(got.n, want->n, "%s: %zu messages, %zu steps were sent", what, got.n, want->n);
    for (size_t i = 0; i < got.n && i < want->n; i++) {
        cr_expect_eq(got.at[i].step, want->at[i].step, "%s: step %zu", what, i);
        cr_expect_eq(got.at[i].epoch, want->at[i].epoch, "%s: epoch of step %zu", what, i);
        if (type != MSG_STEP) continue;
        cr_expect_eq(got.at[i].hop, hop, "%s: hop of step %zu", what, i);
        cr_expect_eq(got.at[i].rows, want->at[i].rows, "%s: rows of step %zu", what, i);
        cr_expect_eq(got.at[i].hidden, hop ? got.at[i].rows * 256 * 4 : 0, "%s: hidden states of step %zu", what, i);
    }
    free(got.at);
}

static void expect_none(const char *what, const char *path, char dir, msg_type type)
{
    frames_seen got = frames_in(path, dir, type);
    cr_expect_eq(got.n, 0, "%s", what);
    free(got.at);
}

Test(distributed, frames_go_from_coordinator_to_stage_to_stage_and_back)
{
    char file[128], first[160], second[160];
    snprintf(file, sizeof file, "%s", programs_file("trace"));
    snprintf(first, sizeof first, "%s.stage-0", file);
    snprintf(second, sizeof second, "%s.stage-1", file);
    standing c;
    cr_assert(standing_up(&c, "way", (const char *const[]){ "-m", model, "--stages", "2", "--trace", file, NULL }));
    free(text_of(&c));
    cr_assert(standing_down(&c));
    frames_seen sent = frames_in(file, 'S', MSG_STEP);
    cr_assert_geq(sent.n, 24, "a step for every token");
    for (size_t i = 1; i < sent.n; i++) cr_expect_gt(sent.at[i].step, sent.at[i - 1].step);
    expect_steps("stage 0 takes", first, 'R', MSG_STEP, &sent, 0);
    expect_steps("stage 0 passes on", first, 'S', MSG_STEP, &sent, 1);
    expect_steps("stage 1 takes", second, 'R', MSG_STEP, &sent, 1);
    expect_steps("stage 1 answers", second, 'S', MSG_RESULT, &sent, 0);
    expect_steps("the coordinator hears", file, 'R', MSG_RESULT, &sent, 0);
    expect_none("a stage answers the one before it", first, 'R', MSG_RESULT);
    expect_none("stage 0 answers the coordinator", first, 'S', MSG_RESULT);
    expect_none("stage 1 sends a step", second, 'S', MSG_STEP);
    expect_none("the coordinator takes a step", file, 'R', MSG_STEP);
    free(sent.at);
}

/* ---- memory: what is mapped */

typedef struct { uint8_t *page; size_t n, size; } page_map;

static page_map pages_new(const char *path)
{
    FILE *f = fopen(path, "re");
    cr_assert(f && !fseek(f, 0, SEEK_END));
    page_map m = { .size = (size_t)sysconf(_SC_PAGESIZE) };
    m.n = ((size_t)ftell(f) + m.size - 1) / m.size;
    m.page = calloc(m.n, 1);
    fclose(f);
    cr_assert(m.page);
    return m;
}

static void pages_mark(page_map *m, uint64_t offset, uint64_t bytes)
{
    for (size_t p = offset / m->size; bytes && p <= (offset + bytes - 1) / m->size; p++) {
        cr_assert_lt(p, m->n, "a mapping behind the end of the file");
        m->page[p] = 1;
    }
}

static bool is_own(const gguf *g, const char *name, int64_t first, int64_t last, bool embed, bool head)
{
    bool tied = !gguf_tensor_find(g, "output.weight");
    int64_t layer = -1;
    if (!strncmp(name, "blk.", 4)) layer = atoi(name + 4);
    if (layer >= 0) return layer >= first && layer < last;
    if (!strncmp(name, "token_embd.", 11)) return embed || (head && tied);
    if (!strncmp(name, "output", 6)) return head;
    return last > first;                      /* rope_freqs and such: whoever has layers */
}

/* The pages of the tensors that a stage has by the status; `must`: only those of its matrices. */
static page_map pages_own(const json_t *status, size_t i, bool must)
{
    gguf *g;
    err e;
    page_map m = pages_new(model);
    cr_assert_eq(gguf_open(&g, model, &e), ERR_OK, "%s", e.text);
    for (uint64_t k = 0; k < gguf_n_tensors(g); k++) {
        const gguf_tensor *t = gguf_tensor_at(g, k);
        bool own = is_own(g, t->name, stage_number(status, i, "first"), stage_number(status, i, "last"), stage_flag(status, i, "embed"),
                          stage_flag(status, i, "head"));
        if (own && (!must || t->n_dims > 1)) pages_mark(&m, t->offset, t->bytes);
    }
    gguf_close(&g);
    return m;
}

/* The pages of the model file that a process maps, by its smaps. */
static page_map pages_mapped(pid_t pid)
{
    char path[64], name[600];
    page_map m = pages_new(model);
    text t = { 0 };
    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    cr_assert_eq(text_read_file(&t, path, 64 << 20, NULL), ERR_OK);
    for (char *line = strtok(t.ptr, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long long from, to, offset;
        if (sscanf(line, "%llx-%llx %*s %llx %*s %*s %599[^\n]", &from, &to, &offset, name) == 4 && !strcmp(name, model)) pages_mark(&m, offset, to - from);
    }
    text_free(&t);
    return m;
}

static size_t pages_count(const page_map *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += m->page[i];
    return n;
}

/* Pages of a that b has not. */
static size_t pages_beyond(const page_map *a, const page_map *b)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++) n += a->page[i] && !b->page[i];
    return n;
}

static void check_maps(const json_t *status, size_t i, size_t n)
{
    page_map own = pages_own(status, i, false), must = pages_own(status, i, true), real = pages_mapped((pid_t)stage_number(status, i, "pid"));
    cr_expect_eq(pages_beyond(&real, &own), 0, "stage %zu of %zu maps %zu pages that are not its tensors'", i, n, pages_beyond(&real, &own));
    cr_expect_eq(pages_beyond(&must, &real), 0, "stage %zu of %zu does not map %zu pages of its matrices", i, n, pages_beyond(&must, &real));
    if (n > 1) cr_expect_lt(pages_count(&real), real.n, "stage %zu of %zu maps the whole file", i, n);
    printf("# stage %zu of %zu maps %zu of the file's %zu pages, its tensors lie on %zu\n", i, n, pages_count(&real), real.n, pages_count(&own));
    free(own.page);
    free(must.page);
    free(real.page);
}

static void check_smaps(const char *stages)
{
    standing c;
    size_t n = (size_t)atoi(stages);
    cr_assert(standing_up(&c, "maps", (const char *const[]){ "-m", model, "--stages", stages, "--no-pack", NULL }));
    free(text_of(&c));                 /* weights that are mapped late are mapped now */
    for (size_t i = 0; i < n; i++) check_maps(c.status, i, n);
    page_map real = pages_mapped(c.pid);
    cr_expect_eq(pages_count(&real), 0, "the coordinator maps weights although it computes nothing");
    free(real.page);
    cr_assert(standing_down(&c));
}

Test(distributed, a_stage_maps_only_its_own_tensors_one_stage) { check_smaps("1"); }
Test(distributed, a_stage_maps_only_its_own_tensors_two_stages) { check_smaps("2"); }
Test(distributed, a_stage_maps_only_its_own_tensors_three_stages) { check_smaps("3"); }

/* Bytes of packed weights that a process maps. */
static uint64_t packed_mapped(pid_t pid)
{
    char path[64], name[600];
    uint64_t sum = 0;
    text t = { 0 };
    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    cr_assert_eq(text_read_file(&t, path, 64 << 20, NULL), ERR_OK);
    for (char *line = strtok(t.ptr, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long long from, to;
        size_t n;
        if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %599[^\n]", &from, &to, name) != 3 || (n = strlen(name)) < 5) continue;
        if (!strcmp(name + n - 5, ".pack")) sum += to - from;
    }
    text_free(&t);
    return sum;
}

Test(distributed, stages_share_the_packed_weights_out_among_them)
{
    standing c;
    uint64_t one, part[2];
    cr_assert(standing_up(&c, "packed", (const char *const[]){ "-m", model, "--stages", "1", NULL }));
    free(text_of(&c));
    one = packed_mapped((pid_t)stage_number(c.status, 0, "pid"));
    cr_assert(standing_down(&c));
    cr_assert(standing_up(&c, "packed", (const char *const[]){ "-m", model, "--stages", "2", NULL }));
    free(text_of(&c));
    for (size_t i = 0; i < 2; i++) part[i] = packed_mapped((pid_t)stage_number(c.status, i, "pid"));
    cr_assert(standing_down(&c));
    printf("# packed weights: one stage maps %llu bytes, two map %llu and %llu\n", (unsigned long long)one, (unsigned long long)part[0],
           (unsigned long long)part[1]);
    cr_expect_gt(one, 0);
    cr_expect_lt(part[0], one);
    cr_expect_lt(part[1], one);
    cr_expect_leq(part[0] + part[1], one + one / 8, "more than page borders and tied weights are mapped twice");
    cr_expect_geq(part[0] + part[1], one);
}

/* ---- workers that join */

typedef struct { char endpoint[64]; program up, worker; char dir[128]; } party;

/* `up` waits for the worker, so it runs in the background. */
static void party_up(party *p, const char *stages, const char *join)
{
    cr_assert(program_start(&p->up, "up", SLUICE("up", "--dir", p->dir, "-m", model, "--stages", stages, "--join", join, "--no-pack", "--listen",
                                             p->endpoint)));
}

static party party_begin(const char *stages, const char *join)
{
    party p = { 0 };
    uint16_t port = port_free();
    cr_assert_neq(port, 0);
    snprintf(p.endpoint, sizeof p.endpoint, "tcp://127.0.0.1:%u", port);
    snprintf(p.dir, sizeof p.dir, "%s/party", programs_place());
    party_up(&p, stages, join);
    return p;
}

static void party_join(party *p, const char *file)
{
    cr_assert(program_start(&p->worker, "worker", SLUICE("worker", "--connect", p->endpoint, "-m", file, "--no-pack")));
}

static void party_down(party *p)
{
    ran r = program_run(0, 30, NULL, SLUICE("down", "--dir", p->dir));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    cr_expect_eq(program_wait(&p->worker, 0, 10), 0, "the worker ends well with its cluster");
    cr_assert(programs_ended(5));
    cr_expect(run_dir_clean(p->dir));
}

static void check_joined(const party *p, size_t place, size_t n)
{
    standing c = { 0 };
    snprintf(c.dir, sizeof c.dir, "%s", p->dir);
    json_t *status = standing_status(&c);
    cr_assert(status);
    cr_assert_eq(json_array_size(json_object_get(status, "stages")), n);
    cr_expect_eq(stage_number(status, place, "pid"), p->worker.pid, "`sluice worker` is the stage itself");
    cr_expect_gt(stage_number(status, place, "last"), stage_number(status, place, "first"), "the worker has layers");
    int64_t layers = 0;
    for (size_t i = 0; i < n; i++) layers += stage_number(status, i, "last") - stage_number(status, i, "first");
    cr_expect_eq(layers, json_number_at(status, "model.layers"));
    check_maps(status, place, n);
    char *got = text_of(&c), *want = plain_text();
    cr_expect_str_eq(got, want);
    json_t *after = standing_status(&c);
    cr_expect_gt(stage_number(after, place, "rows"), 24, "the worker computes rows");
    json_decref(after);
    json_decref(status);
    free(got);
    free(want);
}

Test(distributed, a_worker_joins_over_tcp_and_takes_its_share)
{
    party p = party_begin("1", "1");
    party_join(&p, model);
    cr_assert_eq(program_wait(&p.up, 0, 30), 0);
    check_joined(&p, 1, 2);
    party_down(&p);
}

Test(distributed, a_cluster_of_a_joined_worker_alone)
{
    party p = party_begin("0", "1");
    party_join(&p, model);
    cr_assert_eq(program_wait(&p.up, 0, 30), 0);
    check_joined(&p, 0, 1);
    party_down(&p);
}

static const char *digest_of(const char *path)
{
    static char digest[40];
    gguf *g;
    err e;
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    snprintf(digest, sizeof digest, "%s", gguf_digest(g));
    gguf_close(&g);
    return digest;
}

Test(distributed, a_worker_with_another_model_is_refused_and_the_right_one_is_still_welcome)
{
    char other[512];
    snprintf(other, sizeof other, "%s", support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    party p = party_begin("1", "1");
    party_join(&p, other);
    cr_expect_eq(program_wait(&p.worker, 5, 10), 5, "5: model file does not fit");
    text errs = program_errs(&p.worker);
    cr_expect(strstr(errs.ptr, digest_of(other)), "its own digest is not in: %s", errs.ptr);
    cr_expect(strstr(errs.ptr, digest_of(model)), "the cluster's digest is not in: %s", errs.ptr);
    text_free(&errs);
    party_join(&p, model);
    cr_assert_eq(program_wait(&p.up, 0, 30), 0);
    check_joined(&p, 1, 2);
    party_down(&p);
}

/* The bundled model has a profile beside it, which the cluster takes. */
Test(distributed, a_worker_without_the_profile_of_the_cluster_is_refused_and_one_that_has_it_is_welcome)
{
    party p = party_begin("1", "1");
    cr_assert(program_start(&p.worker, "worker", SLUICE("worker", "--connect", p.endpoint, "-m", model, "--no-pack", "--profile", "none")));
    cr_expect_eq(program_wait(&p.worker, 3, 10), 3, "3: bad configuration");
    text errs = program_errs(&p.worker);
    cr_expect(strstr(errs.ptr, "no profile of the model") && strstr(errs.ptr, ".profile.gguf"), "%s", errs.ptr);
    text_free(&errs);
    party_join(&p, model);
    cr_assert_eq(program_wait(&p.up, 0, 30), 0);
    check_joined(&p, 1, 2);
    party_down(&p);
}

/* It waits for a coordinator at the same address, and serves that one. */
Test(distributed, a_worker_finds_a_cluster_that_was_killed_and_started_again)
{
    party p = party_begin("1", "1");
    party_join(&p, model);
    cr_assert_eq(program_wait(&p.up, 0, 30), 0);
    standing c = { 0 };
    snprintf(c.dir, sizeof c.dir, "%s", p.dir);
    json_t *status = standing_status(&c);
    cr_assert(status);
    pid_t old = (pid_t)json_number_at(status, "pid");
    json_decref(status);
    kill(old, SIGKILL);
    for (int i = 0; i < 500 && !kill(old, 0); i++) usleep(10000);
    party_up(&p, "1", "1");
    cr_assert_eq(program_wait(&p.up, 0, 40), 0);
    check_joined(&p, 1, 2);
    party_down(&p);
}
