/* What `sluice eval`, `tokenize`, `detokenize` and `model` say, against figures that others computed: llama.cpp's
 * perplexities and answers, tokenizers' own outputs. Needs the shared data for those. */
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char model[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

static void end(void) { cr_expect(programs_gone(5)); }

TestSuite(eval, .init = begin, .fini = end, .timeout = 240);

/* ---- perplexity */

static double perplexity(const char *gguf, const char *words, const char *window)
{
    ran r = program_run(0, 60, NULL, SLUICE("eval", "ppl", "-m", gguf, "-f", words, "-c", window, "--json"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    double x = json_number_value(json_object_get(o, "ppl"));
    if (x == 0) x = json_number_value(json_object_get(o, "perplexity"));
    json_decref(o);
    return x;
}

/* llama-perplexity: 6.898 and 6.847. */
Test(eval, perplexity_of_stories_is_the_one_of_llama_cpp)
{
    SHARED_OR_SKIP(gguf, "data/models/stories260K-f32.gguf");
    SHARED_OR_SKIP(words, "data/text/tinystories_sample.txt");
    static const struct { const char *window; double want; } table[] = { { "256", 6.898 }, { "128", 6.847 } };
    for (size_t i = 0; i < 2; i++) {
        double x = perplexity(gguf, words, table[i].window);
        printf("# perplexity of stories260K-f32 at %s: %.4f, llama.cpp %.3f\n", table[i].window, x, table[i].want);
        cr_expect_leq(fabs(x - table[i].want), 0.005 * table[i].want);
    }
}

/* ---- questions */

static void quiz(const char *gguf, const char *file, int right, int total)
{
    ran r = program_run(0, 100, NULL, SLUICE("eval", "qa", "-m", gguf, "-f", file, "--json"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    int got = (int)json_number_at(o, "right");
    printf("# %s: %d of %d, llama.cpp %d\n", strrchr(file, '/') + 1, got, total, right);
    cr_expect_eq(json_number_at(o, "total"), total);
    cr_expect_leq(abs(got - right) * 100, total, "more than a point away");
    json_decref(o);
}

Test(eval, answers_without_context_are_those_of_llama_cpp)
{
    SHARED_OR_SKIP(gguf, "data/models/sluice-tiny-f32.gguf");
    SHARED_OR_SKIP(closed, "data/qa/qa_closed.jsonl");
    SHARED_OR_SKIP(unknown, "data/qa/qa_unknown.jsonl");
    quiz(gguf, closed, 256, 256);
    quiz(gguf, unknown, 195, 200);
}

Test(eval, answers_from_context_are_those_of_llama_cpp)
{
    SHARED_OR_SKIP(gguf, "data/models/sluice-tiny-f32.gguf");
    SHARED_OR_SKIP(context, "data/qa/qa_context.jsonl");
    if (programs_patience() > 1) cr_skip_test("400 long questions take too long under a sanitizer; the other two files run");
    quiz(gguf, context, 285, 400);
}

Test(eval, the_demo_questions_are_answered_with_the_corpus_and_only_with_it)
{
    const char *questions = support_root("configs/demo/questions.jsonl"), *corpus = support_root("configs/demo/corpus");
    ran with = program_run(0, 60, NULL, SLUICE("eval", "qa", "-m", model, "-f", questions, "--rag", corpus, "--json"));
    ran without = program_run(0, 60, NULL, SLUICE("eval", "qa", "-m", model, "-f", questions, "--json"));
    json_t *a = ran_json(&with), *b = ran_json(&without);
    printf("# demo questions: %d of 60 with the corpus, %d without\n", (int)json_number_at(a, "right"), (int)json_number_at(b, "right"));
    cr_expect_geq(json_number_at(a, "right"), 57);
    cr_expect_eq(json_number_at(b, "right"), 0);
    json_decref(a);
    json_decref(b);
}

/* ---- logits */

/* f32 [n][V] of ids, with these options behind. */
static text logits(const char *gguf, const char *ids, const char *const options[])
{
    const char *argv[24] = { support_bin("sluice"), "eval", "logits", "-m", gguf, "-t", ids, "-o", programs_file("logits.f32") };
    size_t n = 9;
    text t = { 0 };
    for (size_t i = 0; options[i]; i++) argv[n++] = options[i];
    ran r = program_run(0, 60, NULL, argv);
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    cr_assert_eq(text_read_file(&t, argv[8], 64 << 20, NULL), ERR_OK);
    unlink(argv[8]);
    return t;
}

Test(eval, logits_are_the_same_bytes_for_every_shape_of_cluster)
{
    static const char *const ways[][5] = { { "--stages", "1" }, { "--stages", "2" }, { "--stages", "3", "--chunk", "1" }, { "--path", "decode" },
                                           { "--stages", "2", "--chunk", "3" }, { "--stages", "2", "--path", "decode" } };
    const char *ids = "1,4015,300,77,512,4095,900,901,902,903,13";
    text want = logits(model, ids, ways[0]);
    cr_assert_eq(want.len, 11 * 4096 * sizeof(float));
    for (size_t i = 0; i < want.len / sizeof(float); i++) {
        float x;
        memcpy(&x, want.ptr + i * sizeof x, sizeof x);
        cr_assert(isfinite(x), "logit %zu", i);
    }
    for (size_t i = 1; i < sizeof ways / sizeof *ways; i++) {
        text got = logits(model, ids, ways[i]);
        cr_expect(got.len == want.len && !memcmp(got.ptr, want.ptr, want.len), "other bytes with %s %s", ways[i][0], ways[i][1]);
        text_free(&got);
    }
    text f32 = logits(model, ids, (const char *const[]){ "--kv", "f32", NULL });
    cr_expect(f32.len == want.len && memcmp(f32.ptr, want.ptr, want.len), "f32 rows in the cache change nothing: the comparison sees nothing");
    text_free(&f32);
    text_free(&want);
}

/* ---- tokens */

static void strip(char *s)
{
    size_t n = strlen(s);
    while (n && (s[n - 1] == '\n' || s[n - 1] == ' ')) s[--n] = 0;
}

/* Text `which` of a .inp file and the line of its .out file. */
static void one_text(const char *gguf, char *inp, char *out, size_t which)
{
    static const char border[] = "\n__ggml_vocab_test__\n";
    char *end;
    for (size_t i = 0; i < which; i++) {
        inp = strstr(inp, border) + strlen(border);
        out = strchr(out, '\n') + 1;
    }
    char *words = strndup(inp, (end = strstr(inp, border)) ? (size_t)(end - inp) : strlen(inp)), *want = strndup(out, strcspn(out, "\n"));
    ran r = program_run(0, 20, words, SLUICE("tokenize", "-m", gguf, "-f", "-"));
    cr_expect_eq(r.status, 0);
    char *got = strdup(ran_out(&r)), *at = want + (*want == ' ');
    strip(got);
    strip(at);
    cr_expect_str_eq(got, at, "text %zu of %s", which, gguf);
    ran_free(&r);
    free(words);
    free(want);
    free(got);
}

Test(eval, tokenize_gives_the_ids_of_the_vocabularies)
{
    static const char *const names[] = { "gpt-2", "llama-spm", "llama-bpe" };
    static const size_t which[] = { 7, 23, 38 };          /* words, code and emoji, the long one */
    for (size_t i = 0; i < 3; i++) {
        char file[128], gguf[512];
        text inp = { 0 }, out = { 0 };
        snprintf(file, sizeof file, "data/vocabs/ggml-vocab-%s.gguf", names[i]);
        SHARED_OR_SKIP(path, file);
        snprintf(gguf, sizeof gguf, "%s.inp", path);
        cr_assert_eq(text_read_file(&inp, gguf, 1 << 20, NULL), ERR_OK);
        snprintf(gguf, sizeof gguf, "%s.out", path);
        cr_assert_eq(text_read_file(&out, gguf, 1 << 20, NULL), ERR_OK);
        snprintf(gguf, sizeof gguf, "%s", path);
        for (size_t k = 0; k < sizeof which / sizeof *which; k++) one_text(gguf, inp.ptr, out.ptr, which[k]);
        text_free(&inp);
        text_free(&out);
    }
}

Test(eval, detokenize_gives_the_text_back)
{
    static const char *const texts[] = { "Once upon a time", "Two  spaces, a\ttab\nand a line", "caf\xC3\xA9 \xE2\x82\xAC 12 \xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD", "x" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ran ids = program_run(0, 20, texts[i], SLUICE("tokenize", "-m", model, "-f", "-"));
        cr_assert_eq(ids.status, 0);
        ran back = program_run(0, 20, ran_out(&ids), SLUICE("detokenize", "-m", model, "-f", "-"));
        cr_expect_eq(back.status, 0);
        char *got = strdup(ran_out(&back));
        if (got[0] && got[strlen(got) - 1] == '\n') got[strlen(got) - 1] = 0;
        cr_expect_str_eq(got, texts[i]);
        free(got);
        ran_free(&ids);
        ran_free(&back);
    }
}

/* ---- KV policies */

static double figure(const json_t *all, const char *policy, const char *key)
{
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(all, "rows"), i, row)
        if (!strcmp(json_string_value(json_object_get(row, "policy")), policy)) return json_number_value(json_object_get(row, key));
    cr_assert_fail("no row for %s", policy);
    return 0;
}

/* Held against `eval ppl`-like truths: the exact cache has no distance from itself, more bits are nearer, every byte is counted, and
 * who keeps the rows of the answer gives it. */
Test(eval, kv_policies_are_held_against_the_exact_cache)
{
    const char *words = support_root("docs/PROTOCOL.md");
    char prefix[128], file[160];
    snprintf(prefix, sizeof prefix, "%s", programs_file("kv"));
    const char *kv = "q8_0,token2+h,window,oracle,tidal,tidal-random,tidal-random+oracle";
    ran r = program_run(0, 120, NULL, SLUICE("eval", "kv", "-m", model, "--threads", "1", "--kv", kv, "-f", words, "--windows",
                                             "2", "-c", "128", "--needles", "10", "--seed", "3", "--against", "q8_0", "-o", prefix, "--json"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    cr_expect_eq(figure(o, "f16", "kl"), 0);
    cr_expect_eq(figure(o, "f16", "same_top"), 100);
    cr_expect_gt(figure(o, "q8_0", "kl"), 0);
    cr_expect_lt(figure(o, "q8_0", "kl"), figure(o, "token2+h", "kl"));
    cr_expect_float_eq(figure(o, "token2+h", "kl_more"), figure(o, "token2+h", "kl") - figure(o, "q8_0", "kl"), 1e-9);
    double exact = figure(o, "f16", "bytes"), half = figure(o, "q8_0", "bytes");
    cr_expect(exact > 6144 && exact < 6500, "12 layers, 4 heads of 32, K and V, 2 bytes: not %g", exact);
    cr_expect(half > 8.5 / 16 * 6144 && half < 0.6 * 6144, "%g bytes", half);
    cr_expect_geq(figure(o, "oracle", "after"), figure(o, "window", "after"));
    cr_expect_gt(figure(o, "oracle", "inside"), figure(o, "window", "inside"));
    double there = 0, read = 0;             /* by rows 129 to 384, each of which reads 192 at most */
    for (int n = 129; n <= 384; n++) there += n, read += n < 192 ? n : 192;
    cr_expect_float_eq(figure(o, "tidal", "rows_read"), 100 * read / there, 1e-6);
    cr_expect_float_eq(figure(o, "tidal-random", "rows_read"), 100 * read / there, 1e-6);
    cr_expect_gt(figure(o, "tidal", "kl"), 0);
    cr_expect_lt(figure(o, "tidal", "kl"), figure(o, "tidal-random", "kl"), "choosing is worth something");
    cr_expect_gt(figure(o, "tidal-random+oracle", "after"), figure(o, "tidal-random", "after"));
    json_decref(o);
    static const char *const ends[] = { ".md", ".csv", ".json", "-kl.svg", "-needles.svg" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct stat st;
        snprintf(file, sizeof file, "%s%s", prefix, ends[i]);
        cr_expect(!stat(file, &st) && st.st_size > 100, "%s", file);
        unlink(file);
    }
}

/* A long measurement in pieces: other seeds add up, the same seed counts once, and what differs is refused. */
Test(eval, kv_puts_runs_together)
{
    static char file[3][160], prefix[3][150];
    for (int i = 0; i < 3; i++) {
        char seed[8], n[8];
        snprintf(seed, sizeof seed, "%d", i == 2 ? 3 : 3 + i);
        snprintf(n, sizeof n, "%d", i == 2 ? 4 : 8);
        snprintf(prefix[i], sizeof prefix[i], "%s%d", programs_file("part"), i);
        snprintf(file[i], sizeof file[i], "%s.json", prefix[i]);
        ran r = program_run(0, 120, NULL, SLUICE("eval", "kv", "-m", model, "--threads", "1", "--kv", i == 1 ? "window" : "window,q4_0", "--parts",
                                                 "needles", "--needles", n, "--seed", seed, "-o", prefix[i]));
        cr_assert_eq(r.status, 0, "%s", ran_errs(&r));
        ran_free(&r);
    }
    ran r = program_run(0, 20, NULL, SLUICE("eval", "kv", "--merge", file[0], "--merge", file[1], "--merge", file[2], "--json"));
    cr_assert_eq(r.status, 0, "%s", ran_errs(&r));
    json_t *o = ran_json(&r), *one = json_load_file(file[0], 0, NULL), *two = json_load_file(file[1], 0, NULL);
    cr_expect_eq(figure(o, "window", "needles"), 16);
    cr_expect_eq(figure(o, "q4_0", "needles"), 8);
    cr_expect_float_eq(figure(o, "f16", "inside"), (figure(one, "f16", "inside") + figure(two, "f16", "inside")) / 2, 1e-6);
    cr_expect_float_eq(figure(o, "window", "after"), (figure(one, "window", "after") + figure(two, "window", "after")) / 2, 1e-6);
    json_t *items = json_object_get(json_object_get(json_array_get(json_object_get(two, "rows"), 0), "items"), "4");
    json_object_set_new(json_object_get(json_array_get(json_object_get(two, "rows"), 0), "items"), "3", json_deep_copy(items));
    json_object_set_new(json_object_get(json_object_get(json_array_get(json_object_get(two, "rows"), 0), "items"), "3"), "after", json_string("01010101"));
    cr_assert_eq(json_dump_file(two, file[1], 0), 0);
    ran bad = program_run(0, 20, NULL, SLUICE("eval", "kv", "--merge", file[0], "--merge", file[1]));
    cr_expect_neq(bad.status, 0);
    cr_expect_not_null(strstr(ran_errs(&bad), "seed 3"), "%s", ran_errs(&bad));
    ran_free(&bad);
    json_decref(o);
    json_decref(one);
    json_decref(two);
    for (int i = 0; i < 3; i++) {
        static const char *const ends[] = { ".md", ".csv", ".json", "-needles.svg" };
        for (int k = 0; k < 4; k++) {
            char path[170];
            snprintf(path, sizeof path, "%s%s", prefix[i], ends[k]);
            unlink(path);
        }
    }
}

static double trial(const json_t *o, size_t set, size_t i, const char *what)
{
    const json_t *t = json_array_get(json_object_get(json_array_get(json_object_get(o, "sets"), set), "trials"), i);
    return json_number_value(json_array_get(json_object_get(t, what), 0));
}

/* The same documents and rule in this process and through a cluster: the same bits, so the same figures. */
Test(eval, masks_in_this_process_cost_what_they_cost_in_a_cluster)
{
    static const char text_of[] = "The river runs past the mill. A cold wind came down from the hills. The market opens early in the morning.\n\n"
                                  "Two boats lay at the quay. The bell rang twice. Nobody was on the road that day. Rain fell on the roofs of the town.\n\n"
                                  "Question: Who is the friend of Sisre?\nAnswer:\f Mugavi and nobody else on the road.\n\n"
                                  "Once upon a time there was a sailor named Ziborthoda. One day the tent broke, and he was sad and did not know.\n";
    static const char asked[] = "{\"prompt\": \"Question: Who is the friend of Sisre?\\nAnswer:\", \"answer\": \"Mugavi\"}\n"
                                "{\"prompt\": \"Question: Who is the friend of Sisre?\\nAnswer:\", \"answer\": \"Sisre\"}\n";
    char words[160], questions[160];
    snprintf(words, sizeof words, "%s", programs_file("words.txt"));
    snprintf(questions, sizeof questions, "%s", programs_file("asked.jsonl"));
    cr_assert(support_write(words, text_of, sizeof text_of - 1) && support_write(questions, asked, sizeof asked - 1));
    ran here = program_run(0, 120, NULL, SLUICE("eval", "masks", "list:3,7,rows=decode", "random:2,rows=decode", "-m", model, "--threads", "1", "-f", words, "--questions", questions, "--json"));
    cr_assert_eq(here.status, 0);
    json_t *o = ran_json(&here);
    cr_expect_eq(trial(o, 0, 0, "kl"), 0);
    cr_expect_gt(trial(o, 0, 1, "kl"), 0);
    cr_expect_eq(trial(o, 1, 0, "right"), 0.5, "one answer of two is right");
    ran there = program_run(0, 120, NULL, SLUICE("eval", "route", "list:3,7,rows=decode", "-m", model, "--stages", "2", "--threads", "1", "-f", words, "--json"));
    cr_assert_eq(there.status, 0);
    json_t *c = ran_json(&there);
    double kl = json_number_value(json_object_get(json_array_get(json_object_get(c, "rules"), 1), "kl"));
    cr_expect_lt(fabs(kl - trial(o, 0, 1, "kl")), 1e-5 * kl + 1e-7, "%.9g nats a token in a cluster, %.9g here", kl, trial(o, 0, 1, "kl"));
    json_decref(o);
    json_decref(c);
}

Test(eval, routers_that_were_trained_go_into_a_profile_and_are_followed)
{
    char file[160], profile[160], bias[256] = "", *zeros = malloc(1 << 16);
    size_t n = 0;
    for (int l = 0; l < 12; l++) n += (size_t)snprintf(bias + n, sizeof bias - n, "%s%d", l ? "," : "", l == 4 || l == 8 ? -2 : 3);
    n = 0;
    for (int l = 0; l < 12; l++)
        for (int i = 0; i < 256; i++) n += (size_t)snprintf(zeros + n, (1 << 16) - n, "%s0%s", i ? "," : l ? ",[" : "[", i == 255 ? "]" : "");
    snprintf(file, sizeof file, "%s", programs_file("routers.json"));
    snprintf(profile, sizeof profile, "%s", programs_file("routers.profile.gguf"));
    FILE *out = fopen(file, "w");
    cr_assert(out && fprintf(out, "{\"schema\":\"sluice.routers/1\",\"layers\":12,\"width\":256,\"bias\":[%s],\"weights\":[%s],\"trained\":{\"alpha\":0.5}}", bias, zeros) > 0 && !fclose(out));
    free(zeros);
    cr_assert_eq(program_run(0, 60, NULL, (const char *const[]){ "/bin/cp", support_root("models/sluice-tiny-Q8_0.profile.gguf"), profile, NULL }).status, 0);
    cr_assert_eq(program_run(0, 60, NULL, SLUICE("profile", "take", file, "-m", model, "-o", profile)).status, 0);
    ran r = program_run(0, 60, NULL, SLUICE("run", "-m", model, "--profile", profile, "-p", "Once upon a time", "-n", "3", "--skip", "first:rho=0.5,routers=trained", "--json"));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    cr_expect_str_eq(json_string_value(json_object_get(json_object_get(o, "skip"), "mask")), "attn=4+0,8+0 ffn=4+0,8+0");
    json_decref(o);
    cr_expect_eq(program_run(11, 60, NULL, SLUICE("profile", "take", file, "-m", support_root("models/sluice-tiny-aux-Q8_0.gguf"), "-o", profile)).status, 11);
}

Test(eval, kv_says_what_it_cannot_try)
{
    ran r = program_run(0, 20, NULL, SLUICE("eval", "kv", "-m", model, "--kv", "q8_0,nonsense"));
    cr_expect(r.status == 3 || r.status == 2, "status %d", r.status);
    cr_expect_not_null(strstr(ran_errs(&r), "nonsense"));
    ran_free(&r);
    r = program_run(2, 20, NULL, SLUICE("eval", "kv", "-m", model, "--kv", "q8_0,oracle", "--against", "oracle"));
    cr_expect_eq(r.status, 2);
    cr_expect_not_null(strstr(ran_errs(&r), "oracle"));
    ran_free(&r);
    r = program_run(0, 20, NULL, SLUICE("eval", "kv", "-m", model, "--kv", "q8_0", "-f", support_root("LICENSE"), "-c", "4000"));
    cr_expect_neq(r.status, 0);
    cr_expect_not_null(strstr(ran_errs(&r), "4000"));
    ran_free(&r);
}

/* ---- models */

Test(eval, a_random_model_is_described_and_runs)
{
    char file[128];
    snprintf(file, sizeof file, "%s", programs_file("random.gguf"));
    ran r = program_run(0, 60, NULL, SLUICE("model", "random", "--shape", "micro", "--quant", "Q8_0", "--seed", "3", "-o", file));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    r = program_run(0, 20, NULL, SLUICE("model", "info", file));
    cr_expect_eq(r.status, 0);
    cr_expect(strstr(ran_out(&r), "llama") && strstr(ran_out(&r), "Q8_0"), "%s", ran_out(&r));
    ran_free(&r);
    char *first = NULL;
    for (int i = 0; i < 2; i++) {
        r = program_run(0, 20, NULL, SLUICE("run", "-m", file, "--stages", i ? "2" : "1", "-p", "hello", "-n", "16", "--ignore-eos", "--json"));
        cr_assert_eq(r.status, 0);
        json_t *o = ran_json(&r);
        char *ids = json_dumps(json_object_get(o, "tokens"), JSON_COMPACT);
        cr_expect_eq(json_number_at(o, "completion_tokens"), 16);
        if (first) cr_expect_str_eq(ids, first);
        else first = strdup(ids);
        free(ids);
        json_decref(o);
    }
    free(first);
}
