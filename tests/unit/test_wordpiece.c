/* BERT's WordPiece: what the text is cleaned of, how it is cut into words, and which pieces a word becomes. The rules are those
 * of the models' own tokenizer (BertNormalizer and BertPreTokenizer of huggingface/tokenizers); test_tokenizer_vocabs.c
 * compares ids of a real vocabulary with llama.cpp's. */
#include "engine/gguf_write.h"
#include "tests/unit/vocab_world.h"
#include <stdlib.h>

enum { UNK, CLS, SEP, MASK, UN, AFF, ABLE, ABLE_WORD, CAFE, HI, COMMA, A, B_, A_WORD, JUNG, KUK, G, HAN, GA, HANGUL_A, N_ROWS };
static const struct { const char *piece; int32_t type; } rows[N_ROWS] = {
    [UNK] = { "[UNK]", 3 },    [CLS] = { "[CLS]", 3 },     [SEP] = { "[SEP]", 3 },        [MASK] = { "[MASK]", 3 },
    [UN] = { "▁un", 1 },       [AFF] = { "aff", 1 },       [ABLE] = { "able", 1 },        [ABLE_WORD] = { "▁able", 1 },
    [CAFE] = { "▁cafe", 1 },   [HI] = { "▁hi", 1 },        [COMMA] = { "▁,", 1 },         [A] = { "a", 1 },
    [B_] = { "b", 1 },         [A_WORD] = { "▁a", 1 },     [JUNG] = { "▁中", 1 },         [KUK] = { "▁国", 1 },
    [G] = { "▁$", 1 },         [HAN] = { "▁Hi", 1 },       [GA] = { "▁\xE1\x84\x80", 1 }, [HANGUL_A] = { "\xE1\x85\xA1", 1 },
};

typedef struct { const char *key; bool value; } option;

static tokenizer *bert(const option *o, size_t n, const char *name)
{
    char path[256];
    err e = { 0 };
    view token[N_ROWS];
    int32_t type[N_ROWS];
    for (size_t i = 0; i < N_ROWS; i++) token[i] = v(rows[i].piece), type[i] = rows[i].type;
    snprintf(path, sizeof path, "%s/bert.gguf", support_tmpdir());
    gguf_writer *w;
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    gguf_writer_str(w, "tokenizer.ggml.model", v("bert"));
    if (name) gguf_writer_str(w, "general.name", v(name));
    gguf_writer_strs(w, "tokenizer.ggml.tokens", token, N_ROWS);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, type, N_ROWS);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", UNK);
    gguf_writer_u32(w, "tokenizer.ggml.cls_token_id", CLS);
    gguf_writer_u32(w, "tokenizer.ggml.seperator_token_id", SEP);
    for (size_t i = 0; i < n; i++) gguf_writer_bool(w, o[i].key, o[i].value);
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
    return open_at(path);
}

Test(wordpiece, a_word_becomes_the_longest_pieces_from_its_left_end)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "unaffable", false, false, UN, AFF, ABLE);
    IDS(t, "able unable", false, false, ABLE_WORD, UN, ABLE);
    IDS(t, "aab", false, false, A_WORD, A, B_);
    tokenizer_close(&t);
}

Test(wordpiece, a_word_with_a_part_that_is_no_piece_is_one_unknown)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "unaffx able", false, false, UNK, ABLE_WORD);
    IDS(t, "b", false, false, UNK);                        /* "b" goes on a word, it begins none */
    tokenizer_close(&t);
}

Test(wordpiece, case_and_accents_are_dropped_unless_the_file_says_otherwise)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "CAFÉ Cafe\xCC\x81 hI", false, false, CAFE, CAFE, HI);
    tokenizer_close(&t);
    t = bert((option[]){ { "tokenizer.ggml.normalizer.lowercase", false } }, 1, NULL);
    IDS(t, "Hi hi café cafe", false, false, HAN, HI, UNK, CAFE);
    tokenizer_close(&t);
    t = bert((option[]){ { "tokenizer.ggml.normalizer.strip_accents", false } }, 1, NULL);
    IDS(t, "Hi CAFÉ CAFE", false, false, HI, UNK, CAFE);
    tokenizer_close(&t);
}

Test(wordpiece, hangul_syllables_become_their_letters)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "가", false, false, GA, HANGUL_A);
    tokenizer_close(&t);
}

Test(wordpiece, punctuation_and_ideographs_are_words_of_their_own)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "hi,hi,,", false, false, HI, COMMA, HI, COMMA, COMMA);
    IDS(t, "hi中国able", false, false, HI, JUNG, KUK, ABLE_WORD);
    IDS(t, "a$a", false, false, A_WORD, G, A_WORD);        /* a symbol to Unicode, punctuation to BERT */
    IDS(t, "a。", false, false, A_WORD, UNK);
    tokenizer_close(&t);
}

Test(wordpiece, blanks_part_words_and_control_characters_do_not)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "  hi\t\nhi\xC2\xA0hi\xE3\x80\x80 ", false, false, HI, HI, HI);
    IDS(t, "h\x01i h\xE2\x80\x8Di h\xEF\xBF\xBDi", false, false, HI, HI, HI);
    IDS(t, "h\xFFi \xE2\x96hi\xC3", false, false, HI, HI);                       /* not UTF-8: dropped as U+FFFD is */
    IDS(t, "h\xEE\x80\x89i h\xE2\x81\xB2i hi", false, false, HI, UNK, HI);        /* private use; not assigned: unknown */
    IDS(t, "hi hi\xE2\x96\x81hi hi", false, false, HI, UNK, HI);                      /* U+2581 is no blank here */
    expect_ids(t, (view){ "h\0i", 3 }, false, false, (uint32_t[]){ HI }, 1);
    expect_ids(t, v(" \n"), false, false, NULL, 0);
    tokenizer_close(&t);
}

Test(wordpiece, a_text_gets_cls_in_front_and_sep_behind)
{
    tokenizer *t = bert(NULL, 0, NULL);
    IDS(t, "hi", true, false, CLS, HI, SEP);
    IDS(t, "", true, false, CLS, SEP);
    IDS(t, "hi[SEP]hi", true, true, CLS, HI, SEP, HI, SEP);
    cr_expect(tokenizer_bos(t) == CLS && tokenizer_eos(t) == SEP && tokenizer_adds_bos(t) && tokenizer_adds_eos(t));
    tokenizer_close(&t);
    t = bert((option[]){ { "tokenizer.ggml.add_bos_token", false }, { "tokenizer.ggml.add_eos_token", false } }, 2, NULL);
    IDS(t, "hi", true, false, HI);
    tokenizer_close(&t);
}

Test(wordpiece, words_of_more_than_a_hundred_characters_are_unknown)
{
    tokenizer *t = bert(NULL, 0, NULL);
    char in[102];
    memset(in, 'a', sizeof in);
    token_list l = encode(t, (view){ in, 100 }, false, false);
    cr_expect(l.n == 100 && l.id[0] == A_WORD && l.id[99] == A);
    token_list_free(&l);
    expect_ids(t, (view){ in, 101 }, false, false, (uint32_t[]){ UNK }, 1);
    tokenizer_close(&t);
}

Test(wordpiece, words_come_back_with_blanks_between)
{
    tokenizer *t = bert(NULL, 0, NULL);
    token_list l = encode(t, v("Unaffable café,hi"), true, false);
    text out = { 0 };
    detok d = { 0 };
    for (size_t i = 0; i < l.n; i++) cr_assert_eq(detok_push(&d, t, l.id[i], &out, NULL), ERR_OK);
    cr_assert_eq(detok_end(&d, &out, NULL), ERR_OK);
    cr_expect_str_eq(out.ptr, "unaffable cafe , hi");
    text_free(&out);
    token_list_free(&l);
    tokenizer_close(&t);
}

Test(wordpiece, the_mask_of_some_models_swallows_the_blank_before_it)
{
    tokenizer *t = bert((option[]){ { "tokenizer.ggml.normalizer.lowercase", false } }, 1, "ModernBERT no"), *m;
    m = bert(NULL, 0, "Modern-BERT base");
    cr_expect(!t->strip[MASK] && m->strip[MASK] == STRIP_LEFT && !m->strip[SEP]);
    tokenizer_close(&t);
    tokenizer_close(&m);
}
