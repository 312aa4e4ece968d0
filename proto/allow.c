/* The list of peers and the table of what their roles may say. Opens no socket and knows no connection. */
#include "proto/allow.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX (ALLOW_MAX * 160u)

static const char *const role_names[PEER_ROLES] = { "local", "client", "stage", "rag", "coordinator" };

const char *peer_role_name(peer_role r) { return r < PEER_ROLES ? role_names[r] : "unknown"; }

/* ---- messages ------------------------------------------------------------------------------------------------------ */

#define C (1u << PEER_CLIENT)
#define S (1u << PEER_STAGE)
#define R (1u << PEER_RAG)

/* What comes over a network. STOP is not here: a cluster is stopped on its own host. What only a coordinator says is not
 * either: a worker knows its coordinator by --server-key, not by this table. */
static const struct { msg_type type; unsigned roles; } may[] = {
    { MSG_HELLO, S | R }, { MSG_READY, S | R }, { MSG_PONG, S | R }, { MSG_STATS, S | R }, { MSG_FAIL, S | R }, { MSG_BYE, S | R },
    { MSG_SESSION_READY, S }, { MSG_KV_DONE, S }, { MSG_STEP, S }, { MSG_RESULT, S }, { MSG_KV_ROWS, S }, { MSG_POOLED, S }, { MSG_PASSAGES, R },
    { MSG_SUBMIT, C }, { MSG_CANCEL, C }, { MSG_FETCH, C }, { MSG_ASK, C },
};

err_code allow_message(peer_role r, const message *m, err *e)
{
    bool ok = r == PEER_LOCAL || r == PEER_COORDINATOR;
    for (size_t i = 0; !ok && i < sizeof may / sizeof *may; i++) ok = may[i].type == m->type && (may[i].roles >> r & 1);
    if (ok && m->type == MSG_HELLO && (r == PEER_STAGE || r == PEER_RAG)) ok = m->hello.role == (r == PEER_RAG);
    return ok ? ERR_OK : err_set(e, ERR_DENIED, "role %s may not send %s", peer_role_name(r), msg_name(m->type));
}

#undef C
#undef S
#undef R

/* ---- the list ------------------------------------------------------------------------------------------------------ */

static int by_key(const void *a, const void *b) { return memcmp(((const allow_entry *)a)->key, ((const allow_entry *)b)->key, KEY_BYTES); }

const allow_entry *allow_find(const allow_list *l, const uint8_t key[static KEY_BYTES])
{
    allow_entry want = { .role = PEER_LOCAL };
    memcpy(want.key, key, KEY_BYTES);
    return l->n ? bsearch(&want, l->at, l->n, sizeof *l->at, by_key) : NULL;
}

/* The next word of the line [*at, end); an empty view at its end. */
static view take_word(const char **at, const char *end)
{
    while (*at < end && strchr(" \t\r", **at)) ++*at;
    const char *from = *at;
    while (*at < end && !strchr(" \t\r", **at)) ++*at;
    return (view){ from, (size_t)(*at - from) };
}

static peer_role role_of(view w)
{
    for (int r = PEER_CLIENT; r <= PEER_RAG; r++)
        if (strlen(role_names[r]) == w.len && !memcmp(role_names[r], w.ptr, w.len)) return (peer_role)r;
    return PEER_ROLES;
}

static err_code take_line(allow_entry *out, const char *at, const char *end, err *e)
{
    view role = take_word(&at, end), key = take_word(&at, end), name = take_word(&at, end), more = take_word(&at, end);
    *out = (allow_entry){ .role = role_of(role) };
    if (out->role == PEER_ROLES)
        return err_set(e, ERR_CONFIG, "\"%.*s\" is no role: want client, stage or rag", (int)(role.len < 40 ? role.len : 40), (const char *)role.ptr);
    if (!key.len) return err_set(e, ERR_CONFIG, "no key behind the role: want `role public-key name`");
    err_code rc = key_parse(out->key, key.ptr, key.len, e);
    if (rc) return rc;
    if (name.len > ALLOW_NAME_MAX) return err_set(e, ERR_CONFIG, "a name of %zu bytes, limit %u", name.len, ALLOW_NAME_MAX);
    if (more.len) return err_set(e, ERR_CONFIG, "\"%.*s\" behind the name: want `role public-key name`", (int)(more.len < 40 ? more.len : 40), (const char *)more.ptr);
    memcpy(out->name, name.ptr, name.len);
    for (char *s = out->name; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == '"' || *s == 0x7f) *s = '?'; /* it goes into log lines */
    return ERR_OK;
}

static err_code add(allow_list *l, uint32_t *cap, const allow_entry *a, err *e)
{
    if (l->n == ALLOW_MAX) return err_set(e, ERR_FULL, "more than %u peers", ALLOW_MAX);
    if (l->n == *cap) {
        uint32_t more = *cap ? *cap * 2 : 16;
        allow_entry *at = realloc(l->at, more * sizeof *at);
        if (!at) return err_set(e, ERR_NOMEM, "out of memory for a list of peers");
        l->at = at;
        *cap = more;
    }
    l->at[l->n++] = *a;
    return ERR_OK;
}

static err_code check_twice(const allow_list *l, const char *name, err *e)
{
    char key[KEY_TEXT];
    for (uint32_t i = 1; i < l->n; i++)
        if (!memcmp(l->at[i - 1].key, l->at[i].key, KEY_BYTES)) {
            key_show(l->at[i].key, key);
            return err_set(e, ERR_CONFIG, "%s: key %s stands there twice; a key has one role", name, key);
        }
    return ERR_OK;
}

err_code allow_parse(allow_list *out, const char *words, size_t n, const char *name, err *e)
{
    uint32_t cap = 0, line = 0;
    err_code rc = ERR_OK;
    *out = (allow_list){ 0 };
    if (memchr(words, 0, n)) return err_set(e, ERR_CONFIG, "%s: holds a NUL byte, so it is no text", name);
    for (const char *at = words, *end = words + n, *nl; !rc && at < end; at = nl + 1) {
        nl = memchr(at, '\n', (size_t)(end - at));
        if (!nl) nl = end;
        line++;
        const char *from = at;
        view first = take_word(&from, nl);
        if (!first.len || *(const char *)first.ptr == '#') continue;
        allow_entry a;
        rc = take_line(&a, at, nl, e);
        if (!rc) rc = add(out, &cap, &a, e);
        if (rc) err_wrap(e, "%s:%u", name, line);
    }
    if (!rc && out->n) qsort(out->at, out->n, sizeof *out->at, by_key);
    if (!rc) rc = check_twice(out, name, e);
    if (rc) allow_free(out);
    return rc;
}

err_code allow_read(allow_list *out, const char *file, err *e)
{
    int fd;
    text t = { 0 };
    *out = (allow_list){ 0 };
    err_code rc = key_file_open(&fd, file, false, e);
    if (rc) return rc;
    char buf[4096];
    for (ssize_t n = 1; !rc && n;) {
        n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR) n = 1;
        else if (n < 0) rc = err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
        else if (t.len + (size_t)n > FILE_BYTES_MAX) rc = err_set(e, ERR_FULL, "%s: longer than %u bytes", file, FILE_BYTES_MAX);
        else if (!text_add(&t, buf, (size_t)n)) rc = err_set(e, ERR_NOMEM, "out of memory for %s", file);
    }
    close(fd);
    if (!rc) rc = allow_parse(out, t.len ? t.ptr : "", t.len, file, e);
    text_free(&t);
    return rc;
}

void allow_free(allow_list *l)
{
    free(l->at);
    *l = (allow_list){ 0 };
}
