/* Prompts on a path of their own (--prompt-arith bf16amx) in real clusters: deaths of stages, kept rows, files of rows and replays
 * give the bits of that path, on whatever instruction set, and a cluster with another path follows a job's log. */
#include "core/clock.h"
#include "engine/kernels.h"
#include "proto/link.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECONDS 250

static char base[512], prompt[128];

static void begin(void)
{
    static const char *const word[] = { "the", "cat",   "sat",  "on",  "a",     "mat",  "and",  "saw",
                                        "red", "river", "near", "old", "house", "with", "many", "birds" };
    programs_begin();
    snprintf(base, sizeof base, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(prompt, sizeof prompt, "%s", programs_file("prompt.txt"));
    text t = { 0 };
    for (unsigned i = 0; i < 300; i++) text_addf(&t, "%s%s", i ? " " : "", word[support_draw(1, i, 16)]);
    cr_assert(support_write(prompt, t.ptr, t.len));
    text_free(&t);
}

TestSuite(prompt_path, .init = begin, .timeout = 600);

#define UP(...) ((const char *const[]){ "-m", base, "--ctx", "1024", __VA_ARGS__, NULL })
#define BF16 "--prompt-arith", "bf16amx"
#define STORY "-f", prompt, "-n", "24", "--ignore-eos", "--temp", "0.9", "--seed", "7", "--logprobs", "2"

static standing up(const char *const options[])
{
    standing c;
    cr_assert(standing_up(&c, "c", options));
    return c;
}

/* Its journal stays. */
static void stop(standing *c)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", c->dir));
    ran_free(&r);
    json_decref(c->status);
    cr_assert(programs_ended(20));
}

/* Tokens and log-probabilities; the rows that were there already, in `cached` (may be NULL). */
static char *bits(json_t *o, int64_t *cached)
{
    cr_assert(o);
    if (cached) *cached = json_number_at(o, "cached_tokens");
    cr_assert_eq(json_array_size(json_object_get(o, "logprobs")), 24);
    char *s = json_dumps(json_object_get(o, "logprobs"), JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(o);
    return s;
}

static char *ask(const standing *c, int64_t *cached)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("submit", "--dir", c->dir, "--json", STORY));
    return bits(ran_json(&r), cached);
}

static void expect_replay(const standing *c, const char *id, const char *path)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("replay", "--dir", c->dir, "--json", id));
    json_t *o = ran_json(&r);
    cr_expect(json_is_true(json_object_get(o, "same")), "job %s", id);
    cr_expect_eq(json_number_at(o, "compared"), 24, "job %s", id);
    cr_expect_eq(strstr(json_string_at(o, "log.0.payload"), " prompt=bf16amx") != NULL, !strcmp(path, "bf16amx"), "%s",
                 json_string_at(o, "log.0.payload"));
    json_decref(o);
}

/* Rows are kept under the name of their path: in the second cluster those of i8b32 are there when the replay of a job with bf16amx
 * rows begins, and the other way round in the third. */
Test(prompt_path, a_log_is_followed_by_clusters_with_another_path)
{
    int64_t cached;
    standing c = up(UP("--stages", "2", BF16));
    char *first = ask(&c, &cached), *again;
    cr_expect_eq(cached, 0);
    again = ask(&c, &cached);
    cr_expect_gt(cached, 200, "the same prompt begins with its rows");
    cr_expect_str_eq(again, first);
    free(again);
    stop(&c);
    setenv("SLUICE_ISA", "avx2", 1);
    c = up(UP("--stages", "1"));
    char *other = ask(&c, &cached);
    cr_expect_eq(cached, 0);
    cr_expect_str_neq(other, first, "both paths say the same bits");
    expect_replay(&c, "1", "bf16amx");
    expect_replay(&c, "3", "i8b32");
    stop(&c);
    unsetenv("SLUICE_ISA");
    c = up(UP("--stages", "3", "--chunk", "17", BF16));
    again = ask(&c, &cached);
    cr_expect_str_eq(again, first);
    expect_replay(&c, "2", "bf16amx");
    expect_replay(&c, "3", "i8b32");
    free(again);
    free(other);
    free(first);
    cr_expect(standing_down(&c));
    cr_expect(programs_gone(5));
}

/* A number of the status when it is so large; a status that comes too late in a crowd is asked for again. */
static int64_t until(const standing *c, const char *what, int64_t least)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    int64_t n;
    while ((n = standing_number(c, what)) < least && clock_ns() < end) usleep(2000);
    cr_assert_geq(n, least, "%s", what);
    return n;
}

/* The first dies under the prompt, the second while its rows are there and tokens are decoded. */
Test(prompt_path, stages_that_die_change_no_bit)
{
    standing c = up(UP("--stages", "2", "--chunk", "1", "--prefix-mem", "0", BF16));
    char *want = ask(&c, NULL);
    for (unsigned i = 0; i < 2; i++) {
        static const char *const sign[2] = { "pump.prompt_rows", "pump.decode_rows" };
        char stage[32];
        program p;
        int64_t at = until(&c, sign[i], 0);
        cr_assert(program_start(&p, "ask", SLUICE("submit", "--dir", c.dir, "--json", STORY)));
        until(&c, sign[i], at + (i ? 2 : 60));
        snprintf(stage, sizeof stage, "stages.%u.pid", i);
        cr_assert_eq(kill((pid_t)until(&c, stage, 2), SIGKILL), 0);
        cr_assert_eq(program_wait(&p, 0, SECONDS), 0);
        char *got = bits(json_load_file(p.out, 0, NULL), NULL);
        cr_expect_str_eq(got, want, "stage %u", i);
        free(got);
    }
    free(want);
    cr_expect(standing_down(&c));
    cr_expect(programs_gone(5));
}

static char *run(const char *with, const char *prefill, const char *arith, const char *cache, bool *warned)
{
    setenv("SLUICE_ISA", with, 1);
    const char *argv[40];
    size_t n = 0;
    const char *const *w = SLUICE("run", "-m", base, "--ctx", "1024", "--json", STORY, "--prefill", prefill, "--prompt-arith", arith, NULL);
    for (; *w; w++) argv[n++] = *w;
    if (cache) argv[n++] = "--prompt-cache", argv[n++] = cache;
    argv[n] = NULL;
    ran r = program_run(0, SECONDS, NULL, argv);
    if (warned) *warned = strstr(ran_errs(&r), "arithmetic path of prompts") != NULL;
    unsetenv("SLUICE_ISA");
    return bits(ran_json(&r), NULL);
}

Test(prompt_path, local_prefill_and_a_file_of_rows_are_of_that_path)
{
    char file[128];
    bool warned;
    snprintf(file, sizeof file, "%s", programs_file("rows"));
    char *want = run("avx2", "pipeline", "bf16amx", NULL, NULL), *local = run("avx2", "local", "bf16amx", file, &warned);
    cr_expect_str_eq(local, want);
    char *i8 = run("avx2", "pipeline", "i8b32", file, &warned);
    cr_expect(warned, "rows of another path were taken, or silently not");
    cr_expect_str_neq(i8, want);
    free(i8);
    free(local);
    free(want);
    cr_expect(programs_gone(5));
}

Test(prompt_path, decoding_on_it_is_refused_by_name)
{
    ran r = program_run(-1, SECONDS, NULL, SLUICE("run", "-m", base, "-p", "x", "-n", "1", "--arith", "bf16amx"));
    cr_expect(r.status != 0 && strstr(ran_errs(&r), "--arith wants i8b32|f32"), "%s", ran_errs(&r));
    ran_free(&r);
    r = program_run(-1, SECONDS, NULL, SLUICE("run", "-m", base, "-p", "x", "-n", "1", "--prompt-arith", "fp8"));
    cr_expect(r.status != 0 && strstr(ran_errs(&r), "fp8"), "%s", ran_errs(&r));
    ran_free(&r);
    cr_expect(programs_gone(5));
}

/* A worker of the right model whose build knows the paths of `paths`; what the coordinator answers it. */
static err_code join_with(const char *addr, const char *digest, const char *profile, uint64_t paths, msg_type *type, err *said)
{
    err e;
    hub *h;
    link_t *l;
    packet p = { 0 };
    digest_rec d;
    char half[17] = { 0 };
    memcpy(half, digest, 16);
    d = (digest_rec){ .hi = strtoull(half, NULL, 16), .lo = strtoull(digest + 16, NULL, 16) };
    message m = msg_init(MSG_HELLO);
    m.hello = (msg_hello){ .major = PROTO_MAJOR, .minor = PROTO_MINOR, .pid = 1, .cores = 1, .threads = 1, .paths = paths, .n_models = 1,
                           .spare = true };
    snprintf(m.hello.name, sizeof m.hello.name, "elder");
    snprintf(m.hello.profile, sizeof m.hello.profile, "%s", profile);
    snprintf(m.hello.data_addr, sizeof m.hello.data_addr, "ipc:///nowhere/data");
    snprintf(m.hello.bulk_addr, sizeof m.hello.bulk_addr, "ipc:///nowhere/bulk");
    cr_assert_eq(hub_open(&h, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_connect(&l, h, LINK_DEALER, LINK_CONTROL, addr, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_send(l, NULL, &m, &(view){ &d, sizeof d }, 5000, &e), ERR_OK, "%s", e.text);
    err_code rc = link_recv(l, &p, 3000, &e);
    *type = p.head.type;
    if (!rc && *type == MSG_FAIL) err_set(said, (err_code)p.head.fail.code, "%s", p.head.fail.text);
    packet_done(&p);
    link_close(&l);
    hub_close(&h);
    return rc;
}

Test(prompt_path, a_worker_without_it_is_refused_by_name)
{
    standing c = up(UP("--stages", "1", BF16));
    json_t *s = standing_status(&c);
    err said = { 0 };
    msg_type type = MSG_HELLO;
    const char *addr = json_string_at(s, "control"), *digest = json_string_at(s, "model.digest");
    err_code rc = join_with(addr, digest, json_string_at(s, "model.profile"), 1u << PATH_F32 | 1u << PATH_I8B32, &type, &said);
    cr_expect_eq(rc, ERR_OK);
    cr_expect(type == MSG_FAIL && said.code == ERR_CONFIG, "%s", said.text);
    cr_expect(strstr(said.text, "elder") && strstr(said.text, "bf16amx"), "%s", said.text);
    json_decref(s);
    cr_expect(standing_down(&c));
    cr_expect(programs_gone(5));
}
