/* What is killed under a cluster that works: stages, the retrieval worker, joined workers, the coordinator itself. The
 * answers must be those of a cluster that nobody disturbed, token for token and log-probability for log-probability, and
 * nothing may stay behind. Blows fall by progress that the status shows, never by the clock alone. */
#include "core/clock.h"
#include "tests/support_predict.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECONDS 120                    /* for one answer, repairs included, on a machine that twenty others want */

static char base[512], corpus[512];

static void begin(void)
{
    programs_begin();
    snprintf(base, sizeof base, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(corpus, sizeof corpus, "%s", support_root("configs/demo/corpus"));
}

TestSuite(survival, .init = begin, .timeout = 600);

/* ---- clusters */

#define UP(...) ((const char *const[]){ "-m", base, "--ctx", "2048", __VA_ARGS__, NULL })

static standing up(const char *const options[])
{
    standing c;
    cr_assert(standing_up(&c, "c", options));
    return c;
}

static void down(standing *c)
{
    cr_expect(standing_down(c), "something stayed");
    cr_expect(programs_gone(5));
}

/* Until a number of the status is at least `least`; returns it. */
static int64_t until(const standing *c, const char *path, int64_t least)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    int64_t n;
    while ((n = standing_number(c, path)) < least && clock_ns() < end) usleep(5000);
    if (n < least) standing_print_log(c);
    cr_assert_geq(n, least, "%s", path);
    return n;
}

static pid_t stage_pid(const standing *c, unsigned i)
{
    char path[32];
    snprintf(path, sizeof path, "stages.%u.pid", i);
    return (pid_t)standing_number(c, path);
}

static void hit(pid_t pid, int sig)
{
    cr_assert_gt(pid, 1);
    cr_assert_eq(kill(pid, sig), 0, "pid %d", (int)pid);
}

/* ---- questions and answers */

#define ASK(...) ((const char *const[]){ __VA_ARGS__, NULL })
/* Hot enough that one wrong bit soon gives another text. */
#define STORY(tokens) ASK("-p", "The old house", "-n", tokens, "--ignore-eos", "--temp", "0.9", "--seed", "7", "--logprobs", "2")

static void put(json_t *to, const json_t *from, const char *key)
{
    json_t *v = json_object_get(from, key);
    if (v) json_object_set(to, key, v);
}

/* What must be the same in every run: of all choices the tokens, texts, ends and log-probabilities. */
static char *essence(json_t *answer)
{
    cr_assert(answer);
    json_t *o = json_object();
    static const char *const keys[] = { "text", "tokens", "finish_reason", "logprobs", "choices", "passages", "prompt_tokens" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) put(o, answer, keys[i]);
    cr_assert(json_string_at(o, "text")[0], "an answer without text");
    char *s = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(o);
    json_decref(answer);
    return s;
}

static void argv_of(const char *argv[40], const standing *c, const char *const words[])
{
    size_t n = 0;
    for (const char *const *w = SLUICE("submit", "--dir", c->dir, "--json"); *w; w++) argv[n++] = *w;
    for (; *words && n < 39; words++) argv[n++] = *words;
    argv[n] = NULL;
}

static char *ask(const standing *c, const char *const words[])
{
    const char *argv[40];
    argv_of(argv, c, words);
    ran r = program_run(0, SECONDS, NULL, argv);
    cr_assert_eq(r.status, 0);
    return essence(ran_json(&r));
}

static program start_named(const standing *c, const char *name, const char *const words[])
{
    program p;
    const char *argv[40];
    argv_of(argv, c, words);
    cr_assert(program_start(&p, name, argv));
    return p;
}

static program start(const standing *c, const char *const words[]) { return start_named(c, "ask", words); }

static void expect_same(const char *got, const char *want, const char *what)
{
    size_t i = 0;
    while (got[i] && got[i] == want[i]) i++;
    cr_expect_str_eq(got, want, "%s: differs from byte %zu of %zu on", what, i, strlen(want));
}

static void expect_answer(program *p, const standing *c, const char *want, const char *what)
{
    if (program_wait(p, 0, SECONDS)) standing_print_log(c);
    cr_assert_eq(p->status, 0, "%s", what);
    json_t *o = json_load_file(p->out, 0, NULL);
    char *got = essence(o);
    expect_same(got, want, what);
    free(got);
}

/* That the blows fell while something was computed: so many times at least, live sessions were rebuilt. */
static void expect_rebuilt(const standing *c, unsigned times)
{
    text log = { 0 };
    unsigned n = 0, sessions;
    text_read_file(&log, c->log, 1 << 24, NULL);
    for (const char *at = log.len ? log.ptr : ""; (at = strstr(at, "SESSIONS-REBUILT")); at++)
        n += sscanf(at, "SESSIONS-REBUILT epoch=%*u sessions=%u", &sessions) == 1 && sessions > 0;
    cr_expect_geq(n, times, "sessions were rebuilt %u times: a blow came too late", n);
    text_free(&log);
}

/* ---- stages that die while tokens are made */

Test(survival, a_stage_that_is_killed_three_times_changes_no_token)
{
    standing c = up(UP("--stages", "2"));
    char *want = ask(&c, STORY("700"));
    int64_t rows = standing_number(&c, "pump.decode_rows"), epoch = standing_number(&c, "epoch");
    program p = start(&c, STORY("700"));
    for (unsigned i = 0; i < 3; i++) {
        rows = until(&c, "pump.decode_rows", rows + 60);
        hit(stage_pid(&c, i % 2), SIGKILL);
        cr_expect_eq(until(&c, "epoch", epoch + 1), epoch + 1);
        epoch++;
    }
    expect_answer(&p, &c, want, "three deaths");
    cr_expect_eq(standing_number(&c, "epoch"), epoch);
    char *again = ask(&c, STORY("700"));
    expect_same(again, want, "after three deaths");
    expect_rebuilt(&c, 3);
    free(again);
    free(want);
    down(&c);
}

/* Three stages, of which the middle one is passed by; it dies too. */
Test(survival, sessions_that_leave_out_layers_outlive_their_stages)
{
    static const char *const skips[] = { "list:4,5,6,7,8,9,rows=decode", "skipdecode:max=11,min=3,over=200" };
    for (unsigned k = 0; k < 2; k++) {
        standing c = up(UP("--stages", "3"));
        const char *const *words = ASK("-p", "The old house", "-n", "1200", "--ignore-eos", "--temp", "0.9", "--seed", "7", "--logprobs", "2", "--skip", skips[k]);
        char *want = ask(&c, words);
        int64_t rows = standing_number(&c, "pump.decode_rows");
        program p = start(&c, words);
        for (unsigned i = 0; i < 2; i++) {
            rows = until(&c, "pump.decode_rows", rows + 50);
            int64_t epoch = standing_number(&c, "epoch");
            hit(stage_pid(&c, 1 + i), SIGKILL);
            until(&c, "epoch", epoch + 1);
        }
        expect_answer(&p, &c, want, skips[k]);
        expect_rebuilt(&c, 2);
        cr_expect_gt(standing_number(&c, "pump.passed_by"), 0);
        free(want);
        down(&c);
    }
}

Test(survival, a_stage_that_hangs_is_replaced)
{
    standing c = up(UP("--stages", "2", "--stage-timeout", "1"));
    char *want = ask(&c, STORY("1500"));
    int64_t rows = standing_number(&c, "pump.decode_rows"), epoch = standing_number(&c, "epoch");
    program p = start(&c, STORY("1500"));
    until(&c, "pump.decode_rows", rows + 60);
    pid_t hung = stage_pid(&c, 1);
    hit(hung, SIGSTOP);
    expect_answer(&p, &c, want, "a stage that hung");
    cr_expect_gt(standing_number(&c, "epoch"), epoch);
    expect_rebuilt(&c, 1);
    cr_expect_neq(stage_pid(&c, 1), hung);
    cr_expect(kill(hung, 0), "the stage that hung is still there");
    free(want);
    down(&c);
}

Test(survival, both_stages_killed_at_once)
{
    standing c = up(UP("--stages", "2"));
    char *want = ask(&c, STORY("600"));
    int64_t rows = standing_number(&c, "pump.decode_rows");
    program p = start(&c, STORY("600"));
    until(&c, "pump.decode_rows", rows + 60);
    pid_t first = stage_pid(&c, 0), second = stage_pid(&c, 1);
    hit(first, SIGKILL);
    hit(second, SIGKILL);
    expect_answer(&p, &c, want, "two deaths");
    expect_rebuilt(&c, 1);
    free(want);
    down(&c);
}

Test(survival, four_choices_of_one_prompt_outlive_a_stage)
{
    const char *const *words = ASK("-p", "Once upon", "-n", "1500", "--ignore-eos", "--temp", "0.9", "--seed", "3", "--choices", "4", "--logprobs", "1");
    standing c = up(UP("--stages", "2"));
    char *want = ask(&c, words);
    for (unsigned i = 0; i < 2; i++) {
        int64_t rows = standing_number(&c, "pump.decode_rows");
        program p = start(&c, words);
        until(&c, "pump.decode_rows", rows + 80);
        hit(stage_pid(&c, i), SIGKILL);
        expect_answer(&p, &c, want, i ? "second stage" : "first stage");
    }
    expect_rebuilt(&c, 2);
    free(want);
    down(&c);
}

Test(survival, a_stage_killed_while_nobody_asks)
{
    standing c = up(UP("--stages", "2"));
    char *want = ask(&c, STORY("20"));
    int64_t epoch = standing_number(&c, "epoch");
    hit(stage_pid(&c, 0), SIGKILL);
    char *at_once = ask(&c, STORY("20"));
    expect_same(at_once, want, "asked right after the death");
    cr_expect_eq(until(&c, "epoch", epoch + 1), epoch + 1);
    hit(stage_pid(&c, 1), SIGKILL);
    until(&c, "epoch", epoch + 2);
    char *later = ask(&c, STORY("20"));
    expect_same(later, want, "asked after the repair");
    free(at_once);
    free(later);
    free(want);
    down(&c);
}

/* ---- stages that die under a long prompt */

static const char *long_prompt(unsigned words)
{
    static const char *const word[] = { "the", "cat", "sat", "on", "a", "mat", "and", "saw", "red", "river", "near", "old", "house", "with", "many", "birds" };
    static char path[128];
    text t = { 0 };
    for (unsigned i = 0; i < words; i++) text_addf(&t, "%s%s", i ? " " : "", word[support_draw(1, i, 16)]);
    snprintf(path, sizeof path, "%s", programs_file("long.txt"));
    cr_assert(support_write(path, t.ptr, t.len));
    text_free(&t);
    return path;
}

Test(survival, a_stage_killed_under_a_long_prompt)
{
    standing c = up(UP("--stages", "2", "--chunk", "1", "--prefix-mem", "0"));   /* kept rows would leave no long prompt */
    const char *const *words = ASK("-f", long_prompt(1400), "-n", "20", "--ignore-eos", "--temp", "0.9", "--logprobs", "2");
    char *want = ask(&c, words);
    for (unsigned i = 0; i < 2; i++) {
        int64_t rows = standing_number(&c, "pump.prompt_rows");
        program p = start(&c, words);
        until(&c, "pump.prompt_rows", rows + 100);
        hit(stage_pid(&c, i), SIGKILL);
        expect_answer(&p, &c, want, i ? "second stage" : "first stage");
    }
    expect_rebuilt(&c, 2);
    free(want);
    down(&c);
}

/* The coordinator computes the prompt itself and fills the stages' KV: one stops taking it, then dies. Whether the blow fell
 * before the end of the filling shows in the prompt rows that went through the pipeline until then: none. */
static bool kill_while_filling(standing *c, const char *const words[], const char *want, unsigned i)
{
    int64_t rows = standing_number(c, "pump.prompt_rows");
    program p = start(c, words);
    until(c, "sessions", 1);
    usleep((useconds_t)(i * 15000));
    pid_t pid = stage_pid(c, i % 2);
    hit(pid, SIGSTOP);
    usleep(200000);
    bool filling = standing_number(c, "pump.prompt_rows") == rows;
    hit(pid, SIGKILL);
    expect_answer(&p, c, want, "a stage that died while its KV was filled");
    return filling;
}

Test(survival, a_stage_killed_while_the_coordinator_fills_its_kv)
{
    standing c = up(UP("--stages", "2", "--chunk", "1", "--prefill", "local"));
    const char *const *words = ASK("-f", long_prompt(1900), "-n", "20", "--ignore-eos", "--temp", "0.9", "--logprobs", "2");
    char *want = ask(&c, words);
    unsigned times = 0;
    for (unsigned i = 0; i < 4; i++) times += kill_while_filling(&c, words, want, i);
    printf("# %u of 4 deaths fell into the filling\n", times);
    cr_expect_gt(times, 0);
    free(want);
    down(&c);
}

/* A predicted prompt whose exact rows are on their way behind it: they go with the stage, and the answer is the same. The row at
 * which they come in is the job's own here; where it is decided, the log has it (test_predict). */
static char small[512];                /* the auxiliary model */

/* Maps by their inputs, as a file of the test. */
static const char *maps_of(kvmap_inputs inputs, const char *name)
{
    err e = { 0 };
    const char *file = programs_file(name);
    snprintf(small, sizeof small, "%s", support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    predict_made made = { .base = base, .aux = small, .inputs = inputs, .type = WTYPE_F16, .format = KV_F16 };
    cr_assert(predict_make(&made, file, NULL, &e), "%s", e.text);
    return file;
}

#define HYBRID(chunk, maps) UP("--stages", "2", "--chunk", chunk, "--prefix-mem", "0", "--prefill", "hybrid", "--aux", small, "--profile", maps, "--log-level", "info")

Test(survival, a_stage_killed_while_exact_rows_come_in)
{
    char maps[200];
    snprintf(maps, sizeof maps, "%s", maps_of(KVMAP_OWN, "aux.profile.gguf"));
    standing c = up(HYBRID("4", maps));
    const char *const *words = ASK("-f", long_prompt(500), "-n", "60", "--refresh-at", "40", "--ignore-eos", "--temp", "0.9", "--logprobs", "2");
    char *want = ask(&c, words);
    for (unsigned i = 0; i < 2; i++) {
        int64_t rows = standing_number(&c, "pump.prompt_rows");
        program p = start(&c, words);
        until(&c, "pump.prompt_rows", rows + 60);
        hit(stage_pid(&c, i), SIGKILL);
        expect_answer(&p, &c, want, i ? "second stage, while refreshing" : "first stage, while refreshing");
    }
    expect_rebuilt(&c, 2);
    free(want);
    down(&c);
}

/* ---- a stage that dies under a job that is scored */

static char scored[2][128];

#define SCORED 2000u                   /* rows: enough that the blow comes before the last one */

/* Static. */
static const char *ids(void)
{
    static text t;
    if (!t.len)
        for (unsigned i = 0; i < SCORED; i++) text_addf(&t, "%s%u", i ? "," : "", 5 + i % 200);
    return t.ptr;
}

#define SCORE(c, path, to) SLUICE("eval", "logits", "--dir", (c).dir, "--path", path, "-t", ids(), "-o", to)

static void expect_same_rows(void)
{
    text a = { 0 }, b = { 0 };
    cr_assert_eq(text_read_file(&a, scored[0], 1 << 26, NULL), ERR_OK);
    cr_assert_eq(text_read_file(&b, scored[1], 1 << 26, NULL), ERR_OK);
    cr_assert_eq(a.len, SCORED * 4096 * 4);
    cr_assert_eq(b.len, a.len);
    cr_expect(support_same((const float *)(const void *)b.ptr, (const float *)(const void *)a.ptr, a.len / 4, "logits"));
    text_free(&a);
    text_free(&b);
}

static void check_scoring(const char *path, const char *counter)
{
    standing c = up(UP("--stages", "2", "--chunk", "1"));
    for (unsigned i = 0; i < 2; i++) snprintf(scored[i], sizeof scored[i], "%s", programs_file(i ? "killed.f32" : "plain.f32"));
    ran r = program_run(0, SECONDS, NULL, SCORE(c, path, scored[0]));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    for (unsigned i = 0; i < 2; i++) {
        int64_t rows = standing_number(&c, counter);
        program p;
        cr_assert(program_start(&p, "score", SCORE(c, path, scored[1])));
        until(&c, counter, rows + 80);
        hit(stage_pid(&c, i), SIGKILL);
        cr_assert_eq(program_wait(&p, 0, SECONDS), 0);
        expect_same_rows();
    }
    expect_rebuilt(&c, 2);
    down(&c);
}

Test(survival, rows_that_are_scored_as_decoded_keep_their_bits) { check_scoring("decode", "pump.decode_rows"); }
Test(survival, rows_that_are_scored_as_a_prompt_keep_their_bits) { check_scoring("prompt", "pump.prompt_rows"); }

/* ---- the retrieval worker */

Test(survival, the_retrieval_worker_dies_between_and_during_questions)
{
    standing c = up(UP("--stages", "2", "--rag", corpus));
    const char *const *words = ASK("-p", "Which instrument does Hakona play?", "--use-rag", "-n", "24", "--logprobs", "2");
    char *want = ask(&c, words);
    cr_assert(strstr(want, "lute"), "the passage is not found: %s", want);
    hit((pid_t)standing_number(&c, "rag.pid"), SIGKILL);
    char *got = ask(&c, words);
    expect_same(got, want, "between questions");
    free(got);
    pid_t rag = (pid_t)until(&c, "rag.pid", 2);
    hit(rag, SIGSTOP);                 /* so that the question is surely on its way */
    program p = start(&c, words);
    until(&c, "jobs.running", 1);
    hit(rag, SIGKILL);
    expect_answer(&p, &c, want, "during a question");
    cr_expect_neq(until(&c, "rag.pid", 2), rag);
    free(want);
    down(&c);
}

/* ---- crash loop */

/* Kill stage 0 whenever it is there, eight times; a status may fail when the cluster is already going. */
static void kill_eight_times(const standing *c, pid_t first)
{
    pid_t pid = first;
    for (unsigned i = 0; i < 8; i++) {
        hit(pid, SIGKILL);
        if (i == 7) break;
        pid_t old = pid;
        uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
        while (((pid = stage_pid(c, 0)) == old || pid <= 1) && clock_ns() < end) usleep(10000);
        cr_assert(pid > 1 && pid != old, "death %u: stage 0 does not come back", i + 1);
    }
}

#define DETACHED ASK("-p", "A cat", "-n", "900", "--ignore-eos", "--temp", "0.9", "--seed", "11", "--detach")

static uint64_t detach(const standing *c, const char *const words[])
{
    const char *argv[40];
    argv_of(argv, c, words);
    ran r = program_run(0, SECONDS, NULL, argv);
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    int64_t id = json_number_at(o, "id");
    json_decref(o);
    cr_assert_gt(id, 0);
    return (uint64_t)id;
}

static char *result_of(const standing *c, uint64_t id)
{
    char word[24];
    snprintf(word, sizeof word, "%llu", (unsigned long long)id);
    ran r = program_run(0, SECONDS, NULL, SLUICE("result", "--dir", c->dir, "--json", word));
    cr_assert_eq(r.status, 0, "job %s", word);
    return essence(ran_json(&r));
}

/* The same run directory once more. */
static void up_again(standing *c, const char *const options[])
{
    json_decref(c->status);
    *c = up(options);
}

Test(survival, a_stage_that_dies_eight_times_ends_the_cluster_with_a_word)
{
    const char *const *options = UP("--stages", "2");
    standing c = up(options);
    const char *const *words = ASK("-p", "A cat", "-n", "900", "--ignore-eos", "--temp", "0.9", "--seed", "11");
    char *want = ask(&c, words);
    uint64_t id = detach(&c, DETACHED);
    program p = start(&c, ASK("-p", "A dog", "-n", "1500", "--ignore-eos"));
    until(&c, "jobs.running", 2);
    kill_eight_times(&c, stage_pid(&c, 0));
    cr_expect_gt(program_wait(&p, -1, 20), 0, "the client is told");
    text errs = program_errs(&p), log = { 0 };
    cr_expect(strstr(errs.ptr, "died 8 times"), "%s", errs.ptr);
    cr_expect(programs_ended(20));
    text_read_file(&log, c.log, 1 << 24, NULL);
    cr_expect(strstr(log.ptr, "stage-0 died 8 times within 60 s"), "%s", log.ptr);
    text_free(&errs);
    text_free(&log);
    up_again(&c, options);
    char *got = result_of(&c, id);
    expect_same(got, want, "a detached job of the cluster that failed");
    free(got);
    free(want);
    down(&c);
}

/* ---- the coordinator dies */

enum { BURST = 6, ROUNDS = 3 };

typedef struct { uint64_t id; unsigned kind; } receipt;

/* A few kinds of job, from one token to many. */
static const char *const *kind_words(unsigned kind, bool detached)
{
    static const char *const tokens[] = { "1", "30", "200", "120", "5", "300" }, *const seed[] = { "1", "2", "3", "4", "5", "6" };
    static const char *words[16];
    const char *const all[] = { "-p", "Once upon a time", "-n", tokens[kind], "--seed", seed[kind], "--ignore-eos", "--temp", "0.9",
                                detached ? "--detach" : NULL, NULL };
    memcpy(words, all, sizeof all);
    return words;
}

/* clients: that wait for an answer meanwhile. */
static void kill_coordinator(standing *c, uint32_t clients)
{
    hit(c->pid, SIGKILL);
    uint64_t end = clock_ns() + (uint64_t)(10 * programs_patience() * 1e9);
    while (programs_alive(NULL) > clients && clock_ns() < end) usleep(5000);
    text who = { 0 };
    cr_assert_eq(programs_alive(&who), clients, "children stay when their coordinator is gone: %s", who.len ? who.ptr : "");
    text_free(&who);
}

static void check_jobs_list(const standing *c, const receipt *all, size_t n)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("jobs", "--dir", c->dir, "--json"));
    json_t *o = ran_json(&r), *list = json_object_get(o, "jobs"), *j;
    size_t i, seen = 0;
    json_array_foreach(list, i, j) {
        size_t k = 0;
        while (k < n && (int64_t)all[k].id != json_number_at(j, "id")) k++;
        seen += k < n;
        cr_expect_lt(k, n, "job %lld was never acknowledged", (long long)json_number_at(j, "id"));
        cr_expect_str_eq(json_string_at(j, "state"), "done", "job %lld", (long long)json_number_at(j, "id"));
        cr_expect_str_eq(json_string_at(j, "finish_reason"), "length", "job %lld", (long long)json_number_at(j, "id"));
    }
    cr_expect_eq(seen, n, "%zu of %zu acknowledged jobs are listed", seen, n);
    json_decref(o);
}

static void check_receipts(const standing *c, char *const want[BURST], const receipt *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) cr_expect_neq(all[k].id, all[i].id, "two jobs have one id");
        char *got = result_of(c, all[i].id);
        expect_same(got, want[all[i].kind], "a job across deaths of the coordinator");
        free(got);
    }
    check_jobs_list(c, all, n);
}

Test(survival, acknowledged_jobs_outlive_a_coordinator_that_is_killed_anywhere)
{
    const char *const *options = UP("--stages", "2");
    uint64_t seed = support_seed();
    standing c = up(options);
    char *want[BURST];
    receipt all[BURST * (ROUNDS + 1)];
    size_t n = 0;
    for (unsigned k = 0; k < BURST; k++) {
        want[k] = ask(&c, kind_words(k, false));
        all[n++] = (receipt){ k + 1, k };
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned k = 0; k < BURST; k++) all[n++] = (receipt){ detach(&c, kind_words(k, true)), k };
        usleep((useconds_t)support_draw(seed, round, 400) * 1000);
        kill_coordinator(&c, 0);
        up_again(&c, options);
    }
    check_receipts(&c, want, all, n);
    for (unsigned k = 0; k < BURST; k++) free(want[k]);
    down(&c);
}

/* So many of its sessions have had their rows replaced, by its log. */
static unsigned refreshed(const standing *c)
{
    text log = { 0 };
    unsigned n = 0;
    text_read_file(&log, c->log, 1 << 24, NULL);
    for (const char *at = log.len ? log.ptr : ""; (at = strstr(at, "KV-REFRESHED")); at++) n++;
    text_free(&log);
    return n;
}

/* It is over once: listed once, at a moment that does not change. */
static void expect_one_end(const standing *c, uint64_t id, int64_t *ended)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("jobs", "--dir", c->dir, "--json"));
    json_t *o = ran_json(&r), *j;
    size_t i;
    unsigned seen = 0;
    json_array_foreach(json_object_get(o, "jobs"), i, j) {
        if (json_number_at(j, "id") != (int64_t)id) continue;
        seen++;
        int64_t at = json_number_at(j, "ended_ms");
        cr_expect(at > 0 && (!*ended || *ended == at), "job %llu ended at %lld and at %lld", (unsigned long long)id, (long long)*ended, (long long)at);
        *ended = at;
    }
    cr_expect_eq(seen, 1, "job %llu is listed %u times", (unsigned long long)id, seen);
    json_decref(o);
}

static void until_refreshed(const standing *c)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    while (!refreshed(c) && clock_ns() < end) usleep(5000);
    cr_assert(refreshed(c), "no exact rows came in");
}

/* The coordinator dies while exact rows are on their way, and again when they are in and tokens behind them were shown; what comes back has other
 * chunks, so that it would decide otherwise. With its row fixed by the job the answer is that of a run that nobody disturbed (want). Else the log
 * decides: a client that listens through both deaths, the answer that is fetched, and a replay by the log say the same. */
static unsigned die_while_refreshing(const char *const options[], const char *const others[], const char *const words[], const char *want)
{
    standing c = up(options);
    int64_t ended = 0;
    program p = start(&c, words);
    until(&c, "pump.prompt_rows", 60);
    kill_coordinator(&c, 1);
    unsigned in_time = !refreshed(&c);
    up_again(&c, options);
    until_refreshed(&c);
    kill_coordinator(&c, 1);
    up_again(&c, others);
    char *got = result_of(&c, 1);
    expect_answer(&p, &c, got, "a client that listened through two deaths");
    if (want) expect_same(got, want, "two deaths of the coordinator");
    expect_one_end(&c, 1, &ended);
    ran r = program_run(0, SECONDS, NULL, SLUICE("replay", "--dir", c.dir, "1"));
    cr_expect_eq(r.status, 0, "%s", ran_errs(&r));
    ran_free(&r);
    kill_coordinator(&c, 0);
    up_again(&c, others);
    expect_one_end(&c, 1, &ended);
    free(got);
    down(&c);
    return in_time;
}

Test(survival, a_coordinator_killed_while_exact_rows_come_in)
{
    char maps[200], prompt[128];
    snprintf(maps, sizeof maps, "%s", maps_of(KVMAP_OWN, "aux.profile.gguf"));
    snprintf(prompt, sizeof prompt, "%s", long_prompt(300));
    const char *const *slow = HYBRID("16", maps), *const *fast = HYBRID("128", maps);
    standing c = up(slow);
    char *want = ask(&c, ASK("-f", prompt, "-n", "600", "--refresh-at", "300", "--ignore-eos", "--temp", "0.9"));
    down(&c);
    unsigned n = die_while_refreshing(slow, fast, ASK("-f", prompt, "-n", "600", "--refresh-at", "300", "--ignore-eos", "--temp", "0.9", "--reconnect", "100"), want);
    n += die_while_refreshing(slow, fast, ASK("-f", prompt, "-n", "800", "--ignore-eos", "--temp", "0.9", "--reconnect", "100"), NULL);
    printf("# %u of 2 deaths before the refresh\n", n);
    cr_expect_gt(n, 0);
    free(want);
}

/* The job of a coordinator that died does not go on with other maps, nor without any: it waits, and ends with its own text where its own
 * maps are again. */
Test(survival, a_predicted_job_waits_for_its_own_maps)
{
    char maps[200], others[200], prompt[128];
    snprintf(maps, sizeof maps, "%s", maps_of(KVMAP_OWN, "aux.profile.gguf"));
    snprintf(others, sizeof others, "%s", maps_of(KVMAP_BOTH, "others.profile.gguf"));
    snprintf(prompt, sizeof prompt, "%s", long_prompt(500));
    standing c = up(HYBRID("4", maps));
    char *want = ask(&c, ASK("-f", prompt, "-n", "150", "--refresh-at", "100", "--ignore-eos", "--temp", "0.9"));
    int64_t rows = standing_number(&c, "pump.prompt_rows");
    uint64_t id = detach(&c, ASK("-f", prompt, "-n", "150", "--refresh-at", "100", "--ignore-eos", "--temp", "0.9", "--detach"));
    until(&c, "pump.prompt_rows", rows + 60);
    kill_coordinator(&c, 0);
    for (int i = 0; i < 2; i++) {
        up_again(&c, i ? UP("--stages", "2") : HYBRID("4", others));
        ran r = program_run(-1, SECONDS, NULL, SLUICE("result", "--dir", c.dir, "2"));
        cr_expect(r.status > 0 && strstr(ran_errs(&r), "waits for a cluster that computes as its log says"), "status %d: %s", r.status, ran_errs(&r));
        cr_expect(strstr(ran_errs(&r), i ? "no auxiliary model (--aux)" : "is predicted by auxiliary"), "it does not say why: %s", ran_errs(&r));
        ran_free(&r);
        kill_coordinator(&c, 0);
    }
    up_again(&c, HYBRID("4", maps));
    char *got = result_of(&c, id);
    expect_same(got, want, "with its own maps again");
    free(got);
    free(want);
    down(&c);
}

Test(survival, a_start_that_fails_in_between_loses_no_job)
{
    const char *const *options = UP("--stages", "2");
    standing c = up(options);
    char *want = ask(&c, ASK("-p", "A cat", "-n", "900", "--ignore-eos", "--temp", "0.9", "--seed", "11")), *got;
    uint64_t id = detach(&c, DETACHED);
    until(&c, "jobs.running", 1);
    kill_coordinator(&c, 0);
    for (unsigned i = 0; i < 2; i++) {
        ran r = i ? program_run(-1, SECONDS, NULL, SLUICE("up", "--dir", c.dir, "-m", base, "--stages", "2", "--rag", "/nowhere/corpus"))
                  : program_run(-1, SECONDS, NULL, SLUICE("up", "--dir", c.dir, "-m", base, "--stages", "2", "--bind", "core:99"));
        cr_expect(r.status > 0 && r.status < 128, "status %d of a start that cannot go well", r.status);
        ran_free(&r);
        cr_assert(programs_ended(10));
    }
    up_again(&c, options);
    got = result_of(&c, id);
    expect_same(got, want, "after two starts that failed");
    free(got);
    free(want);
    down(&c);
}

/* ---- workers that joined */

typedef struct { standing c; char endpoint[64]; program up, worker[2]; } party;

static party party_begin(const char *hand_over)
{
    party p = { 0 };
    uint16_t port = port_free();
    cr_assert_neq(port, 0);
    snprintf(p.endpoint, sizeof p.endpoint, "tcp://127.0.0.1:%u", port);
    snprintf(p.c.dir, sizeof p.c.dir, "%s/party", programs_place());
    cr_assert(program_start(&p.up, "up", SLUICE("up", "--dir", p.c.dir, "-m", base, "--ctx", "2048", "--stages", "1", "--join", "1", "--listen",
                                                p.endpoint, "--stage-timeout", "2", "--hand-over", hand_over)));   /* the only sign of a death on another machine is silence */
    cr_assert(program_start(&p.worker[0], "worker", SLUICE("worker", "--connect", p.endpoint, "-m", base)));
    cr_assert_eq(program_wait(&p.up, 0, SECONDS), 0);
    return p;
}

static void lose_worker(party *p, const char *want, unsigned i)
{
    int64_t rows = standing_number(&p->c, "pump.decode_rows");
    program q = start(&p->c, STORY("400"));
    until(&p->c, "pump.decode_rows", rows + 60);
    cr_assert_eq(stage_pid(&p->c, 1), p->worker[i].pid, "worker %u is not seated", i);
    hit(p->worker[i].pid, SIGKILL);
    expect_answer(&q, &p->c, want, i ? "without a spare" : "with a spare");
    cr_expect_eq(program_wait(&p->worker[i], -1, 5), 128 + SIGKILL);
}

static size_t size_of(const standing *c, const char *key)
{
    json_t *o = standing_status(c);
    size_t n = json_array_size(json_object_get(o, key));
    json_decref(o);
    return n;
}

Test(survival, a_spare_takes_the_place_of_a_joined_worker_and_the_survivors_that_of_the_spare)
{
    party p = party_begin("auto");
    char *want = ask(&p.c, STORY("400"));
    cr_assert(program_start(&p.worker[1], "spare", SLUICE("worker", "--connect", p.endpoint, "-m", base)));
    for (int i = 0; i < 1000 && !size_of(&p.c, "spares"); i++) usleep(10000);
    cr_assert_eq(size_of(&p.c, "spares"), 1);
    lose_worker(&p, want, 0);
    cr_expect_eq(stage_pid(&p.c, 1), p.worker[1].pid, "the spare has no place");
    cr_expect_eq(size_of(&p.c, "spares"), 0);
    lose_worker(&p, want, 1);
    cr_expect_eq(size_of(&p.c, "stages"), 1);
    cr_expect_eq(standing_number(&p.c, "stages.0.last"), standing_number(&p.c, "model.layers"));
    free(want);
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", p.c.dir));
    cr_expect_eq(r.status, 0);
    ran_free(&r);
    cr_expect(programs_ended(5));
    cr_expect(run_dir_clean(p.c.dir));
}

static void part_with(party *p, const char *want, unsigned i)
{
    int64_t rows = standing_number(&p->c, "pump.decode_rows"), resent = standing_number(&p->c, "pump.resent");
    program q = start(&p->c, STORY("400"));
    until(&p->c, "pump.decode_rows", rows + 60);
    cr_assert_eq(stage_pid(&p->c, 1), p->worker[i].pid, "worker %u is not seated", i);
    hit(p->worker[i].pid, SIGTERM);
    expect_answer(&q, &p->c, want, i ? "without a spare" : "with a spare");
    cr_expect_eq(program_wait(&p->worker[i], 0, SECONDS), 0, "worker %u does not end well", i);
    cr_expect_eq(standing_number(&p->c, "pump.resent"), resent, "a step was lost when worker %u left", i);
}

Test(survival, a_worker_that_is_told_to_stop_leaves_between_two_steps)
{
    party p = party_begin("auto");
    char *want = ask(&p.c, STORY("400"));
    cr_assert(program_start(&p.worker[1], "spare", SLUICE("worker", "--connect", p.endpoint, "-m", base)));
    for (int i = 0; i < 1000 && !size_of(&p.c, "spares"); i++) usleep(10000);
    cr_assert_eq(size_of(&p.c, "spares"), 1);
    part_with(&p, want, 0);
    cr_expect_eq(stage_pid(&p.c, 1), p.worker[1].pid, "the spare has no place");
    part_with(&p, want, 1);
    cr_expect_eq(size_of(&p.c, "stages"), 1);
    free(want);
    down(&p.c);
}

/* ---- rows that are handed over: jobs of several kinds at once, whoever has their layers next: a spare, or the one stage that is left */

enum { KINDS = 3 };

static const char *const *kind_of_job(int k)
{
    static const char *const many[] = { "-p", "A dog met a cat", "-n", "100", "--choices", "2", "--ignore-eos", "--temp", "0.8", "--seed", "3", NULL };
    static const char *const plain[] = { "-p", "one two three four five six seven eight nine ten eleven twelve", "-n", "250", "--ignore-eos", NULL };
    static const char *const story[] = { "-p", "The old house", "-n", "250", "--ignore-eos", "--temp", "0.9", "--seed", "7", "--logprobs", "2", NULL };
    return k == 0 ? story : k == 1 ? many : plain;
}

static void part_copied(party *p, char *const want[KINDS], unsigned i)
{
    static const char *const names[KINDS] = { "story", "many", "plain" };
    program q[KINDS];
    int64_t rows = standing_number(&p->c, "pump.decode_rows"), copied = standing_number(&p->c, "handover.rows"), prompts = standing_number(&p->c, "pump.prompt_rows");
    for (int k = 0; k < KINDS; k++) q[k] = start_named(&p->c, names[k], kind_of_job(k));
    until(&p->c, "pump.decode_rows", rows + 120);
    cr_assert_eq(stage_pid(&p->c, 1), p->worker[i].pid, "worker %u is not seated", i);
    hit(p->worker[i].pid, SIGTERM);
    for (int k = 0; k < KINDS; k++) expect_answer(&q[k], &p->c, want[k], i ? "copied to the survivor" : "copied to a spare");
    cr_expect_eq(program_wait(&p->worker[i], 0, SECONDS), 0);
    copied = standing_number(&p->c, "handover.rows") - copied;
    prompts = standing_number(&p->c, "pump.prompt_rows") - prompts;
    printf("# %lld rows were copied, %lld went through the pipeline as prompts\n", (long long)copied, (long long)prompts);
    cr_expect_geq(copied, 50, "sessions were computed again");
    cr_expect_lt(prompts, copied, "and their rows, too");
}

Test(survival, rows_of_live_sessions_are_copied_when_a_worker_leaves_and_the_tokens_stay_the_same)
{
    party p = party_begin("copy");
    char *want[KINDS];
    for (int k = 0; k < KINDS; k++) want[k] = ask(&p.c, kind_of_job(k));
    cr_assert(program_start(&p.worker[1], "spare", SLUICE("worker", "--connect", p.endpoint, "-m", base)));
    for (int i = 0; i < 1000 && !size_of(&p.c, "spares"); i++) usleep(10000);
    cr_assert_eq(size_of(&p.c, "spares"), 1);
    part_copied(&p, want, 0);
    cr_expect_eq(stage_pid(&p.c, 1), p.worker[1].pid, "the spare has no place");
    part_copied(&p, want, 1);
    cr_expect_eq(size_of(&p.c, "stages"), 1);
    for (int k = 0; k < KINDS; k++) free(want[k]);
    down(&p.c);
}
