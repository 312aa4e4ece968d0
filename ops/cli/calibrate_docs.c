#include "ops/cli/calibrate_docs.h"

enum { DOC_LEAST = 16, DOCS_MOST = 1024, DOCS_LEAST = 10 };

/* A text without blank lines: stretches of it. */
static err_code split_stretches(const calibration *c, documents *d, uint32_t longest, err *e)
{
    const token_list *t = &c->tokens;
    bool ok = true;
    d->n = 0;
    d->tokens.n = 0;
    for (size_t at = 0; ok && at + longest <= t->n && d->n < DOCS_MOST; at += longest) {
        uint32_t first = (uint32_t)d->tokens.n;
        ok = c->bos == TOKEN_NONE || token_list_add(&d->tokens, c->bos);
        for (uint32_t i = 0; ok && d->tokens.n - first < longest; i++) ok = token_list_add(&d->tokens, t->id[at + i]);
        d->doc[d->n++] = (document){ first, longest, longest / 2 };
    }
    if (!ok) return err_set(e, ERR_NOMEM, "out of memory for documents");
    if (d->n < DOCS_LEAST) return err_set(e, ERR_INPUT, "%u documents of %d tokens or more: routers want %d at least", d->n, DOC_LEAST, DOCS_LEAST);
    return ERR_OK;
}

err_code calibrate_documents(const calibration *c, documents *out, err *e)
{
    const documents_limits limit = { DOC_LEAST, c->window < CALIBRATE_DOC_MOST ? c->window : CALIBRATE_DOC_MOST, DOCS_MOST };
    err_code rc = documents_read(out, c->tok, c->text, &limit, e);
    return !rc && out->n < 4 * DOCS_LEAST ? split_stretches(c, out, limit.longest, e) : rc;
}
