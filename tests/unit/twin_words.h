#ifndef TESTS_UNIT_TWIN_WORDS_H
#define TESTS_UNIT_TWIN_WORDS_H
/* Pre-tokenizers once more, by hand and without patterns: code points with their classes, and for every pattern a function
 * that says where the word that begins at i ends (i: nothing begins there). Classes are utf8proc's, not PCRE2's. */
#include "core/buf.h"
#include "engine/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct { uint32_t cp, at; utf8proc_category_t cat; } twin_char;   /* at: byte offset */
typedef struct { twin_char *c; size_t n; } twin_text;                     /* c[n].at is the length */

static inline twin_text twin_read(view in)
{
    const uint8_t *p = in.ptr;
    twin_text t = { malloc((in.len + 1) * sizeof *t.c), 0 };
    if (!t.c) abort();
    for (size_t i = 0; i < in.len;) {
        utf8_step s = utf8_look(p + i, in.len - i);
        int32_t cp = 0xFFFD;
        if (s.state == UTF8_OK) (void)utf8proc_iterate(p + i, (utf8proc_ssize_t)s.len, &cp);
        t.c[t.n++] = (twin_char){ (uint32_t)cp, (uint32_t)i, utf8proc_category(cp) };
        i += s.len;
    }
    t.c[t.n].at = (uint32_t)in.len;
    return t;
}

/* ---- classes ---- */

typedef bool twin_class(const twin_char *c);
static inline bool is_l(const twin_char *c) { return c->cat >= UTF8PROC_CATEGORY_LU && c->cat <= UTF8PROC_CATEGORY_LO; }
static inline bool is_m(const twin_char *c) { return c->cat >= UTF8PROC_CATEGORY_MN && c->cat <= UTF8PROC_CATEGORY_ME; }
static inline bool is_n(const twin_char *c) { return c->cat >= UTF8PROC_CATEGORY_ND && c->cat <= UTF8PROC_CATEGORY_NO; }
static inline bool is_p(const twin_char *c) { return c->cat >= UTF8PROC_CATEGORY_PC && c->cat <= UTF8PROC_CATEGORY_PO; }
static inline bool is_s(const twin_char *c) { return c->cat >= UTF8PROC_CATEGORY_SM && c->cat <= UTF8PROC_CATEGORY_SO; }
static inline bool is_ps(const twin_char *c) { return is_p(c) || is_s(c); }
static inline bool is_lm(const twin_char *c) { return is_l(c) || is_m(c); }
static inline bool is_nl(const twin_char *c) { return c->cp == '\n' || c->cp == '\r'; }
static inline bool is_ws(const twin_char *c)
{
    return (c->cp >= 9 && c->cp <= 13) || c->cp == 0x85 || (c->cat >= UTF8PROC_CATEGORY_ZS && c->cat <= UTF8PROC_CATEGORY_ZP);
}
static inline bool is_rest(const twin_char *c) { return !is_ws(c) && !is_l(c) && !is_n(c); }
static inline bool is_rest_m(const twin_char *c) { return is_rest(c) && !is_m(c); }
static inline bool is_upper(const twin_char *c) { return is_lm(c) && c->cat != UTF8PROC_CATEGORY_LL; }
static inline bool is_lower(const twin_char *c)
{
    return is_lm(c) && c->cat != UTF8PROC_CATEGORY_LU && c->cat != UTF8PROC_CATEGORY_LT;
}
static inline bool is_ascii_letter(const twin_char *c) { return (c->cp | 32) >= 'a' && (c->cp | 32) <= 'z'; }
/* deepseek-llm's list of letters with cases: all but these (small Armenian, Georgian, Latin beyond U+A78E, alphabets for
 * mathematics, ...). Stray bytes of broken texts may come together as any of the first. */
static inline bool is_cased(const twin_char *c)
{
    static const uint32_t without[][2] = {
        { 0x560, 0x588 },     { 0x10C7, 0x10FF },   { 0x1C80, 0x1C88 },   { 0x2D00, 0x2D2D },   { 0xA790, 0xA7FA },
        { 0xAB30, 0xAB68 },   { 0x10570, 0x105BC }, { 0x16E40, 0x16E7F }, { 0x1D400, 0x1D7FF }, { 0x1DF00, 0x1DF1E },
    };
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        if ((uint32_t)c->cp >= without[i][0] && (uint32_t)c->cp <= without[i][1]) return false;
    return c->cat >= UTF8PROC_CATEGORY_LU && c->cat <= UTF8PROC_CATEGORY_LT;
}
static inline bool is_wide(const twin_char *c)
{
    return (c->cp >= '!' && c->cp <= '/') || (c->cp >= ':' && c->cp <= '~') || (c->cp >= 0xFF01 && c->cp <= 0xFF0F) ||
           (c->cp >= 0xFF1A && c->cp <= 0xFF5E) || (c->cp >= 0x2018 && c->cp <= 0x201F) || (c->cp >= 0x3000 && c->cp <= 0x3002);
}
static inline bool is_east(const twin_char *c)
{
    return (c->cp >= 0x800 && c->cp <= 0x9FA5) || (c->cp >= 0xAC00 && c->cp <= 0xD7FF);
}
static inline bool is_cjk(const twin_char *c)
{
    return (c->cp >= 0x4E00 && c->cp <= 0x9FA5) || (c->cp >= 0x3040 && c->cp <= 0x30FF);
}
static inline bool is_default_mark(const twin_char *c)
{
    return is_p(c) || (c->cp < 128 && c->cp && strchr("$+<=>^~|", (int)c->cp));
}
static inline bool is_falcon_mark(const twin_char *c) { return is_default_mark(c) || c->cp == '`'; }
static inline bool is_digit(const twin_char *c) { return c->cp >= '0' && c->cp <= '9'; }

/* ---- parts of patterns ---- */

typedef struct { const twin_char *c; size_t n; } span;       /* a piece of the text */
typedef size_t twin_take(span s, size_t i);

static inline size_t run(span s, size_t i, twin_class *f)
{
    while (i < s.n && f(&s.c[i])) i++;
    return i;
}

static inline size_t some(span s, size_t i, twin_class *f, size_t most)
{
    size_t end = i;
    while (end < s.n && end - i < most && f(&s.c[end])) end++;
    return end;
}

static inline uint32_t low(span s, size_t i, bool fold)
{
    uint32_t c = i < s.n ? s.c[i].cp : 0;
    return fold && c >= 'A' && c <= 'Z' ? c + 32 : c;
}

static inline size_t contraction(span s, size_t i, bool fold)
{
    if (low(s, i, false) != '\'') return i;
    uint32_t a = low(s, i + 1, fold), b = low(s, i + 2, fold);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? i + 3 : i;
}

static inline size_t blanks(span s, size_t i)
{
    size_t e = run(s, i, is_ws);
    return e < s.n && e > i + 1 ? e - 1 : e;
}

static inline size_t newlines(span s, size_t i)
{
    for (size_t e = run(s, i, is_ws); e > i; e--)
        if (is_nl(&s.c[e - 1])) return e;
    return blanks(s, i);
}

/* " ?" and a run. */
static inline size_t spaced(span s, size_t i, twin_class *f)
{
    size_t from = low(s, i, false) == ' ' ? i + 1 : i, e = run(s, from, f);
    return e > from ? e : i;
}

/* "\s?" and a run. */
static inline size_t blanked(span s, size_t i, twin_class *f)
{
    size_t e = is_ws(&s.c[i]) ? run(s, i + 1, f) : i;
    return e > i + 1 ? e : run(s, i, f);
}

/* ---- patterns ---- */

static inline size_t take_gpt2(span s, size_t i)
{
    size_t e = contraction(s, i, false);
    if (e > i || (e = spaced(s, i, is_l)) > i || (e = spaced(s, i, is_n)) > i || (e = spaced(s, i, is_rest)) > i) return e;
    return blanks(s, i);
}

typedef struct { twin_class *letter, *rest; size_t digits; } llama3_kind;
static inline size_t take_llama(span s, size_t i, llama3_kind k)
{
    size_t e = contraction(s, i, true);
    if (e > i) return e;
    if (!is_nl(&s.c[i]) && !is_l(&s.c[i]) && !is_n(&s.c[i]) && (e = run(s, i + 1, k.letter)) > i + 1) return e;
    if ((e = run(s, i, k.letter)) > i || (e = some(s, i, is_n, k.digits)) > i) return e;
    return (e = spaced(s, i, k.rest)) > i ? run(s, e, is_nl) : newlines(s, i);
}
static inline size_t take_llama3(span s, size_t i) { return take_llama(s, i, (llama3_kind){ is_l, is_rest, 3 }); }
static inline size_t take_qwen2(span s, size_t i) { return take_llama(s, i, (llama3_kind){ is_l, is_rest, 1 }); }
static inline size_t take_qwen35(span s, size_t i) { return take_llama(s, i, (llama3_kind){ is_lm, is_rest_m, 1 }); }

static inline size_t upper_lower(span s, size_t p)
{
    for (size_t k = run(s, p, is_upper); ; k--) {
        size_t e = run(s, k, is_lower);
        if (e > k) return e;
        if (k == p) return p;
    }
}

static inline bool is_nl_slash(const twin_char *c) { return is_nl(c) || c->cp == '/'; }

static inline size_t take_cased(span s, size_t i, size_t digits, bool tails)
{
    bool prefix = !is_nl(&s.c[i]) && !is_l(&s.c[i]) && !is_n(&s.c[i]);
    size_t e;
    if ((prefix && (e = upper_lower(s, i + 1)) > i + 1) || (e = upper_lower(s, i)) > i ||
        (prefix && (e = run(s, i + 1, is_upper)) > i + 1) || (e = run(s, i, is_upper)) > i)
        return tails ? contraction(s, e, true) : e;
    if ((e = some(s, i, is_n, digits)) > i) return e;
    return (e = spaced(s, i, is_rest)) > i ? run(s, e, is_nl_slash) : newlines(s, i);
}
static inline size_t take_gpt4o(span s, size_t i) { return take_cased(s, i, 3, true); }
static inline size_t take_tekken(span s, size_t i) { return take_cased(s, i, 1, false); }

static inline size_t take_deepseek3(span s, size_t i)
{
    const twin_char *c = &s.c[i];
    size_t e;
    if (c->cp > 32 && c->cp < 127 && is_ps(c) && (e = run(s, i + 1, is_ascii_letter)) > i + 1) return e;
    if (!is_nl(c) && !is_l(c) && !is_ps(c) && (e = run(s, i + 1, is_lm)) > i + 1) return e;
    if ((e = run(s, i, is_lm)) > i) return e;
    return (e = spaced(s, i, is_ps)) > i ? run(s, e, is_nl) : newlines(s, i);
}

static inline size_t take_newline(span s, size_t i) { return some(s, i, is_nl, 1); }
static inline size_t take_cased_letters(span s, size_t i) { return blanked(s, i, is_cased); }
static inline size_t take_wide(span s, size_t i) { return blanked(s, i, is_wide); }
static inline size_t take_letters(span s, size_t i) { return blanked(s, i, is_l); }
static inline size_t take_marks(span s, size_t i) { return blanked(s, i, is_p); }
static inline size_t take_trailing(span s, size_t i) { return run(s, i, is_ws) == s.n ? s.n : i; }
static inline size_t take_east(span s, size_t i) { return run(s, i, is_east); }
static inline size_t take_cjk(span s, size_t i) { return run(s, i, is_cjk); }
static inline size_t take_number(span s, size_t i) { return some(s, i, is_n, 1); }
static inline size_t take_number3(span s, size_t i) { return some(s, i, is_n, 3); }
static inline size_t take_numbers(span s, size_t i) { return run(s, i, is_n); }
static inline size_t take_default_marks(span s, size_t i) { return run(s, i, is_default_mark); }
static inline size_t take_falcon_marks(span s, size_t i) { return run(s, i, is_falcon_mark); }
static inline size_t take_digits3(span s, size_t i) { return some(s, i, is_digit, 3) == i + 3 ? i + 3 : i; }

/* ---- families ---- */

typedef struct { const char *pre; twin_take *take[6]; } twin_family;
static const twin_family families[] = {
    { "gpt-2", { take_gpt2 } },
    { "mpt", { take_gpt2 } },
    { "default", { take_default_marks, take_gpt2, take_numbers, take_digits3 } },
    { "falcon", { take_falcon_marks, take_gpt2, take_digits3 } },
    { "starcoder", { take_number, take_gpt2 } },
    { "refact", { take_number, take_gpt2 } },
    { "smollm", { take_number, take_gpt2 } },
    { "command-r", { take_number, take_gpt2 } },
    { "llama-bpe", { take_llama3 } },
    { "qwen2", { take_qwen2 } },
    { "qwen35", { take_qwen35 } },
    { "llama4", { take_gpt4o } },
    { "tekken", { take_tekken } },
    { "deepseek-llm", { take_newline, take_cased_letters, take_wide, take_trailing, take_east, take_number } },
    { "deepseek-coder", { take_newline, take_letters, take_marks, take_east, take_number } },
    { "deepseek-v3", { take_number3, take_cjk, take_deepseek3 } },
};

/* Ends of words in [0, t.n], marked: every pattern cuts the pieces of the one before. cut has t.n + 1 bytes, zeroed. */
static inline void twin_split(const twin_text *t, const twin_family *f, uint8_t *cut)
{
    cut[t->n] = 1;
    for (size_t k = 0; k < sizeof f->take / sizeof *f->take && f->take[k]; k++)
        for (size_t start = 0, end; start < t->n; start = end) {
            for (end = start + 1; !cut[end]; end++) continue;
            span s = { t->c + start, end - start };
            for (size_t i = 0; i < s.n;) {
                size_t e = f->take[k](s, i);
                if (e > i) cut[start + i] = cut[start + e] = 1;
                i = e > i ? e : i + 1;
            }
        }
}
#endif
