/* What `sluice status` says of the KV cache, as text and as JSON: bytes by format, rows that went, prompt rows that were reused. */
#include "ops/cli/describe.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(kv_status, .init = programs_begin, .timeout = 300);

enum { SECONDS = 120, HEADS = 4, KEPT = 64, PANES = KEPT / 32, BLOCK = 64 };
enum { Q8_PANE = 32 * 34, TOKEN4_PANE = 32 * (16 + 4), EXACT_ROW = 2 * 32 * 2 };    /* bytes a head: 32 rows of K, of V, a row */
/* Both of its outputs, of one stage: the text's line that begins so must hold these words. */
static void expect_line(const char *words_of, int stage, const char *begin, const char *words)
{
    char from[32];
    snprintf(from, sizeof from, "stage %d ", stage);
    const char *at = strstr(words_of, from);
    at = at ? strstr(at, begin) : NULL;
    cr_assert(at, "stage %d has no line \"%s\" in\n%s", stage, begin, words_of);
    char *line = strndup(at, strcspn(at, "\n"));
    cr_expect(strstr(line, words), "stage %d: \"%s\", without \"%s\"", stage, line, words);
    free(line);
}

static json_int_t of_stage(const json_t *status, int stage, const char *key)
{
    char path[64];
    snprintf(path, sizeof path, "stages.%d.%s", stage, key);
    return json_number_at(status, path);
}

static json_int_t heads_of(const json_t *status, int stage)
{
    return HEADS * (of_stage(status, stage, "last") - of_stage(status, stage, "first"));
}

static void expect_number(const json_t *status, int stage, const char *key, json_int_t want)
{
    json_int_t is = of_stage(status, stage, key);
    cr_expect_eq(is, want, "stage %d: %s is %lld, not %lld", stage, key, (long long)is, (long long)want);
}

/* When nothing runs: what went, what was reused, which blocks are kept for others. */
static void expect_idle(const standing *c, json_int_t evicted, json_int_t reused, json_int_t blocks)
{
    char words[96], bytes[16];
    json_t *o = standing_status(c);
    ran r = program_run(0, SECONDS, NULL, SLUICE("status", "--dir", c->dir));
    for (int s = 0; s < 2; s++) {
        json_int_t heads = heads_of(o, s), shared = blocks * BLOCK * heads * EXACT_ROW;
        expect_number(o, s, "kv.evicted_rows", evicted * heads);
        expect_number(o, s, "kv.prefix_rows", reused);
        expect_number(o, s, "kv.shared_bytes", shared);
        expect_number(o, s, "kv.packed_bytes", 0);
        snprintf(words, sizeof words, "(%s shared)  packed 0 B  scores 0 B  %lld rows evicted  %lld prompt rows reused",
                 describe_bytes((uint64_t)shared, bytes), (long long)(evicted * heads), (long long)reused);
        expect_line(ran_out(&r), s, "KV: exact", words);
    }
    ran_free(&r);
    json_decref(o);
}

/* Of a job that runs: bytes by format. false: it has not settled yet, or it is over. */
static bool look(const standing *c)
{
    char words[96], k[16], v[16];
    json_t *o = standing_status(c);
    ran r = program_run(0, SECONDS, NULL, SLUICE("status", "--dir", c->dir));
    const char *first = strstr(ran_out(&r), "KV packed:");
    bool seen = of_stage(o, 0, "kv.packed_bytes") && of_stage(o, 1, "kv.packed_bytes") && first && strstr(first + 1, "KV packed:");
    for (int s = 0; seen && s < 2; s++) {
        json_int_t panes = PANES * heads_of(o, s), keys = panes * Q8_PANE, values = panes * TOKEN4_PANE;
        expect_number(o, s, "kv.packed.q8_0", keys);
        expect_number(o, s, "kv.packed.token", values);
        expect_number(o, s, "kv.packed_bytes", keys + values);
        snprintf(words, sizeof words, "q8_0 %s  token %s", describe_bytes((uint64_t)keys, k), describe_bytes((uint64_t)values, v));
        expect_line(ran_out(&r), s, "KV packed:", words);
    }
    ran_free(&r);
    json_decref(o);
    return seen;
}

/* Jobs one after another until one was seen while it ran: how long that takes is the machine's. */
static void expect_packed(const standing *c, const char *prompt)
{
    bool seen = false;
    for (int i = 0; i < 20 && !seen; i++) {
        program p;
        int64_t done = standing_number(c, "jobs.done");
        cr_assert(program_start(&p, "long", SLUICE("submit", "--dir", c->dir, "-p", prompt, "-n", "1700", "--ignore-eos")));
        while (!seen && standing_number(c, "jobs.done") == done) seen = look(c);
        cr_expect_eq(program_wait(&p, 0, SECONDS), 0);
    }
    cr_expect(seen, "no status of a job under way");
}

Test(kv_status, bytes_by_format_rows_evicted_and_prompt_rows_reused_are_right_in_text_and_json)
{
    static const char policy[] = "[format]\nk = q8_0\nv = token4\n[keep]\nscore = keydiff\nrows = 64\nsinks = 4\nwindow = 16\n";
    char model[512], ini[160], prompt[1024] = "";
    standing c;
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(ini, sizeof ini, "%s", programs_file("kept.ini"));
    cr_assert(support_write(ini, policy, strlen(policy)));
    for (int i = 0; i < 30; i++) strcat(prompt, i % 2 ? "The bell rang twice. " : "Two boats lay at the quay. ");
    cr_assert(standing_up(&c, "s", (const char *const[]){ "-m", model, "--ctx", "2048", "--stages", "2", "--kv", ini, NULL }));
    json_int_t rows = 0;
    for (int i = 1; i < 3; i++) {                     /* the second one begins with the blocks of the first */
        ran r = program_run(0, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, "--json", "-p", prompt, "-n", "4", "--ignore-eos"));
        json_t *o = ran_json(&r);
        rows = json_number_at(o, "prompt_tokens");
        cr_assert(rows > 2 * BLOCK && rows < 250, "%lld tokens: no block, or a settlement behind the prompt", (long long)rows);
        json_decref(o);
        expect_idle(&c, i * (rows - KEPT), (i - 1) * ((rows - 1) / BLOCK * BLOCK), (rows - 1) / BLOCK);
    }
    expect_packed(&c, prompt);
    cr_expect(standing_down(&c), "something stayed");
    unlink(ini);
    cr_expect(programs_gone(5));
}
