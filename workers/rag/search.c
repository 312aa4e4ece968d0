#include "workers/rag/search.h"
#include "workers/rag/query.h"
#include "workers/rag/store.h"
#include <math.h>

/* TITLE_WEIGHT: a word of the title counts as often as four of the text, so "X" finds the page on X before pages that
 * mention X; on xquad and the synthetic world 1 to 8 differ by less than 0.5 % recall. LOOK: ranks looked at when passages
 * are passed over, in multiples of max_passages; what comes later is not worth the budget. */
#define TITLE_WEIGHT "4.0"
#define BODY_WEIGHT "1.0"
enum { MAX_PASSAGES = 4, LOOK = 4 };
#define CHARS_PER_TOKEN 3.0     /* the bundled model's vocabulary of 4,096 pieces on text with names; larger ones do better */

enum { COL_CHUNK, COL_SCORE, COL_TITLE, COL_BODY, COL_BEGIN, COL_END, COL_LINE, COL_SOURCE, COL_NAME };

/* Ranks first, then fetches the texts of the few that are wanted. */
static const char search_sql[] =
    "SELECT chunk.id, -hit.score, chunk.title, chunk.body, begin_byte, end_byte, line, source, name FROM"
    " (SELECT rowid AS id, bm25(find, " TITLE_WEIGHT ", " BODY_WEIGHT ") AS score FROM find WHERE find MATCH ?1"
    "  ORDER BY score, rowid LIMIT ?2) AS hit"
    " JOIN chunk ON chunk.id = hit.id JOIN document ON document.id = chunk.document ORDER BY hit.score, hit.id";

typedef struct {
    const search_options *o;
    uint32_t max, left;         /* passages wanted; tokens left (UINT32_MAX: no limit) */
    passages *out;
    size_t first;               /* out->count at the start */
} selection;

/* Tokens of `t` with the passage's overhead, at most UINT32_MAX. */
static uint32_t cost(const search_options *o, view t)
{
    double per = o->chars_per_token > 0 ? o->chars_per_token : CHARS_PER_TOKEN;
    double n = o->count ? (double)o->count(o->count_ctx, t) : ceil((double)utf8_count(t) / per);
    n += o->passage_overhead;
    return n < (double)UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static view of(const text *t) { return (view){ t->ptr, t->len }; }

/* Cut p to `budget` tokens; false when not even one character fits. */
static bool shorten(passage *p, const search_options *o, uint32_t budget)
{
    uint32_t room = budget > o->passage_overhead ? budget - o->passage_overhead : 0;
    uint32_t all = p->tokens > o->passage_overhead ? p->tokens - o->passage_overhead : 1;
    size_t chars = (size_t)((double)utf8_count(of(&p->body)) * room / all), bytes = 0;
    for (; chars; chars = chars * 7 / 8) {          /* a tokenizer is not linear: try less until it fits */
        bytes = chunk_head(of(&p->body), chars);
        p->tokens = cost(o, (view){ p->body.ptr, bytes });
        if (bytes && p->tokens <= budget) break;
    }
    if (!chars) return false;
    if (p->end - p->begin == p->body.len) p->end = p->begin + bytes;    /* the text is the file's bytes, one for one */
    p->body.len = bytes;
    p->body.ptr[bytes] = 0;
    p->cut = true;
    return true;
}

/* Keep the passage just added, shortened where it is the best and too long, or take it off. */
static void weigh(selection *s)
{
    passage *p = &s->out->at[s->out->count - 1];
    if (p->score < s->o->min_share * s->out->at[s->first].score) {
        passages_drop(s->out);
        return;
    }
    p->tokens = cost(s->o, of(&p->body));
    bool best = s->out->count == s->first + 1;
    bool fits = s->left == UINT32_MAX || p->tokens <= s->left || (best && shorten(p, s->o, s->left));
    if (!fits) passages_drop(s->out);
    else if (s->left != UINT32_MAX) s->left -= p->tokens;
}

static bool column_text(text *out, sqlite3_stmt *row, int col)
{
    const unsigned char *p = sqlite3_column_text(row, col);
    int n = sqlite3_column_bytes(row, col);
    return utf8_clean(out, (view){ p, p && n > 0 ? (size_t)n : 0 }, NULL) && text_add(out, "", 0);
}

/* A corpus may come from somebody else: its texts are cleaned again, its numbers are only numbers. */
static bool passage_fill(passage *p, sqlite3_stmt *row)
{
    p->chunk = (uint64_t)sqlite3_column_int64(row, COL_CHUNK);
    p->score = sqlite3_column_double(row, COL_SCORE);
    p->begin = (uint64_t)sqlite3_column_int64(row, COL_BEGIN);
    p->end = (uint64_t)sqlite3_column_int64(row, COL_END);
    p->line = (uint32_t)sqlite3_column_int64(row, COL_LINE);
    return column_text(&p->title, row, COL_TITLE) && column_text(&p->body, row, COL_BODY) &&
           column_text(&p->source, row, COL_SOURCE) && column_text(&p->name, row, COL_NAME);
}

static err_code collect(corpus *c, selection *s, err *e)
{
    int rc = SQLITE_DONE;
    while (s->out->count - s->first < s->max && (rc = sqlite3_step(c->search)) == SQLITE_ROW) {
        passage *p = passages_add(s->out);
        if (!p || !passage_fill(p, c->search)) return err_set(e, ERR_NOMEM, "%s: no memory for a passage", c->path);
        weigh(s);
    }
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? ERR_OK : store_fail(c->db, c->path, "cannot search", e);
}

static err_code search_terms(corpus *c, const text *terms, selection *s, err *e)
{
    if (!c->search && sqlite3_prepare_v3(c->db, search_sql, -1, SQLITE_PREPARE_PERSISTENT, &c->search, NULL))
        return store_fail(c->db, c->path, "cannot search", e);
    int rc = sqlite3_bind_text64(c->search, 1, terms->ptr, terms->len, SQLITE_STATIC, SQLITE_UTF8);
    rc |= sqlite3_bind_int64(c->search, 2, (sqlite3_int64)s->max * LOOK);
    err_code bad = rc ? store_fail(c->db, c->path, "cannot search", e) : collect(c, s, e);
    sqlite3_reset(c->search);
    sqlite3_clear_bindings(c->search);
    return bad;
}

err_code corpus_search(corpus *c, view query, const search_options *o, passages *out, err *e)
{
    static const search_options defaults;
    if (!o) o = &defaults;
    selection s = { .o = o, .max = o->max_passages ? o->max_passages : MAX_PASSAGES,
                    .left = o->token_budget ? o->token_budget : UINT32_MAX, .out = out, .first = out->count };
    text terms = { 0 };
    err_code rc = query_terms(&terms, query) ? ERR_OK : err_set(e, ERR_NOMEM, "no memory for the words of a query");
    if (rc == ERR_OK && terms.len) rc = search_terms(c, &terms, &s, e);
    text_free(&terms);
    return rc;
}
