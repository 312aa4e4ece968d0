/* Token ids to text, a piece at a time and as a stream. It refuses to give out half a character in a stream. */
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include <string.h>

static bool add_unescaped(view v, text *out)
{
    const char *p = v.ptr;
    size_t at = 0, blank = sizeof SPM_SPACE - 1;
    for (size_t i = 0; i + blank <= v.len;) {
        if (memcmp(p + i, SPM_SPACE, blank)) {
            i++;
            continue;
        }
        if (!text_add(out, p + at, i - at) || !text_adds(out, " ")) return false;
        at = i += blank;
    }
    return text_add(out, p + at, v.len - at);
}

err_code tokenizer_piece(const tokenizer *t, uint32_t id, bool special, text *out, err *e)
{
    if (id >= t->n) return err_set(e, ERR_INPUT, "token %u is not in the vocabulary of %u", id, t->n);
    uint8_t type = t->type[id];
    if ((type == TOKEN_CONTROL || type == TOKEN_UNKNOWN) && !special) return ERR_OK;
    view v = token_bytes(t, id);
    bool escaped = token_blanks(t) && (type == TOKEN_NORMAL || type == TOKEN_UNUSED);
    bool ok = escaped ? add_unescaped(v, out) : text_add(out, v.ptr, v.len);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for text");
}

/* Move whole characters from pending to out; at the end also what can no longer become whole. */
static bool flush(text *pending, bool end, text *out)
{
    const uint8_t *p = (const uint8_t *)pending->ptr;
    size_t i = 0;
    while (i < pending->len) {
        utf8_step s = utf8_look(p + i, pending->len - i);
        if (s.state == UTF8_PARTIAL && !end) break;
        if (!(s.state == UTF8_OK ? text_add(out, p + i, s.len) : text_adds(out, "\xEF\xBF\xBD"))) return false;
        i += s.len;
    }
    if (i) memmove(pending->ptr, pending->ptr + i, pending->len - i);
    pending->len -= i;
    return true;
}

err_code detok_push(detok *d, const tokenizer *t, uint32_t id, text *out, err *e)
{
    size_t before = d->pending.len;
    err_code rc = tokenizer_piece(t, id, false, &d->pending, e);
    if (rc) return rc;
    if (!d->started && d->pending.len > before) {
        d->started = true;
        if (token_blanks(t) && t->space_prefix && d->pending.ptr[before] == ' ') {
            d->pending.len--;
            memmove(d->pending.ptr + before, d->pending.ptr + before + 1, d->pending.len - before);
        }
    }
    return flush(&d->pending, false, out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for text");
}

err_code detok_end(detok *d, text *out, err *e)
{
    bool ok = flush(&d->pending, true, out);
    text_free(&d->pending);
    *d = (detok){ 0 };
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for text");
}
