/* Pre-tokenizer patterns and their application. It refuses to know tokens: it only says where words end. */
#include "engine/pretoken.h"
#include "engine/utf8.h"
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* The patterns are those of the models' tokenizer.json files. Two things are spelt out so that PCRE2 reads them as those
 * models' trainers did: white space (PCRE2's own \s also has U+180E), and contractions ((?i) would also take U+017F for an s).
 * Names and groups of names are those of llama.cpp's converter and loader, for those are what GGUF files hold. */
#define WS "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
/* What most patterns end with: a run of blanks leaves its last one to the word behind it. */
#define BLANKS "[" WS "]+(?![^" WS "])|[" WS "]+"
#define NEWLINES "[" WS "]*[\\r\\n]+|" BLANKS
#define CONTRACTIONS "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
/* openai/gpt-2 encoder.py; ByteLevel of huggingface/tokenizers with use_regex. */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" BLANKS
/* meta-llama/Meta-Llama-3-8B, Qwen/Qwen2-7B (one digit at a time): tokenizer.json. */
#define LLAMA3(DIGITS) CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" NEWLINES
/* Qwen/Qwen3.5: tokenizer.json; marks belong to words. */
#define QWEN35 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES
/* Words by case: openai/tiktoken o200k_base (meta-llama/Llama-4: tokenizer.json), and mistralai/Mistral-Nemo: tokenizer.json
 * (no contractions). llama.cpp has no \p{Lu} in its engine and lets every letter beyond ASCII be both cases and no mark be
 * part of a word; these follow the models, so they differ from it in words like "ÉTÉété" or with combining marks. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(TAIL, DIGITS) \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" TAIL "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" TAIL "|" DIGITS \
    "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" NEWLINES
/* deepseek-ai/deepseek-llm-7b-base: tokenizer.json. Letters with cases, as they were in its makers' Unicode. These patterns
 * name blanks as characters too (U+3000 is punctuation, U+1680 to U+3000 lie among the ideographs), and the models were trained
 * so. llama.cpp turns all blanks beyond ASCII into U+000B before it looks, and so cuts differently beside them. */
#define CASED_LETTERS \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}" \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}" \
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}" \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}" \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}" \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}" \
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}" \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}" \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}" \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}" \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}" \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}" \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define WIDE_PUNCTUATION "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define EAST_ASIAN "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
/* Theirs is \s+$: the same, but tried only where a run begins, or a long run in front of a digit takes quadratic time
 * (where PCRE2 has no just-in-time compiler). */
#define TRAILING_BLANKS "(?<![" WS "])[" WS "]+\\z"
/* deepseek-ai/DeepSeek-V3: tokenizer.json. */
#define DEEPSEEK3 "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES
/* tiiuae/falcon-7b: Punctuation (ASCII punctuation or \p{P}), ByteLevel, Digits, three digits at a time. */
#define FALCON_PUNCTUATION "[\\p{P}$+<=>^~|`]+"

static const pretoken_row rows[] = {
    { " gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe gigachat mpt olmo jais trillion"
      " granite-docling a.x-4.0 mellum modern-bert exaone4 ", { GPT2 }, false, false },
    { " default ", { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, false, false },
    { " falcon ", { FALCON_PUNCTUATION, GPT2, "[0-9][0-9][0-9]" }, false, false },
    { " starcoder refact command-r cohere2_moe smollm codeshell exaone minerva-7b mellum2 ", { "\\p{N}", GPT2 }, false, false },
    { " llama-bpe llama3 llama-v3 laguna falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", { LLAMA3("\\p{N}{1,3}") },
      true, true },
    { " smaug-bpe dbrx glm4 chatglm-bpe ", { LLAMA3("\\p{N}{1,3}") }, false, false },
    { " qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan kormo openpangu f2llmv2 solar-open grok-2 ", { LLAMA3("\\p{N}") },
      false, false },
    { " qwen35 ", { QWEN35 }, false, false },
    { " gpt-4o llama4 kanana2 minimax-m2 ", { CASED("(?:" CONTRACTIONS ")?", "\\p{N}{1,3}") }, false, false },
    { " tekken ", { CASED("", "\\p{N}") }, true, true },
    { " deepseek-llm ",
      { "[\\r\\n]", "[" WS "]?[" CASED_LETTERS "]+", "[" WS "]?[" WIDE_PUNCTUATION "]+", TRAILING_BLANKS, EAST_ASIAN, "\\p{N}" },
      false, false },
    { " deepseek-coder ", { "[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", EAST_ASIAN, "\\p{N}" }, false, false },
    { " deepseek-v3 hunyuan-dense joyai-llm ",
      { "\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", DEEPSEEK3 }, false, false },
};
#define N_ROWS (sizeof rows / sizeof *rows)
#define N_PATTERNS (sizeof rows->pattern / sizeof *rows->pattern)
#define STEPS_MAX 100000000u      /* bound on PCRE2's work in one match; these patterns back off once a run, not more */

struct pretoken {
    pcre2_code *code[N_PATTERNS];
    pcre2_match_context *limits;
};

const pretoken_row *pretoken_find(view name)
{
    char key[64] = " ";
    if (name.len == 0 || name.len > sizeof key - 3 || memchr(name.ptr, ' ', name.len) || memchr(name.ptr, 0, name.len)) return NULL;
    memcpy(key + 1, name.ptr, name.len);
    memcpy(key + 1 + name.len, " ", 2);
    for (size_t i = 0; i < N_ROWS; i++)
        if (strstr(rows[i].names, key)) return &rows[i];
    return NULL;
}

void pretoken_names(text *out)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *first = rows[i].names + 1;
        (void)text_addf(out, "%s%.*s", i ? " " : "", (int)strcspn(first, " "), first);
    }
}

static err_code pcre_error(err *e, err_code c, const char *what, int code)
{
    PCRE2_UCHAR msg[120] = "?";
    pcre2_get_error_message(code, msg, sizeof msg);
    return err_set(e, c, "pre-tokenizer: %s: %s", what, (const char *)msg);
}

static err_code compile(pretoken *p, const pretoken_row *row, err *e)
{
    for (size_t i = 0; i < N_PATTERNS && row->pattern[i]; i++) {
        int code;
        PCRE2_SIZE at;
        p->code[i] = pcre2_compile((PCRE2_SPTR)row->pattern[i], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!p->code[i]) return pcre_error(e, ERR_STATE, row->pattern[i], code);
        (void)pcre2_jit_compile(p->code[i], PCRE2_JIT_COMPLETE);   /* without it matching is slower and the same */
    }
    return ERR_OK;
}

err_code pretoken_open(pretoken **out, const pretoken_row *row, err *e)
{
    *out = NULL;
    pretoken *p = calloc(1, sizeof *p);
    if (p) p->limits = pcre2_match_context_create(NULL);
    err_code rc = p && p->limits ? compile(p, row, e) : err_set(e, ERR_NOMEM, "out of memory for the pre-tokenizer");
    if (rc) {
        pretoken_close(&p);
        return rc;
    }
    pcre2_set_match_limit(p->limits, STEPS_MAX);
    *out = p;
    return ERR_OK;
}

void pretoken_close(pretoken **pp)
{
    pretoken *p = *pp;
    if (!p) return;
    for (size_t i = 0; i < N_PATTERNS; i++) pcre2_code_free(p->code[i]);
    pcre2_match_context_free(p->limits);
    free(p);
    *pp = NULL;
}

void word_list_free(word_list *w)
{
    free(w->end);
    *w = (word_list){ 0 };
}

static bool word_add(word_list *w, size_t end)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 256;
        uint32_t *p = realloc(w->end, cap * sizeof *p);
        if (!p) return false;
        w->end = p;
        w->cap = cap;
    }
    w->end[w->n++] = (uint32_t)end;
    return true;
}

/* ---- text that is not UTF-8 ---- */

typedef struct { uint32_t shadow, raw; } anchor;          /* the same place in both texts, after a replacement */
typedef struct { text bytes; anchor *at; size_t n, cap; } shadow;

static bool anchor_add(shadow *s, size_t raw)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        anchor *p = realloc(s->at, cap * sizeof *p);
        if (!p) return false;
        s->at = p;
        s->cap = cap;
    }
    s->at[s->n++] = (anchor){ (uint32_t)s->bytes.len, (uint32_t)raw };
    return true;
}

static size_t valid_prefix(const uint8_t *p, size_t n)
{
    size_t i = 0;
    for (utf8_step s; i < n; i += s.len) {
        s = utf8_look(p + i, n - i);
        if (s.state != UTF8_OK) break;
    }
    return i;
}

/* A copy of t in which U+FFFD stands for every ill-formed part. */
static bool shadow_make(shadow *s, view t)
{
    const uint8_t *p = t.ptr;
    for (size_t i = 0; i < t.len;) {
        size_t ok = valid_prefix(p + i, t.len - i);
        if (!text_add(&s->bytes, p + i, ok)) return false;
        i += ok;
        if (i == t.len) break;
        if (!text_adds(&s->bytes, "\xEF\xBF\xBD")) return false;
        i += utf8_look(p + i, t.len - i).len;
        if (!anchor_add(s, i)) return false;
    }
    return true;
}

static void shadow_to_raw(const shadow *s, word_list *w)
{
    size_t a = 0;
    for (size_t i = 0; i < w->n; i++) {
        while (a < s->n && s->at[a].shadow <= w->end[i]) a++;
        if (a) w->end[i] = w->end[i] - s->at[a - 1].shadow + s->at[a - 1].raw;
    }
}

/* ---- matching ---- */

typedef struct { const pretoken *p; const uint8_t *text; pcre2_match_data *md; err *e; } splitter;

static int match_at(const splitter *s, const pcre2_code *code, const uint8_t *piece, size_t len, size_t from)
{
    int rc = pcre2_match(code, piece, len, from, PCRE2_NO_UTF_CHECK, s->md, s->p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, piece, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->md, s->p->limits);
    return rc;
}

/* Matches are words; so is what lies between two of them. */
static err_code split_piece(const splitter *s, const pcre2_code *code, size_t start, size_t end, word_list *out)
{
    const uint8_t *piece = s->text + start;
    size_t len = end - start, pos = 0;
    const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(s->md);
    while (pos < len) {
        int rc = match_at(s, code, piece, len, pos);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) return pcre_error(s->e, ERR_STATE, "match failed", rc);
        bool hit = rc > 0 && ov[1] > pos;
        if (hit && ov[0] > pos && !word_add(out, start + ov[0])) return err_set(s->e, ERR_NOMEM, "out of memory for words");
        pos = hit ? ov[1] : len;
        if (!word_add(out, start + pos)) return err_set(s->e, ERR_NOMEM, "out of memory for words");
    }
    return ERR_OK;
}

static err_code split_all(const splitter *s, size_t len, word_list *words)
{
    words->n = 0;
    if (!word_add(words, len)) return err_set(s->e, ERR_NOMEM, "out of memory for words");
    word_list next = { 0 };
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < N_PATTERNS && s->p->code[i]; i++) {
        next.n = 0;
        for (size_t w = 0, start = 0; !rc && w < words->n; start = words->end[w++])
            rc = split_piece(s, s->p->code[i], start, words->end[w], &next);
        word_list t = *words;
        *words = next;
        next = t;
    }
    word_list_free(&next);
    return rc;
}

err_code pretoken_split(const pretoken *p, view t, word_list *words, err *e)
{
    words->n = 0;
    if (!t.len) return ERR_OK;
    shadow sh = { 0 };
    bool valid = valid_prefix(t.ptr, t.len) == t.len;
    splitter s = { p, t.ptr, pcre2_match_data_create(1, NULL), e };
    err_code rc = ERR_OK;
    if (!s.md || (!valid && !shadow_make(&sh, t))) rc = err_set(e, ERR_NOMEM, "out of memory for words");
    if (!valid) s.text = (const uint8_t *)sh.bytes.ptr;
    if (!rc) rc = split_all(&s, valid ? t.len : sh.bytes.len, words);
    if (!rc && !valid) shadow_to_raw(&sh, words);
    pcre2_match_data_free(s.md);
    text_free(&sh.bytes);
    free(sh.at);
    return rc;
}
