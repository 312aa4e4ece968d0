#include "coordinator/rag_prompt.h"
#include "core/utf8.h"
#include <stdio.h>
#include <string.h>

typedef struct { const char *name; view value; } slot;

/* One of "{{", "}}", "{name}" or plain text at *p, which moves on. */
typedef struct { view plain; view name; } piece;

static err_code piece_next(const char **p, piece *out, err *e)
{
    const char *s = *p;
    *out = (piece){ { s, strcspn(s, "{}") }, { NULL, 0 } };
    if (out->plain.len) {
        *p += out->plain.len;
    } else if (s[1] == s[0]) {
        out->plain.len = 1;
        *p += 2;
    } else {
        size_t n = s[0] == '{' ? strcspn(s + 1, "{}") : 0;
        if (s[0] == '}' || s[1 + n] != '}') return err_set(e, ERR_CONFIG, "template: brace without partner at \"%.20s\"", s);
        *out = (piece){ .name = { s + 1, n } };
        *p += n + 2;
    }
    return ERR_OK;
}

/* The slot of that name, or NULL. */
static const slot *slot_find(const slot *slots, size_t n, view name)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(slots[i].name) == name.len && !memcmp(slots[i].name, name.ptr, name.len)) return &slots[i];
    }
    return NULL;
}

static const char *const prompt_slots[] = { "passages", "question" }, *const passage_slots[] = { "n", "title", "text", "source" };
enum { PROMPT_SLOTS = 2, PASSAGE_SLOTS = 4 };

static err_code unknown(view name, err *e)
{
    int shown = name.len < 40 ? (int)name.len : 40;
    return err_set(e, ERR_CONFIG, "template: unknown placeholder {%.*s}", shown, (const char *)name.ptr);
}

/* Append `t` with its slots filled. */
static err_code render(text *out, const char *t, const slot *slots, size_t n, err *e)
{
    piece x;
    while (*t) {
        err_code rc = piece_next(&t, &x, e);
        if (rc != ERR_OK) return rc;
        const slot *s = x.name.ptr ? slot_find(slots, n, x.name) : NULL;
        if (x.name.ptr && !s) return unknown(x.name, e);
        view v = s ? s->value : x.plain;
        if (v.len && !text_add(out, v.ptr, v.len))
            return err_set(e, ERR_NOMEM, "no memory for a prompt of %zu bytes", out->len + v.len);
    }
    return ERR_OK;
}

/* Is `t` a template of these slots that uses `need`? */
static err_code check(const char *t, const char *const *names, size_t n, const char *need, err *e)
{
    slot slots[PASSAGE_SLOTS];
    for (size_t i = 0; i < n; i++) slots[i] = (slot){ names[i], { NULL, 0 } };
    bool found = false;
    piece x;
    while (*t) {
        err_code rc = piece_next(&t, &x, e);
        if (rc != ERR_OK) return rc;
        const slot *s = x.name.ptr ? slot_find(slots, n, x.name) : NULL;
        if (x.name.ptr && !s) return unknown(x.name, e);
        found |= s && !strcmp(s->name, need);
    }
    return found ? ERR_OK : err_set(e, ERR_CONFIG, "template: {%s} is missing", need);
}

err_code rag_template_check(const rag_template *t, err *e)
{
    err_code rc = ERR_OK;
    if (t && t->prompt) rc = check(t->prompt, prompt_slots, PROMPT_SLOTS, "question", e);
    if (rc == ERR_OK && t && t->passage) rc = check(t->passage, passage_slots, PASSAGE_SLOTS, "text", e);
    return rc;
}

/* `t` without outer white space. */
static view trim(view t)
{
    const char *p = t.ptr;
    size_t begin = 0, end = 0, size;
    for (size_t at = 0; at < t.len; at += size) {
        bool space = utf8_is_space(utf8_at(t, at, &size));
        if (space && begin == at) begin = at + size;
        if (!space) end = at + size;
    }
    return end > begin ? (view){ p + begin, end - begin } : (view){ p, 0 };
}

/* Append `t` trimmed, with every run of white space as one space unless `keep`. */
static bool add_flat(text *out, view t, bool keep)
{
    t = trim(t);
    if (keep) return !t.len || text_add(out, t.ptr, t.len);
    const char *p = t.ptr;
    size_t size;
    for (size_t at = 0, word = 0; at < t.len; at += size) {
        bool space = utf8_is_space(utf8_at(t, at, &size));
        bool ok = true;
        if (space && word < at) ok = text_add(out, p + word, at - word) && text_adds(out, " ");
        if (space) word = at + size;
        else if (at + size == t.len) ok = text_add(out, p + word, at + size - word);
        if (!ok) return false;
    }
    return true;
}

static view of(const text *t) { return (view){ t->ptr, t->len }; }

static err_code add_passage(text *out, const rag_template *t, const passage *p, size_t n, err *e)
{
    char number[24];
    text title = { 0 }, body = { 0 };
    int digits = snprintf(number, sizeof number, "%zu", n);
    err_code rc = ERR_OK;
    if (!add_flat(&title, of(&p->title), t->keep_lines) || !add_flat(&body, of(&p->body), t->keep_lines))
        rc = err_set(e, ERR_NOMEM, "no memory for passage %zu", n);
    slot slots[PASSAGE_SLOTS] = {
        { "n", { number, (size_t)digits } }, { "title", of(&title) }, { "text", of(&body) }, { "source", of(&p->source) },
    };
    if (rc == ERR_OK) rc = render(out, t->passage ? t->passage : RAG_PASSAGE, slots, PASSAGE_SLOTS, e);
    text_free(&title);
    text_free(&body);
    return rc;
}

err_code rag_prompt(text *out, const rag_template *t, const passages *p, view question, err *e)
{
    static const rag_template defaults;
    if (!t) t = &defaults;
    err_code rc = rag_template_check(t, e);
    text all = { 0 };
    for (size_t i = 0; rc == ERR_OK && i < p->count; i++) rc = add_passage(&all, t, &p->at[i], i + 1, e);
    slot slots[PROMPT_SLOTS] = { { "passages", of(&all) }, { "question", trim(question) } };
    const char *prompt = t->prompt ? t->prompt : p->count ? RAG_PROMPT : RAG_PROMPT_BARE;
    size_t before = out->len;
    if (rc == ERR_OK) rc = render(out, prompt, slots, PROMPT_SLOTS, e);
    if (rc != ERR_OK && out->ptr) {
        out->len = before;
        out->ptr[before] = 0;
    }
    text_free(&all);
    return rc;
}
