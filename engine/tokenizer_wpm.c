/* BERT's WordPiece (arXiv:1609.08144 section 4.1; google-research/bert tokenization.py, and BertNormalizer and WordPiece of
 * huggingface/tokenizers, with which the embedders were trained): text is cleaned and cut into words, and a word becomes the
 * longest pieces from its left end, or one unknown token. GGUF spells pieces that begin a word with U+2581 in front and the
 * others without "##". It refuses to see special tokens: they were cut out before.
 * llama.cpp differs in rare characters: it keeps only the first part of what a character decomposes into (so Hangul loses its
 * vowels), keeps combining marks that stand alone, and has no limit on a word's length. Here the models' own rules hold. */
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include <string.h>
#include <utf8proc.h>

#define WORD_MAX 100                  /* characters: longer words are unknown (max_input_chars_per_word) */
#define PARTS_MAX 18                  /* code points that one decomposes into at most (Unicode 15: 4 canonically) */

err_code wpm_open(tokenizer *t, const gguf *g, err *e)
{
    t->has_bos = t->has_eos = t->lowercase = t->space_prefix = true;   /* a word's blank is dropped at the start of a stream */
    (void)gguf_get_bool(g, "tokenizer.ggml.normalizer.lowercase", &t->lowercase);
    t->strip_accents = t->lowercase;  /* as in tokenizer.json when strip_accents is null */
    (void)gguf_get_bool(g, "tokenizer.ggml.normalizer.strip_accents", &t->strip_accents);
    if (!piece_table_open(&t->words, (piece_list){ t->bytes, t->at }, t->n))
        return err_set(e, ERR_NOMEM, "out of memory for the vocabulary");
    for (uint32_t i = 0; i < t->n; i++)
        if (t->type[i] == TOKEN_NORMAL || t->type[i] == TOKEN_UNUSED || t->type[i] == TOKEN_USER) piece_table_put(&t->words, i);
    return ERR_OK;
}

/* ---- words to pieces ---- */

typedef struct { const tokenizer *t; text word; size_t chars; token_list *out; } wpm;   /* word begins with U+2581 */

/* Length of the longest piece at byte i of the word, all whole characters. U+2581 in the text begins no piece: the pieces that
 * are spelt with it in front begin words. */
static size_t longest(const tokenizer *t, const text *word, size_t i, uint32_t *id)
{
    const char *p = word->ptr + i;
    size_t n = word->len - i;
    if (i && n >= 3 && !memcmp(p, SPM_SPACE, 3)) return 0;
    if (n > t->words.longest) n = t->words.longest;
    for (; n; n--)
        if ((*id = piece_table_find(&t->words, p, n)) != TOKEN_ABSENT) return n;
    return 0;
}

static bool word_pieces(wpm *w)
{
    size_t before = w->out->n;
    uint32_t id;
    for (size_t i = 0, n; i < w->word.len; i += n) {
        if (!(n = longest(w->t, &w->word, i, &id))) {
            w->out->n = before;
            return w->t->unk == TOKEN_NONE || token_list_add(w->out, w->t->unk);
        }
        if (!token_list_add(w->out, id)) return false;
    }
    return true;
}

static bool word_end(wpm *w)
{
    bool ok = true;
    if (w->chars > WORD_MAX) ok = w->t->unk == TOKEN_NONE || token_list_add(w->out, w->t->unk);
    else if (w->chars) ok = word_pieces(w);
    text_clear(&w->word);
    w->chars = 0;
    return ok;
}

static bool word_char(wpm *w, int32_t cp)
{
    uint8_t b[4];
    utf8proc_ssize_t n = utf8proc_encode_char(cp, b);
    if (!w->chars && !text_adds(&w->word, SPM_SPACE)) return false;
    if (++w->chars > WORD_MAX) return true;                  /* its text no longer matters */
    return text_add(&w->word, b, (size_t)n);
}

/* ---- text to words ---- */

/* Each is a word of its own. The fifth range begins at U+2B820 in BERT, and here in the code that trained its successors. */
static bool is_ideograph(int32_t cp)
{
    static const int32_t range[][2] = { { 0x4E00, 0x9FFF },   { 0x3400, 0x4DBF },   { 0x20000, 0x2A6DF }, { 0x2A700, 0x2B73F },
                                        { 0x2B740, 0x2B81F }, { 0x2B920, 0x2CEAF }, { 0xF900, 0xFAFF },   { 0x2F800, 0x2FA1F } };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (cp >= range[i][0] && cp <= range[i][1]) return true;
    return false;
}

static bool is_punctuation(int32_t cp, utf8proc_category_t c)
{
    bool ascii = (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) || (cp >= 123 && cp <= 126);
    return ascii || (c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO);
}

static bool is_blank(int32_t cp, utf8proc_category_t c)
{
    return cp == '\t' || cp == '\n' || cp == '\r' || (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP);
}

/* Controls, formats, private use; not what Unicode has not assigned: that makes its word unknown. */
static bool is_dropped(int32_t cp, utf8proc_category_t c)
{
    return cp == 0xFFFD || (c >= UTF8PROC_CATEGORY_CC && c <= UTF8PROC_CATEGORY_CO);
}

/* One character after decomposition. */
static bool put_part(wpm *w, int32_t cp, bool alone)
{
    utf8proc_category_t c = utf8proc_category(cp);
    if (w->t->strip_accents && c == UTF8PROC_CATEGORY_MN) return true;
    if (w->t->lowercase) cp = utf8proc_tolower(cp);
    if (!alone && !is_punctuation(cp, c)) return word_char(w, cp);
    return word_end(w) && word_char(w, cp) && word_end(w);
}

static bool put_char(wpm *w, int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    if (is_blank(cp, c)) return word_end(w);
    if (is_dropped(cp, c)) return true;
    int32_t part[PARTS_MAX] = { cp };
    utf8proc_ssize_t n = 1;
    if (w->t->strip_accents) n = utf8proc_decompose_char(cp, part, PARTS_MAX, UTF8PROC_DECOMPOSE, NULL);
    if (n < 1 || n > PARTS_MAX) n = 1;
    bool ok = true, alone = is_ideograph(cp);
    for (utf8proc_ssize_t i = 0; ok && i < n; i++) ok = put_part(w, part[i], alone);
    return ok;
}

err_code wpm_encode(const tokenizer *t, view in, token_list *out, err *e)
{
    const uint8_t *p = in.ptr;
    wpm w = { .t = t, .out = out };
    bool ok = true;
    for (size_t i = 0; ok && i < in.len;) {
        utf8_step s = utf8_look(p + i, in.len - i);
        int32_t cp;
        if (s.state == UTF8_OK && utf8proc_iterate(p + i, (utf8proc_ssize_t)s.len, &cp) > 0) ok = put_char(&w, cp);
        i += s.len;
    }
    ok = ok && word_end(&w);
    text_free(&w.word);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %zu bytes of text", in.len);
}
