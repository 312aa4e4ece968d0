#include "ops/cli/documents.h"
#include <stdlib.h>
#include <string.h>

static err_code memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory for documents"); }

void documents_free(documents *d)
{
    token_list_free(&d->tokens);
    free(d->doc);
    *d = (documents){ 0 };
}

/* How many tokens the whole and its prompt alone begin with alike: a token that reaches over the mark belongs to what is behind it. */
static uint32_t alike(const token_list *whole, const token_list *prompt)
{
    uint32_t n = 0;
    while (n < whole->n && n < prompt->n && whole->id[n] == prompt->id[n]) n++;
    return n;
}

/* The text without its mark, and the line end that closes the last line of what is behind a prompt. */
static err_code encode(token_list *whole, token_list *prompt, const tokenizer *t, view v, const char *mark, err *e)
{
    size_t front = mark ? (size_t)(mark - (const char *)v.ptr) : v.len;
    text joined = { 0 };
    if (!mark) return tokenizer_encode(t, v, false, false, whole, e);
    bool ok = text_add(&joined, v.ptr, front) && text_add(&joined, mark + 1, v.len - front - 1) && text_adds(&joined, "\n");
    err_code rc = ok ? tokenizer_encode(t, (view){ joined.ptr, joined.len }, false, false, whole, e) : memory(e);
    if (!rc) rc = tokenizer_encode(t, (view){ v.ptr, front }, false, false, prompt, e);
    text_free(&joined);
    return rc;
}

static err_code keep(documents *d, const token_list *whole, uint32_t prompt, uint32_t bos, const documents_limits *limit, err *e)
{
    uint32_t at = (uint32_t)d->tokens.n;
    bool ok = bos == TOKEN_NONE || token_list_add(&d->tokens, bos);
    for (size_t i = 0; ok && i < whole->n && d->tokens.n - at < limit->longest; i++) ok = token_list_add(&d->tokens, whole->id[i]);
    if (!ok) return memory(e);
    uint32_t n = (uint32_t)d->tokens.n - at;
    prompt = prompt ? prompt + (bos != TOKEN_NONE) : n / 2;
    if (n < limit->least || prompt < 2 || prompt + 2 > n) d->tokens.n = at;
    else d->doc[d->n++] = (document){ at, n, prompt };
    return ERR_OK;
}

static err_code add(documents *d, const tokenizer *t, view v, const documents_limits *limit, err *e)
{
    token_list whole = { 0 }, prompt = { 0 };
    const char *mark = v.len ? memchr(v.ptr, '\f', v.len) : NULL;
    err_code rc = encode(&whole, &prompt, t, v, mark, e);
    if (!rc) rc = keep(d, &whole, mark ? alike(&whole, &prompt) : 0, tokenizer_adds_bos(t) ? tokenizer_bos(t) : TOKEN_NONE, limit, e);
    token_list_free(&whole);
    token_list_free(&prompt);
    return rc;
}

err_code documents_read(documents *out, const tokenizer *t, view all, const documents_limits *limit, err *e)
{
    const char *at = all.ptr, *end = all.len ? at + all.len : at;
    *out = (documents){ .doc = calloc(limit->most, sizeof *out->doc) };
    err_code rc = out->doc ? ERR_OK : memory(e);
    while (!rc && at < end && out->n < limit->most) {
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        if (!stop) stop = end;
        rc = add(out, t, (view){ at, (size_t)(stop - at) }, limit, e);
        at = stop < end ? stop + 2 : end;
    }
    if (rc) documents_free(out);
    return rc;
}
