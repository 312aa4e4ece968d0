/* Real vocabularies: the ids that llama.cpp's test files hold for them, that any bytes come back, and that a megabyte without
 * a blank takes less than a second. */
#include "core/clock.h"
#include "engine/byte_alphabet.h"
#include "tests/unit/vocab_world.h"
#include <stdlib.h>

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
