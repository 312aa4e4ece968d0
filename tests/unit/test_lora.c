/* engine/lora.c: what is loaded for a shard, what is refused, the arithmetic; and workers/stage/adapters.c: who holds what. */
#include "engine/lora.h"
#include "engine/model_random.h"
#include "tests/support.h"
#include "tests/support_lora.h"
#include "workers/stage/adapters.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *path_of(const char *name)
{
    static char path[4][256];
    static unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s.gguf", support_tmpdir(), name);
    return p;
}

typedef struct { char model[256]; model_shape shape; adapter_file f; } world;

static void open_world(world *w, const char *shape)
{
    err e;
    gguf *g;
    snprintf(w->model, sizeof w->model, "%s", path_of(shape));
    cr_assert_eq(model_random_write(shape, "F32", 1, w->model, NULL, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_open(&g, w->model, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&w->shape, g, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);
    cr_assert(adapter_for(&w->f, w->model, 3, true, support_seed()));
}

static err_code open_file(const world *w, shard part, lora **out, err *e)
{
    gguf *g;
    const char *path = path_of("adapter");
    cr_assert(adapter_write(&w->f, path));
    cr_assert_eq(gguf_open(&g, path, e), ERR_OK, "%s", e->text);
    err_code rc = lora_open(out, g, &w->shape, part, e);
    gguf_close(&g);
    return rc;
}

static void expect_pair(const world *w, const lora_pair *p, uint32_t i, float scale)
{
    float *a = adapter_items(&w->f, i), *b = adapter_items(&w->f, i + 1);
    cr_assert(p && a && b);
    cr_expect(p->r == w->f.t[i].n_rows && p->n_in == w->f.t[i].n_in && p->n_out == w->f.t[i + 1].n_rows, "%s", w->f.t[i].name);
    cr_expect(support_same(p->a, a, (size_t)p->r * p->n_in, w->f.t[i].name));
    cr_expect(support_same(p->b, b, (size_t)p->r * p->n_out, w->f.t[i + 1].name));
    cr_expect_eq(p->scale, scale);
    free(a);
    free(b);
}

/* ---- loading ------------------------------------------------------------------------------------------------------- */

Test(lora, a_shard_loads_its_own_matrices_and_no_others)
{
    static world w;
    err e;
    lora *l;
    open_world(&w, "micro");
    uint64_t bytes = 0;
    const shard parts[] = { { 0, 1, true, false }, { 1, 2, false, true }, { 0, 2, true, true }, { 0, 0, false, false },
                            { 0, 0, false, true } };
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        cr_assert_eq(open_file(&w, parts[k], &l, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < w.shape.L * LORA_LAYER_MATS; i++) {
            uint32_t layer = i / LORA_LAYER_MATS;
            const lora_pair *p = lora_find(l, layer, (lora_mat)(i % LORA_LAYER_MATS));
            if (layer >= parts[k].first && layer < parts[k].last) expect_pair(&w, p, 2 * i, 2);
            else cr_expect_null(p);
        }
        if (parts[k].head) expect_pair(&w, lora_find(l, 0, LORA_HEAD), 2 * w.shape.L * LORA_LAYER_MATS, 2);
        else cr_expect_null(lora_find(l, 0, LORA_HEAD));
        if (k < 2) bytes += lora_bytes(l);
        if (k == 2) cr_expect_eq(lora_bytes(l), bytes);
        if (k == 3) cr_expect_eq(lora_bytes(l), 0);
        lora_close(&l);
        cr_expect_null(l);
    }
}

/* The rows of a fused tensor's B from `row` on. */
static void expect_part(const world *w, const lora_pair *p, uint32_t i, uint32_t row)
{
    float *a = adapter_items(&w->f, i), *b = adapter_items(&w->f, i + 1);
    cr_assert(p && a && b && row + p->n_out <= w->f.t[i + 1].n_rows);
    cr_expect(support_same(p->a, a, (size_t)p->r * p->n_in, w->f.t[i].name));
    cr_expect(support_same(p->b, b + (size_t)row * p->r, (size_t)p->r * p->n_out, w->f.t[i + 1].name));
    free(a);
    free(b);
}

Test(lora, fused_tensors_are_cut_as_the_models_are)
{
    static world w;
    err e;
    lora *l;
    open_world(&w, "micro-phi");
    const model_shape *s = &w.shape;
    uint32_t q = s->H * s->d, kv = s->K * s->d;
    const struct { lora_mat which; uint32_t tensor, row, n_out; } want[] = {
        { LORA_Q, 0, 0, q }, { LORA_K, 0, q, kv }, { LORA_V, 0, q + kv, kv }, { LORA_O, 2, 0, s->D },
        { LORA_GATE, 4, 0, s->F }, { LORA_UP, 4, s->F, s->F }, { LORA_DOWN, 6, 0, s->D },
    };
    cr_assert_eq(open_file(&w, (shard){ 1, 2, false, false }, &l, &e), ERR_OK, "%s", e.text);
    cr_expect_null(lora_find(l, 0, LORA_Q));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const lora_pair *p = lora_find(l, 1, want[i].which);
        cr_assert(p && p->n_out == want[i].n_out);
        expect_part(&w, p, 8 + want[i].tensor, want[i].row);
    }
    lora_close(&l);
    snprintf(w.f.t[0].name, sizeof w.f.t[0].name, "blk.0.attn_q.weight.lora_a");   /* a phi3 file has no such matrix */
    cr_expect_eq(open_file(&w, (shard){ 1, 2, false, false }, &l, &e), ERR_MODEL);
    cr_expect(strstr(e.text, "for no matrix of this model"), "%s", e.text);
}

Test(lora, without_alpha_the_users_scale_stands_alone)
{
    static world w;
    err e;
    lora *l;
    open_world(&w, "micro");
    w.f.alpha = 0;
    cr_assert_eq(open_file(&w, (shard){ 0, 2, true, true }, &l, &e), ERR_OK, "%s", e.text);
    expect_pair(&w, lora_find(l, 1, LORA_DOWN), 2 * (LORA_LAYER_MATS + LORA_DOWN), 1);
    lora_close(&l);
}

/* ---- files that are refused ---------------------------------------------------------------------------------------- */

typedef void spoil(adapter_file *f);
static adapter_tensor *last(adapter_file *f) { return &f->t[f->n - 1]; }
static void no_type(adapter_file *f) { f->type = NULL; }
static void type_model(adapter_file *f) { f->type = "model"; }
static void kind_other(adapter_file *f) { f->kind = "dora"; }
static void arch_other(adapter_file *f) { f->arch = "qwen2"; }
static void alpha_nan(adapter_file *f) { f->alpha = NAN; }
static void short_a(adapter_file *f) { f->t[0].n_in--; }
static void long_b(adapter_file *f) { f->t[1].n_rows++; }
static void ranks_differ(adapter_file *f) { f->t[1].n_in++; }
static void a_alone(adapter_file *f) { f->n--; }
static void b_alone(adapter_file *f) { f->t[f->n - 2] = *last(f), f->n--; }
static void nothing(adapter_file *f) { f->n = 0; }
static void rank_large(adapter_file *f) { f->t[0].n_rows = f->t[1].n_in = LORA_MAX_RANK + 1; }
static void quantised(adapter_file *f) { f->t[0].type = 8, f->t[0].n_in = 64; }
static void layer_99(adapter_file *f) { snprintf(f->t[0].name, sizeof f->t[0].name, "blk.99.attn_q.weight.lora_a"); }
static void layer_01(adapter_file *f) { snprintf(f->t[0].name, sizeof f->t[0].name, "blk.01.attn_q.weight.lora_a"); }
static void a_norm(adapter_file *f) { snprintf(f->t[0].name, sizeof f->t[0].name, "blk.0.attn_norm.weight.lora_a"); }
static void embedding(adapter_file *f) { snprintf(f->t[0].name, sizeof f->t[0].name, "token_embd.weight.lora_a"); }
static void plain_name(adapter_file *f) { snprintf(f->t[0].name, sizeof f->t[0].name, "blk.0.attn_q.weight"); }

Test(lora, wrong_files_are_refused_with_the_reason)
{
    static const struct { spoil *f; const char *says; } bad[] = {
        { no_type, "general.type is missing" }, { type_model, "\"model\"" }, { kind_other, "\"dora\"" },
        { arch_other, "general.architecture is \"qwen2\", the model is \"llama\"" }, { alpha_nan, "adapter.lora.alpha is" },
        { short_a, "blk.0.attn_q.weight.lora_a is 63 x 3" }, { long_b, "is 3 x 65" },
        { ranks_differ, "blk.0.attn_q.weight.lora_b is 4 x" },
        { a_alone, "output.weight.lora_b is missing" }, { b_alone, ".lora_b" }, { nothing, "no .lora_a" },
        { rank_large, "rank 1025" },
        { quantised, "type Q8_0" }, { layer_99, "blk.99.attn_q.weight.lora_a" }, { layer_01, "blk.01.attn_q" },
        { a_norm, "attn_norm" },
        { embedding, "token_embd" }, { plain_name, "blk.0.attn_q.weight is for no matrix" },
    };
    static world w, one;
    open_world(&w, "micro");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        lora *l = NULL;
        one = w;
        bad[i].f(&one.f);
        /* the check does not depend on the shard: the coordinator sees what some stage would */
        cr_expect_eq(open_file(&one, (shard){ 0 }, &l, &e), ERR_MODEL, "%zu: %s", i, bad[i].says);
        cr_expect_null(l);
        cr_expect(strstr(e.text, bad[i].says), "\"%s\" does not say \"%s\"", e.text, bad[i].says);
        cr_expect_eq(open_file(&one, (shard){ 0, 2, true, true }, &l, &e), ERR_MODEL);
    }
}

Test(lora, a_head_that_is_the_embedding_cannot_be_adapted)
{
    static world w, untied;
    err e = { 0 };
    lora *l;
    open_world(&untied, "micro");
    open_world(&w, "micro-llama3");
    cr_assert(w.shape.tied);
    w.f.t[w.f.n++] = (adapter_tensor){ "output.weight.lora_a", 0, w.shape.D, 2 };
    w.f.t[w.f.n++] = (adapter_tensor){ "output.weight.lora_b", 0, 2, w.shape.V };
    cr_expect_eq(open_file(&w, (shard){ 0 }, &l, &e), ERR_MODEL);
    cr_expect(strstr(e.text, "output.weight.lora_a"), "%s", e.text);
}

/* ---- digest, arithmetic -------------------------------------------------------------------------------------------- */

static void digest_of(const adapter_file *f, char out[static 33])
{
    err e;
    gguf *g;
    const char *path = path_of("digest");
    cr_assert(adapter_write(f, path));
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(lora_digest(g, out, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);
}

Test(lora, the_digest_tells_data_apart_and_not_only_headers)
{
    static world w;
    char one[33], two[33], again[33];
    open_world(&w, "micro");
    digest_of(&w.f, one);
    digest_of(&w.f, again);
    w.f.seed++;
    digest_of(&w.f, two);
    cr_expect_str_eq(one, again);
    cr_expect_str_neq(one, two);
    cr_expect_eq(strlen(one), 32);
}

Test(lora, what_is_added_has_the_same_bits_on_every_isa_and_split)
{
    enum { IN = 67, OUT = 531, R = 5 };
    static float a[R * IN], b[OUT * R], x[IN], base[OUT], want[OUT], got[OUT];
    uint64_t seed = support_seed();
    support_fill(a, R * IN, seed, -1, 1);
    support_fill(b, OUT * R, seed + 1, -1, 1);
    support_fill(x, IN, seed + 2, -1, 1);
    support_fill(base, OUT, seed + 3, -1, 1);
    lora_pair p = { .r = R, .n_in = IN, .n_out = OUT, .scale = 0.3f, .a = a, .b = b };
    memcpy(want, base, sizeof want);
    lora_apply(&p, vec_for(ISA_PLAIN), 1.7f, x, want, 0, OUT);
    for (int i = 0; i < OUT; i++) { /* near what it should be ... */
        double y = 0;
        for (int k = 0; k < R; k++)
            for (int j = 0; j < IN; j++) y += (double)b[i * R + k] * (double)a[k * IN + j] * (double)x[j];
        cr_assert(fabs((double)base[i] + 1.7 * 0.3 * y - (double)want[i]) < 1e-4, "output %d", i);
    }
    for (uint32_t grain = 8; grain <= OUT + 8; grain *= 4) { /* ... and the same bits in pieces */
        memcpy(got, base, sizeof got);
        for (uint32_t o = 0; o < OUT; o += grain)
            lora_apply(&p, vec_for(ISA_AVX2), 1.7f, x, got, o, o + grain < OUT ? o + grain : OUT);
        cr_expect(support_same(got, want, OUT, "pieces"));
    }
}

/* ---- who holds what ------------------------------------------------------------------------------------------------ */

static model *open_model(const char *path, gguf **g)
{
    err e;
    model *m;
    cr_assert_eq(gguf_open(g, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_open(&m, *g, (shard){ 0, 2, true, true }, &e), ERR_OK, "%s", e.text);
    return m;
}

Test(adapters, sessions_share_one_copy_that_goes_with_the_last)
{
    static world w;
    static adapters a;
    gguf *g;
    err e = { 0 };
    float scale;
    char digest[33];
    open_world(&w, "micro");
    model *m = open_model(w.model, &g);
    digest_of(&w.f, digest);
    adapter_want want = { 64, path_of("digest"), digest, 0.5f }, bad = want;
    cr_assert_eq(adapters_take(&a, m, &want, &e), ERR_OK, "%s", e.text);
    uint64_t bytes = adapters_bytes(&a);
    want.session = 128;
    want.scale = 2;
    cr_assert_eq(adapters_take(&a, m, &want, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(adapters_take(&a, m, &want, &e), ERR_STATE, "a session has one adapter");
    cr_assert_eq(adapters_fork(&a, 64, 65, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(adapters_fork(&a, 7, 8, &e), ERR_OK, "a parent without adapter");
    cr_expect_null(adapters_of(&a, 8, &scale));
    const lora *of = adapters_of(&a, 64, &scale);
    cr_expect(of && scale == 0.5f);
    cr_expect(adapters_of(&a, 65, &scale) == of && scale == 0.5f);
    cr_expect(adapters_of(&a, 128, &scale) == of && scale == 2);
    cr_expect(bytes && adapters_bytes(&a) == bytes);
    cr_expect(adapters_drop(&a, 64) && adapters_drop(&a, 128) && !adapters_drop(&a, 64));
    cr_expect_eq(adapters_bytes(&a), bytes, "the fork still uses it");
    cr_expect(adapters_drop(&a, 65));
    cr_expect_eq(adapters_bytes(&a), 0);

    bad.digest = "00112233445566778899aabbccddeeff";
    cr_expect_eq(adapters_take(&a, m, &bad, &e), ERR_MODEL);
    cr_expect(strstr(e.text, bad.digest) && strstr(e.text, digest) && strstr(e.text, bad.path), "%s", e.text);
    bad.path = "/nonexistent/adapter.gguf";
    cr_expect_eq(adapters_take(&a, m, &bad, &e), ERR_IO);
    cr_expect_null(adapters_of(&a, bad.session, &scale));
    adapters_free(&a);
    model_close(&m);
    gguf_close(&g);
}

Test(adapters, there_is_a_bound_on_different_ones)
{
    static world w;
    static adapters a;
    gguf *g;
    err e = { 0 };
    char digest[33];
    open_world(&w, "micro");
    model *m = open_model(w.model, &g);
    for (uint64_t i = 0; i <= ADAPTERS_MAX; i++) {
        w.f.seed = i;
        w.f.n = 2;
        digest_of(&w.f, digest);
        err_code rc = adapters_take(&a, m, &(adapter_want){ i + 1, path_of("digest"), digest, 1 }, &e);
        cr_expect_eq(rc, i < ADAPTERS_MAX ? ERR_OK : ERR_STATE, "%u: %s", (unsigned)i, e.text);
    }
    cr_expect(adapters_drop(&a, 5));
    cr_expect_eq(adapters_take(&a, m, &(adapter_want){ 99, path_of("digest"), digest, 1 }, &e), ERR_OK, "%s", e.text);
    adapters_free(&a);
    model_close(&m);
    gguf_close(&g);
}
