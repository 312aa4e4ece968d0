/* Writes conversations as ids by the forms of chat_form.c. It refuses to let any text but the form's own become a control
 * token. */
#include "engine/chat_form.h"
#include <stdlib.h>
#include <string.h>

enum { GUARDS_MAX = 64 };           /* the table has fewer distinct markers, a test counts them */

typedef struct {
    const chat_style *style;
    const chat_form *form;
    const tokenizer *tok;
    token_list *out;
    text chunk;                     /* plain text since the last control token */
    view system;                    /* to be merged into a user's turn, or .ptr NULL */
    size_t broken;
    bool spm_blank;                 /* the tokenizer puts a blank in front of a chunk by itself */
    bool behind_marker;             /* the chunk is */
    text guard[GUARDS_MAX];         /* markers that text must not spell */
    size_t n_guards;
} scribe;

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory for a conversation"); }

/* ---- markers in this vocabulary ---- */

/* The one token that is spelt `name`, or TOKEN_NONE. parse: control tokens count. */
static err_code token_of(const tokenizer *t, view name, bool parse, uint32_t *id, err *e)
{
    token_list l = { 0 };
    text piece = { 0 };
    *id = TOKEN_NONE;
    err_code rc = tokenizer_encode(t, name, false, parse, &l, e);
    if (!rc && l.n == 1) rc = tokenizer_piece(t, l.id[0], true, &piece, e);
    if (!rc && l.n == 1 && piece.len == name.len && !memcmp(piece.ptr, name.ptr, name.len)) *id = l.id[0];
    text_free(&piece);
    token_list_free(&l);
    return rc;
}

static view mark_name(const char *sign) { return (view){ sign + 1, strcspn(sign + 1, "\2") }; }

static err_code add_guard(scribe *s, view name, err *e)
{
    for (size_t i = 0; i < s->n_guards; i++)
        if (s->guard[i].len == name.len && !memcmp(s->guard[i].ptr, name.ptr, name.len)) return ERR_OK;
    if (s->n_guards == GUARDS_MAX) return err_set(e, ERR_STATE, "more than %d markers", GUARDS_MAX);
    return text_add(&s->guard[s->n_guards++], name.ptr, name.len) ? ERR_OK : no_memory(e);
}

/* Text can spell a marker when it is no control token: the own ones as text or token, those of other forms as token. */
static err_code guard_spec(scribe *s, const char *spec, bool own, err *e)
{
    err_code rc = ERR_OK;
    for (const char *p = spec ? strchr(spec, SIGN_MARK) : NULL; p && !rc; p = strchr(p + 1, SIGN_MARK)) {
        uint32_t id;
        rc = token_of(s->tok, mark_name(p), own, &id, e);
        if (!rc && (own ? id == TOKEN_NONE || !tokenizer_is_control(s->tok, id) : id != TOKEN_NONE))
            rc = add_guard(s, mark_name(p), e);
    }
    return rc;
}

static err_code guard_form(scribe *s, const chat_form *f, err *e)
{
    const char *const spec[] = { f->turn[0], f->turn[1], f->turn[2], f->open, f->merge };
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < sizeof spec / sizeof spec[0]; i++) rc = guard_spec(s, spec[i], f == s->form, e);
    return rc;
}

/* BOS and EOS that a file calls ordinary tokens. One character cannot be broken: such a file means its text to end there. */
static err_code guard_token(scribe *s, uint32_t id, err *e)
{
    text piece = { 0 };
    uint32_t plain = TOKEN_NONE;
    err_code rc = id == TOKEN_NONE ? ERR_OK : tokenizer_piece(s->tok, id, true, &piece, e);
    if (!rc && piece.len > 1) rc = token_of(s->tok, (view){ piece.ptr, piece.len }, false, &plain, e);
    if (!rc && plain != TOKEN_NONE && plain == id) rc = add_guard(s, (view){ piece.ptr, piece.len }, e);
    text_free(&piece);
    return rc;
}

static err_code scribe_open(scribe *s, err *e)
{
    size_t n;
    const chat_form *f = chat_forms(&n);
    token_list l = { 0 };
    text piece = { 0 };
    err_code rc = tokenizer_encode(s->tok, (view){ "a", 1 }, false, false, &l, e);
    if (!rc && l.n) rc = tokenizer_piece(s->tok, l.id[0], false, &piece, e);
    s->spm_blank = piece.len && piece.ptr[0] == ' ';
    text_free(&piece);
    token_list_free(&l);
    if (!rc) rc = guard_token(s, tokenizer_bos(s->tok), e);
    if (!rc) rc = guard_token(s, tokenizer_eos(s->tok), e);
    for (size_t i = 0; !rc && i < n; i++) rc = guard_form(s, &f[i], e);
    return rc;
}

static void scribe_close(scribe *s)
{
    for (size_t i = 0; i < s->n_guards; i++) text_free(&s->guard[i]);
    text_free(&s->chunk);
}

/* ---- writing ---- */

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static view trim(view v, bool front, bool back)
{
    const char *p = v.ptr;
    size_t from = 0, to = v.len;
    while (front && from < to && is_blank(p[from])) from++;
    while (back && to > from && is_blank(p[to - 1])) to--;
    return (view){ p + from, to - from };
}

static err_code flush(scribe *s, err *e)
{
    view v = { s->chunk.ptr, s->chunk.len };
    if (v.len && s->behind_marker && s->form->eats_blanks) v = trim(v, true, false);
    err_code rc = v.len ? tokenizer_encode(s->tok, v, false, false, s->out, e) : ERR_OK;
    text_clear(&s->chunk);
    s->behind_marker = false;
    return rc;
}

static err_code put_id(scribe *s, uint32_t id, err *e)
{
    err_code rc = flush(s, e);
    if (rc || id == TOKEN_NONE) return rc;
    return token_list_add(s->out, id) ? ERR_OK : no_memory(e);
}

static err_code put_marker(scribe *s, view name, err *e)
{
    uint32_t id;
    err_code rc = token_of(s->tok, name, true, &id, e);
    if (rc) return rc;
    if (id == TOKEN_NONE) return text_add(&s->chunk, name.ptr, name.len) ? ERR_OK : no_memory(e);
    rc = put_id(s, id, e);
    s->behind_marker = true;
    return rc;
}

static err_code put_bos(scribe *s, err *e)
{
    uint32_t bos = tokenizer_bos(s->tok);
    bool there = !s->chunk.len && s->out->n && s->out->id[s->out->n - 1] == bos;
    return there ? ERR_OK : put_id(s, bos, e);
}

static err_code put_blank(scribe *s, err *e)
{
    bool by_itself = s->spm_blank && !s->chunk.len;
    return by_itself || text_add(&s->chunk, " ", 1) ? ERR_OK : no_memory(e);
}

static bool spells_marker(const scribe *s, const char *p, size_t n)
{
    for (size_t i = 0; i < s->n_guards; i++)
        if (s->guard[i].ptr[0] == *p && s->guard[i].len <= n && !memcmp(s->guard[i].ptr, p, s->guard[i].len)) return true;
    return false;
}

static err_code put_text(scribe *s, view v, err *e)
{
    const char *p = v.ptr;
    size_t from = 0;
    bool ok = true;
    for (size_t i = 0; ok && s->n_guards && i < v.len; i++) {
        if (!spells_marker(s, p + i, v.len - i)) continue;
        size_t to = i + 1;
        while (to < v.len && ((unsigned char)p[to] & 0xC0) == 0x80) to++; /* a character stays whole */
        ok = text_add(&s->chunk, p + from, to - from) && text_add(&s->chunk, " ", 1);
        from = to;
        i = to - 1;
        s->broken++;
    }
    return ok && text_add(&s->chunk, p + from, v.len - from) ? ERR_OK : no_memory(e);
}

static err_code put_spec(scribe *s, const char *spec, const chat_turn *turn, err *e);

/* What somebody wrote, with the system text in front where the form has no turn of its own for it. */
static err_code put_content(scribe *s, const chat_turn *turn, err *e)
{
    bool all = s->form->trim & (1u << turn->role), merged = turn->role == CHAT_USER && s->system.ptr;
    err_code rc = ERR_OK;
    if (merged) {
        chat_turn system = { CHAT_SYSTEM, s->system };
        s->system = (view){ NULL, 0 };
        rc = put_spec(s, s->form->merge, &system, e);
    }
    return rc ? rc : put_text(s, trim(turn->text, all && !(merged && s->form->merge_whole), all), e);
}

static err_code put_sign(scribe *s, const char **p, const chat_turn *turn, err *e)
{
    const char *sign = *p;
    *p = sign + 1;
    switch (*sign) {
    case SIGN_MARK: *p = sign + 2 + mark_name(sign).len; return put_marker(s, mark_name(sign), e);
    case SIGN_TEXT: return turn ? put_content(s, turn, e) : ERR_OK;
    case SIGN_EOS: return put_id(s, tokenizer_eos(s->tok), e);
    case SIGN_BOS: return put_bos(s, e);
    default: return put_blank(s, e);
    }
}

static err_code put_spec(scribe *s, const char *spec, const chat_turn *turn, err *e)
{
    static const char signs[] = { SIGN_MARK, SIGN_TEXT, SIGN_EOS, SIGN_BOS, SIGN_BLANK, 0 };
    err_code rc = ERR_OK;
    for (const char *p = spec; !rc && *p;) {
        size_t n = strcspn(p, signs);
        if (!text_add(&s->chunk, p, n)) return no_memory(e);
        p += n;
        if (*p) rc = put_sign(s, &p, turn, e);
    }
    return rc;
}

/* An earlier answer without the thoughts in front of it, as Qwen's template says. */
static view without_thoughts(view v)
{
    static const char end[] = "</think>";
    const char *p;
    while (v.len && (p = memmem(v.ptr, v.len, end, sizeof end - 1))) {
        size_t cut = (size_t)(p - (const char *)v.ptr) + sizeof end - 1;
        v = (view){ p + sizeof end - 1, v.len - cut };
        while (v.len && *(const char *)v.ptr == '\n') v = (view){ (const char *)v.ptr + 1, v.len - 1 };
    }
    return v;
}

static err_code put_turn(scribe *s, const chat_turn *turn, bool merge_here, view system, err *e)
{
    chat_turn t = *turn;
    if (t.role == CHAT_ASSISTANT && s->style->drops_thoughts) t.text = without_thoughts(t.text);
    if (t.role == CHAT_SYSTEM && !s->form->turn[CHAT_SYSTEM]) return ERR_OK;
    if (merge_here) s->system = system;
    return put_spec(s, s->form->turn[t.role], &t, e);
}

static err_code put_turns(scribe *s, const chat_turn *turn, size_t n, err *e)
{
    const chat_turn preset = { CHAT_SYSTEM, { s->style->system, s->style->system ? strlen(s->style->system) : 0 } };
    bool merges = turn[0].role == CHAT_SYSTEM && !s->form->turn[CHAT_SYSTEM];
    size_t first = 0;
    while (turn[first].role != CHAT_USER) first++;       /* there is one: the last */
    size_t into = s->form->merge_last ? n - 1 : first;
    bool bos = s->form->bos || tokenizer_adds_bos(s->tok);
    err_code rc = bos ? put_bos(s, e) : ERR_OK;
    if (!rc && turn[0].role != CHAT_SYSTEM && preset.text.ptr) rc = put_turn(s, &preset, false, preset.text, e);
    for (size_t i = 0; !rc && i < n; i++) rc = put_turn(s, &turn[i], merges && i == into, turn[0].text, e);
    if (!rc) rc = put_spec(s, s->form->open, NULL, e);
    return rc ? rc : flush(s, e);
}

static err_code check_turns(const chat_turn *turn, size_t n, err *e)
{
    if (!n) return err_set(e, ERR_INPUT, "the conversation is empty");
    for (size_t i = 1; i < n; i++)
        if (turn[i].role == CHAT_SYSTEM)
            return err_set(e, ERR_INPUT, "message %zu is the system's: only the first one may be", i + 1);
    if (turn[n - 1].role != CHAT_USER)
        return err_set(e, ERR_INPUT, "the last message is not the user's: there is nothing to answer");
    return ERR_OK;
}

err_code chat_render(const chat_style *style, const tokenizer *t, const chat_turn *turn, size_t n, token_list *out, size_t *broken,
                     err *e)
{
    token_list ids = { 0 };                              /* apart from what *out holds, so that BOS is judged by our own */
    scribe s = { .style = style, .form = style->form, .tok = t, .out = &ids };
    err_code rc = check_turns(turn, n, e);
    if (!rc) rc = scribe_open(&s, e);
    if (!rc) rc = put_turns(&s, turn, n, e);
    size_t before = out->n;
    for (size_t i = 0; !rc && i < ids.n; i++)
        if (!token_list_add(out, ids.id[i])) rc = no_memory(e);
    if (rc) out->n = before;
    if (broken) *broken = s.broken;
    scribe_close(&s);
    token_list_free(&ids);
    return rc;
}

const char *chat_stop(const chat_style *s, const tokenizer *t)
{
    uint32_t id = TOKEN_NONE;
    err quiet;
    const char *stop = s->form->stop;
    if (!stop ||
        (token_of(t, (view){ stop, strlen(stop) }, true, &id, &quiet) == ERR_OK && id != TOKEN_NONE && tokenizer_is_eog(t, id)))
        return NULL;
    return stop;
}
