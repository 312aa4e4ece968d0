/* engine/quantize.h and engine/model_quantize.h: rows come back close to what they were, and as llama.cpp makes them; a
 * model's tensors get the types of its mix. */
#include "core/vec.h"
#include "engine/model.h"
#include "engine/model_quantize.h"
#include "engine/model_random.h"
#include "engine/quantize.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW = 768 };

/* About normal: the sum of four uniform values. */
static void normal_row(float *x, uint64_t salt)
{
    float part[ROW];
    memset(x, 0, ROW * sizeof *x);
    for (uint64_t k = 0; k < 4; k++) {
        support_fill(part, ROW, support_seed() + salt * 4 + k, -1, 1);
        for (int i = 0; i < ROW; i++) x[i] += part[i];
    }
}

static double relative_error(wtype t, const float *x, uint32_t n)
{
    uint8_t out[4 * ROW];
    float y[ROW];
    cr_assert(quantize_row(t, x, n, out), "%s", wtypes[t].name);
    wtype_to_f32(t, out, n, y);
    double off = 0, all = 0;
    for (uint32_t i = 0; i < n; i++) {
        off += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        all += (double)x[i] * x[i];
    }
    return sqrt(off / all);
}

/* The error of rounding to 2^bits levels over a block's range, with some room; floats to half a unit of their last place. */
static const struct {
    wtype type;
    double most;
} made[] = {
    { WTYPE_F32, 0 },     { WTYPE_F16, 3e-4 },   { WTYPE_BF16, 3e-3 },  { WTYPE_Q8_0, 0.008 },
    { WTYPE_Q4_0, 0.13 }, { WTYPE_Q4_1, 0.11 },  { WTYPE_Q5_0, 0.065 }, { WTYPE_Q5_1, 0.055 },
    { WTYPE_Q4_K, 0.09 }, { WTYPE_Q5_K, 0.045 }, { WTYPE_Q6_K, 0.023 },
};
enum { MADE = sizeof made / sizeof *made };

Test(quantize, normal_rows_come_back_within_the_error_of_their_type)
{
    float x[ROW];
    for (int i = 0; i < MADE; i++)
        for (uint64_t n = 0; n < 20; n++) {
            normal_row(x, n);
            double e = relative_error(made[i].type, x, ROW);
            cr_assert(e <= made[i].most, "%s: %g", wtypes[made[i].type].name, e);
            cr_assert(e > made[i].most / 3 || made[i].type <= WTYPE_F16 || made[i].type == WTYPE_BF16, "%s: %g is too good",
                      wtypes[made[i].type].name, e);
        }
}

Test(quantize, k_types_fit_better_than_plain_ranges_of_the_same_bits)
{
    float x[ROW];
    double k4 = 0, p4 = 0, k5 = 0, p5 = 0;
    for (uint64_t n = 0; n < 20; n++) {
        normal_row(x, n + 100);
        k4 += relative_error(WTYPE_Q4_K, x, ROW);
        p4 += relative_error(WTYPE_Q4_1, x, ROW);
        k5 += relative_error(WTYPE_Q5_K, x, ROW);
        p5 += relative_error(WTYPE_Q5_1, x, ROW);
    }
    cr_assert(k4 < p4 * 0.95 && k5 < p5 * 0.95, "%g %g, %g %g", k4, p4, k5, p5);
}

Test(quantize, zeros_constants_tiny_and_large_values_keep_their_meaning)
{
    static const float values[] = { 0, -0.0f, 1, -1, 0.007f, 60000, -65504, 1e-7f, 1e-20f, 1e-38f, -1e-45f };
    float x[ROW], y[ROW];
    uint8_t out[4 * ROW];
    for (int i = 0; i < MADE; i++)
        for (unsigned v = 0; v < sizeof values / sizeof *values; v++) {
            for (int k = 0; k < ROW; k++) x[k] = values[v];
            cr_assert(quantize_row(made[i].type, x, ROW, out));
            wtype_to_f32(made[i].type, out, ROW, y);
            for (int k = 0; k < ROW; k++) {
                double most = fabs((double)x[k]) * made[i].most + 2e-6;
                cr_assert(fabs((double)y[k] - x[k]) <= most, "%s: %g came back as %g", wtypes[made[i].type].name, (double)x[k],
                          (double)y[k]);
            }
        }
}

Test(quantize, one_large_value_among_small_ones_is_no_trap)
{
    float x[ROW];
    for (int i = 0; i < MADE; i++)
        for (int at = 0; at < 256; at += 51) {
            normal_row(x, 7);
            for (int k = 0; k < ROW; k++) x[k] *= 1e-12f;
            x[at] = at % 2 ? 1000 : -1000;
            cr_assert(relative_error(made[i].type, x, ROW) < 0.04, "%s", wtypes[made[i].type].name);
        }
}

Test(quantize, values_that_are_not_finite_or_too_large_are_refused)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 70000, -3e38f };
    float x[ROW];
    uint8_t out[4 * ROW];
    for (int i = 0; i < MADE; i++)
        for (unsigned b = 0; b < sizeof bad / sizeof *bad; b++) {
            normal_row(x, 3);
            x[600] = bad[b];
            bool takes = made[i].type == WTYPE_F32 || made[i].type == WTYPE_BF16;
            cr_assert_eq(quantize_row(made[i].type, x, ROW, out), takes, "%s of %g", wtypes[made[i].type].name, (double)bad[b]);
        }
}

/* ---- beside llama.cpp's files ---- */

typedef struct {
    size_t differ;
    double ours, theirs;
} comparison;

static void compare_tensor(const gguf *f, const gguf *q, const gguf_tensor *t, comparison *c)
{
    const gguf_tensor *from = gguf_tensor_find(f, t->name);
    gguf_range x, y;
    wtype type;
    err e;
    if (t->n_dims < 2 || !from || !wtype_from_ggml(t->type, &type)) return;
    cr_assert(!gguf_map(f, from->offset, from->bytes, &x, &e) && !gguf_map(q, t->offset, t->bytes, &y, &e), "%s", e.text);
    uint32_t n = (uint32_t)t->dim[0];
    size_t row = wtype_row_bytes(type, n);
    float a[ROW], b[ROW];
    uint8_t out[4 * ROW];
    cr_assert_leq(n, ROW);
    for (uint64_t r = 0; r < t->dim[1]; r++) {
        const float *in = (const float *)(const void *)x.data + r * n;
        cr_assert(quantize_row(type, in, n, out));
        c->differ += memcmp(out, y.data + r * row, row) != 0;
        wtype_to_f32(type, out, n, a);
        wtype_to_f32(type, y.data + r * row, n, b);
        for (uint32_t i = 0; i < n; i++) {
            c->ours += ((double)a[i] - in[i]) * ((double)a[i] - in[i]);
            c->theirs += ((double)b[i] - in[i]) * ((double)b[i] - in[i]);
        }
    }
    gguf_unmap(&x);
    gguf_unmap(&y);
}

static comparison compare(const char *f32, const char *quantised)
{
    comparison c = { 0 };
    gguf *f, *q;
    err e = { 0 };
    cr_assert(!gguf_open(&f, f32, &e) && !gguf_open(&q, quantised, &e), "%s", e.text);
    for (uint64_t i = 0; i < gguf_n_tensors(q); i++) compare_tensor(f, q, gguf_tensor_at(q, i), &c);
    gguf_close(&f);
    gguf_close(&q);
    return c;
}

Test(quantize, blocks_of_32_are_llama_cpps_byte_for_byte_and_k_blocks_are_as_close)
{
    static const struct {
        const char *name;
        bool same;
    } files[] = {
        { "Q8_0", true }, { "Q4_0", true },  { "Q4_1", true },  { "Q5_0", true },
        { "Q5_1", true }, { "Q4_K", false }, { "Q5_K", false }, { "Q6_K", false },
    };
    SHARED_OR_SKIP(f32, "data/models/tiny-llama-f32.gguf");
    char from[4096]; /* support_shared turns its paths over */
    snprintf(from, sizeof from, "%s", f32);
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64];
        snprintf(name, sizeof name, "data/models/tiny-llama-%s.gguf", files[i].name);
        const char *theirs = support_shared(name);
        if (!theirs) cr_skip_test("no shared data: %s is absent (SLUICE_SHARED)", name);
        comparison c = compare(from, theirs);
        if (files[i].same) cr_assert_eq(c.differ, 0, "%s: %zu rows differ", files[i].name, c.differ);
        else cr_assert(c.ours <= c.theirs, "%s: square error %g, llama.cpp's %g", files[i].name, c.ours, c.theirs);
    }
}

/* ---- models ---- */

static const char *file(const char *name)
{
    static char path[4][256];
    static unsigned turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s.gguf", support_tmpdir(), name);
    return path[turn];
}

static const char *make(const char *shape, const char *quant)
{
    static char path[256]; /* apart from the paths that file() turns over */
    err e = { 0 };
    snprintf(path, sizeof path, "%s", file(shape));
    cr_assert_eq(model_random_write(shape, quant, 5, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
    return path;
}

static err_code convert(const char *in, const char *out, model_quantize_options o, model_quantize_report *r, err *e)
{
    gguf *g;
    if (!o.threads) o.threads = 2;
    *e = (err){ 0 };
    cr_assert_eq(gguf_open(&g, in, e), ERR_OK, "%s", e->text);
    err_code rc = model_quantize(g, out, &o, r, e);
    gguf_close(&g);
    return rc;
}

static void must_convert(const char *in, const char *out, const char *type, bool pure)
{
    model_quantize_report r;
    err e;
    cr_assert_eq(convert(in, out, (model_quantize_options){ .type = type, .pure = pure }, &r, &e), ERR_OK, "%s", e.text);
}

static const char *type_in(const char *path, const char *tensor)
{
    static char buf[16];
    gguf *g;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    const gguf_tensor *t = gguf_tensor_find(g, tensor);
    cr_assert_not_null(t, "%s", tensor);
    const char *name = wtype_ggml_name(t->type, buf);
    gguf_close(&g);
    return name;
}

static void check_key(const char *path, const char *key, uint64_t want)
{
    gguf *g;
    err e = { 0 };
    uint64_t v = 0;
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    cr_expect(gguf_get_u64(g, key, &v) && v == want, "%s is %llu, want %llu", key, (unsigned long long)v, (unsigned long long)want);
    gguf_close(&g);
}

Test(quantize, every_type_makes_a_model_that_opens)
{
    const char *in = make("tiny", "F32"), *type;
    for (size_t i = 0; (type = model_quantize_type(i)); i++) {
        const char *out = file(type);
        must_convert(in, out, type, false);
        gguf *g;
        model *m;
        err e = { 0 };
        cr_assert_eq(gguf_open(&g, out, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(model_open(&m, g, (shard){ 0, 4, true, true }, &e), ERR_OK, "%s: %s", type, e.text);
        model_close(&m);
        gguf_close(&g);
        cr_expect_str_eq(type_in(out, "blk.0.attn_norm.weight"), "F32");
        check_key(out, "general.quantization_version", 2);
    }
}

/* tiny: 4 layers, so the first eighth is none of them, the last eighth is layer 3, and of the others every third is 2. */
Test(quantize, a_mix_keeps_some_tensors_wider)
{
    static const struct {
        const char *type, *tensor, *want;
        bool pure;
    } cases[] = {
        { "Q4_K_M", "token_embd.weight", "Q6_K", false }, /* tied: it is the output */
        { "Q4_K_M", "blk.0.attn_v.weight", "Q4_K", false },   { "Q4_K_M", "blk.1.ffn_down.weight", "Q4_K", false },
        { "Q4_K_M", "blk.2.attn_v.weight", "Q6_K", false },   { "Q4_K_M", "blk.3.ffn_down.weight", "Q6_K", false },
        { "Q4_K_M", "blk.3.attn_q.weight", "Q4_K", false },   { "Q4_K_S", "blk.3.attn_v.weight", "Q5_K", false },
        { "Q4_K_S", "blk.3.ffn_down.weight", "Q4_K", false }, { "Q5_K_M", "blk.3.attn_v.weight", "Q6_K", false },
        { "Q5_K_M", "blk.0.attn_q.weight", "Q5_K", false },   { "Q4_0", "blk.3.attn_v.weight", "Q4_0", false },
        { "Q4_0", "token_embd.weight", "Q6_K", false },       { "Q8_0", "token_embd.weight", "Q8_0", false },
        { "F16", "token_embd.weight", "F16", false },         { "Q4_K", "token_embd.weight", "Q4_K", true },
        { "Q4_K", "blk.3.ffn_down.weight", "Q4_K", true },
    };
    const char *in = make("tiny", "F32");
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *out = file("mix");
        if (i == 0 || strcmp(cases[i].type, cases[i - 1].type) != 0) must_convert(in, out, cases[i].type, cases[i].pure);
        cr_expect_str_eq(type_in(out, cases[i].tensor), cases[i].want, "%s %s: %s", cases[i].type, cases[i].tensor,
                         type_in(out, cases[i].tensor));
    }
    check_key(file("mix"), "general.file_type", 15);
}

/* micro: width 64 and ffn 172, which is no multiple of 32. */
Test(quantize, rows_that_do_not_divide_get_another_type)
{
    static const struct {
        const char *type, *narrow;
    } cases[] = { { "Q4_K_M", "Q5_0" }, { "Q5_K_M", "Q5_1" }, { "Q6_K", "Q8_0" }, { "Q4_0", "Q4_0" } };
    const char *in = make("micro", "F32");
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        model_quantize_report r;
        err e;
        cr_assert_eq(convert(in, file("narrow"), (model_quantize_options){ .type = cases[i].type }, &r, &e), ERR_OK, "%s", e.text);
        cr_expect_str_eq(type_in(file("narrow"), "blk.0.attn_q.weight"), cases[i].narrow);
        cr_expect_str_eq(type_in(file("narrow"), "blk.0.ffn_down.weight"), "F16");
        cr_expect_gt(r.fallbacks, 0);
        cr_expect(r.bytes_out < r.bytes_in && r.converted > 0 && r.kept > 0);
    }
}

static text bytes_of(const char *path)
{
    text t = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&t, path, (size_t)1 << 30, &e), ERR_OK, "%s", e.text);
    return t;
}

Test(quantize, any_number_of_threads_writes_the_same_bytes)
{
    const char *in = make("tiny", "F16");
    text first = { 0 };
    for (uint32_t n = 1; n <= 7; n += 3) {
        model_quantize_report r;
        err e;
        cr_assert_eq(convert(in, file("threads"), (model_quantize_options){ .type = "Q4_K_M", .threads = n }, &r, &e), ERR_OK, "%s",
                     e.text);
        text got = bytes_of(file("threads"));
        if (n == 1) {
            first = got;
            continue;
        }
        cr_assert(got.len == first.len && !memcmp(got.ptr, first.ptr, got.len), "%u threads", n);
        text_free(&got);
    }
    text_free(&first);
}

Test(quantize, quantised_input_is_taken_only_when_asked_for)
{
    const char *in = make("tiny", "Q8_0"), *out = file("again");
    model_quantize_report r;
    err e;
    cr_assert_eq(convert(in, out, (model_quantize_options){ .type = "Q4_0", .pure = true }, &r, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "--requantize") && strstr(e.text, "Q8_0"), "%s", e.text);
    cr_assert_eq(convert(in, out, (model_quantize_options){ .type = "Q4_0", .pure = true, .requantize = true }, &r, &e), ERR_OK,
                 "%s", e.text);
    cr_expect_str_eq(type_in(out, "blk.0.attn_q.weight"), "Q4_0");
    cr_assert_eq(convert(in, out, (model_quantize_options){ .type = "Q8_0" }, &r, &e), ERR_OK, "copying is no rounding: %s",
                 e.text);
    cr_expect_eq(r.converted, 0);
}

static bool stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    *(uint64_t *)arg = done;
    return false;
}

Test(quantize, wrong_requests_leave_what_was_there)
{
    const char *in = make("tiny", "F32"), *out = file("old");
    model_quantize_report r;
    err e;
    uint64_t seen = 0;
    cr_assert(support_write(out, "old", 3));
    cr_expect_eq(convert(in, out, (model_quantize_options){ .type = "Q9_9" }, &r, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "Q9_9") && strstr(e.text, "Q4_K_M"), "%s", e.text);
    cr_expect_eq(convert(in, in, (model_quantize_options){ .type = "Q8_0" }, &r, &e), ERR_INPUT);
    cr_expect_eq(convert(in, out, (model_quantize_options){ .type = "Q8_0", .progress = stop_at_once, .arg = &seen }, &r, &e),
                 ERR_CANCELLED);
    cr_expect_gt(seen, 0);
    text t = bytes_of(out);
    cr_expect(t.len == 3 && !memcmp(t.ptr, "old", 3));
    text_free(&t);
}

Test(quantize, a_tensor_with_a_nan_is_named)
{
    const char *in = make("tiny", "F32");
    gguf *g;
    err e = { 0 };
    model_quantize_report r;
    cr_assert_eq(gguf_open(&g, in, &e), ERR_OK);
    uint64_t at = gguf_tensor_find(g, "blk.2.ffn_up.weight")->offset + 4000;
    gguf_close(&g);
    FILE *f = fopen(in, "r+b");
    cr_assert(f && !fseek(f, (long)at, SEEK_SET) && fwrite("\xff\xff\xff\x7f", 1, 4, f) == 4 && !fclose(f));
    cr_assert_eq(convert(in, file("nan"), (model_quantize_options){ .type = "Q8_0" }, &r, &e), ERR_MODEL);
    cr_expect(strstr(e.text, "blk.2.ffn_up.weight"), "%s", e.text);
}
