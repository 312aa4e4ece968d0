/* The profile: what is put is read, part of a file is rewritten and the rest stays, what is bound to something else is refused with
 * both names, and no damage makes the reader crash or hand out other values. */
#include "core/rng.h"
#include "engine/gguf_write.h"
#include "engine/profile.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100"
enum { LAYERS = 3, KV = 1 << PROFILE_KV, ROUTE = 1 << PROFILE_ROUTE, PREDICT = 1 << PROFILE_PREDICT };

static char dir[64], path[96];
static const profile_binding bound = { MODEL, NULL, "i8b32" };

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/sluice-profile-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.profile.gguf", dir);
}

static void drop_dir(void)
{
    unlink(path);
    cr_assert_eq(rmdir(dir), 0, "the folder holds more than the profile");
}

TestSuite(profile, .init = make_dir, .fini = drop_dir);

static void must(err_code rc, const err *e) { cr_assert_eq(rc, ERR_OK, "%s", e->text); }

static profile *opened(const profile_binding *want)
{
    profile *p;
    err e;
    must(profile_open(&p, path, want, &e), &e);
    return p;
}

static void fill(float *x, size_t n, uint64_t seed) { support_fill(x, n, seed, -3, 3); }

/* A file with sections kv and route; kv.base is its number. */
static void write_two(double base)
{
    profile_writer *w;
    err e;
    float x[128];
    must(profile_writer_open(&w, path, &bound, LAYERS, KV | ROUTE, &e), &e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        fill(x, 64, 10 + l);
        profile_put_floats(w, PROFILE_KV, l, "head_roles", WTYPE_F32, 4, 2, x);
        profile_put_floats(w, PROFILE_KV, l, "half", WTYPE_F16, 32, 2, x);
        profile_put_floats(w, PROFILE_ROUTE, l, "router", WTYPE_Q8_0, 32, 2, x);
    }
    profile_put_floats(w, PROFILE_KV, PROFILE_WHOLE, "layer_error", WTYPE_F32, LAYERS, 1, (float[]){ 0.5f, 0.3f, 0.2f });
    profile_put_number(w, PROFILE_KV, "base", base);
    profile_put_text(w, PROFILE_KV, "text", "a text");
    profile_put_numbers(w, PROFILE_ROUTE, "auc", (double[]){ 0.25, 0.5 }, 2);
    must(profile_writer_commit(w, &e), &e);
    profile_writer_close(&w);
}

Test(profile, what_is_put_is_read)
{
    err e;
    float x[64], got[64];
    double d, two[2];
    view v;
    write_two(7);
    profile *p = opened(&bound);
    for (uint32_t l = 0; l < LAYERS; l++) {
        fill(x, 64, 10 + l);
        must(profile_floats(p, PROFILE_KV, l, "head_roles", 4, 2, got, &e), &e);
        cr_assert(support_same(got, x, 8, "f32"));
        must(profile_floats(p, PROFILE_KV, l, "half", 32, 2, got, &e), &e);
        cr_assert(support_near(got, x, 64, 0, 1e-3, "f16"));
        must(profile_floats(p, PROFILE_ROUTE, l, "router", 32, 2, got, &e), &e);
        cr_assert(support_near(got, x, 64, 0.013, 0, "q8_0: half a step of 3/127"));
    }
    must(profile_floats(p, PROFILE_KV, PROFILE_WHOLE, "layer_error", LAYERS, 1, got, &e), &e);
    cr_assert_eq(got[0], 0.5f);
    cr_assert(profile_number(p, PROFILE_KV, "base", &d) && d == 7);
    cr_assert(profile_text(p, PROFILE_KV, "text", &v) && v.len == 6 && !memcmp(v.ptr, "a text", 6));
    cr_assert(profile_numbers(p, PROFILE_ROUTE, "auc", two, 2) && two[0] == 0.25 && two[1] == 0.5);
    cr_assert(!profile_numbers(p, PROFILE_ROUTE, "auc", two, 1), "an array of another length");
    cr_assert(profile_has(p, PROFILE_KV) && profile_has(p, PROFILE_ROUTE) && !profile_has(p, PROFILE_PREDICT));
    cr_assert_eq(profile_need(p, PROFILE_PREDICT, &e), ERR_CONFIG);
    cr_assert(strstr(e.text, "predict"), "%s", e.text);
    cr_assert_eq(profile_layers(p), LAYERS);
    profile_close(&p);
}

Test(profile, only_one_section_is_written_anew_and_the_rest_stays)
{
    profile_writer *w;
    err e;
    float x[64], got[64];
    double d;
    write_two(1);
    profile *p = opened(&bound);
    char before[40];
    snprintf(before, sizeof before, "%s", profile_digest(p));
    profile_close(&p);

    must(profile_writer_open(&w, path, &(profile_binding){ MODEL, OTHER, "i8b32" }, LAYERS, KV | PREDICT, &e), &e);
    profile_put_floats(w, PROFILE_KV, 1, "head_roles", WTYPE_F32, 4, 2, (float[]){ 1, 2, 3, 4, 5, 6, 7, 8 });
    must(profile_writer_commit(w, &e), &e);
    profile_writer_close(&w);

    p = opened(&(profile_binding){ MODEL, OTHER, "i8b32" });
    cr_assert_str_neq(profile_digest(p), before);
    cr_assert(!profile_number(p, PROFILE_KV, "base", &d), "a value of the old section");
    cr_assert_null(profile_find(p, PROFILE_KV, 0, "head_roles"), "a tensor of the old section");
    cr_assert(profile_has(p, PROFILE_PREDICT), "an empty section is one");
    for (uint32_t l = 0; l < LAYERS; l++) {
        fill(x, 64, 10 + l);
        must(profile_floats(p, PROFILE_ROUTE, l, "router", 32, 2, got, &e), &e);
        cr_assert(support_near(got, x, 64, 0.013, 0, "kept"));
    }
    profile_close(&p);

    must(profile_writer_open(&w, path, &bound, LAYERS, KV, &e), &e);   /* no word about the auxiliary: it stays */
    must(profile_writer_commit(w, &e), &e);
    profile_writer_close(&w);
    p = opened(NULL);
    cr_assert_str_eq(profile_bound(p).auxiliary, OTHER);
    profile_close(&p);
}

Test(profile, the_same_content_has_the_same_digest)
{
    char one[40];
    write_two(1);
    profile *p = opened(&bound);
    snprintf(one, sizeof one, "%s", profile_digest(p));
    profile_close(&p);
    unlink(path);
    write_two(1);
    p = opened(&bound);
    cr_assert_str_eq(profile_digest(p), one);
    profile_close(&p);
    write_two(2);
    p = opened(&bound);
    cr_assert_str_neq(profile_digest(p), one);
    profile_close(&p);
}

Test(profile, one_that_is_bound_to_something_else_is_refused_with_both_names)
{
    static const struct { profile_binding want; const char *a, *b; } row[] = {
        { { OTHER, NULL, NULL }, MODEL, OTHER },
        { { MODEL, OTHER, "i8b32" }, "auxiliary", OTHER },
        { { MODEL, "", "f32" }, "i8b32", "f32" },
    };
    write_two(1);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        profile *p;
        err e;
        cr_assert_eq(profile_open(&p, path, &row[i].want, &e), ERR_CONFIG);
        cr_assert_null(p);
        cr_assert(strstr(e.text, row[i].a) && strstr(e.text, row[i].b), "%s", e.text);
    }
}

static void refused(const profile_binding *b, uint32_t layers, err_code want, const char *word)
{
    profile_writer *w;
    err e;
    cr_assert_eq(profile_writer_open(&w, path, b, layers, KV, &e), want);
    cr_assert(strstr(e.text, word), "%s", e.text);
}

Test(profile, a_file_of_another_model_or_of_another_kind_is_not_replaced)
{
    err e;
    write_two(1);
    refused(&(profile_binding){ OTHER, NULL, "i8b32" }, LAYERS, ERR_CONFIG, OTHER);
    refused(&(profile_binding){ MODEL, NULL, "f32" }, LAYERS, ERR_CONFIG, "f32");
    refused(&bound, LAYERS + 1, ERR_CONFIG, "layers");
    gguf_writer *g;
    must(gguf_writer_open(&g, path, &e), &e);
    gguf_writer_str(g, "general.architecture", (view){ "llama", 5 });
    must(gguf_writer_begin(g, &e), &e);
    must(gguf_writer_commit(g, &e), &e);
    gguf_writer_close(&g);
    refused(&bound, LAYERS, ERR_INPUT, "no profile");
    profile *p;
    cr_assert_eq(profile_open(&p, path, NULL, &e), ERR_MODEL);
    cr_assert(support_write(path, "notes", 5));
    refused(&bound, LAYERS, ERR_INPUT, "no profile");
}

Test(profile, what_must_not_be_put_fails_the_commit_and_the_old_file_stays)
{
    static const float x[8] = { 0 }, bad[2] = { 1, NAN };
    write_two(5);
    for (int i = 0; i < 9; i++) {
        profile_writer *w;
        err e;
        must(profile_writer_open(&w, path, &bound, LAYERS, KV, &e), &e);
        if (i == 0) profile_put_floats(w, PROFILE_KV, LAYERS, "x", WTYPE_F32, 4, 2, x);
        if (i == 1) profile_put_floats(w, PROFILE_ROUTE, 0, "x", WTYPE_F32, 4, 2, x);
        if (i == 2) profile_put_floats(w, PROFILE_KV, 0, "a.b", WTYPE_F32, 4, 2, x);
        if (i == 3) profile_put_floats(w, PROFILE_KV, 0, "x", WTYPE_Q8_0, 8, 1, x);
        if (i == 4) profile_put_floats(w, PROFILE_KV, 0, "x", WTYPE_F32, 2, 1, bad);
        if (i == 5) profile_put_number(w, PROFILE_KV, "x", INFINITY);
        if (i == 6) profile_put_number(w, PROFILE_KV, "y", 1), profile_put_text(w, PROFILE_KV, "y", "twice");
        if (i == 7) profile_put_number(w, PROFILE_KV, "version", 3);
        if (i == 8) profile_put_floats(w, PROFILE_KV, 0, "x", WTYPE_Q4_0, 32, 1, (float[32]){ 0 });
        cr_assert_neq(profile_writer_commit(w, &e), ERR_OK, "case %d was taken", i);
        profile_writer_close(&w);
    }
    double d;
    profile *p = opened(&bound);
    cr_assert(profile_number(p, PROFILE_KV, "base", &d) && d == 5);
    profile_close(&p);
}

Test(profile, another_version_of_a_section_is_named_and_not_read)
{
    err e;
    gguf_writer *g;
    must(gguf_writer_open(&g, path, &e), &e);
    const char *const texts[][2] = { { "general.architecture", "sluice-profile" }, { "profile.model", MODEL }, { "profile.auxiliary", "" },
                                     { "profile.path", "f32" } };
    for (size_t i = 0; i < 4; i++) gguf_writer_str(g, texts[i][0], (view){ texts[i][1], strlen(texts[i][1]) });
    gguf_writer_u32(g, "profile.format", 1);
    gguf_writer_u32(g, "profile.layers", 2);
    gguf_writer_u32(g, "kv.version", 900);
    must(gguf_writer_begin(g, &e), &e);
    must(gguf_writer_commit(g, &e), &e);
    gguf_writer_close(&g);
    profile *p = opened(NULL);
    cr_assert(!profile_has(p, PROFILE_KV));
    cr_assert_eq(profile_need(p, PROFILE_KV, &e), ERR_CONFIG);
    cr_assert(strstr(e.text, "900"), "%s", e.text);
    profile_close(&p);
}

/* ---- damage -------------------------------------------------------------------------------------------------------- */

/* Whatever opens is read whole; a tensor that is handed out has the values that were written. */
static uint32_t read_whole(const float *want)
{
    profile *p;
    err e;
    uint32_t good = 0;
    if (profile_open(&p, path, NULL, &e)) return 0;
    FILE *null = fopen("/dev/null", "w");
    cr_assert_not_null(null);
    for (int json = 0; json < 2; json++) profile_print(p, json, null, &e);
    fclose(null);
    for (uint32_t l = 0; l < LAYERS; l++) {
        float got[64];
        if (profile_floats(p, PROFILE_KV, l, "head_roles", 4, 2, got, &e)) continue;
        cr_assert(support_same(got, want + 64 * l, 8, "a damaged tensor was handed out"));
        good++;
    }
    profile_close(&p);
    return good;
}

Test(profile, no_damage_crashes_the_reader_or_changes_a_value)
{
    uint64_t seed = support_seed(), refusals = 0;
    float want[64 * LAYERS];
    text whole = { 0 };
    err e;
    write_two(1);
    for (uint32_t l = 0; l < LAYERS; l++) fill(want + 64 * l, 64, 10 + l);
    must(text_read_file(&whole, path, 1 << 20, &e), &e);
    cr_assert_eq(read_whole(want), LAYERS);
    for (uint64_t i = 0; i < 1500; i++) {
        char *copy = malloc(whole.len);
        cr_assert_not_null(copy);
        memcpy(copy, whole.ptr, whole.len);
        size_t n = i % 5 ? whole.len : support_draw(seed, 4 * i, whole.len);
        for (uint64_t k = 0; n == whole.len && k <= i % 3; k++)
            copy[support_draw(seed, 100000 + 3 * i + k, n)] ^= (char)(1 + support_draw(seed, 200000 + 3 * i + k, 255));
        cr_assert(support_write(path, copy, n));
        refusals += read_whole(want) < LAYERS;
        free(copy);
    }
    printf("# %llu of 1500 damaged files were refused, whole or in part\n", (unsigned long long)refusals);
    cr_assert_gt(refusals, 300);
    text_free(&whole);
}
