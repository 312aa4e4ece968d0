/* A planted signal: a model in which layer 1 knows what follows the words of one task and layer 2 what follows those of another. What
 * calibration measures says so, and `first` leaves out the layer that a prompt does not need, in a cluster. */
#include "engine/gguf.h"
#include "engine/model_random.h"
#include "engine/profile.h"
#include "engine/route_fit.h"
#include "engine/route_probe.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(route_planted, .timeout = 120);

/* The shape `tiny`. A word is a random direction, and has its task in the first dimensions; words [0, 256) are of task 0. */
enum { L = 4, D = 256, F = 512, V = 512, WORDS = 256, MARK = 8, DOCS = 40, TEXT = 40, PROMPT = 20 };

typedef struct { char model[256], profile[256]; float word[V][D]; } world;

static uint32_t follows(uint32_t t) { return t / WORDS * WORDS + (t % WORDS + 1) % WORDS; }

static void put(const char *file, const gguf *g, const char *name, const float *x, size_t n)
{
    const gguf_tensor *t = gguf_tensor_find(g, name);
    int fd = open(file, O_WRONLY);
    cr_assert(t && t->bytes == n * sizeof *x, "%s has not %zu numbers", name, n);
    cr_assert(fd >= 0 && pwrite(fd, x, t->bytes, (off_t)t->offset) == (ssize_t)t->bytes);
    close(fd);
}

static void put_layer(const char *file, const gguf *g, uint32_t l, const char *name, const float *x, size_t n)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s.weight", l, name);
    put(file, g, full, x, n);
}

/* Unit j of the layer of a task answers to that task's word j, and adds the direction of the word that follows. */
static void plant_layer(world *w, const gguf *g, uint32_t l, int task)
{
    float *in = calloc(3 * F * D, sizeof *in), *up = in + F * D, *down = up + F * D;
    for (uint32_t j = 0; task >= 0 && j < WORDS; j++)
        for (uint32_t k = 0; k < D; k++) {
            uint32_t word = (uint32_t)task * WORDS + j;
            in[j * D + k] = 0.05f * w->word[word][k];
            up[j * D + k] = w->word[word][k] / 256;
            down[k * F + j] = 0.234f * w->word[follows(word)][k];
        }
    put_layer(w->model, g, l, "ffn_gate", in, F * D);
    put_layer(w->model, g, l, "ffn_up", up, F * D);
    put_layer(w->model, g, l, "ffn_down", down, F * D);
    memset(in, 0, D * D * sizeof *in);
    put_layer(w->model, g, l, "attn_output", in, D * D);
    for (uint32_t k = 0; k < D; k++) in[k] = 1;
    put_layer(w->model, g, l, "ffn_norm", in, D);
    free(in);
}

static void plant(world *w)
{
    err e;
    gguf *g;
    uint64_t seed = support_seed();
    float norm[D];
    snprintf(w->model, sizeof w->model, "%s/planted.gguf", support_tmpdir());
    snprintf(w->profile, sizeof w->profile, "%s/planted.profile.gguf", support_tmpdir());
    cr_assert_eq(model_random_write("tiny", "F32", 1, w->model, NULL, NULL, &e), ERR_OK, "%s", e.text);
    for (uint32_t t = 0; t < V; t++)
        for (uint32_t k = 0; k < D; k++)
            w->word[t][k] = k < MARK ? (t < WORDS ? 1 : -1) : support_draw(seed, t * D + k, 2) ? 1 : -1;
    cr_assert_eq(gguf_open(&g, w->model, &e), ERR_OK, "%s", e.text);
    put(w->model, g, "token_embd.weight", &w->word[0][0], V * D);
    for (uint32_t k = 0; k < D; k++) norm[k] = 0.05f;
    put(w->model, g, "output_norm.weight", norm, D);
    for (uint32_t l = 0; l < L; l++) plant_layer(w, g, l, l == 1 ? 0 : l == 2 ? 1 : -1);
    gguf_close(&g);
}

/* A text of a task: words that follow each other, from a random one on. */
static void text_of(uint32_t ids[TEXT], uint64_t number, uint32_t task)
{
    ids[0] = task * WORDS + (uint32_t)support_draw(support_seed(), 900000 + number, WORDS);
    for (uint32_t i = 1; i < TEXT; i++) ids[i] = follows(ids[i - 1]);
}

static void write_profile(const world *w, const gguf *g, const route_fit *f, const double *mean)
{
    err e;
    profile_writer *p;
    double order[L] = { 1, 2, 3, 0 }, exit_bias[L] = { -15, 15, -15, -15 }, exit_slope[L] = { 0 };
    cr_assert_eq(profile_writer_open(&p, w->profile, &(profile_binding){ gguf_digest(g), "", "i8b32" }, L, 1u << PROFILE_ROUTE, &e), ERR_OK, "%s", e.text);
    const struct { const char *name; const double *x; } list[] = { { "damage", mean }, { "sim_attn", mean }, { "sim_ffn", mean }, { "order", order },
                                                                  { "bias", f->b }, { "gate_bias", f->gate_b },
                                                                  { "exit_bias", exit_bias }, { "exit_slope", exit_slope } };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) profile_put_numbers(p, PROFILE_ROUTE, list[i].name, list[i].x, L);
    profile_put_number(p, PROFILE_ROUTE, "neighbours", 0);
    profile_put_number(p, PROFILE_ROUTE, "eps", ROUTE_EPS);
    for (uint32_t l = 0; l < L; l++) {
        profile_put_floats(p, PROFILE_ROUTE, l, "w", WTYPE_F32, D, 1, f->w + l * D);
        profile_put_floats(p, PROFILE_ROUTE, l, "gate", WTYPE_F32, D, 1, f->gate_w + l * D);
    }
    cr_assert_eq(profile_writer_commit(p, &e), ERR_OK, "%s", e.text);
    profile_writer_close(&p);
}

/* Measure, fit, write: what sluice calibrate --only route does, on texts of tokens. */
static void calibrate(const world *w)
{
    err e;
    gguf *g;
    lab *l;
    route_probe *p;
    static double damage[DOCS][L], other[8][L];
    static float feature[DOCS][L][D];
    double mean[L] = { 0 };
    cr_assert_eq(gguf_open(&g, w->model, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(lab_open(&l, g, &(lab_options){ .path = PATH_I8B32, .threads = 1, .n_ctx = TEXT, .max_rows = TEXT }, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(route_probe_open(&p, l, TEXT, PATH_I8B32, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < DOCS; i++) {
        uint32_t ids[TEXT];
        probe_report r = { .damage = { damage[i], other[0], other[1] }, .sim = { other[2], other[3], other[4] }, .ratio = { other[5], other[6], other[7] },
                           .feature = feature[i][0] };
        text_of(ids, i, i % 2);
        cr_assert_eq(route_probe_read(p, ids, TEXT, PROMPT, &r, &e), ERR_OK, "%s", e.text);
        cr_expect_lt(r.nll, 0.5, "the model does not know what follows: %.2f nats", r.nll);
        cr_expect_gt(damage[i][1 + i % 2], 3, "text %u, layer of its task: %.2f nats", i, damage[i][1 + i % 2]);
        cr_expect_lt(damage[i][2 - i % 2], 0.5, "text %u, layer of the other task: %.2f nats", i, damage[i][2 - i % 2]);
        cr_expect_gt(other[1][1 + i % 2], 3, "its FFN");
        cr_expect_lt(fabs(other[0][1 + i % 2]), 1e-6, "its attention does nothing");
        for (uint32_t k = 0; k < L; k++) mean[k] += damage[i][k] / DOCS;
    }
    route_fit f;
    route_data d = { DOCS, L, D, &feature[0][0][0], &damage[0][0], 5, 0.1 };
    cr_assert_eq(route_fit_make(&f, &d, &e), ERR_OK, "%s", e.text);
    printf("# held out: AUC %.3f and %.3f, one layer out: router %.3f, fixed %.3f, oracle %.3f, random %.3f nats\n", f.auc[1], f.auc[2], f.regret[2].router,
           f.regret[2].fixed, f.regret[2].oracle, f.regret[2].random);
    cr_expect(f.auc[1] > 0.95 && f.auc[2] > 0.95 && f.gate_auc[1] > 0.95);
    cr_expect_lt(f.regret[2].router, f.regret[2].fixed / 4);
    write_profile(w, g, &f, mean);
    route_fit_free(&f);
    route_probe_close(&p);
    lab_close(&l);
    gguf_close(&g);
}

static void expect_mask(const rig_job *j, const char *what)
{
    cr_assert_eq(j->fail.code, ERR_OK, "%s: %s", what, j->fail.text);
    cr_expect_eq(j->choice[0].n_tok, TEXT - PROMPT);
}

Test(route_planted, first_leaves_out_the_layer_that_a_prompt_does_not_need)
{
    static world w;
    rig_job *want[6] = { 0 };
    rig *base = NULL;
    plant(&w);
    calibrate(&w);
    for (uint32_t way = 0; way < 3; way++) {        /* one stage, four of which one is passed by, local prefill */
        rig *g = rig_open(&(rig_options){ .model = w.model, .stages = way == 1 ? L : 1 + way / 2, .use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN,
                                          .ctx = 128, .chunk = way ? 7 : 64, .prefill = way == 2 ? "local" : NULL });
        for (uint32_t i = 0; i < 6; i++) {
            uint32_t ids[TEXT];
            message m = rig_generate(TEXT - PROMPT);
            m.submit.logprobs = 4;
            snprintf(m.submit.skip, sizeof m.submit.skip, "first:1");
            text_of(ids, 1000 + i, i % 2);
            rig_job *j = rig_do(g, m, &(rig_input){ .ids = ids, .n = PROMPT });
            expect_mask(j, i % 2 ? "task 1" : "task 0");
            for (uint32_t k = 0; k < j->choice[0].n_tok; k++) /* with the wrong layer gone it would say something else */
                cr_assert_eq(j->choice[0].tok[k].id, ids[PROMPT + k], "task %u, token %u", i % 2, k);
            cr_expect_float_eq(j->choice[0].end.skipped, 0.25, 1e-9);
            if (!base || g == base) want[i] = j;
            else cr_expect(rig_same_choice(&j->choice[0], &want[i]->choice[0], "first"), "way %u", way);
            if (!base) base = g;
        }
        if (g != base) rig_close(&g);
    }
    rig_close(&base);
}

/* Deep enough behind layer 1, says the profile: layer 2 is left out, and the last one runs. */
Test(route_planted, exit_leaves_out_what_lies_above_a_depth)
{
    static world w;
    rig_job *want = NULL;
    rig *base = NULL;
    uint32_t ids[TEXT];
    plant(&w);
    calibrate(&w);
    text_of(ids, 2000, 0);
    for (uint32_t stages = 1; stages <= L; stages += L - 1) {
        rig *g = rig_open(&(rig_options){ .model = w.model, .stages = stages, .use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN, .ctx = 128 });
        message m = rig_generate(TEXT - PROMPT);
        m.submit.logprobs = 4;
        snprintf(m.submit.skip, sizeof m.submit.skip, "exit:q=0.9");
        rig_job *j = rig_do(g, m, &(rig_input){ .ids = ids, .n = PROMPT }), *k;
        expect_mask(j, "exit");
        for (uint32_t i = 0; i < j->choice[0].n_tok; i++) cr_assert_eq(j->choice[0].tok[i].id, ids[PROMPT + i], "token %u", i);
        cr_expect_float_eq(j->choice[0].end.skipped, 0.25, 1e-9);
        snprintf(m.submit.skip, sizeof m.submit.skip, "list:2,rows=decode");
        k = rig_do(g, m, &(rig_input){ .ids = ids, .n = PROMPT });
        cr_expect(rig_same_choice(&j->choice[0], &k->choice[0], "the same layers by name"));
        if (base) cr_expect(rig_same_choice(&j->choice[0], &want->choice[0], "stages"));
        if (base) rig_close(&g);
        else base = g, want = j;
    }
    rig_close(&base);
}
