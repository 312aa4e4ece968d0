/* Whatever a user gets wrong: one clear line that names the thing and quotes the bad value, the documented exit status
 * (core/err.h), soon, and nothing left behind. Tables; a row is one mistake. */
#include "engine/gguf_write.h"
#include "tests/support_programs.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define END_SECONDS 20
#define GONE_SECONDS 5

/* In words: "%model", "%corpus" and "%dir" (of the live cluster) stand for themselves, "@NAME" is a file of the test. */
typedef struct {
    int status;
    const char *argv[14];          /* behind `sluice` */
    const char *words[3];          /* all in one line of stderr */
} mistake;

static char model[512], corpus[512], live_dir[128], port_addr[64];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(corpus, sizeof corpus, "%s", support_root("configs/demo/corpus"));
}

TestSuite(bad_input, .init = begin, .timeout = 240);

/* Texts made of words live in a ring, long enough for one command line. */
static const char *expand(const char *word)
{
    static char slot[32][640];
    static unsigned next;
    char *s = slot[next++ % 32];
    if (!strcmp(word, "%model")) return model;
    if (!strcmp(word, "%corpus")) return corpus;
    if (!strcmp(word, "%dir")) return live_dir;
    if (!strcmp(word, "%port")) return port_addr;
    if (*word != '@') return word;
    snprintf(s, sizeof slot[0], "%s/%s", support_tmpdir(), word + 1);
    return s;
}

static bool line_has(const char *line, size_t n, const char *const words[3])
{
    for (int i = 0; i < 3 && words[i]; i++) {
        const char *w = expand(words[i]);
        if (!memmem(line, n, w, strlen(w))) return false;
    }
    return true;
}

/* A line of sluice's own (not a log line) that has all words, and is short enough to read. */
static bool says(const char *errs, const char *const words[3])
{
    for (const char *at = errs; *at;) {
        size_t n = strcspn(at, "\n");
        if (!strncmp(at, "sluice", 6) && n < 600 && line_has(at, n, words)) return true;
        at += n + (at[n] == '\n');
    }
    return false;
}

/* Nothing on stdout is fine for every mistake but those whose output is per line. */
static ran make(const mistake *m)
{
    const char *argv[16] = { support_bin("sluice") };
    char title[256] = "";
    for (int i = 0; m->argv[i]; i++) {
        argv[i + 1] = expand(m->argv[i]);
        strncat(title, m->argv[i], sizeof title - strlen(title) - 2);
        strcat(title, " ");
    }
    ran r = program_run(m->status, END_SECONDS, "", argv);
    cr_expect_eq(r.status, m->status, "%s: status %d instead of %d", title, r.status, m->status);
    cr_expect(says(ran_errs(&r), m->words), "%s: no line with \"%s\" \"%s\" in\n%s", title, m->words[0], m->words[1] ? m->words[1] : "", ran_errs(&r));
    return r;
}

static void make_all(const mistake *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ran r = make(&m[i]);
        cr_expect_eq(r.out.len, 0, "%s %s: stdout has \"%.80s\"", m[i].argv[0], m[i].argv[1], ran_out(&r));
        ran_free(&r);
    }
}
#define MAKE_ALL(table) make_all(table, sizeof table / sizeof *table)

static void put(const char *name, const char *content) { cr_assert(support_write(expand(name), content, strlen(content))); }

/* ---- model files */

static void put_head(const char *name, size_t n)
{
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, model, 64 << 20, NULL), ERR_OK);
    cr_assert(support_write(expand(name), t.ptr, n));
    text_free(&t);
}

static void put_architecture(const char *name)
{
    gguf_writer *w;
    err e;
    float row[32] = { 0 };
    cr_assert_eq(gguf_writer_open(&w, expand(name), &e), ERR_OK, "%s", e.text);
    gguf_writer_str(w, "general.architecture", (view){ "mamba", 5 });
    gguf_writer_tensor(w, "token_embd.weight", 0, 1, (const uint64_t[]){ 32 });
    bool ok = !gguf_writer_begin(w, &e) && !gguf_writer_data(w, 0, 0, row, sizeof row, &e) && !gguf_writer_commit(w, &e);
    cr_assert(ok, "%s", e.text);
    gguf_writer_close(&w);
}

/* The bundled model's keys without its tensors: a tokenizer-only file. */
static void put_vocabulary(const char *name)
{
    gguf_writer *w;
    gguf *g;
    gguf_kind kind;
    err e;
    cr_assert_eq(gguf_open(&g, model, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_open(&w, expand(name), &e), ERR_OK, "%s", e.text);
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        const char *key = gguf_key(g, i, &kind);
        gguf_writer_raw(w, key, kind, gguf_raw(g, i));
    }
    cr_assert(!gguf_writer_begin(w, &e) && !gguf_writer_commit(w, &e), "%s", e.text);
    gguf_writer_close(&w);
    gguf_close(&g);
}

Test(bad_input, model_files_that_are_none)
{
    put("@empty.gguf", "");
    put("@text.gguf", "This is no model at all, but a text of some length.\n");
    put_head("@cut.gguf", 3000000);
    put_head("@cut-early.gguf", 1000);
    put_architecture("@mamba.gguf");
    put_vocabulary("@vocab.gguf");
    cr_assert(!mkdir(expand("@folder"), 0700));
    static const mistake table[] = {
        { 4, { "run", "-p", "hi", "-m", "@absent.gguf" }, { "sluice run: ", "@absent.gguf", "No such file" } },
        { 4, { "run", "-p", "hi", "-m", "@folder" }, { "sluice run: ", "@folder", "not a regular file" } },
        { 5, { "run", "-p", "hi", "-m", "@empty.gguf" }, { "sluice run: ", "@empty.gguf", "not a GGUF file" } },
        { 5, { "run", "-p", "hi", "-m", "@text.gguf" }, { "sluice run: ", "@text.gguf", "not a GGUF file" } },
        { 5, { "run", "-p", "hi", "-m", "@cut.gguf" }, { "sluice run: ", "@cut.gguf", "cut off" } },
        { 5, { "run", "-p", "hi", "-m", "@cut-early.gguf" }, { "sluice run: ", "@cut-early.gguf" } },
        { 5, { "run", "-p", "hi", "-m", "@mamba.gguf" }, { "sluice run: ", "@mamba.gguf", "\"mamba\"" } },
        { 5, { "run", "-p", "hi", "-m", "@vocab.gguf" }, { "sluice run: ", "@vocab.gguf", "tensor" } },
        { 5, { "eval", "ppl", "-m", "@cut.gguf", "-f", "%corpus" }, { "sluice eval: ", "@cut.gguf" } },
        { 4, { "up", "-m", "@absent.gguf" }, { "sluice up: ", "@absent.gguf", "No such file" } },
        { 4, { "worker", "--connect", "tcp://127.0.0.1:9", "-m", "@absent.gguf" }, { "@absent.gguf", "No such file" } },
        { 5, { "worker", "--connect", "tcp://127.0.0.1:9", "-m", "@text.gguf" }, { "@text.gguf", "not a GGUF file" } },
        { 4, { "tokenize", "-p", "hi", "-m", "@absent.gguf" }, { "sluice tokenize: ", "@absent.gguf" } },
        { 4, { "model", "info", "@absent.gguf" }, { "sluice model: ", "@absent.gguf" } },
        { 5, { "model", "info", "@text.gguf" }, { "sluice model: ", "@text.gguf" } },
    };
    MAKE_ALL(table);
    ran r = program_run(0, END_SECONDS, NULL, SLUICE("tokenize", "-m", expand("@vocab.gguf"), "-p", "hi"));
    cr_expect_eq(r.status, 0, "a tokenizer-only file is good enough to tokenize");
    ran_free(&r);
    cr_assert(programs_ended(GONE_SECONDS));
}

/* ---- prompts */

Test(bad_input, prompts_that_cannot_be)
{
    char *words = malloc(60001);
    cr_assert(words);
    for (int i = 0; i < 60000; i += 6) memcpy(words + i, "hello ", 6);
    words[60000] = 0;
    put("@long.txt", words);
    free(words);
    static const mistake table[] = {
        { 11, { "run", "-m", "%model", "-f", "@long.txt" }, { "sluice run: ", "30002 tokens", "2048" } },
        { 11, { "run", "-m", "%model", "-p", "a prompt of some ten tokens or so", "--ctx", "4" }, { "sluice run: ", "the context holds 4" } },
        { 11, { "run", "-m", "%model", "-p", "" }, { "sluice run: ", "the prompt is empty" } },
        { 2, { "run", "-m", "%model" }, { "sluice run: ", "no prompt" } },
        { 11, { "run", "-m", "%model", "-" }, { "sluice run: ", "empty" } },
        { 4, { "run", "-m", "%model", "-f", "@absent.txt" }, { "sluice run: ", "@absent.txt", "No such file" } },
        { 2, { "run", "-m", "%model", "-p", "hi", "more" }, { "sluice run: ", "\"more\"" } },
        { 11, { "run", "-m", "%model", "-p", "hi", "--logit-bias", "99999=1" }, { "sluice run: ", "99999", "4096" } },
    };
    MAKE_ALL(table);
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(bad_input, no_new_tokens_is_an_empty_text_and_no_mistake)
{
    ran r = program_run(0, END_SECONDS, NULL, SLUICE("run", "-m", model, "-p", "hi", "-n", "0", "--json"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    cr_expect_str_eq(json_string_at(o, "text"), "");
    cr_expect_eq(json_number_at(o, "completion_tokens"), 0);
    cr_expect_str_eq(json_string_at(o, "finish_reason"), "length");
    json_decref(o);
    cr_assert(programs_gone(GONE_SECONDS));
}

/* ---- command lines and configurations */

Test(bad_input, command_lines_that_mean_nothing)
{
    static const mistake table[] = {
        { 2, { "rnu", "-p", "hi" }, { "sluice: ", "\"rnu\"", "did you mean run?" } },
        { 2, { "stauts" }, { "sluice: ", "\"stauts\"", "did you mean status?" } },
        { 2, { "xyzzyxyzzy" }, { "sluice: ", "\"xyzzyxyzzy\"" } },
        { 2, { "help", "rnu" }, { "sluice: ", "\"rnu\"" } },
        { 2, { "run", "-p", "hi", "--stagse", "2" }, { "sluice run: ", "--stagse", "did you mean --stages?" } },
        { 2, { "run", "-p", "hi", "--temperature", "2" }, { "sluice run: ", "--temperature" } },
        { 2, { "run", "-p", "hi", "-X" }, { "sluice run: ", "-X" } },
        { 2, { "run", "-p", "hi", "--temp" }, { "sluice run: ", "--temp" } },
        { 2, { "run", "-p", "hi", "--temp", "-1" }, { "sluice run: ", "--temp", "\"-1\"" } },
        { 2, { "run", "-p", "hi", "--temp", "nan" }, { "sluice run: ", "--temp", "\"nan\"" } },
        { 2, { "run", "-p", "hi", "--top-p", "2" }, { "sluice run: ", "--top-p", "\"2\"" } },
        { 2, { "run", "-p", "hi", "--top-k", "1.5" }, { "sluice run: ", "--top-k", "\"1.5\"" } },
        { 2, { "run", "-p", "hi", "-n", "-5" }, { "sluice run: ", "-n", "\"-5\"" } },
        { 2, { "run", "-p", "hi", "-n", "99999999999999999999" }, { "sluice run: ", "-n", "\"99999999999999999999\"" } },
        { 2, { "run", "-p", "hi", "--threads", "9999" }, { "sluice run: ", "--threads", "\"9999\"" } },
        { 3, { "run", "-p", "hi", "--kv", "q3" }, { "sluice run: ", "KV policy", "\"q3\"" } },
        { 2, { "run", "-p", "hi", "--prefill", "magic" }, { "sluice run: ", "--prefill", "\"magic\"" } },
        { 2, { "run", "-p", "hi", "--logit-bias", "5" }, { "sluice run: ", "--logit-bias", "\"5\"" } },
        { 2, { "eval", "nonsense" }, { "sluice eval: ", "\"nonsense\"" } },
        { 2, { "eval", "ppl", "-m", "%model" }, { "sluice eval: ", "-f" } },
        { 11, { "eval", "logits", "-m", "%model", "-o", "@o", "-t", "1,x" }, { "sluice eval: ", "\"x\"" } },
        { 11, { "eval", "logits", "-m", "%model", "-o", "@o", "-t", "99999999" }, { "sluice eval: ", "99999999", "4096" } },
        { 11, { "detokenize", "-m", "%model", "-t", "99999999" }, { "sluice detokenize: ", "99999999", "4096" } },
        { 2, { "worker", "-m", "%model" }, { "sluice worker: ", "--connect" } },
        { 3, { "worker", "-m", "%model", "--connect", "nowhere" }, { "\"nowhere\"" } },
        { 2, { "model", "random", "--shape", "enormous", "-o", "@o" }, { "sluice model: ", "\"enormous\"", "tinyllama-1.1b" } },
        { 2, { "result", "9x" }, { "sluice result: ", "\"9x\"" } },
        { 2, { "index", "%corpus" }, { "sluice index: ", "-o" } },
    };
    MAKE_ALL(table);
    cr_expect_neq(access(expand("@o"), F_OK), 0, "an output file stays");
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(bad_input, clusters_that_cannot_be)
{
    cr_assert(!mkdir(expand("@bins"), 0700) && !mkdir(expand("@two"), 0700));
    cr_assert(!symlink(support_bin("sluice-coordinator"), expand("@two/sluice-coordinator")));
    static const mistake table[] = {
        { 3, { "run", "-m", "%model", "-p", "hi", "--stages", "0" }, { "sluice run: ", "0 stages", "12" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "--stages", "99" }, { "sluice run: ", "99 stages", "12" } },
        { 4, { "run", "-m", "%model", "-p", "hi", "--bin-dir", "@bins" }, { "sluice run: ", "@bins/sluice-coordinator" } },
        { 4, { "run", "-m", "%model", "-p", "hi", "--bin-dir", "@two" }, { "sluice run: ", "@two/sluice-stage" } },
        { 4, { "up", "-m", "%model", "--bin-dir", "@two" }, { "sluice up: ", "@two/sluice-stage" } },
        { 4, { "worker", "-m", "%model", "--connect", "tcp://127.0.0.1:9", "--bin-dir", "@bins" }, { "@bins/sluice-stage" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "--listen", "tcp://0.0.0.0:7711" }, { "sluice run: ", "tcp://0.0.0.0:7711", "loopback" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "--listen", "tcp://127.0.0.1:99999" }, { "sluice run: ", "tcp://127.0.0.1:99999", "port" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "--listen", "nowhere" }, { "sluice run: ", "\"nowhere\"" } },
        { 8, { "run", "-m", "%model", "-p", "hi", "--join", "1", "--start-timeout", "0.3" }, { "sluice run: ", "not ready after 0.3 s" } },
        { 2, { "up", "-m", "%model", "--dir", "" }, { "sluice up: ", "--dir" } },
        { 4, { "up", "-m", "%model", "--dir", "/proc/1/nowhere" }, { "sluice up: ", "/proc/1/nowhere" } },
        { 4, { "run", "-m", "%model", "-p", "hi", "--rag", "@absent" }, { "sluice run: ", "@absent", "No such file" } },
        { 11, { "run", "-m", "%model", "-p", "hi", "--rag", "%model" }, { "sluice run: ", "%model", "not a Sluice corpus" } },
        { 11, { "run", "-m", "%model", "-p", "hi", "--rag", "@bins" }, { "sluice run: ", "@bins", "no .txt" } },
        { 4, { "index", "@absent", "-o", "@o" }, { "sluice index: ", "@absent" } },
        { 11, { "index", "@bins", "-o", "@o" }, { "sluice index: ", "@bins" } },
        { 4, { "index", "%corpus", "-o", "@absent/o" }, { "sluice index: ", "@absent/o" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "--rag", "%corpus", "--rag-template", "{passages}" }, { "sluice run: ", "{question}" } },
    };
    MAKE_ALL(table);
    cr_assert(programs_ended(GONE_SECONDS));
    cr_expect_neq(access(expand("@o"), F_OK), 0, "a half-made corpus stays");
}

Test(bad_input, configurations_that_mean_nothing)
{
    put("@key.ini", "[job]\nmax_tokens = 3\nmax_tokns = 3\n");
    put("@value.ini", "[job]\n\ntemperature = warm\n");
    put("@range.ini", "[cluster]\nstages = 100000\n");
    put("@line.ini", "[cluster]\nstages 2\n");
    static const mistake table[] = {
        { 3, { "run", "-m", "%model", "-p", "hi", "-c", "@key.ini" }, { "@key.ini:3", "max_tokns", "did you mean job.max_tokens?" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "-c", "@value.ini" }, { "@value.ini:3", "job.temperature", "\"warm\"" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "-c", "@range.ini" }, { "@range.ini:2", "cluster.stages", "\"100000\"" } },
        { 3, { "run", "-m", "%model", "-p", "hi", "-c", "@line.ini" }, { "@line.ini:2" } },
        { 4, { "run", "-m", "%model", "-p", "hi", "-c", "@absent.ini" }, { "@absent.ini", "No such file" } },
        { 3, { "up", "-m", "%model", "-c", "@key.ini" }, { "@key.ini:3", "max_tokns" } },
    };
    MAKE_ALL(table);
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(bad_input, no_cluster_is_up)
{
    static const mistake table[] = {
        { 14, { "status" }, { "sluice status: ", "no cluster is up in", "/sluice" } },
        { 14, { "down" }, { "sluice down: ", "no cluster is up in" } },
        { 14, { "jobs" }, { "sluice jobs: ", "no cluster is up in" } },
        { 14, { "submit", "-p", "hi" }, { "sluice submit: ", "no cluster is up in" } },
        { 14, { "result", "99" }, { "sluice result: ", "no cluster is up in" } },
        { 14, { "cancel", "99" }, { "sluice cancel: ", "no cluster is up in" } },
        { 14, { "status", "--dir", "@nowhere" }, { "sluice status: ", "no cluster is up in", "@nowhere" } },
    };
    MAKE_ALL(table);
    cr_assert(programs_gone(GONE_SECONDS));
}

/* ---- a live cluster */

static void check_lines(const char *path)
{
    static const char *const want[][2] = { { "no-prompt", "\"prompt\" is missing" }, { "typo", "did you mean \\\"max_tokens\\\"?" },
                                           { "hot", "\\\"temperature\\\"" } };
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, path, 1 << 20, NULL), ERR_OK);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        bool found = false;
        for (const char *at = t.ptr; at && *at && !found; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
            size_t n = strcspn(at, "\n");
            found = memmem(at, n, want[i][0], strlen(want[i][0])) && memmem(at, n, "\"error\"", 7)
                    && (memmem(at, n, want[i][1], strlen(want[i][1])) || (i == 0 && memmem(at, n, "is missing", 10)));
        }
        cr_expect(found, "no error line for %s in\n%s", want[i][0], t.ptr);
    }
    cr_expect(strstr(t.ptr, "not JSON"), "%s", t.ptr);
    cr_expect(strstr(t.ptr, "\"good-2\"") && strstr(t.ptr, "completion_tokens"), "the good lines are answered: %s", t.ptr);
    text_free(&t);
}

static int bound_port(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(s >= 0 && !bind(s, (struct sockaddr *)&a, sizeof a) && !listen(s, 1) && !getsockname(s, (struct sockaddr *)&a, &n));
    snprintf(port_addr, sizeof port_addr, "tcp://127.0.0.1:%u", ntohs(a.sin_port));
    return s;
}

Test(bad_input, requests_that_a_live_cluster_refuses)
{
    standing c;
    cr_assert(standing_up(&c, "live", (const char *const[]){ "-m", model, "--stages", "1", NULL }));
    snprintf(live_dir, sizeof live_dir, "%s", c.dir);
    int busy = bound_port();
    put("@bad.jsonl", "{\"custom_id\": \"good-1\", \"prompt\": \"Once\", \"max_tokens\": 4}\n"
                      "this is not JSON\n"
                      "{\"custom_id\": \"no-prompt\"}\n"
                      "{\"custom_id\": \"typo\", \"prompt\": \"Once\", \"max_tokns\": 4}\n"
                      "{\"custom_id\": \"hot\", \"prompt\": \"Once\", \"temperature\": \"hot\"}\n"
                      "{\"custom_id\": \"good-2\", \"prompt\": \"Once\", \"max_tokens\": 4}\n");
    put("@twice.jsonl", "{\"custom_id\": \"a\", \"prompt\": \"x\"}\n{\"custom_id\": \"b\", \"prompt\": \"x\"}\n"
                        "{\"custom_id\": \"a\", \"prompt\": \"y\"}\n");
    static const mistake table[] = {
        { 13, { "up", "-m", "%model", "--dir", "%dir" }, { "sluice up: ", "already up in", "%dir" } },
        { 4, { "run", "-m", "%model", "-p", "hi", "--listen", "%port" }, { "sluice run: ", "%port", "in use" } },
        { 14, { "result", "99", "--dir", "%dir" }, { "sluice result: ", "job 99" } },
        { 14, { "cancel", "99", "--dir", "%dir" }, { "sluice cancel: ", "job" } },
        { 11, { "submit", "--dir", "%dir", "-p", "" }, { "sluice submit: ", "the prompt is empty" } },
        { 2, { "submit", "--dir", "%dir" }, { "sluice submit: ", "no prompt" } },
        { 11, { "submit", "--dir", "%dir", "-p", "hi", "--use-rag" }, { "sluice submit: ", "--rag" } },
        { 11, { "submit", "--dir", "%dir", "--batch", "@bad.jsonl", "-o", "@answers.jsonl" }, { "sluice submit: ", "4 of 6 lines failed" } },
        { 11, { "submit", "--dir", "%dir", "--batch", "@twice.jsonl", "-o", "@none.jsonl" },
          { "sluice submit: ", "@twice.jsonl", "custom_id \"a\" of line 3 is already in line 1" } },
        { 4, { "submit", "--dir", "%dir", "--batch", "@absent.jsonl" }, { "sluice submit: ", "@absent.jsonl" } },
        { 2, { "submit", "--dir", "%dir", "--batch", "@bad.jsonl", "-o", "@bad.jsonl" }, { "sluice submit: ", "@bad.jsonl" } },
    };
    MAKE_ALL(table);
    check_lines(expand("@answers.jsonl"));
    close(busy);
    json_t *status = standing_status(&c);
    cr_expect_eq(json_number_at(status, "sessions"), 0, "a session stays");
    json_decref(status);
    ran r = program_run(0, END_SECONDS, NULL, SLUICE("submit", "--dir", c.dir, "-p", "Once upon a time", "-n", "4"));
    cr_expect(r.status == 0 && r.out.len, "the cluster still works");
    ran_free(&r);
    cr_assert(standing_down(&c));
    cr_assert(programs_gone(GONE_SECONDS));
}
