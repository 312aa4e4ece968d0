#include "workers/rag/source.h"
#include "core/utf8.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { BINARY_LOOK = 8192, HEADINGS = 6 };

static view text_view(const text *t) { return (view){ t->ptr, t->len }; }

/* ---- .txt ---- */

/* The file's name without folders and ending. */
static view stem(const char *source)
{
    const char *slash = strrchr(source, '/'), *name = slash ? slash + 1 : source, *dot = strrchr(name, '.');
    return (view){ name, dot && dot > name ? (size_t)(dot - name) : strlen(name) };
}

static err_code read_txt(source_reader *r, const folder_file *f, view all, size_t bom, err *e)
{
    section s = { .title = stem(f->source), .body = { (const char *)all.ptr + bom, all.len - bom }, .begin = bom,
                  .end = all.len, .verbatim = true, .first = true, .line = 1 };
    return r->take(r->ctx, &s, e);
}

/* ---- .md ---- */

typedef struct {
    source_reader *r;
    const char *bytes;
    view heading[HEADINGS];     /* by level; len 0: none */
    view fallback;              /* title before the first heading */
    text title;
    size_t begin;               /* of the section being read */
    uint32_t begin_line;
    bool first;
    char fence;                 /* '`' or '~' inside a code fence, else 0 */
    size_t fence_len;
} md_reader;

static bool md_title(md_reader *m)
{
    text_clear(&m->title);
    for (int i = 0; i < HEADINGS; i++) {
        if (!m->heading[i].len) continue;
        if (m->title.len && !text_adds(&m->title, " > ")) return false;
        if (!text_add(&m->title, m->heading[i].ptr, m->heading[i].len)) return false;
    }
    return m->title.len || text_add(&m->title, m->fallback.ptr, m->fallback.len);
}

static err_code md_flush(md_reader *m, size_t end, err *e)
{
    if (end <= m->begin && !m->first) return ERR_OK;
    if (!md_title(m)) return err_set(e, ERR_NOMEM, "out of memory for a heading");
    section s = { .title = text_view(&m->title), .body = { m->bytes + m->begin, end - m->begin }, .begin = m->begin,
                  .end = end, .verbatim = true, .first = m->first, .line = m->begin_line };
    m->first = false;
    return m->r->take(m->r->ctx, &s, e);
}

static size_t run_of(view line, size_t at, char c)
{
    const char *p = line.ptr;
    size_t n = at;
    while (n < line.len && p[n] == c) n++;
    return n - at;
}

/* Follows code fences; true while the line belongs to one. */
static bool md_fenced(md_reader *m, view line)
{
    const char *p = line.ptr;
    size_t at = run_of(line, 0, ' ');
    char c = at < line.len && at <= 3 ? p[at] : 0;
    size_t n = c == '`' || c == '~' ? run_of(line, at, c) : 0;
    if (!m->fence && n >= 3) {
        m->fence = c;
        m->fence_len = n;
        return true;
    }
    if (!m->fence) return false;
    if (c == m->fence && n >= m->fence_len && at + n + run_of(line, at + n, ' ') >= line.len) m->fence = 0;
    return true;
}

/* Level 1..6 and the words of an ATX heading (CommonMark 4.2), or 0. */
static int md_heading(view line, view *words)
{
    const char *p = line.ptr;
    size_t at = run_of(line, 0, ' '), n = at <= 3 ? run_of(line, at, '#') : 0, end = line.len;
    if (n < 1 || n > HEADINGS) return 0;
    at += n;
    if (at < end && p[at] != ' ' && p[at] != '\t') return 0;
    while (at < end && (p[at] == ' ' || p[at] == '\t')) at++;
    while (end > at && (p[end - 1] == ' ' || p[end - 1] == '\t')) end--;
    size_t closing = end;
    while (closing > at && p[closing - 1] == '#') closing--;
    if (closing == at || p[closing - 1] == ' ') end = closing;
    while (end > at && p[end - 1] == ' ') end--;
    *words = (view){ p + at, end - at };
    return (int)n;
}

static err_code md_line(md_reader *m, size_t at, size_t next, uint32_t line_no, err *e)
{
    size_t end = next;
    while (end > at && (m->bytes[end - 1] == '\n' || m->bytes[end - 1] == '\r')) end--;
    view line = { m->bytes + at, end - at }, words;
    int level = md_fenced(m, line) ? 0 : md_heading(line, &words);
    if (!level) return ERR_OK;
    err_code rc = md_flush(m, at, e);
    m->heading[level - 1] = words;
    for (int i = level; i < HEADINGS; i++) m->heading[i].len = 0;
    m->begin = next;
    m->begin_line = line_no + 1;
    return rc;
}

static err_code read_md(source_reader *r, const folder_file *f, view all, size_t bom, err *e)
{
    md_reader m = { .r = r, .bytes = all.ptr, .fallback = stem(f->source), .begin = bom, .begin_line = 1, .first = true };
    err_code rc = ERR_OK;
    uint32_t line = 1;
    for (size_t at = bom, next; rc == ERR_OK && at < all.len; at = next, line++) {
        const char *nl = memchr(m.bytes + at, '\n', all.len - at);
        next = nl ? (size_t)(nl + 1 - m.bytes) : all.len;
        rc = md_line(&m, at, next, line, e);
    }
    if (rc == ERR_OK) rc = md_flush(&m, all.len, e);
    text_free(&m.title);
    return rc;
}

/* ---- .jsonl ---- */

typedef struct {
    FILE *file;
    text line;                  /* without its line end */
    uint64_t begin, end;        /* its bytes in the file */
    uint32_t number;
} jsonl_reader;

/* false at the end of the file; ERR_FULL in *rc when the line is too long (it is passed over). */
static bool jsonl_line(jsonl_reader *j, err_code *rc)
{
    text_clear(&j->line);
    j->begin = j->number ? j->end + 1 : 0;
    j->number++;
    int c;
    uint64_t n = 0;
    *rc = ERR_OK;
    flockfile(j->file);
    for (; (c = getc_unlocked(j->file)) != EOF && c != '\n'; n++) {
        char byte = (char)c;
        if (n >= SOURCE_LINE_MAX) *rc = ERR_FULL;
        else if (*rc == ERR_OK && !text_add(&j->line, &byte, 1)) *rc = ERR_NOMEM;
    }
    funlockfile(j->file);
    j->end = j->begin + n;
    return n || c != EOF;
}

static view json_view(const json_t *s) { return (view){ json_string_value(s), json_string_length(s) }; }

/* id may be a string or an integer, which goes to `digits`. */
static bool json_id(const json_t *id, char digits[24], view *out)
{
    if (!id || json_is_null(id)) return true;
    if (json_is_string(id)) *out = json_view(id);
    else if (json_is_integer(id)) *out = (view){ digits, (size_t)snprintf(digits, 24, "%lld", (long long)json_integer_value(id)) };
    else return false;
    return true;
}

/* The fields of `o` as a section, or what is wrong with them. */
static const char *json_section(const json_t *o, char digits[24], section *s)
{
    json_t *body = json_object_get(o, "text"), *title = json_object_get(o, "title");
    if (!json_is_object(o)) return "not a JSON object";
    if (!body) return "no field \"text\"";
    if (!json_is_string(body)) return "\"text\" is no string";
    if (title && !json_is_string(title) && !json_is_null(title)) return "\"title\" is no string";
    if (!json_id(json_object_get(o, "id"), digits, &s->name)) return "\"id\" is neither a string nor an integer";
    s->body = json_view(body);
    if (json_is_string(title)) s->title = json_view(title);
    return NULL;
}

static err_code bad_line(source_reader *r, const char *path, uint32_t line, const char *why, err *e)
{
    r->bad_lines++;
    return r->skip_bad ? ERR_OK : err_set(e, ERR_INPUT, "%s:%u: %s", path, line, why);
}

static err_code take_line(source_reader *r, const folder_file *f, jsonl_reader *j, view line, err *e)
{
    json_error_t why;
    char digits[24], message[sizeof why.text + 32];
    section s = { .begin = j->begin, .end = j->end, .first = true, .line = j->number };
    json_t *o = json_loadb(line.ptr, line.len, JSON_ALLOW_NUL, &why);
    if (!o) {
        snprintf(message, sizeof message, "bad JSON at column %d: %s", why.column, why.text);
        return bad_line(r, f->path, j->number, message, e);
    }
    const char *wrong = json_section(o, digits, &s);
    err_code rc = wrong ? bad_line(r, f->path, j->number, wrong, e) : r->take(r->ctx, &s, e);
    json_decref(o);
    return rc;
}

static err_code read_line(source_reader *r, const folder_file *f, jsonl_reader *j, text *clean, err *e)
{
    size_t from = j->number == 1 && j->line.len >= 3 && !memcmp(j->line.ptr, "\xEF\xBB\xBF", 3) ? 3 : 0;
    text_clear(clean);
    if (!utf8_clean(clean, (view){ j->line.ptr + from, j->line.len - from }, &r->replaced))
        return err_set(e, ERR_NOMEM, "%s:%u: out of memory", f->path, j->number);
    size_t blank = clean->len ? strspn(clean->ptr, " \t\r") : 0;
    if (blank == clean->len) return ERR_OK;
    return take_line(r, f, j, text_view(clean), e);
}

static err_code read_lines(source_reader *r, const folder_file *f, jsonl_reader *j, err *e)
{
    text clean = { 0 };
    err_code rc = ERR_OK, got;
    while (rc == ERR_OK && j->number < UINT32_MAX && jsonl_line(j, &got)) {
        if (got == ERR_NOMEM) rc = err_set(e, ERR_NOMEM, "%s:%u: out of memory", f->path, j->number);
        else if (got != ERR_OK) rc = bad_line(r, f->path, j->number, "line longer than 64 MiB", e);
        else rc = j->line.len ? read_line(r, f, j, &clean, e) : ERR_OK;
    }
    text_free(&clean);
    return rc;
}

static err_code unreadable(source_reader *r, const char *path, err *e)
{
    int why = errno;
    r->bad_files++;
    return r->skip_bad ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(why));
}

static err_code read_jsonl(source_reader *r, const folder_file *f, err *e)
{
    jsonl_reader j = { .file = fopen(f->path, "rbe") };
    if (!j.file) return unreadable(r, f->path, e);
    err_code rc = read_lines(r, f, &j, e);
    if (rc == ERR_OK && ferror(j.file)) rc = unreadable(r, f->path, e);
    fclose(j.file);
    text_free(&j.line);
    return rc;
}

err_code source_read(source_reader *r, const folder_file *f, err *e)
{
    file_kind kind = file_kind_of(f->path);
    if (kind == FILE_JSONL) return read_jsonl(r, f, e);
    text all = { 0 };
    err_code rc = text_read_file(&all, f->path, SOURCE_FILE_MAX, e);
    if (rc == ERR_IO && r->skip_bad) {
        r->bad_files++;
        rc = ERR_OK;
    } else if (rc == ERR_OK && all.len && memchr(all.ptr, 0, all.len < BINARY_LOOK ? all.len : BINARY_LOOK)) {
        r->binary_files++;
    } else if (rc == ERR_OK) {
        size_t bom = all.len >= 3 && !memcmp(all.ptr, "\xEF\xBB\xBF", 3) ? 3 : 0;
        rc = (kind == FILE_MD ? read_md : read_txt)(r, f, text_view(&all), bom, e);
    }
    text_free(&all);
    return rc;
}
