/* Pre-tokenizer patterns and their application. It refuses to know tokens: it only says where words end. */
#include "engine/pretoken.h"
#include "engine/utf8.h"
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* White space as the models were trained with; PCRE2's own \s also has U+180E. */
#define WS "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|[" WS "]+(?![^" WS "])|[" WS "]+"
/* The contractions are spelt out: (?i) would also take U+017F for an s. */
#define LLAMA3(DIGITS) "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS \
    "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

static const pretoken_row rows[] = {
    { " gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat ", { GPT2 }, false, false },
    { " default ", { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, false, false },
    { " llama-bpe llama3 llama-v3 falcon3 pixtral ", { LLAMA3("\\p{N}{1,3}") }, true, true },
    { " smaug-bpe dbrx ", { LLAMA3("\\p{N}{1,3}") }, false, false },
    { " qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan ", { LLAMA3("\\p{N}") }, false, false },
};
#define N_ROWS (sizeof rows / sizeof *rows)
#define N_PATTERNS 4
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
    for (size_t i = 0; i < N_ROWS; i++) (void)text_add(out, rows[i].names + 1, strlen(rows[i].names) - (i + 1 < N_ROWS ? 1 : 2));
}

static err_code pcre_error(err *e, err_code c, const char *what, int code)
{
    PCRE2_UCHAR msg[120] = "?";
    pcre2_get_error_message(code, msg, sizeof msg);
    return err_set(e, c, "pre-tokenizer: %s: %s", what, (const char *)msg);
}

static err_code compile(pretoken *p, const pretoken_row *row, err *e)
{
    for (int i = 0; i < N_PATTERNS && row->pattern[i]; i++) {
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
    for (int i = 0; i < N_PATTERNS; i++) pcre2_code_free(p->code[i]);
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
    for (int i = 0; !rc && i < N_PATTERNS && s->p->code[i]; i++) {
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
