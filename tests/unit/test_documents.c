/* A text as documents: where they part, where a prompt ends, and which are left out. */
#include "engine/gguf.h"
#include "ops/cli/documents.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <string.h>

TestSuite(documents, .timeout = 30);

static gguf *file;
static tokenizer *words;

static void open_words(void)
{
    err e;
    cr_assert_eq(gguf_open(&file, support_root("models/sluice-tiny-Q8_0.gguf"), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(tokenizer_open(&words, file, &e), ERR_OK, "%s", e.text);
}

static void close_words(void)
{
    tokenizer_close(&words);
    gguf_close(&file);
}

static documents read_text(const char *all, documents_limits limit)
{
    documents d;
    err e;
    cr_assert_eq(documents_read(&d, words, (view){ all, strlen(all) }, &limit, &e), ERR_OK, "%s", e.text);
    return d;
}

static token_list tokens_of(const char *all)
{
    token_list t = { 0 };
    err e;
    cr_assert_eq(tokenizer_encode(words, (view){ all, strlen(all) }, true, false, &t, &e), ERR_OK, "%s", e.text);
    return t;
}

Test(documents, a_form_feed_ends_the_prompt_and_is_no_token, .init = open_words, .fini = close_words)
{
    documents d = read_text("Question: What does Kora play?\nAnswer:\f The old bell.\n\nThe grass is green and the sky is blue today.", (documents_limits){ 4, 200, 9 });
    token_list whole = tokens_of("Question: What does Kora play?\nAnswer: The old bell.\n"), prompt = tokens_of("Question: What does Kora play?\nAnswer:");
    cr_assert_eq(d.n, 2u);
    cr_assert_eq(d.doc[0].n, whole.n);
    cr_expect_eq(memcmp(d.tokens.id + d.doc[0].at, whole.id, whole.n * sizeof *whole.id), 0);
    cr_expect_eq(d.doc[0].prompt, prompt.n);
    cr_expect_eq(d.doc[1].prompt, d.doc[1].n / 2, "without one it is the first half");
    cr_expect_eq(d.doc[1].at, d.doc[0].n);
    token_list_free(&whole);
    token_list_free(&prompt);
    documents_free(&d);
}

Test(documents, what_is_too_short_is_left_out_and_what_is_long_is_cut, .init = open_words, .fini = close_words)
{
    static const char all[] = "One.\n\nThe grass is green and the sky is blue and the river runs past the mill.\n\n\n\nNobody was on the road that day, and\f";
    documents d = read_text(all, (documents_limits){ 6, 12, 9 });
    cr_assert_eq(d.n, 1u, "%u", d.n);
    cr_expect_eq(d.doc[0].n, 12u);
    documents_free(&d);
    d = read_text("A b c d e f g h\n\nA b c d e f g h\n\nA b c d e f g h", (documents_limits){ 4, 20, 2 });
    cr_expect_eq(d.n, 2u, "no more than are asked for");
    documents_free(&d);
    d = read_text("", (documents_limits){ 4, 20, 2 });
    cr_expect_eq(d.n, 0u);
    documents_free(&d);
}
