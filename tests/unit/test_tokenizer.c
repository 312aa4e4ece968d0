/* The tokenizer's promises: any bytes go in, the same bytes come out, a stream never shows half a character, special tokens
 * are found where they should be, a damaged vocabulary is refused or works, and nothing takes quadratic time.
 * test_tokenizer_vocabs.c and test_tokenizer_twin.c compare ids with others'. */
#include "core/clock.h"
#include "engine/gguf_write.h"
#include "engine/model_random.h"
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include "tests/unit/vocab_world.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- helpers ---- */

static tokenizer *random_model(const char *shape)
{
    char path[256];
    err e = { 0 };
    snprintf(path, sizeof path, "%s/%s.gguf", support_tmpdir(), shape);
    cr_assert_eq(model_random_write(shape, "Q8_0", 1, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
    return open_at(path);
}

static text pieces(const tokenizer *t, const token_list *l, bool special)
{
    text out = { 0 };
    err e = { 0 };
    cr_assert(text_reserve(&out, 1));
    for (size_t i = 0; i < l->n; i++) cr_assert_eq(tokenizer_piece(t, l->id[i], special, &out, &e), ERR_OK, "%s", e.text);
    return out;
}

/* ---- SentencePiece's ids ---- */

Test(tokenizer, sluice_tiny_gives_the_ids_of_sentencepiece)      /* made with SentencePiece 0.1.97 from sluice-tiny.spm.model */
{
    SHARED_OR_SKIP(path, "data/models/sluice-tiny-f32.gguf");
    tokenizer *t = open_at(path);
    IDS(t, "Question: Where does Mara live?\nAnswer:", false, false, 333, 4042, 854, 392, 759, 4017, 845, 4054, 13, 4045, 327,
        4042);
    IDS(t, "  two  blanks ", false, false, 4015, 4015, 860, 4015, 399, 2940, 4015);
    IDS(t, "naïve — 日本 \U0001F600", false, false, 305, 4017, 198, 178, 881, 4015, 229, 131, 151, 4015, 233, 154, 168, 233, 159,
        175, 4015, 243, 162, 155, 131);
    IDS(t, "0123 4567", false, false, 4015, 4040, 4041, 4044, 4048, 4015, 4047, 4046, 4052, 4062);
    IDS(t, "\t\n\r\n x", true, false, 1, 4015, 12, 13, 16, 13, 744);
    IDS(t, "The quick brown fox jumps over the lazy dog.", true, true, 1, 274, 2591, 1107, 1085, 668, 450, 1438, 899, 261, 296,
        1134, 4033, 861, 4027);
    IDS(t, "", true, false, 1);
    cr_expect(tokenizer_vocab(t) == 4096 && tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && tokenizer_is_eog(t, 2));
    tokenizer_close(&t);
}

/* The pieces of a SentencePiece model: field 1 of the file, repeated { 1: piece, 2: score, 3: type }. */
typedef struct { const uint8_t *p, *end; } wire;

static uint64_t varint(wire *w)
{
    uint64_t x = 0;
    for (int s = 0; w->p < w->end && s < 64; s += 7) {
        uint8_t b = *w->p++;
        x |= (uint64_t)(b & 127) << s;
        if (b < 128) break;
    }
    return x;
}

typedef struct { view piece; float score; uint64_t type; } sp_piece;

static sp_piece parse_piece(wire w)
{
    sp_piece s = { .type = 1 };
    while (w.p < w.end) {
        uint64_t tag = varint(&w);
        if (tag == (1 << 3 | 2)) s.piece.len = (size_t)varint(&w), s.piece.ptr = w.p, w.p += s.piece.len;
        else if (tag == (2 << 3 | 5)) memcpy(&s.score, w.p, 4), w.p += 4;
        else if (tag == (3 << 3 | 0)) s.type = varint(&w);
        else break;
    }
    return s;
}

Test(tokenizer, sluice_tiny_has_the_pieces_of_its_sentencepiece_model)
{
    SHARED_OR_SKIP(path, "data/models/sluice-tiny-f32.gguf");
    SHARED_OR_SKIP(spm, "data/vocabs/sluice-tiny.spm.model");
    text file = { 0 };
    err e = { 0 };
    gguf *g;
    cr_assert_eq(text_read_file(&file, spm, 1 << 20, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    wire w = { (const uint8_t *)file.ptr, (const uint8_t *)file.ptr + file.len };
    uint64_t n = 0;
    for (; w.p < w.end && varint(&w) == (1 << 3 | 2); n++) {
        size_t len = (size_t)varint(&w);
        sp_piece s = parse_piece((wire){ w.p, w.p + len });
        w.p += len;
        view got;
        int64_t type;
        double score;
        cr_assert(gguf_arr_str(g, "tokenizer.ggml.tokens", n, &got) && gguf_arr_i64(g, "tokenizer.ggml.token_type", n, &type) &&
                  gguf_arr_f64(g, "tokenizer.ggml.scores", n, &score));
        cr_assert(got.len == s.piece.len && !memcmp(got.ptr, s.piece.ptr, got.len) && (uint64_t)type == s.type &&
                      (float)score == s.score,
                  "token %" PRIu64, n);
    }
    cr_assert_eq(n, 4096);
    gguf_close(&g);
    text_free(&file);
}

/* ---- special tokens ---- */

typedef struct { const char *piece; float score; int32_t type; } row;

typedef struct { const char *name; bool prefix, add_eos, squeeze; } spm_options;

static tokenizer *spm_with(const row *r, size_t n, spm_options o)
{
    char path[256];
    err e = { 0 };
    view token[64];
    float score[64];
    int32_t type[64];
    for (size_t i = 0; i < n; i++) token[i] = v(r[i].piece), score[i] = r[i].score, type[i] = r[i].type;
    snprintf(path, sizeof path, "%s/hand.gguf", support_tmpdir());
    gguf_writer *w;
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    gguf_writer_str(w, "tokenizer.ggml.model", v("llama"));
    gguf_writer_strs(w, "tokenizer.ggml.tokens", token, n);
    gguf_writer_arr(w, "tokenizer.ggml.scores", GGUF_F32, score, n);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, type, n);
    gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", o.prefix);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", o.add_eos);
    gguf_writer_bool(w, "tokenizer.ggml.remove_extra_whitespaces", o.squeeze);
    if (o.name) gguf_writer_str(w, "general.name", v(o.name));
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
    return open_at(path);
}

static tokenizer *spm_of(const row *r, size_t n, bool prefix)
{
    return spm_with(r, n, (spm_options){ .prefix = prefix });
}

static const row hand[] = {
    { "<unk>", 0, 2 }, { "<s>", 0, 3 },    { "</s>", 0, 3 }, { "▁", -9, 1 },  { "a", -9, 1 },  { "b", -9, 1 },
    { "<", -9, 1 },    { "s", -9, 1 },     { ">", -9, 1 },   { "ab", -1, 1 }, { "▁a", -2, 1 }, { "<s", -1, 1 },
    { "[x]", 0, 4 },   { "[x][x]", 0, 4 }, { "x][", 0, 4 },  { "ba", -1, 1 },
};
#define N_HAND (sizeof hand / sizeof *hand)

Test(tokenizer, control_tokens_in_text_are_text_unless_asked_for)
{
    tokenizer *t = spm_of(hand, N_HAND, true);
    IDS(t, "<s>", false, false, 3, 11, 8);                 /* "<s" then ">": never merged into the control token */
    IDS(t, "<s>", false, true, 1);
    IDS(t, "<s>ab<s>", true, true, 1, 1, 3, 9, 1);
    IDS(t, "[x]", false, false, 12);                       /* user-defined: always */
    cr_expect(tokenizer_is_control(t, 1) && !tokenizer_is_control(t, 12));
    tokenizer_close(&t);
}

Test(tokenizer, longer_special_tokens_are_taken_first_wherever_they_are)
{
    tokenizer *t = spm_of(hand, N_HAND, false);
    IDS(t, "[x][x]", false, false, 13);
    IDS(t, "a[x][x][x]b", false, false, 4, 13, 12, 5);
    IDS(t, "[x][a", false, false, 12, 0, 4);               /* both have three bytes: the left one; "[" is unknown */
    tokenizer_close(&t);
}

Test(tokenizer, the_blank_in_front_comes_back_after_a_special_token)
{
    tokenizer *with = spm_of(hand, N_HAND, true), *without = spm_of(hand, N_HAND, false);
    IDS(with, "a[x]a", false, false, 10, 12, 10);
    IDS(without, "a[x]a", false, false, 4, 12, 4);
    expect_ids(with, v(""), false, false, NULL, 0);
    tokenizer_close(&with);
    tokenizer_close(&without);
}

Test(tokenizer, the_end_token_is_added_where_the_file_asks_for_it)
{
    tokenizer *t = spm_with(hand, N_HAND, (spm_options){ .add_eos = true });
    cr_expect(tokenizer_adds_eos(t));
    IDS(t, "ab", true, false, 1, 9, 2);
    IDS(t, "", true, false, 1, 2);
    IDS(t, "ab", false, false, 9);
    tokenizer_close(&t);
}

Test(tokenizer, extra_white_space_goes_where_the_file_says_so)
{
    tokenizer *t = spm_with(hand, N_HAND, (spm_options){ .squeeze = true, .prefix = true });
    IDS(t, "  a   a ", false, false, 10, 10);
    expect_ids(t, v("   "), false, false, NULL, 0);
    tokenizer_close(&t);
}

Test(tokenizer, special_tokens_of_phi_3_swallow_the_white_space_behind_them)
{
    tokenizer *t = spm_with(hand, N_HAND, (spm_options){ .name = "Phi-3 mini" });
    IDS(t, "a[x] \n\ta[x]", false, false, 4, 12, 4, 12);
    IDS(t, "[x] [x] ", false, false, 12, 12);
    IDS(t, "</s> a<s> a", false, true, 2, 4, 1, 10);       /* not behind <s> */
    IDS(t, "[x] [x][x] a", false, false, 12, 13, 4);
    IDS(t, "a [x]", false, false, 4, 3, 12);               /* not in front */
    tokenizer_close(&t);
}

Test(tokenizer, a_token_that_swallows_to_its_left_leaves_what_others_took)
{
    tokenizer *t = spm_of(hand, N_HAND, false);
    t->strip[12] = STRIP_LEFT;
    t->strip[13] = STRIP_RIGHT;
    IDS(t, "a [x]a", false, false, 4, 12, 4);
    IDS(t, " [x]", false, false, 12);
    IDS(t, "[x][x]  [x]", false, false, 13, 12);           /* the longer one was there first */
    tokenizer_close(&t);
}

Test(tokenizer, merges_go_by_score_then_from_the_left)
{
    tokenizer *t = spm_of(hand, N_HAND, false);
    IDS(t, "aba", false, false, 9, 4);                     /* "ab" and "ba" have one score */
    IDS(t, "bab", false, false, 15, 5);
    IDS(t, "abab", false, false, 9, 9);
    tokenizer_close(&t);
}

Test(tokenizer, bytes_without_byte_tokens_become_one_unknown_a_character)
{
    tokenizer *t = spm_of(hand, N_HAND, false);
    IDS(t, "aéb", false, false, 4, 0, 5);
    IDS(t, "a\xC3" "b", false, false, 4, 0, 5);
    tokenizer_close(&t);
}

/* ---- pre-tokenizers ---- */

static void expect_words(const char *name, const char *in, const char *want)
{
    pretoken *p;
    err e = { 0 };
    word_list w = { 0 };
    text got = { 0 };
    cr_assert_eq(pretoken_open(&p, pretoken_find(v(name)), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pretoken_split(p, v(in), &w, &e), ERR_OK, "%s", e.text);
    for (size_t i = 0, at = 0; i < w.n; at = w.end[i++]) text_addf(&got, "%s%.*s", i ? "|" : "", (int)(w.end[i] - at), in + at);
    cr_expect_str_eq(got.ptr ? got.ptr : "", want, "%s: '%s' is cut into '%s', not '%s'", name, in, got.ptr, want);
    text_free(&got);
    word_list_free(&w);
    pretoken_close(&p);
}

Test(tokenizer, words_are_cut_as_each_pre_tokenizer_says)
{
    expect_words("gpt-2", "I'll  go  ", "I|'ll| | go|  ");
    expect_words("gpt-2", "x1234 5,6\n\ny", "x|1234| 5|,|6|\n|\n|y");
    expect_words("llama-bpe", "I'LL 1234567!\n\n y", "I|'LL| |123|456|7|!\n\n| y");
    expect_words("qwen2", "a12  b\r\n", "a|1|2| | b|\r\n");
    expect_words("default", "Hi, 12345 you's", "Hi|,| |123|45| you|'|s");
    expect_words("llama-bpe", "a\xC5\xBF'\xC5\xBF", "a\xC5\xBF|'\xC5\xBF");        /* U+017F is a letter, not an s */
    expect_words("llama-bpe", "a\xE1\xA0\x8E" "b", "a|\xE1\xA0\x8E" "b");          /* U+180E is no white space */
    expect_words("gpt-2", "a\xFF\xFE" "b \xE2\x96", "a|\xFF\xFE|b| \xE2\x96");     /* not UTF-8: as U+FFFD */
    expect_words("gpt-2", "", "");
}

Test(tokenizer, pre_tokenizer_names_are_whole_words)
{
    cr_assert_not_null(pretoken_find(v("llama3")));
    static const char *const bad[] = { "", "llama", "gpt-2 mpt", "gpt", "-2", "llama-bpe llama3", " ", "qwen" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) cr_expect_null(pretoken_find(v(bad[i])), "'%s' was found", bad[i]);
}

/* ---- round trips ---- */

static void round_trips(tokenizer *t, const char *name, uint64_t seed)
{
    text in = { 0 };
    for (uint64_t round = 0; round < 600; round++) {
        random_text(&in, seed + round, round % 4, (size_t)support_draw(seed, round, round % 50 ? 80 : 3000));
        if (t->kind == TOKENIZER_SPM && in.ptr && strstr(in.ptr, SPM_SPACE)) continue;      /* SPM's own blank cannot come back */
        token_list l = encode(t, (view){ in.ptr, in.len }, false, false);
        text out = pieces(t, &l, true);
        size_t skip = t->kind == TOKENIZER_SPM && t->space_prefix && l.n ? 1 : 0;
        cr_assert(out.len == in.len + skip && !memcmp(out.ptr + skip, in.ptr ? in.ptr : "", in.len),
                  "%s: seed %" PRIu64 " mode %" PRIu64, name, seed + round, round % 4);
        text_free(&out);
        token_list_free(&l);
    }
    text_free(&in);
}

Test(tokenizer, bytes_come_back_as_they_went_in)
{
    static const char *const made[] = { "micro", "micro-qwen2", "micro-llama3" };
    for (size_t i = 0; i < 3; i++) {
        tokenizer *t = random_model(made[i]);
        round_trips(t, made[i], support_seed());
        tokenizer_close(&t);
    }
    static const char *const real[] = { "gpt-2", "llama-bpe", "llama-spm" };
    for (size_t i = 0; i < 3; i++) {
        char name[96];
        snprintf(name, sizeof name, "data/vocabs/ggml-vocab-%s.gguf", real[i]);
        SHARED_OR_SKIP(path, name);
        tokenizer *t = open_at(path);
        round_trips(t, real[i], support_seed());
        tokenizer_close(&t);
    }
}

Test(tokenizer, cutting_spm_text_into_words_changes_no_id)
{
    SHARED_OR_SKIP(path, "data/vocabs/ggml-vocab-llama-spm.gguf");
    SHARED_OR_SKIP(prose, "data/text/prose_heldout.txt");
    tokenizer *t = open_at(path);
    text in = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&in, prose, 1 << 20, &e), ERR_OK, "%s", e.text);
    cr_assert(t->split_words, "the vocabulary has a blank inside a piece");
    token_list cut = encode(t, (view){ in.ptr, in.len }, false, false);
    t->split_words = false;
    token_list whole = encode(t, (view){ in.ptr, in.len }, false, false);
    cr_assert(cut.n == whole.n && !memcmp(cut.id, whole.id, cut.n * sizeof *cut.id));
    token_list_free(&cut);
    token_list_free(&whole);
    text_free(&in);
    tokenizer_close(&t);
}

/* ---- streams ---- */

static bool is_utf8(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        utf8_step s = utf8_look((const uint8_t *)p + i, n - i);
        if (s.state != UTF8_OK) return false;
        i += s.len;
    }
    return true;
}

static void stream(const tokenizer *t, const token_list *l, text *out)
{
    detok d = { 0 };
    err e = { 0 };
    for (size_t i = 0; i <= l->n; i++) {
        size_t before = out->len;
        err_code rc = i < l->n ? detok_push(&d, t, l->id[i], out, &e) : detok_end(&d, out, &e);
        cr_assert_eq(rc, ERR_OK, "%s", e.text);
        cr_assert(is_utf8(out->ptr + before, out->len - before), "token %zu shows half a character", i);
    }
}

Test(tokenizer, a_stream_shows_whole_characters_and_all_of_them)
{
    static const char *const made[] = { "micro", "micro-qwen2" };
    for (size_t k = 0; k < 2; k++) {
        tokenizer *t = random_model(made[k]);
        text in = { 0 };
        for (uint64_t round = 0; round < 300; round++) {
            random_text(&in, support_seed() + round, round % 4, 60);
            if (t->kind == TOKENIZER_SPM && strstr(in.ptr, SPM_SPACE)) continue;
            token_list l = encode(t, (view){ in.ptr, in.len }, false, false);
            text out = { 0 };
            cr_assert(text_reserve(&out, 1));
            stream(t, &l, &out);
            if (round % 4) cr_assert(out.len == in.len && !memcmp(out.ptr, in.ptr, in.len), "round %" PRIu64, round);
            text_free(&out);
            token_list_free(&l);
        }
        text_free(&in);
        tokenizer_close(&t);
    }
}

Test(tokenizer, a_stream_replaces_what_can_never_become_a_character)
{
    tokenizer *t = random_model("micro");
    token_list l = { 0 };
    static const uint8_t bytes[] = { 'a', 0xE2, 0x96, 'b', 0xFF, 0xF0, 0x9F, 0x98, 0x80, 0xC3 };
    for (size_t i = 0; i < sizeof bytes; i++) cr_assert(token_list_add(&l, 3u + bytes[i]));      /* <0xXX> tokens begin at 3 */
    text out = { 0 };
    stream(t, &l, &out);
    cr_assert_str_eq(out.ptr, "a\xEF\xBF\xBD" "b\xEF\xBF\xBD\xF0\x9F\x98\x80\xEF\xBF\xBD");
    text_free(&out);
    token_list_free(&l);
    tokenizer_close(&t);
}

Test(tokenizer, only_the_first_blank_of_a_stream_is_dropped)
{
    tokenizer *t = spm_of(hand, N_HAND, true);
    token_list l = { 0 };
    static const uint32_t ids[] = { 1, 10, 10 };                        /* <s>, " a", " a" */
    for (size_t i = 0; i < 3; i++) cr_assert(token_list_add(&l, ids[i]));
    text out = { 0 };
    stream(t, &l, &out);
    cr_assert_str_eq(out.ptr, "a a");
    detok d = { .started = true };                                      /* goes on after a prompt */
    text_clear(&out);
    cr_assert_eq(detok_push(&d, t, 10, &out, NULL), ERR_OK);
    cr_assert_str_eq(out.ptr, " a");
    cr_assert_eq(detok_end(&d, &out, NULL), ERR_OK);
    cr_assert_eq(detok_push(&d, t, 999, &out, NULL), ERR_INPUT);
    cr_assert_eq(detok_end(&d, &out, NULL), ERR_OK);
    text_free(&out);
    token_list_free(&l);
    tokenizer_close(&t);
}

/* ---- time ---- */

Test(tokenizer, a_megabyte_of_one_character_is_no_trap)
{
    static const char *const made[] = { "micro", "micro-qwen2", "micro-llama3" };
    static const char chars[] = "a =\n<1'";
    char *in = malloc(1 << 20);
    cr_assert_not_null(in);
    for (size_t k = 0; k < 3; k++) {
        tokenizer *t = random_model(made[k]);
        double worst = 0;
        for (const char *c = chars; *c; c++) {
            memset(in, *c, 1 << 20);
            uint64_t start = clock_ns();
            token_list l = encode(t, (view){ in, 1 << 20 }, false, true);
            double ms = (double)(clock_ns() - start) / 1e6;
            worst = ms > worst ? ms : worst;
            token_list_free(&l);
        }
        printf("# %s: 1 MiB of one character, worst of %zu: %.0f ms\n", made[k], strlen(chars), worst);
        cr_expect_lt(worst, 60000, "quadratic");           /* what n^2 would take is hours; the figure above is for people */
        tokenizer_close(&t);
    }
    free(in);
}

/* ---- wrong and damaged vocabularies ---- */

typedef struct { const char *model, *pre, *want; size_t scores, types; bool tokens, merges; int32_t type0; uint32_t bos; } wrong;
static const wrong wrongs[] = {
    { NULL, NULL, "tokenizer.ggml.model is missing", 3, 3, true, true, 1, 0 },
    { "llam", NULL, "model 'llam' is not supported", 3, 3, true, true, 1, 0 },
    { "llama", NULL, "tokens is missing", 3, 3, false, true, 1, 0 },
    { "llama", NULL, "scores has 2 entries for 3 tokens", 2, 3, true, true, 1, 0 },
    { "llama", NULL, "scores has no number for token 0", 0, 3, true, true, 1, 0 },
    { "llama", NULL, "token_type has 1 entries", 3, 1, true, true, 1, 0 },
    { "llama", NULL, "token 0 has the unknown type 9", 3, 3, true, true, 9, 0 },
    { "llama", NULL, "token 0 has the unknown type -1", 3, 3, true, true, -1, 0 },
    { "llama", NULL, "token 0 is a byte but not spelt", 3, 3, true, true, 6, 0 },
    { "llama", NULL, "bos_token_id is 3, the vocabulary has 3", 3, 3, true, true, 1, 3 },
    { "gpt2", "gpt-2", "merges is missing", 3, 3, true, false, 1, 0 },
    { "gpt2", "no\033such", "pre 'no?such' is not supported", 3, 3, true, true, 1, 0 },
};

static void write_wrong(const wrong *c, const char *path)
{
    static const view token[] = { { "a", 1 }, { "b", 1 }, { "ab", 2 } };
    gguf_writer *w;
    err e = { 0 };
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    if (c->model) gguf_writer_str(w, "tokenizer.ggml.model", v(c->model));
    if (c->pre) gguf_writer_str(w, "tokenizer.ggml.pre", v(c->pre));
    if (c->tokens) gguf_writer_strs(w, "tokenizer.ggml.tokens", token, 3);
    if (c->scores) gguf_writer_arr(w, "tokenizer.ggml.scores", GGUF_F32, (float[]){ 0, 0, 0 }, c->scores);
    if (c->types) gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, (int32_t[]){ c->type0, 1, 1 }, c->types);
    if (c->merges) gguf_writer_strs(w, "tokenizer.ggml.merges", (view[]){ { "a b", 3 } }, 1);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", c->bos);
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
}

Test(tokenizer, every_wrong_key_is_named)
{
    char path[256];
    snprintf(path, sizeof path, "%s/wrong.gguf", support_tmpdir());
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        write_wrong(&wrongs[i], path);
        gguf *g;
        tokenizer *t;
        err e = { 0 };
        cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
        cr_expect_eq(tokenizer_open(&t, g, &e), ERR_MODEL, "case %zu", i);
        cr_expect(!t && strstr(e.text, wrongs[i].want), "'%s' is not in '%s'", wrongs[i].want, e.text);
        tokenizer_close(&t);
        gguf_close(&g);
    }
}

static void use(const tokenizer *t)
{
    token_list l = encode(t, (view){ "Hello <s>\xFF w\xC3\xB6rld<|im_end|>\n  12 the\0", 36 }, true, true);
    text out = { 0 };
    err e = { 0 };
    detok d = { 0 };
    for (size_t i = 0; i < l.n; i++) {
        cr_assert_lt(l.id[i], tokenizer_vocab(t));
        cr_assert_eq(detok_push(&d, t, l.id[i], &out, &e), ERR_OK, "%s", e.text);
    }
    cr_assert_eq(detok_end(&d, &out, &e), ERR_OK);
    text_free(&out);
    token_list_free(&l);
}

static bool try_damaged(const text *whole, const char *path, uint64_t seed, uint64_t round)
{
    text t = { 0 };
    cr_assert(text_add(&t, whole->ptr, whole->len));
    for (uint64_t k = 0; k < 1 + round % 4; k++) {
        uint64_t at = support_draw(seed, round * 64 + 2 * k, t.len), how = support_draw(seed, round * 64 + 2 * k + 1, 768);
        t.ptr[at] = (char)(how < 256 ? how : (unsigned)t.ptr[at] ^ 1u << how % 8);
    }
    cr_assert(support_write(path, t.ptr, t.len));
    text_free(&t);
    gguf *g;
    tokenizer *tok = NULL;
    err e = { 0 };
    if (!gguf_open(&g, path, &e) && !tokenizer_open(&tok, g, &e)) use(tok);
    else cr_assert(e.code == ERR_MODEL && e.text[0], "round %" PRIu64 ": code %d '%s'", round, e.code, e.text);
    bool opened = tok != NULL;
    tokenizer_close(&tok);
    gguf_close(&g);
    return opened;
}

/* Only the vocabulary of a model: header without tensors. */
static void vocab_only(const char *pre, const char *path)
{
    gguf_writer *w;
    err e = { 0 };
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(random_vocab_write(w, pre, 380, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
}

Test(tokenizer, a_damaged_vocabulary_is_refused_or_works)
{
    uint64_t seed = support_seed();
    static const char *const pres[] = { NULL, "qwen2", "llama-bpe" };
    char path[256];
    snprintf(path, sizeof path, "%s/damaged.gguf", support_tmpdir());
    int opened = 0;
    for (size_t k = 0; k < 3; k++) {
        text whole = { 0 };
        err e = { 0 };
        vocab_only(pres[k], path);
        cr_assert_eq(text_read_file(&whole, path, 1 << 20, &e), ERR_OK, "%s", e.text);
        for (uint64_t round = 0; round < 400; round++) opened += try_damaged(&whole, path, seed + k, round);
        text_free(&whole);
    }
    cr_expect(opened > 20 && opened < 1180, "%d of 1200 damaged vocabularies opened: the damage is of one kind only", opened);
}
