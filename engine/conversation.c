/* Owns the turns of a conversation and reads and makes their JSON. It does not judge their order: the renderer does. */
#include "engine/conversation.h"
#include "core/utf8.h"
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 1 << 26 };  /* of one message; a whole prompt may not be longer (proto/messages.def) */

static const char *const roles[] = { [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant" };

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory for a conversation"); }

static void *copy_of(const void *p, size_t n)
{
    char *copy = malloc(n + 1);
    if (copy && n) memcpy(copy, p, n);
    if (copy) copy[n] = 0;
    return copy;
}

void conversation_cut(conversation *c, size_t n)
{
    while (c->n > n) free((void *)c->turn[--c->n].text.ptr);
}

void conversation_free(conversation *c)
{
    conversation_cut(c, 0);
    free(c->turn);
    *c = (conversation){ 0 };
}

static err_code insert(conversation *c, size_t at, chat_role role, const void *p, size_t n, err *e)
{
    if (n > TEXT_BYTES_MAX) return err_set(e, ERR_INPUT, "a message has more than %d bytes", TEXT_BYTES_MAX);
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 8;
        chat_turn *more = cap > SIZE_MAX / sizeof *more ? NULL : realloc(c->turn, cap * sizeof *more);
        if (!more) return no_memory(e);
        c->turn = more;
        c->cap = cap;
    }
    void *copy = copy_of(p, n);
    if (!copy) return no_memory(e);
    memmove(c->turn + at + 1, c->turn + at, (c->n - at) * sizeof *c->turn);
    c->turn[at] = (chat_turn){ role, { copy, n } };
    c->n++;
    return ERR_OK;
}

err_code conversation_add(conversation *c, chat_role role, const void *p, size_t n, err *e)
{
    return insert(c, c->n, role, p, n, e);
}

static bool has_system(const conversation *c) { return c->n && c->turn[0].role == CHAT_SYSTEM; }

err_code conversation_set_system(conversation *c, const void *p, size_t n, err *e)
{
    bool had = has_system(c);
    err_code rc = p ? insert(c, 0, CHAT_SYSTEM, p, n, e) : ERR_OK;
    if (rc || !had) return rc;
    size_t old = p ? 1 : 0;
    free((void *)c->turn[old].text.ptr);
    memmove(c->turn + old, c->turn + old + 1, (c->n - old - 1) * sizeof *c->turn);
    c->n--;
    return ERR_OK;
}

void conversation_clear(conversation *c) { conversation_cut(c, has_system(c)); }

/* ---- JSON ---- */

static err_code role_of(const json_t *v, chat_role *role, err *e)
{
    const char *s = json_string_value(v);
    if (!s) return err_set(e, ERR_INPUT, "\"role\" is missing or no text");
    for (int r = CHAT_SYSTEM; r <= CHAT_ASSISTANT; r++)
        if (!strcmp(s, roles[r])) return *role = (chat_role)r, ERR_OK;
    if (!strcmp(s, "developer")) return *role = CHAT_SYSTEM, ERR_OK;
    return err_set(e, ERR_INPUT, "\"role\" is \"%.40s\"; roles are system, user, assistant", s);
}

static err_code add_part(text *t, const json_t *part, err *e)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *words = json_object_get(part, "text");
    if (!type || strcmp(type, "text") || !json_is_string(words))
        return err_set(e, ERR_INPUT, "\"content\" may hold parts of type \"text\" only");
    return text_add(t, json_string_value(words), json_string_length(words)) ? ERR_OK : no_memory(e);
}

static err_code content_of(const json_t *v, text *t, err *e)
{
    err_code rc = ERR_OK;
    if (json_is_string(v)) return text_add(t, json_string_value(v), json_string_length(v)) ? ERR_OK : no_memory(e);
    if (!json_is_array(v) || !json_array_size(v)) return err_set(e, ERR_INPUT, "\"content\" is missing or no text");
    for (size_t i = 0; !rc && i < json_array_size(v); i++) rc = add_part(t, json_array_get(v, i), e);
    return rc;
}

err_code conversation_take(conversation *c, const json_t *m, err *e)
{
    chat_role role = CHAT_USER;
    text t = { 0 };
    if (!json_is_object(m)) return err_set(e, ERR_INPUT, "message %zu is no JSON object", c->n + 1);
    err_code rc = role_of(json_object_get(m, "role"), &role, e);
    if (!rc) rc = content_of(json_object_get(m, "content"), &t, e);
    if (rc == ERR_INPUT) err_wrap(e, "message %zu", c->n + 1);
    if (!rc) rc = conversation_add(c, role, t.ptr, t.len, e);
    text_free(&t);
    return rc;
}

err_code conversation_take_all(conversation *c, const json_t *messages, err *e)
{
    if (!json_is_array(messages) || !json_array_size(messages))
        return err_set(e, ERR_INPUT, "\"messages\" wants an array of messages");
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < json_array_size(messages); i++) rc = conversation_take(c, json_array_get(messages, i), e);
    return rc;
}

err_code conversation_line(conversation *c, view line, err *e)
{
    json_error_t je;
    json_t *m = json_loadb(line.len ? line.ptr : "", line.len, JSON_REJECT_DUPLICATES, &je);
    if (!m) return err_set(e, ERR_INPUT, "not JSON: %s (column %d)", je.text, je.column);
    err_code rc = conversation_take(c, m, e);
    json_decref(m);
    return rc;
}

json_t *conversation_message(const conversation *c, size_t i)
{
    view v = c->turn[i].text;
    text clean = { 0 };
    json_t *words = json_stringn(v.ptr, v.len);
    if (!words && utf8_clean(&clean, v, NULL)) words = json_stringn(clean.ptr ? clean.ptr : "", clean.len);
    text_free(&clean);
    return words ? json_pack("{s:s, s:o}", "role", roles[c->turn[i].role], "content", words) : NULL;
}
