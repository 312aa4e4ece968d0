/* Random models: they open as models, their weights have the deviation that was meant, the same seed gives the same
 * bytes, and their description says what is in them. */
#include "core/vec.h"
#include "engine/model.h"
#include "engine/model_info.h"
#include "engine/model_random.h"
#include "engine/tokenizer.h"
#include "engine/wtype.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const small[] = { "tiny", "aux-tiny", "micro", "micro-llama3", "micro-qwen2", "micro-qwen3", "micro-gemma2",
                                     "micro-gemma3", "micro-phi", "micro-mistral" };
static const char *const quants[] = { "F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K" };
#define N_SMALL (sizeof small / sizeof *small)
#define N_QUANTS (sizeof quants / sizeof *quants)

static const char *file(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s.gguf", support_tmpdir(), name);
    return path[turn];
}

static void make(const char *shape, const char *quant, uint64_t seed, const char *path)
{
    err e = { 0 };
    cr_assert_eq(model_random_write(shape, quant, seed, path, NULL, NULL, &e), ERR_OK, "%s %s: %s", shape, quant, e.text);
}

typedef struct { double sum, sq, max; uint64_t n; } stats;

static stats measure(const gguf *g, const gguf_tensor *t)
{
    stats s = { 0 };
    wtype type;
    err e = { 0 };
    gguf_range r;
    cr_assert(wtype_from_ggml(t->type, &type));
    cr_assert_eq(gguf_map(g, t->offset, t->bytes, &r, &e), ERR_OK, "%s", e.text);
    float *row = malloc(t->dim[0] * sizeof *row);
    cr_assert_not_null(row);
    for (uint64_t i = 0; i < t->dim[1]; i++) {
        wtype_to_f32(type, r.data + i * (t->bytes / t->dim[1]), (uint32_t)t->dim[0], row);
        for (uint64_t k = 0; k < t->dim[0]; k++) {
            double x = (double)row[k];
            cr_assert(isfinite(x), "%s[%llu][%llu]", t->name, (unsigned long long)i, (unsigned long long)k);
            s.sum += x;
            s.sq += x * x;
            s.max = fabs(x) > s.max ? fabs(x) : s.max;
            s.n++;
        }
    }
    free(row);
    gguf_unmap(&r);
    return s;
}

static void check_weights(const gguf *g, const char *what)
{
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (t->n_dims != 2) continue;
        stats s = measure(g, t);
        double n = (double)s.n, mean = s.sum / n, sd = sqrt(s.sq / n), want = 1 / sqrt((double)t->dim[0]);
        cr_expect(fabs(sd / want - 1) < 0.06, "%s %s: deviation %g, not %g", what, t->name, sd, want);
        cr_expect(fabs(mean) < 0.06 * want, "%s %s: mean %g at a deviation of %g", what, t->name, mean, sd);
        cr_expect(s.max < 8 * want, "%s %s: %g at a deviation of %g", what, t->name, s.max, sd);
    }
}

Test(model_random, weights_have_the_deviation_that_was_meant_in_every_type)
{
    for (size_t q = 0; q < N_QUANTS; q++) {
        const char *path = file("weights");
        make("tiny", quants[q], support_seed(), path);
        gguf *g;
        err e = { 0 };
        cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
        char name[16];
        cr_expect_str_eq(wtype_ggml_name(gguf_tensor_find(g, "blk.0.ffn_up.weight")->type, name), quants[q]);
        check_weights(g, quants[q]);
        gguf_close(&g);
    }
}

Test(model_random, every_small_shape_opens_as_a_model_in_every_type)
{
    for (size_t i = 0; i < N_SMALL * N_QUANTS; i++) {
        const char *path = file("model");
        make(small[i / N_QUANTS], quants[i % N_QUANTS], 3, path);
        gguf *g;
        model_shape s;
        model *m;
        tokenizer *t;
        err e = { 0 };
        cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(model_shape_read(&s, g, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(model_open(&m, g, (shard){ 0, s.L, true, true }, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(tokenizer_open(&t, g, &e), ERR_OK, "%s", e.text);
        cr_expect_eq(tokenizer_vocab(t), s.V);
        cr_expect_eq(s.rope.has_freqs, !strcmp(small[i / N_QUANTS], "micro-llama3") || !strcmp(small[i / N_QUANTS], "micro-phi"));
        tokenizer_close(&t);
        model_close(&m);
        gguf_close(&g);
    }
}

Test(model_random, rope_factors_follow_the_bands_of_llama_3)
{
    const char *path = file("freqs");
    make("micro-llama3", "F32", 3, path);
    gguf *g;
    model_shape s;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, g, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < s.d / 2; i++) {                   /* the rule as Llama 3.1 states it, with libm */
        double wave = 2 * M_PI * pow(5e5, 2.0 * i / s.d), smooth = (8192 / wave - 1) / 3;
        double want = wave < 8192.0 / 4 ? 1 : wave > 8192 ? 8 : 1 / ((1 - smooth) / 8 + smooth);
        cr_expect(fabs((double)s.rope.freqs[i] / want - 1) < 1e-6, "factor %u is %g, not %g", i, (double)s.rope.freqs[i], want);
    }
    gguf_close(&g);
}

static text slurp(const char *path)
{
    text t = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&t, path, 64 << 20, &e), ERR_OK, "%s", e.text);
    return t;
}

Test(model_random, a_seed_is_a_file)
{
    const char *a = file("a"), *b = file("b");
    make("micro", "Q4_0", 5, a);
    make("micro", "Q4_0", 5, b);
    text x = slurp(a), y = slurp(b);
    cr_assert(x.len == y.len && !memcmp(x.ptr, y.ptr, x.len), "the same seed gives another file");
    make("micro", "Q4_0", 6, b);
    text z = slurp(b);
    cr_assert_eq(x.len, z.len);
    size_t same = 0;
    for (size_t i = x.len - 20000; i < x.len; i++) same += x.ptr[i] == z.ptr[i];
    cr_assert_lt(same, 4000, "another seed gives nearly the same weights");
    text_free(&x);
    text_free(&y);
    text_free(&z);
}

Test(model_random, wrong_names_are_refused_and_leave_nothing)
{
    err e = { 0 };
    const char *path = file("never");
    cr_expect_eq(model_random_write("llama9", "F32", 1, path, NULL, NULL, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "llama9") && strstr(e.text, "tinyllama-1.1b"), "%s", e.text);
    cr_expect_eq(model_random_write("micro", "Q5_1", 1, path, NULL, NULL, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "Q5_1"), "%s", e.text);
    cr_expect_eq(model_random_write("micro", "F32", 1, "/nonexistent/x.gguf", NULL, NULL, &e), ERR_IO);
    DIR *d = opendir(support_tmpdir());
    for (struct dirent *f; (f = readdir(d));) cr_expect(f->d_name[0] == '.', "%s was left", f->d_name);
    closedir(d);
}

static void count(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *last = arg;
    cr_assert(done > *last && done <= total);
    *last = done;
}

Test(model_random, progress_grows_up_to_the_whole)
{
    uint64_t last = 0;
    err e = { 0 };
    const char *path = file("progress");
    cr_assert_eq(model_random_write("tiny", "F32", 1, path, count, &last, &e), ERR_OK, "%s", e.text);
    cr_assert_gt(last, 4 * 2000000);
}

/* ---- description ---- */

static text describe(const char *path, bool json)
{
    char *p = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&p, &n);
    err e = { 0 };
    cr_assert_eq(model_info_print(path, json, f, &e), ERR_OK, "%s", e.text);
    fclose(f);
    return (text){ p, n, n };
}

Test(model_random, the_description_is_json_and_counts_right)
{
    const char *path = file("info");
    make("micro-qwen2", "Q8_0", 1, path);
    text t = describe(path, true);
    json_error_t je;
    json_t *o = json_loadb(t.ptr, t.len, 0, &je);
    cr_assert_not_null(o, "%s", je.text);
    const char *arch, *why = NULL;
    json_int_t parameters, tokens, sum = 0;
    int usable;
    json_t *types, *row;
    cr_assert_eq(json_unpack(o, "{s:s, s:I, s:o, s:{s:I, s:b, s?s}}", "architecture", &arch, "parameters", &parameters, "types",
                             &types, "tokenizer", "tokens", &tokens, "usable", &usable, "why", &why),
                 0);
    cr_expect_str_eq(arch, "qwen2");
    cr_expect_eq(tokens, 512);
    cr_expect(usable, "%s", why);
    const char *name;
    json_object_foreach(types, name, row) sum += json_integer_value(json_object_get(row, "parameters"));
    cr_expect_eq(sum, parameters);
    cr_expect_eq(parameters, 512 * 128 + 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128 + 2 * 128 + 128 + 2 * 64));
    json_decref(o);
    text_free(&t);
}

Test(model_random, the_description_is_printable_text)
{
    const char *path = file("info");
    make("micro", "F16", 1, path);
    text t = describe(path, false);
    cr_expect(strstr(t.ptr, "digest") && strstr(t.ptr, "blk.1.ffn_down.weight") && strstr(t.ptr, "llama default, 384 tokens"));
    for (size_t i = 0; i < t.len; i++) cr_assert(t.ptr[i] == '\n' || (t.ptr[i] >= 0x20 && t.ptr[i] < 0x7f));
    text_free(&t);
    err e = { 0 };
    cr_expect_eq(model_info_print("/nonexistent", false, stdout, &e), ERR_IO);
}
