/* KV prediction end to end in one process: calibration on the bundled models, a profile file, predicted rows in a base's KV store. */
#include "tests/support.h"
#include "tests/support_predict.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 50 };

typedef struct {
    gguf *file;
    model *m;
    pool *pool;
    kv *store;
    runner *runner;
} base;

static void base_open(base *b, uint32_t threads)
{
    err e = { 0 };
    model_shape s;
    cr_assert_eq(gguf_open(&b->file, support_root("models/sluice-tiny-Q8_0.gguf"), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, b->file, &e), ERR_OK);
    cr_assert_eq(model_open(&b->m, b->file, (shard){ 0, s.L, true, false }, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pool_open(&b->pool, threads, NULL, NULL, &e), ERR_OK);
    kv_geometry g = forward_kv(&s, 0, s.L);
    g.format = KV_F32;
    g.n_ctx = 128;
    cr_assert_eq(isa_pick(&g.isa, &e), ERR_OK);
    cr_assert_eq(kv_open(&b->store, &g, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(runner_open(&b->runner, b->m, b->store, b->pool, g.isa, 64, &e), ERR_OK);
}

static void base_close(base *b)
{
    runner_close(&b->runner);
    kv_close(&b->store);
    pool_close(&b->pool);
    model_close(&b->m);
    gguf_close(&b->file);
}

static uint32_t *made_tokens(size_t n, uint64_t seed)
{
    uint32_t *t = malloc(n * sizeof *t);
    cr_assert(t);
    for (size_t i = 0; i < n; i++) t[i] = 300 + (uint32_t)support_draw(seed, i, 3000);
    return t;
}

static isa here(void)
{
    isa i;
    cr_assert_eq(isa_pick(&i, NULL), ERR_OK);
    return i;
}

/* Into `file`. */
static err_code learn(const base *b, const char *aux, kvmap_inputs inputs, wtype type, const char *file, predictor_notes *notes, err *e)
{
    predict_made m = { .base = gguf_path(b->file), .aux = aux, .inputs = inputs, .type = type, .format = KV_F32 };
    return predict_make(&m, file, notes, e) ? ERR_OK : e->code;
}

static void exact(base *b, kv_seq *q, const uint32_t *token, uint32_t n)
{
    kv_row rows[64];
    forward_row fwd[64];
    uint32_t slots[64];
    float *h = malloc((size_t)n * b->m->shape.D * sizeof *h);
    for (uint32_t i = 0; i < n; i++) rows[i] = (kv_row){ .row = i, .pos = i, .parent = i ? i - 1 : KV_ROW_NONE, .path = PATH_I8B32 };
    cr_assert_eq(kv_reserve(q, rows, n, slots, NULL), ERR_OK);
    for (uint32_t i = 0; i < n; i++) fwd[i] = (forward_row){ .seq = q, .slot = slots[i], .path = PATH_I8B32 };
    runner_embed(b->runner, token, n, h);
    runner_layers(b->runner, fwd, n, h);
    cr_assert_eq(kv_commit(q, n - 1, NULL), ERR_OK);
    free(h);
}

/* Rows [from, PROMPT), sinks are not fitted, as exported: behind the head and the identities lie the floats. */
static float *rows_of(const base *b, const kv_seq *q, uint32_t from, size_t *n)
{
    const model_shape *s = &b->m->shape;
    size_t len = kv_export_bytes(q, 0, s->L, from, PROMPT);
    *n = (size_t)s->L * s->K * 2 * (PROMPT - from) * s->d;
    char *all = malloc(len);
    cr_assert(all && !kv_export(q, 0, s->L, from, PROMPT, all, len, NULL));
    float *x = malloc(*n * sizeof *x);
    memcpy(x, all + len - 8 - *n * sizeof *x, *n * sizeof *x);
    free(all);
    return x;
}

/* Sequence 9, its layers left out from rows off [L] on (NULL: none is). */
static kv_seq *predict_rows(base *b, const char *aux, const char *file, uint32_t chunk, const uint32_t *token, const uint32_t *off)
{
    predictor *p;
    kv_seq *q;
    err e = { 0 };
    const kv_policy none = kv_policy_identity();
    predictor_source from = { .aux = aux, .profile = file, .base = b->file, .path = PATH_I8B32 };
    predictor_place at = { .base = b->m, .pool = b->pool, .isa = here(), .n_ctx = 128, .max_rows = 64, .format = KV_F32 };
    cr_assert_eq(predictor_open(&p, &from, &at, &e), ERR_OK, "%s", e.text);
    for (int again = 0; again < 2; again++) { /* a prompt leaves nothing to the next */
        kv_seq_close(b->store, 9);
        cr_assert_eq(kv_seq_open_skipping(b->store, 9, &none, PROMPT, off, &q, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(predictor_begin(p, &e), ERR_OK);
        for (uint32_t t = 0, k; t < PROMPT; t += k) {
            k = PROMPT - t < chunk ? PROMPT - t : chunk;
            cr_assert_eq(predictor_rows(p, q, off, token + t, t, k, &e), ERR_OK, "%s", e.text);
        }
    }
    predictor_close(&p);
    return q;
}

static float *predicted(base *b, const char *aux, const char *file, uint32_t chunk, const uint32_t *token, size_t *n)
{
    return rows_of(b, predict_rows(b, aux, file, chunk, token, NULL), KVLEARN_SINKS, n);
}

static double relative(const float *got, const float *want, size_t n)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) off += (double)(got[i] - want[i]) * (double)(got[i] - want[i]), all += (double)want[i] * (double)want[i];
    return off / all;
}

static const char *file_in(char *buf, size_t n, const char *name)
{
    snprintf(buf, n, "%s/%s", support_tmpdir(), name);
    return buf;
}

/* Squared error over squared length of what `aux` predicts of a prompt's exact rows. */
static double off_by(base *b, const char *aux, const char *file)
{
    kv_seq *q;
    size_t n;
    err e = { 0 };
    uint32_t *token = made_tokens(PROMPT, 77);
    cr_assert_eq(kv_seq_open(b->store, 1, &q, &e), ERR_OK);
    exact(b, q, token, PROMPT);
    float *want = rows_of(b, q, KVLEARN_SINKS, &n), *got = predicted(b, aux, file, 64, token, &n);
    double off = relative(got, want, n);
    free(want);
    free(got);
    free(token);
    return off;
}

Test(predictor, all_layers_of_the_base_predict_it_to_the_rounding_of_what_is_stored)
{
    base b;
    predictor_notes notes;
    err e = { 0 };
    char file[200];
    base_open(&b, 2);
    const char *all = "layers:0,1,2,3,4,5,6,7,8,9,10,11";
    cr_assert_eq(learn(&b, all, KVMAP_OWN, WTYPE_F16, file_in(file, sizeof file, "all.gguf"), &notes, &e), ERR_OK, "%s", e.text);
    double off = off_by(&b, all, file);
    fprintf(stderr, "# squared error over squared length: %g\n", off);
    cr_assert(off < 1e-12, "%g", off); /* relative rounding of f32 is 6e-8, squared */
    for (uint32_t l = 0; l < 12; l++) cr_assert(notes.note[0][l].error < 1e-6 && notes.note[1][l].error < 1e-6, "layer %u", l);
    base_close(&b);
}

/* Weights by attention and reweighting move maps that err, and leave one that cannot err as it is. */
Test(predictor, other_objectives_find_the_base_in_itself_too)
{
    base b;
    predictor_notes notes, plain;
    err e = { 0 };
    char file[200];
    base_open(&b, 2);
    const char *all = "layers:0,1,2,3,4,5,6,7,8,9,10,11";
    predict_made m = { .base = gguf_path(b.file), .aux = all, .type = WTYPE_F16, .format = KV_F32, .by_attention = true, .reweight = 1 };
    cr_assert(predict_make(&m, file_in(file, sizeof file, "both.gguf"), &notes, &e), "%s", e.text);
    double off = off_by(&b, all, file);
    cr_assert_lt(off, 1e-12, "%g", off);
    m.aux = "layers:0,6";
    m.reweight = 0;
    cr_assert(predict_make(&m, file_in(file, sizeof file, "att.gguf"), &notes, &e), "%s", e.text);
    cr_assert_eq(learn(&b, m.aux, KVMAP_OWN, WTYPE_F16, file_in(file, sizeof file, "plain.gguf"), &plain, &e), ERR_OK, "%s", e.text);
    for (uint32_t l = 7; l < 12; l++) cr_expect_neq(notes.note[0][l].error, plain.note[0][l].error, "layer %u: weights change nothing", l);
    base_close(&b);
}

Test(predictor, bits_depend_on_neither_threads_nor_chunks)
{
    base one, three;
    predictor_notes notes;
    err e = { 0 };
    char file[200];
    size_t n;
    base_open(&one, 1);
    base_open(&three, 3);
    const char *aux = support_root("models/sluice-tiny-aux-Q8_0.gguf");
    cr_assert_eq(learn(&three, aux, KVMAP_BOTH, WTYPE_Q8_0, file_in(file, sizeof file, "aux.gguf"), &notes, &e), ERR_OK, "%s", e.text);
    uint32_t *token = made_tokens(PROMPT, 78);
    float *want = predicted(&one, aux, file, 64, token, &n), *got = predicted(&three, aux, file, 7, token, &n);
    cr_assert(support_same(got, want, n, "three threads and chunks of 7"));
    free(want);
    free(got);
    free(token);
    base_close(&one);
    base_close(&three);
}

Test(predictor, predicted_rows_say_so)
{
    base b;
    predictor_notes notes;
    err e = { 0 };
    char file[200];
    size_t n;
    base_open(&b, 1);
    cr_assert_eq(learn(&b, "layers:0,6", KVMAP_OWN, WTYPE_F16, file_in(file, sizeof file, "two.gguf"), &notes, &e), ERR_OK, "%s", e.text);
    uint32_t *token = made_tokens(PROMPT, 79);
    free(predicted(&b, "layers:0,6", file, 64, token, &n));
    kv_seq *q = kv_seq_find(b.store, 9);
    size_t len = kv_export_bytes(q, 0, 1, 0, PROMPT), head = 8 + 8 * 4 + 16;
    char *all = malloc(len);
    cr_assert(all && !kv_export(q, 0, 1, 0, PROMPT, all, len, NULL));
    for (uint32_t i = 0; i < PROMPT; i++) cr_assert_eq(all[head + i * 16 + 14], KV_PREDICTED, "row %u", i);
    free(all);
    free(token);
    base_close(&b);
}

/* A layer's rows, as they are exported. */
static void *layer_of(const kv_seq *q, uint32_t l, size_t *n)
{
    *n = kv_export_bytes(q, l, l + 1, 0, PROMPT);
    void *all = malloc(*n);
    cr_assert(all && !kv_export(q, l, l + 1, 0, PROMPT, all, *n, NULL));
    return all;
}

/* A layer that is left out, from the start or from a row in the middle of a chunk on, gets no row from there; all others get those that
 * they get without a mask. */
Test(predictor, only_layers_that_are_left_on_are_predicted)
{
    enum { HALF = 20, SOME = 3 };
    static const uint32_t off[12] = { UINT32_MAX, UINT32_MAX, 0, 0, UINT32_MAX, HALF, UINT32_MAX, UINT32_MAX, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX };
    base b;
    predictor_notes notes;
    err e = { 0 };
    char file[200];
    void *want[12];
    size_t n[12], m;
    base_open(&b, 2);
    const char *aux = support_root("models/sluice-tiny-aux-Q8_0.gguf");
    cr_assert_eq(learn(&b, aux, KVMAP_BOTH, WTYPE_F16, file_in(file, sizeof file, "masked.gguf"), &notes, &e), ERR_OK, "%s", e.text);
    uint32_t *token = made_tokens(PROMPT, 80), pages = (uint32_t)kv_bytes(b.store).pages_used;
    kv_seq *q = predict_rows(&b, aux, file, 16, token, NULL);
    uint32_t each = ((uint32_t)kv_bytes(b.store).pages_used - pages) / 12;
    for (uint32_t l = 0; l < 12; l++) want[l] = layer_of(q, l, &n[l]);
    q = predict_rows(&b, aux, file, 16, token, off);
    cr_expect_eq(kv_bytes(b.store).pages_used - pages, each * (12 - SOME - 1), "%u pages a layer", each);
    for (uint32_t l = 0; l < 12; l++) {
        if (off[l] != UINT32_MAX) continue;
        void *got = layer_of(q, l, &m);
        cr_expect(m == n[l] && !memcmp(got, want[l], m), "layer %u", l);
        free(got);
    }
    for (uint32_t l = 0; l < 12; l++) free(want[l]);
    free(token);
    base_close(&b);
}

Test(predictor, a_profile_of_another_auxiliary_or_without_maps_is_refused)
{
    base b;
    predictor_notes notes;
    predictor_facts facts;
    err e = { 0 };
    char file[200];
    base_open(&b, 1);
    cr_assert_eq(learn(&b, "layers:0,6", KVMAP_OWN, WTYPE_F16, file_in(file, sizeof file, "stale.gguf"), &notes, &e), ERR_OK, "%s", e.text);
    predictor_source s = { .aux = "layers:0,6", .profile = file, .base = b.file, .path = PATH_I8B32 };
    cr_assert_eq(predictor_look(&s, &facts, &e), ERR_OK, "%s", e.text);
    cr_assert_str_eq(facts.aux, "layers:0,6");
    s.aux = "layers:0,7";
    cr_assert_eq(predictor_look(&s, &facts, &e), ERR_CONFIG);
    s.aux = "layers:0,6";
    s.path = PATH_F32;
    cr_assert_eq(predictor_look(&s, &facts, &e), ERR_CONFIG);
    cr_assert(strstr(e.text, "i8b32"), "%s", e.text);
    s.path = PATH_I8B32;
    s.profile = "/nowhere.gguf";
    cr_assert_eq(predictor_look(&s, &facts, &e), ERR_IO);
    cr_assert(strstr(e.text, "/nowhere.gguf"), "%s", e.text);
    base_close(&b);
}

Test(predictor, what_cannot_be_an_auxiliary_is_said)
{
    static const struct { const char *aux, *says; } bad[] = {
        { "layers:", "no layer" }, { "layers:0,12", "0 to 11" }, { "layers:3,3", "ascend" }, { "layers:1,x", "\"x\"" },
        { "layers:1,", "comma" }, { "layers:-1", "\"-1\"" }, { "/nowhere/aux.gguf", "/nowhere/aux.gguf" },
    };
    base b;
    auxiliary *a;
    err e = { 0 };
    base_open(&b, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_neq(auxiliary_open(&a, bad[i].aux, b.file, &e), ERR_OK, "%s", bad[i].aux);
        cr_assert(strstr(e.text, bad[i].says), "%s: %s", bad[i].aux, e.text);
    }
    base_close(&b);
}

Test(predictor, an_auxiliary_with_another_tokenizer_is_refused)
{
    SHARED_OR_SKIP(path, "data/models/stories260K-q8_0.gguf");
    base b;
    auxiliary *a;
    err e = { 0 };
    base_open(&b, 1);
    cr_assert_eq(auxiliary_open(&a, path, b.file, &e), ERR_MODEL);
    cr_assert(strstr(e.text, "another tokenizer") && strstr(e.text, "512") && strstr(e.text, "4096"), "%s", e.text);
    base_close(&b);
}
