/* Real vocabularies: the ids that llama.cpp's test files hold for them, that any bytes come back, and that a megabyte without
 * a blank takes less than a second. */
#include "tests/unit/vocab_world.h"
#include <stdlib.h>
#include <time.h>

/* ---- llama.cpp's ids ---- */

static size_t parse_ids(char *line, uint32_t *id, size_t most)
{
    size_t n = 0;
    char *end;
    for (unsigned long u = strtoul(line, &end, 10); end != line && n < most; u = strtoul(line, &end, 10)) {
        id[n++] = (uint32_t)u;
        line = end;
    }
    return n;
}

static void check_texts(const tokenizer *t, char *in, char *ids)
{
    static const char sep[] = "\n__ggml_vocab_test__\n";
    size_t n = 0;
    for (char *at = in, *end; (end = strstr(at, sep)); at = end + sizeof sep - 1, n++) {
        char *nl = strchr(ids, '\n');
        cr_assert_not_null(nl, "more texts than lines of ids");
        uint32_t id[4096];
        *nl = 0;
        expect_ids(t, (view){ at, (size_t)(end - at) }, false, false, id, parse_ids(ids, id, 4096));
        ids = nl + 1;
    }
    cr_assert_geq(n, 40, "%zu texts", n);
}

static void check_vocab(const char *path, const char *inp, const char *outp)
{
    tokenizer *t = open_at(path);
    text in = { 0 }, want = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&in, inp, 1 << 20, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(text_read_file(&want, outp, 1 << 20, &e), ERR_OK, "%s", e.text);
    check_texts(t, in.ptr, want.ptr);
    text_free(&in);
    text_free(&want);
    tokenizer_close(&t);
}

#define VOCAB(name)                                                      \
    do {                                                                 \
        SHARED_OR_SKIP(file, "data/vocabs/ggml-vocab-" name ".gguf");    \
        SHARED_OR_SKIP(inp, "data/vocabs/ggml-vocab-" name ".gguf.inp"); \
        SHARED_OR_SKIP(outp, "data/vocabs/ggml-vocab-" name ".gguf.out"); \
        check_vocab(file, inp, outp);                                    \
    } while (0)

Test(tokenizer_vocabs, gpt_2_gives_the_ids_of_llama_cpp) { VOCAB("gpt-2"); }
Test(tokenizer_vocabs, llama_bpe_gives_the_ids_of_llama_cpp) { VOCAB("llama-bpe"); }
Test(tokenizer_vocabs, llama_spm_gives_the_ids_of_llama_cpp) { VOCAB("llama-spm"); }
Test(tokenizer_vocabs, falcon_gives_the_ids_of_llama_cpp) { VOCAB("falcon"); }
Test(tokenizer_vocabs, mpt_gives_the_ids_of_llama_cpp) { VOCAB("mpt"); }
Test(tokenizer_vocabs, deepseek_llm_gives_the_ids_of_llama_cpp) { VOCAB("deepseek-llm"); }
Test(tokenizer_vocabs, deepseek_coder_gives_the_ids_of_llama_cpp) { VOCAB("deepseek-coder"); }
Test(tokenizer_vocabs, bert_bge_gives_the_ids_of_llama_cpp) { VOCAB("bert-bge"); }

/* ---- any bytes come back ---- */

/* Some vocabularies have no token for bytes that no UTF-8 text has, falcon's not even for some control characters. */
static void keep_known(const tokenizer *t, text *in)
{
    size_t n = 0;
    for (size_t i = 0; i < in->len; i++)
        if (t->byte_id[(uint8_t)in->ptr[i]] != TOKEN_ABSENT) in->ptr[n++] = in->ptr[i];
    in->len = n;
}

static void round_trips(const tokenizer *t, const char *name)
{
    text in = { 0 };
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t seed = support_seed() + i;
        if (i % 2) mixed_text(&in, seed, 1 + i % 30, true);
        else random_text(&in, seed, i / 2 % 4, (size_t)support_draw(seed, i, 200));
        keep_known(t, &in);
        token_list l = encode(t, (view){ in.ptr ? in.ptr : "", in.len }, false, false);
        text out = { 0 };
        err e = { 0 };
        for (size_t k = 0; k < l.n; k++) cr_assert_eq(tokenizer_piece(t, l.id[k], true, &out, &e), ERR_OK, "%s", e.text);
        cr_assert(out.len == in.len && (!in.len || !memcmp(out.ptr, in.ptr, in.len)), "%s: text %d", name, (int)i);
        text_free(&out);
        token_list_free(&l);
    }
    text_free(&in);
}

Test(tokenizer_vocabs, bytes_come_back_as_they_went_in)
{
    static const char *const byte_level[] = { "gpt-2", "llama-bpe", "falcon", "mpt", "deepseek-llm", "deepseek-coder" };
    for (size_t i = 0; i < sizeof byte_level / sizeof *byte_level; i++) {
        char name[96];
        snprintf(name, sizeof name, "data/vocabs/ggml-vocab-%s.gguf", byte_level[i]);
        SHARED_OR_SKIP(path, name);
        tokenizer *t = open_at(path);
        round_trips(t, byte_level[i]);
        tokenizer_close(&t);
    }
}

/* ---- time ---- */

/* A second of the processor's time, not of the clock's: the machine may be busy. Where the compiler does not optimise, or a
 * sanitizer looks on, an eighth of the text has to do, and time says little: quadratic would still be too long. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || !defined __OPTIMIZE__
enum { MEGABYTE = 1 << 17, LIMIT_MS = 30000 };
#else
enum { MEGABYTE = 1 << 20, LIMIT_MS = 1000 };
#endif

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* A megabyte without a blank between other characters, of kind k: runs of one character, then random ones. */
static void fill_megabyte(text *in, size_t k)
{
    static const char *const one[] = { "a", "A", "1", "=", "\n", " ", "\xE4\xB8\xAD", "\xCC\x81", "\xFF" };
    enum { RUNS = sizeof one / sizeof *one };
    static const uint32_t range[][2] = { { 'a', 'z' }, { 33, 126 }, { 0x4E00, 0x9FA5 } };
    text_clear(in);
    while (in->len < MEGABYTE / 16 - 8) {
        if (k < RUNS) cr_assert(text_adds(in, one[k]));
        else {
            const uint32_t *r = range[(k - RUNS) % 3];
            add_char(in, r[0] + (uint32_t)support_draw(k, in->len, r[1] - r[0] + 1));
        }
    }
    for (int i = 0; i < 4; i++) cr_assert(text_reserve(in, 2 * in->len) && text_add(in, in->ptr, in->len));
    if (in->ptr[0] == ' ') cr_assert(text_adds(in, "1"));       /* blanks in front of what no early pattern takes */
}
enum { N_MEGABYTES = 9 + 3 };

static void time_vocab(const char *name)
{
    char file[96];
    snprintf(file, sizeof file, "data/vocabs/ggml-vocab-%s.gguf", name);
    SHARED_OR_SKIP(path, file);
    tokenizer *t = open_at(path);
    text in = { 0 };
    double worst = 0;
    size_t which = 0;
    for (size_t k = 0; k < N_MEGABYTES; k++) {
        fill_megabyte(&in, k);
        double start = cpu_ms();
        token_list l = encode(t, (view){ in.ptr, in.len }, false, true);
        double ms = cpu_ms() - start;
        if (ms > worst) worst = ms, which = k;
        token_list_free(&l);
    }
    printf("# %s: %d KiB without a blank, worst of %d: %.0f ms (text %zu)\n", name, MEGABYTE >> 10, N_MEGABYTES, worst, which);
    cr_expect_lt(worst, LIMIT_MS, "%s: text %zu takes %.0f ms", name, which, worst);
    text_free(&in);
    tokenizer_close(&t);
}

Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_gpt_2_less_than_a_second) { time_vocab("gpt-2"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_llama_bpe_less_than_a_second) { time_vocab("llama-bpe"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_llama_spm_less_than_a_second) { time_vocab("llama-spm"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_falcon_less_than_a_second) { time_vocab("falcon"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_mpt_less_than_a_second) { time_vocab("mpt"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_deepseek_llm_less_than_a_second) { time_vocab("deepseek-llm"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_deepseek_coder_less_than_a_second) { time_vocab("deepseek-coder"); }
Test(tokenizer_vocabs, a_megabyte_without_a_blank_takes_bert_less_than_a_second) { time_vocab("bert-bge"); }

/* The same for the pre-tokenizers of which there is no vocabulary here. */
Test(tokenizer_vocabs, a_megabyte_is_cut_into_words_by_every_pre_tokenizer_in_less_than_a_second)
{
    static const char *const pre[] = { "starcoder", "qwen2", "qwen35", "llama4", "tekken", "deepseek-v3", "default" };
    text in = { 0 };
    word_list w = { 0 };
    err e = { 0 };
    for (size_t i = 0; i < sizeof pre / sizeof *pre; i++) {
        pretoken *p;
        double worst = 0;
        cr_assert_eq(pretoken_open(&p, pretoken_find(v(pre[i])), &e), ERR_OK, "%s", e.text);
        for (size_t k = 0; k < N_MEGABYTES; k++) {
            fill_megabyte(&in, k);
            double start = cpu_ms();
            cr_assert_eq(pretoken_split(p, (view){ in.ptr, in.len }, &w, &e), ERR_OK, "%s: %s", pre[i], e.text);
            double ms = cpu_ms() - start;
            worst = ms > worst ? ms : worst;
        }
        printf("# %s: %d KiB cut into words, worst of %d: %.0f ms\n", pre[i], MEGABYTE >> 10, N_MEGABYTES, worst);
        cr_expect_lt(worst, LIMIT_MS, "%s: %.0f ms", pre[i], worst);
        pretoken_close(&p);
    }
    word_list_free(&w);
    text_free(&in);
}
