#include "workers/rag/chunk.h"
#include <utf8proc.h>

/* Borders between two characters, the better the later. BORDER_NONE: inside a grapheme. */
typedef enum { BORDER_NONE, BORDER_CHAR, BORDER_WORD, BORDER_SENTENCE, BORDER_PARAGRAPH, BORDER_COUNT } border;

/* Walks over a text; `at` and `chars` count what it has passed. */
typedef struct {
    view t;
    size_t at, chars;
    int32_t before;             /* the character passed last, 0 at the start */
    utf8proc_int32_t grapheme;  /* utf8proc's state */
    unsigned lines;             /* line ends in the white space just passed */
    bool gap;                   /* white space was passed last */
    bool stop, wide_stop;       /* the last word ended a sentence; in a script that puts no space after it */
} scan;

static bool is_stop(int32_t c) { return c == '.' || c == '!' || c == '?' || c == 0x2026; }
static bool is_wide_stop(int32_t c) { return c == 0x3002 || c == 0xFF01 || c == 0xFF1F || c == 0x0964; }

/* What may follow a full stop and still belong to the sentence. */
static bool is_closing(int32_t c)
{
    if (c < 0x80) return c == '"' || c == '\'' || c == ')' || c == ']';
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_PE || k == UTF8PROC_CATEGORY_PF;
}

static border border_before(scan *s, int32_t c, bool space)
{
    bool grapheme = !s->before || utf8proc_grapheme_break_stateful(s->before, c, &s->grapheme);
    if (!s->chars) return BORDER_NONE;
    if (!space && s->gap) return s->lines >= 2 ? BORDER_PARAGRAPH : s->stop || s->wide_stop ? BORDER_SENTENCE : BORDER_WORD;
    if (!space && s->wide_stop && !is_closing(c) && !is_wide_stop(c)) return BORDER_SENTENCE;
    return grapheme ? BORDER_CHAR : BORDER_NONE;
}

/* Steps over one character; returns the border in front of it. */
static border scan_step(scan *s)
{
    size_t size;
    int32_t c = utf8_at(s->t, s->at, &size);
    bool space = utf8_is_space(c);
    border b = border_before(s, c, space);
    if (space) {
        s->lines = (s->gap ? s->lines : 0) + (c == '\n' || c == 0x2029);
    } else if (!is_closing(c)) {
        s->stop = is_stop(c);
        s->wide_stop = is_wide_stop(c);
    }
    s->gap = space;
    s->before = c;
    s->at += size;
    s->chars++;
    return b;
}

typedef struct { size_t end; border kind; } cut;

/* Where to end a piece that starts at `from` and has at most `max` characters: the best border in its second half.
 * kind BORDER_COUNT: the text ends before. */
static cut cut_find(view t, size_t from, size_t max)
{
    scan s = { .t = t, .at = from };
    size_t last[BORDER_COUNT] = { 0 };
    while (s.at < t.len && s.chars <= max) {
        size_t at = s.at, chars = s.chars;
        border b = scan_step(&s);
        if (chars >= (max + 1) / 2 && at > from) last[b] = at;
    }
    if (s.at >= t.len && s.chars <= max) return (cut){ t.len, BORDER_COUNT };
    for (border b = BORDER_PARAGRAPH; b >= BORDER_CHAR; b--) {
        if (last[b]) return (cut){ last[b], b };
    }
    return (cut){ last[BORDER_NONE], BORDER_CHAR };     /* half a chunk of one single grapheme: noise, cut anywhere */
}

/* Where the chunk after [from, end) starts: the first sentence, else word, in its last `overlap` characters, else its end. */
static size_t overlap_start(view t, size_t from, size_t end, size_t overlap)
{
    view piece = { t.ptr, end };
    size_t total = utf8_count((view){ (const char *)t.ptr + from, end - from });
    scan s = { .t = piece, .at = from };
    size_t word = end;
    while (s.at < end) {
        size_t at = s.at, chars = s.chars;
        border b = scan_step(&s);
        if (chars + overlap < total || b < BORDER_WORD) continue;
        if (b >= BORDER_SENTENCE) return at;
        if (word == end) word = at;
    }
    return word;
}

static size_t skip_space(view t, size_t at)
{
    size_t size;
    while (at < t.len && utf8_is_space(utf8_at(t, at, &size))) at += size;
    return at;
}

/* The end of [begin, end) without its white space; begin < end holds some other character, or begin is returned. */
static size_t trim_end(view t, size_t begin, size_t end)
{
    size_t size, last = begin;
    for (size_t at = begin; at < end; at += size) {
        if (!utf8_is_space(utf8_at(t, at, &size))) last = at + size;
    }
    return last;
}

bool chunk_next(view t, chunk_size size, size_t *at, chunk_span *out)
{
    const char *p = t.ptr;
    while (t.len > *at && p[t.len - 1] > 0 && utf8_is_space(p[t.len - 1])) t.len--;     /* else a last chunk of overlap alone */
    size_t begin = skip_space(t, *at);
    if (begin >= t.len) return false;
    cut c = cut_find(t, begin, size.chars);
    *out = (chunk_span){ begin, trim_end(t, begin, c.end) };
    bool inside = c.kind < BORDER_PARAGRAPH && size.overlap;
    *at = inside ? overlap_start(t, begin, c.end, size.overlap) : c.end;
    return true;
}

size_t chunk_head(view t, size_t chars)
{
    if (!chars) return 0;
    cut c = cut_find(t, 0, chars);
    return c.kind == BORDER_COUNT ? t.len : trim_end(t, 0, c.end);
}
