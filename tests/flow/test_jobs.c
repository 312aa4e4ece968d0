/* Jobs as their users see them: several clients of one job, answers that go on where they broke, replay, deadlines, a queue that
 * is full, a disk that is full, and a client that sends without end and reads nothing. */
#include "core/clock.h"
#include "ops/cli/client.h"
#include "ops/cli/request.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECONDS 120                    /* for anything that should take a moment */

static char model[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(jobs, .init = begin, .timeout = 900);

#define UP(...) ((const char *const[]){ "-m", model, "--ctx", "2048", __VA_ARGS__, NULL })
#define STORY(tokens) "-p", "The old house", "-n", tokens, "--ignore-eos", "--temp", "0.9", "--seed", "7"

static standing up(const char *const options[])
{
    standing c;
    cr_assert(standing_up(&c, "j", options));
    return c;
}

static void down(standing *c)
{
    cr_expect(standing_down(c), "something stayed");
    cr_expect(programs_gone(5));
}

static json_t *json_of(int want, const char *const argv[])
{
    ran r = program_run(want, SECONDS, NULL, argv);
    cr_assert_eq(r.status, want, "%s", ran_errs(&r));
    return ran_json(&r);
}

static char *text_at(json_t *o, const char *key)
{
    char *s = json_dumps(json_object_get(o, key), JSON_ENCODE_ANY | JSON_COMPACT);
    cr_assert(s, "no %s", key);
    return s;
}

static void until(const standing *c, const char *path, int64_t least, int64_t most)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    int64_t n;
    while (((n = standing_number(c, path)) < least || n > most) && clock_ns() < end) usleep(5000);
    cr_assert(n >= least && n <= most, "%s is %lld, %lld to %lld wanted", path, (long long)n, (long long)least, (long long)most);
}

#define MANY INT64_MAX

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static char *part(const standing *c, const char *id, const char *from, size_t *n)
{
    json_t *o = json_of(0, SLUICE("result", "--dir", c->dir, "--json", "--from", from, id)), *t = json_object_get(o, "tokens");
    *n = json_array_size(t);
    char *s = strdup(json_string_at(o, "text"));
    json_decref(o);
    return s;
}

Test(jobs, an_answer_can_be_had_from_any_token_on)
{
    standing c = up(UP("--stages", "2"));
    json_t *o = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("60")));
    const char *whole = json_string_at(o, "text");
    static const char *const from[] = { "0", "1", "37", "59", "60", "9999" };
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        size_t n, want = atoi(from[i]) < 60 ? 60 - (size_t)atoi(from[i]) : 0;
        char *rest = part(&c, "1", from[i], &n);
        cr_expect_eq(n, want, "--from %s", from[i]);
        size_t len = strlen(rest);
        cr_expect(len <= strlen(whole) && !strcmp(whole + strlen(whole) - len, rest), "--from %s is no end of the text: %s", from[i], rest);
        cr_expect(i || len == strlen(whole));
        free(rest);
    }
    json_decref(o);
    down(&c);
}

Test(jobs, looking_at_a_running_job_takes_it_from_nobody)
{
    standing c = up(UP("--stages", "2"));
    json_t *want = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("1500")));
    program first, second;
    cr_assert(program_start(&first, "first", SLUICE("submit", "--dir", c.dir, "--json", STORY("1500"))));
    until(&c, "jobs.running", 1, MANY);
    cr_assert(program_start(&second, "second", SLUICE("result", "--dir", c.dir, "--json", "2")));
    json_t *now = json_of(0, SLUICE("result", "--dir", c.dir, "--json", "--no-follow", "2"));
    cr_expect_lt(json_number_at(now, "completion_tokens"), 1500, "--no-follow waited for the end");
    cr_expect_str_eq(json_string_at(now, "finish_reason"), "none");
    cr_expect_eq(program_wait(&first, 0, SECONDS), 0, "the client that submitted");
    cr_expect_eq(program_wait(&second, 0, SECONDS), 0, "the client that fetched");
    char *t = text_at(want, "tokens");
    for (int i = 0; i < 2; i++) {
        json_t *o = json_load_file(i ? second.out : first.out, 0, NULL);
        char *got = text_at(o, "tokens");
        cr_expect_str_eq(got, t);
        free(got);
        json_decref(o);
    }
    free(t);
    json_decref(now);
    json_decref(want);
    down(&c);
}

/* ---- a coordinator that goes away ------------------------------------------------------------------------------------- */

Test(jobs, submit_goes_on_when_another_coordinator_takes_over)
{
    standing c = up(UP("--stages", "2"));
    json_t *want = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("1500"), "--choices", "2"));
    program p;
    cr_assert(program_start(&p, "going", SLUICE("submit", "--dir", c.dir, "--json", "--reconnect", "100", STORY("1500"), "--choices", "2")));
    int64_t rows = standing_number(&c, "pump.decode_rows");
    until(&c, "pump.decode_rows", rows + 100, MANY);
    cr_assert_eq(kill(c.pid, SIGKILL), 0);
    json_decref(c.status);
    usleep(300000);
    c = up(UP("--stages", "2"));
    cr_expect_eq(program_wait(&p, 0, SECONDS), 0);
    json_t *got = json_load_file(p.out, 0, NULL);
    char *a = text_at(want, "choices"), *b = text_at(got, "choices");
    cr_expect_str_eq(a, b);
    cr_expect_eq(json_number_at(got, "id"), 2, "the same job");
    free(a);
    free(b);
    json_decref(want);
    json_decref(got);
    down(&c);
}

Test(jobs, a_client_that_gives_up_says_how_to_go_on)
{
    standing c = up(UP("--stages", "1"));
    program p;
    cr_assert(program_start(&p, "left", SLUICE("submit", "--dir", c.dir, "--reconnect", "0", STORY("1900"))));
    until(&c, "pump.decode_rows", 50, MANY);
    cr_assert_eq(kill(c.pid, SIGKILL), 0);
    cr_expect_eq(program_wait(&p, -1, SECONDS), 7);
    text errs = program_errs(&p);
    const char *hint = strstr(errs.ptr, "sluice result 1 --from ");
    cr_assert(hint, "%s", errs.ptr);
    char from[16];
    snprintf(from, sizeof from, "%d", atoi(hint + 23));
    text_free(&errs);
    json_decref(c.status);
    cr_assert(programs_ended(20));
    c = up(UP("--stages", "1"));
    size_t n;
    char *rest = part(&c, "1", from, &n), *whole = part(&c, "1", "0", &n);
    text had = { 0 }, all = { 0 };
    cr_assert_eq(text_read_file(&had, p.out, 1 << 20, NULL), ERR_OK);
    cr_assert(text_addf(&all, "%.*s%s", (int)had.len, had.ptr, rest));
    cr_expect_str_eq(all.ptr, whole, "what was printed and what follows");
    text_free(&had);
    text_free(&all);
    free(rest);
    free(whole);
    down(&c);
}

/* ---- replay ------------------------------------------------------------------------------------------------------------- */

static void edit(const standing *c, const char *sql)
{
    sqlite3 *db;
    char path[200];
    snprintf(path, sizeof path, "%s/journal.db", c->dir);
    cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

static json_t *replay(const standing *c, const char *id, int want) { return json_of(want, SLUICE("replay", "--dir", c->dir, "--json", id)); }

static void expect_replay(const standing *c, const char *id, int64_t compared)
{
    json_t *o = replay(c, id, 0);
    cr_expect(json_is_true(json_object_get(o, "same")));
    cr_expect_eq(json_number_at(o, "compared"), compared, "job %s", id);
    json_decref(o);
}

Test(jobs, a_replay_follows_the_log_and_finds_the_first_difference)
{
    char corpus[512];
    snprintf(corpus, sizeof corpus, "%s", support_root("configs/demo/corpus"));
    const char *const *options = UP("--stages", "2", "--rag", corpus);
    standing c = up(options);
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("40"), "--choices", "3", "--logprobs", "2")));
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", "--use-rag", "-p", "Question: What is the favourite food of Tuvorfilvi?", "-n", "12")));
    ran late = program_run(8, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, STORY("1900"), "--deadline", "0.2"));
    ran_free(&late);
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", c.dir));
    ran_free(&r);
    json_decref(c.status);
    cr_assert(programs_ended(20));
    c = up(UP("--stages", "1", "--rag", corpus));          /* another shape, a later process */
    expect_replay(&c, "1", 120);
    json_t *o = replay(&c, "2", 0);
    cr_expect_eq(json_number_at(o, "compared"), 12);
    cr_expect_str_eq(json_string_at(o, "log.0.kind"), "passages");
    cr_expect_str_eq(json_string_at(o, "log.1.kind"), "prompt");
    cr_expect(strstr(json_string_at(o, "log.2.payload"), "path=i8b32"), "%s", json_string_at(o, "log.2.payload"));
    json_decref(o);
    o = replay(&c, "3", 0);
    cr_expect_str_eq(json_string_at(o, "original"), "failed", "as far as it came");
    json_decref(o);
    r = program_run(14, SECONDS, NULL, SLUICE("replay", "--dir", c.dir, "99"));
    ran_free(&r);
    r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", c.dir));
    ran_free(&r);
    json_decref(c.status);
    cr_assert(programs_ended(20));
    /* a log-probability of token 7 of choice 1 in its last bit: records of 32 bytes, the figure is the second word */
    edit(&c, "UPDATE choice SET tokens=substr(tokens,1,228) || x'ff' || substr(tokens,230) WHERE job=1 AND idx=1");
    edit(&c, "UPDATE event SET payload=CAST(replace(CAST(payload AS TEXT), 'mushroom rice', 'barley bread') AS BLOB) WHERE job=2 AND kind=2");
    c = up(UP("--stages", "2", "--rag", corpus));
    o = replay(&c, "1", 15);
    cr_expect_eq(json_number_at(o, "difference.choice"), 1);
    cr_expect_eq(json_number_at(o, "difference.token"), 7);
    cr_expect_str_eq(json_string_at(o, "difference.what"), "log-probability");
    json_decref(o);
    json_decref(replay(&c, "2", 15));                       /* it follows the log, not the corpus */
    down(&c);
}

/* TidalDecode: what layers chose is in no log, it is computed again, in stages that are cut elsewhere. */
Test(jobs, a_job_whose_layers_chose_rows_replays_to_the_same_text)
{
    static const char text_of[] = "[change]\nretrieve = tidal\nretrieve_rows = 40\n[keep]\nsinks = 2\nwindow = 8\n";
    char policy[160], prompt[1024] = "";
    snprintf(policy, sizeof policy, "%s", programs_file("tidal.ini"));
    cr_assert(support_write(policy, text_of, strlen(text_of)));
    for (int i = 0; i < 20; i++) strcat(prompt, i % 2 ? "The bell rang twice. " : "Two boats lay at the quay. ");
    standing c = up(UP("--stages", "3"));
    json_t *exact = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", "-p", prompt, "-n", "60", "--ignore-eos")),
           *few = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", "-p", prompt, "-n", "60", "--ignore-eos", "--kv", policy));
    cr_expect_str_neq(json_string_at(exact, "text"), json_string_at(few, "text"), "the choice made no difference");
    int64_t read = 0, seen = 0;
    for (int i = 0; i < 3; i++) {
        char path[40];
        snprintf(path, sizeof path, "stages.%d.kv.sparse_read", i);
        read += standing_number(&c, path);
        snprintf(path, sizeof path, "stages.%d.kv.sparse_seen", i);
        seen += standing_number(&c, path);
    }
    cr_expect(read > 0 && read < seen / 2, "%lld of %lld rows", (long long)read, (long long)seen);
    expect_replay(&c, "2", 60);
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", c.dir));
    ran_free(&r);
    json_decref(c.status);
    cr_assert(programs_ended(20));
    c = up(UP("--stages", "2"));
    expect_replay(&c, "2", 60);
    unlink(policy);
    json_decref(exact);
    json_decref(few);
    down(&c);
}

/* Within a while. */
static bool log_says(const standing *c, const char *words)
{
    uint64_t end = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9);
    for (bool found = false; clock_ns() < end; usleep(10000)) {
        text log = { 0 };
        found = !text_read_file(&log, c->log, 1 << 24, NULL) && log.len && strstr(log.ptr, words);
        text_free(&log);
        if (found) return true;
    }
    return false;
}

/* ---- deadlines, queue ----------------------------------------------------------------------------------------------------- */

Test(jobs, a_job_over_time_fails_wherever_it_is_and_frees_its_kv)
{
    standing c = up(UP("--stages", "2", "--max-sessions", "1", "--log-level", "info"));
    program busy;
    cr_assert(program_start(&busy, "busy", SLUICE("submit", "--dir", c.dir, STORY("2000"), "--deadline", "1.5")));
    until(&c, "sessions", 1, 1);
    ran r = program_run(8, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, STORY("5"), "--deadline", "0.01"));
    cr_expect(strstr(ran_errs(&r), "the deadline of 0.01 s has passed: it was still waiting"), "%s", ran_errs(&r));
    ran_free(&r);
    if (program_wait(&busy, -1, SECONDS) == 8) {            /* on a fast machine it may have come to its end */
        text errs = program_errs(&busy);
        cr_expect(strstr(errs.ptr, "tokens were there"), "%s", errs.ptr);
        text_free(&errs);
    }
    until(&c, "sessions", 0, 0);
    cr_expect(log_says(&c, "stage-0 SESSION-DROP job=1 ") && log_says(&c, "stage-1 SESSION-DROP job=1 "), "its KV stays");
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("5"))));
    down(&c);
}

Test(jobs, a_batch_comes_back_to_a_cluster_that_is_busy)
{
    standing c = up(UP("--stages", "1", "--max-queue", "3", "--max-sessions", "2"));
    text t = { 0 };
    for (int i = 0; i < 40; i++) text_addf(&t, "{\"custom_id\":\"b%d\",\"prompt\":\"Once upon\",\"max_tokens\":40,\"ignore_eos\":true}\n", i);
    const char *in = programs_file("in.jsonl"), *out = programs_file("out.jsonl");
    cr_assert(support_write(in, t.ptr, t.len));
    text_free(&t);
    ran r = program_run(0, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, "--batch", in, "-o", out));
    cr_expect_eq(r.status, 0);
    cr_expect(strstr(ran_errs(&r), "40 answered, 0 failed") && strstr(ran_errs(&r), "busy: "), "%s", ran_errs(&r));
    ran_free(&r);
    cr_expect_gt(standing_number(&c, "jobs.busy_refused"), 0);
    program held;
    cr_assert(program_start(&held, "held", SLUICE("submit", "--dir", c.dir, STORY("2000"), "--choices", "8")));
    until(&c, "sessions", 1, MANY);
    int status = 0;
    for (int i = 0; i < 4 && !status; i++) {
        r = program_run(-1, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, STORY("5"), "--detach", "--patience", "0"));
        status = r.status;
        if (status) cr_expect(strstr(ran_errs(&r), "retry after"), "%s", ran_errs(&r));
        ran_free(&r);
    }
    if (standing_number(&c, "sessions") >= 8) cr_expect_eq(status, 9, "nobody was refused");
    kill(held.pid, SIGINT);
    program_wait(&held, -1, SECONDS);
    down(&c);
}

/* ---- a full disk -------------------------------------------------------------------------------------------------------------- */

/* The coordinator's files may grow no further than this; UINT64_MAX: as far as they like. */
static void limit_files(const standing *c, uint64_t bytes)
{
    struct rlimit l;
    cr_assert_eq(prlimit(c->pid, RLIMIT_FSIZE, NULL, &l), 0);
    l.rlim_cur = bytes == UINT64_MAX ? l.rlim_max : bytes;
    cr_assert_eq(prlimit(c->pid, RLIMIT_FSIZE, &l, NULL), 0);
}

Test(jobs, a_full_disk_refuses_new_jobs_and_withholds_ends_until_it_is_well_again)
{
    standing c = up(UP("--stages", "2"));
    json_t *want = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("1500")));
    program p;
    cr_assert(program_start(&p, "waits", SLUICE("submit", "--dir", c.dir, "--json", STORY("1500"))));
    until(&c, "jobs.running", 1, MANY);
    limit_files(&c, 1);
    ran r = program_run(4, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, STORY("5"), "--detach"));
    cr_expect(strstr(ran_errs(&r), "journal"), "%s", ran_errs(&r));
    ran_free(&r);
    until(&c, "sessions", 0, 0);
    cr_expect_eq(program_wait(&p, -1, 0.5), SUPPORT_TIMEOUT, "an end that is not durable was shown");
    json_t *o = standing_status(&c);
    cr_expect(strstr(json_string_at(o, "jobs.journal_trouble"), "journal"), "the status says nothing of it");
    json_decref(o);
    limit_files(&c, UINT64_MAX);
    cr_expect_eq(program_wait(&p, 0, SECONDS), 0);
    json_t *got = json_load_file(p.out, 0, NULL);
    char *a = text_at(want, "tokens"), *b = text_at(got, "tokens");
    cr_expect_str_eq(a, b);
    free(a);
    free(b);
    json_decref(want);
    json_decref(got);
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("5"))));
    o = json_of(0, SLUICE("result", "--dir", c.dir, "--json", "2"));
    cr_expect_eq(json_number_at(o, "completion_tokens"), 1500);
    json_decref(o);
    down(&c);
}

/* ---- a flood --------------------------------------------------------------------------------------------------------------------- */

enum { FLOOD = 12000 };

static unsigned flood(client *cl, unsigned n)
{
    err e;
    unsigned sent = 0;
    static char prompt[300];
    memset(prompt, 'a', sizeof prompt);
    for (unsigned i = 0; i < n; i++) {
        message m = msg_init(MSG_SUBMIT);
        m.submit.ref = client_ref(cl);
        m.submit.max_tokens = 60;
        m.submit.ignore_eog = m.submit.stream = true;
        m.submit.logprobs = 8;
        sent += client_send(cl, &m, (view[4]){ { prompt, sizeof prompt }, { "", 0 }, { "", 0 }, { "", 0 } }, &e) == ERR_OK;
    }
    return sent;
}

Test(jobs, a_flood_from_a_client_that_reads_nothing_is_shed_and_others_are_served)
{
    standing c = up(UP("--stages", "2", "--max-sessions", "8"));
    err e;
    client *cl;
    settings own;
    settings_init(&own, CMD_SUBMIT);
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("40"))));
    cr_assert_eq(client_open(&cl, &own, c.dir, &e), ERR_OK, "%s", e.text);
    unsigned sent = flood(cl, FLOOD / 4);
    uint64_t before = process_rss_kb(c.pid), after, t = clock_ns();
    sent += flood(cl, FLOOD - FLOOD / 4);
    json_t *o = json_of(0, SLUICE("submit", "--dir", c.dir, "--json", "--priority", "9", STORY("40")));   /* in the midst of it */
    cr_expect_eq(json_number_at(o, "completion_tokens"), 40);
    json_decref(o);
    until(&c, "jobs.busy_refused", FLOOD / 2, MANY);
    after = process_rss_kb(c.pid);
    printf("# %u jobs sent, %lld refused, in %.1f s; resident %llu, then %llu KB\n", sent, (long long)standing_number(&c, "jobs.busy_refused"),
           (double)(clock_ns() - t) / 1e9, (unsigned long long)before, (unsigned long long)after);
    cr_expect_eq(sent, FLOOD);
    cr_expect_lt(after, before + (64u << 10), "memory grows with the flood");
    client_close(&cl);
    settings_free(&own);
    until(&c, "sessions", 0, 0);                            /* its jobs end with it */
    until(&c, "jobs.queued", 0, 0);
    until(&c, "jobs.running", 0, 0);
    json_decref(json_of(0, SLUICE("submit", "--dir", c.dir, "--json", STORY("40"))));
    down(&c);
}
