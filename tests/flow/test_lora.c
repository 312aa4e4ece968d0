/* LoRA adapters through a whole cluster: what is applied is what merging would give; adapters of other jobs in the same step
 * change no bit, nor do stages, chunks and threads; forks inherit; wrong files end their job with the reason; a stage that
 * dies and comes back has the adapter again. */
#include "engine/model_random.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include "tests/support_lora.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(lora_flow, .timeout = 300);

#define ROWS 40u
#define MADE 12u

static uint32_t ids[ROWS];

static const char *path_of(const char *name)
{
    static char path[8][256];
    static unsigned turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s.gguf", support_tmpdir(), name);
    return p;
}

static const char *random_model(const char *shape, const char *quant)
{
    err e;
    const char *path = path_of(quant);
    cr_assert_eq(model_random_write(shape, quant, 3, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < ROWS; i++) ids[i] = 3 + (uint32_t)support_draw(support_seed(), i, 300); /* every base here has more */
    return path;
}

static const char *adapter(const char *base, const char *name, uint32_t rank, bool mixed, uint64_t seed)
{
    static adapter_file f;
    const char *path = path_of(name);
    cr_assert(adapter_for(&f, base, rank, mixed, seed) && adapter_write(&f, path));
    return path;
}

static message with(message m, const char *file, double scale)
{
    if (file) snprintf(m.submit.lora, sizeof m.submit.lora, "%s", file);
    m.submit.lora_scale = scale;
    return m;
}

static rig_input prompt(void) { return (rig_input){ .ids = ids, .n = ROWS }; }

/* ---- applied = merged ---------------------------------------------------------------------------------------------- */

static void expect_close(const rig_job *got, const rig_job *want, const rig_job *without)
{
    cr_assert(!got->fail.code && !want->fail.code && !without->fail.code,
              "%s%s%s", got->fail.text, want->fail.text, without->fail.text);
    cr_assert(got->n_full == ROWS && want->n_full == ROWS && got->vocab == want->vocab);
    double max = 0, off = 0, apart = 0;
    for (size_t i = 0; i < (size_t)ROWS * got->vocab; i++) {
        max = fmax(max, fabs((double)want->full[i]));
        off = fmax(off, fabs((double)got->full[i] - (double)want->full[i]));
        apart = fmax(apart, fabs((double)without->full[i] - (double)want->full[i]));
    }
    printf("# max|logit| %.3g, applied and merged differ by %.3g, the adapter changes %.3g\n", max, off, apart);
    cr_expect(off <= 1e-3 * max);
    cr_expect(apart > 0.05 * max, "the adapter does nothing");
}

static void applied_and_merged(const char *base)
{
    const char *file = adapter(base, "a", 4, false, support_seed()), *merged = path_of("merged");
    cr_assert(adapter_merge(base, file, 0.7, merged));
    rig_input in = prompt();
    for (uint32_t role = 0; role < 2; role++) {
        rig *r = rig_open(&(rig_options){ .model = base, .kv = "f32", .stages = 2 });
        rig *m = rig_open(&(rig_options){ .model = merged, .kv = "f32" });
        expect_close(rig_do(r, with(rig_score(role), file, 0.7), &in), rig_do(m, rig_score(role), &in),
                     rig_do(r, rig_score(role), &in));
        rig_close(&m);
        rig_close(&r);
    }
}

Test(lora_flow, an_adapter_applied_and_merged_give_the_same_logits)
{
    applied_and_merged(random_model("micro", "F32"));
}

Test(lora_flow, an_adapter_applied_and_merged_give_the_same_logits_on_a_trained_model)
{
    SHARED_OR_SKIP(base, "data/models/stories260K-f32.gguf");
    random_model("micro", "F32");
    applied_and_merged(base);
}

Test(lora_flow, an_adapter_applied_and_merged_give_the_same_logits_with_biases_and_head_norms)
{
    applied_and_merged(random_model("micro-qwen2", "F32"));
    applied_and_merged(random_model("micro-qwen3", "F32"));
}

Test(lora_flow, an_adapter_applied_and_merged_give_the_same_logits_with_windows_and_soft_caps)
{
    applied_and_merged(random_model("micro-gemma2", "F32"));
    applied_and_merged(random_model("micro-gemma3", "F32"));
}

Test(lora_flow, an_adapter_applied_and_merged_give_the_same_logits_where_matrices_are_fused)
{
    applied_and_merged(random_model("micro-phi", "F32"));
}

/* ---- jobs side by side --------------------------------------------------------------------------------------------- */

typedef struct { rig_job *score, *decode, *text; } three;

static three submit_three(rig *r, const char *file, double scale, bool alone)
{
    rig_input in = prompt();
    message words = rig_generate(MADE);
    words.submit.logprobs = 8;
    message m[3] = { rig_score(0), rig_score(1), words };
    three t;
    rig_job **out[] = { &t.score, &t.decode, &t.text };
    for (int i = 0; i < 3; i++) {
        *out[i] = rig_submit(r, with(m[i], file, scale), &in);
        if (alone) rig_wait(r, *out[i]);
    }
    return t;
}

static bool same_three(const three *got, const three *want, const char *what)
{
    bool ok = rig_same_rows(got->score, want->score, "prompt role");
    ok &= rig_same_rows(got->decode, want->decode, "decode role");
    ok &= rig_same_choice(&got->text->choice[0], &want->text->choice[0], "tokens");
    if (!ok) printf("# DIFFERENT: %s\n", what);
    return ok;
}

static void side_by_side(const char *base)
{
    static const struct { const char *name; double scale; } who[] = { { "a", 1 }, { NULL, 1 }, { "b", 1 }, { "a", -0.5 } };
    enum { N = sizeof who / sizeof *who };
    const char *file[N] = { adapter(base, "a", 4, true, support_seed()), NULL, adapter(base, "b", 7, true, support_seed() + 100) };
    file[3] = file[0];
    rig *one = rig_open(&(rig_options){ .model = base });
    rig *clean = rig_open(&(rig_options){ .model = base, .threads = 2, .chunk = 5 });
    rig *two = rig_open(&(rig_options){ .model = base, .stages = 2, .threads = 2, .chunk = 7 });
    three want[N], got[N];
    for (int i = 0; i < N; i++) want[i] = submit_three(one, file[i], who[i].scale, true);
    for (int i = 0; i < N; i++) got[i] = submit_three(two, file[i], who[i].scale, false);
    rig_wait_all(two);
    for (int i = 0; i < N; i++) cr_expect(same_three(&got[i], &want[i], who[i].name ? who[i].name : "no adapter"));
    three never = submit_three(clean, NULL, 1, true);
    cr_expect(same_three(&got[1], &never, "beside adapters, and where there never was one"));
    for (int i = 0; i < N; i++) /* a comparison of jobs that are all alike would prove nothing */
        for (int k = 0; k < i; k++)
            cr_expect(memcmp(want[i].score->full, want[k].score->full, ROWS * want[i].score->vocab * sizeof(float)), "%d = %d", i, k);
    cr_expect(rig_idle(two, 10));
    rig_close(&two);
    rig_close(&clean);
    rig_close(&one);
}

Test(lora_flow, jobs_with_different_adapters_in_one_batch_do_not_disturb_each_other)
{
    side_by_side(random_model("micro", "F32"));
}

Test(lora_flow, jobs_with_different_adapters_on_quantised_weights_do_not_disturb_each_other)
{
    side_by_side(random_model("tiny", "Q4_K"));
}

Test(lora_flow, jobs_with_different_adapters_on_fused_matrices_do_not_disturb_each_other)
{
    side_by_side(random_model("micro-phi", "Q8_0"));
}

Test(lora_flow, choices_of_a_job_inherit_its_adapter_by_forking)
{
    const char *base = random_model("micro", "Q8_0"), *file = adapter(base, "a", 4, true, support_seed());
    rig *r = rig_open(&(rig_options){ .model = base, .stages = 2, .prefill = "local" });
    rig_input in = prompt();
    message m = with(rig_generate(MADE), file, 1);
    m.submit.temperature = 1;
    m.submit.seed = 5;
    m.submit.n = 2;
    rig_job *both = rig_do(r, m, &in);
    cr_assert_eq(both->fail.code, ERR_OK, "%s", both->fail.text);
    m.submit.n = 1;
    rig_job *first = rig_do(r, m, &in);
    m.submit.seed = 6;
    rig_job *second = rig_do(r, m, &in);
    rig_job *without = rig_do(r, with(m, "", 1), &in);
    cr_expect(rig_same_choice(&both->choice[0], &first->choice[0], "choice 0"));
    cr_expect(rig_same_choice(&both->choice[1], &second->choice[0], "choice 1"));
    cr_expect(memcmp(second->choice[0].tok, without->choice[0].tok, MADE * sizeof(token_rec)), "the adapter does nothing");
    const msg_done *d = &both->choice[1].end;
    cr_expect_eq(d->prefill_mode, 0, "jobs with an adapter go through the pipeline");
    cr_expect(!strcmp(d->lora, file) && strlen(d->lora_digest) == 32 && d->lora_scale == 1);
    cr_expect_eq(without->choice[0].end.lora[0], 0);
    rig_close(&r);
}

/* ---- what is refused ----------------------------------------------------------------------------------------------- */

static void refused(rig *r, message m, const char *says)
{
    rig_input in = prompt();
    rig_job *j = rig_do(r, m, &in);
    cr_expect(j->fail.code, "%s was accepted", m.submit.lora);
    cr_expect(strstr(j->fail.text, says), "\"%s\" does not say \"%s\"", j->fail.text, says);
    cr_expect_eq(j->id, 0, "a job was made of it");
}

Test(lora_flow, wrong_files_are_refused_when_the_job_is_submitted)
{
    const char *qwen = adapter(random_model("micro-qwen2", "F16"), "qwen", 2, false, 1), *base = random_model("micro", "F32");
    const char *wide = adapter(random_model("tiny", "Q4_0"), "wide", 2, false, 1), *good = adapter(base, "good", 2, false, 1);
    rig *r = rig_open(&(rig_options){ .model = base, .stages = 2 });
    message m = rig_generate(2);
    refused(r, with(m, "/nonexistent/a.gguf", 1), "/nonexistent/a.gguf: No such file");
    refused(r, with(m, "a.gguf", 1), "absolute");
    refused(r, with(m, support_tmpdir(), 1), "regular file");
    refused(r, with(m, base, 1), "general.type");
    refused(r, with(m, qwen, 1), "general.architecture is \"qwen2\", the model is \"llama\"");
    refused(r, with(m, wide, 1), "attn_q.weight.lora_a is 256 x 2");
    m = with(m, good, 1);
    snprintf(m.submit.lora_digest, sizeof m.submit.lora_digest, "%s", "00000000000000000000000000000000");
    refused(r, m, "digest 00000000000000000000000000000000 is wanted");
    m.submit.lora_digest[0] = 0;
    rig_input in = prompt();
    cr_expect_eq(rig_do(r, m, &in)->fail.code, ERR_OK, "the good one");
    /* the same path with other content is another adapter */
    char before[33];
    snprintf(before, sizeof before, "%s", rig_do(r, m, &in)->choice[0].end.lora_digest);
    adapter(base, "good", 2, false, 2);
    rig_job *j = rig_do(r, m, &in);
    cr_expect_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    cr_expect_str_neq(before, j->choice[0].end.lora_digest);
    rig_close(&r);
}

/* ---- the programs -------------------------------------------------------------------------------------------------- */

#define LONG 1200   /* tokens: long enough to be hit in the middle */

static char *tokens_of(const program *p)
{
    text t = { 0 };
    err e;
    cr_assert_eq(text_read_file(&t, p->out, 1 << 24, &e), ERR_OK, "%s", e.text);
    json_t *o = json_loadb(t.ptr, t.len, 0, NULL);
    cr_assert(o, "%s", t.ptr);
    cr_expect_float_eq(json_real_value(json_object_get(json_object_get(o, "adapter"), "scale")), 0.5, 1e-9);
    char *s = json_dumps(json_object_get(o, "tokens"), JSON_COMPACT);
    json_decref(o);
    text_free(&t);
    return s;
}

/* Until so many more decode steps are behind us; false when that takes too long. */
static bool wait_steps(const standing *c, int64_t until)
{
    for (int i = 0; i < 2000; i++) {
        json_t *now = standing_status(c);
        int64_t steps = json_number_at(now, "pump.decode_steps");
        json_decref(now);
        if (steps >= until) return true;
        usleep(2000);
    }
    return false;
}

Test(lora_flow, a_stage_that_dies_has_the_adapter_again)
{
    programs_begin();
    const char *base = random_model("tiny", "Q4_0");
    static char word[300], n[16];
    snprintf(word, sizeof word, "%s:0.5", adapter(base, "a", 4, true, 9));
    snprintf(n, sizeof n, "%d", LONG);
    static standing c;
    cr_assert(standing_up(&c, "lora", (const char *const[]){ "-m", base, "--stages", "2", "--journal", "none", NULL }));
    const char *const *submit = SLUICE("submit", "--dir", c.dir, "-p", "once", "-n", n, "--ignore-eos", "--json", "--lora", word);
    program quiet, hit;
    cr_assert(program_start(&quiet, "quiet", submit));
    cr_expect_eq(program_wait(&quiet, 0, 60), 0);
    cr_assert(program_start(&hit, "hit", submit));
    int64_t pid = json_number_at(c.status, "stages.1.pid");
    cr_assert(pid > 0);
    cr_expect(wait_steps(&c, LONG + 20));
    kill((pid_t)pid, SIGKILL);
    cr_expect(!program_has_output(&hit, 0), "the job was over before the stage died");
    cr_expect_eq(program_wait(&hit, 0, 60), 0);
    json_t *now = standing_status(&c);
    cr_expect_neq(json_number_at(now, "stages.1.pid"), pid, "the stage that was killed is still there");
    json_decref(now);
    char *want = tokens_of(&quiet), *got = tokens_of(&hit);
    cr_expect_str_eq(got, want);
    free(want);
    free(got);
    cr_expect(standing_down(&c));
}
