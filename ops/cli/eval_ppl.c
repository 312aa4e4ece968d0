#include "ops/cli/command.h"
#include "ops/cli/evaluation.h"
#include "ops/cli/flight.h"
#include "engine/tokenizer.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include "ops/cli/windows.h"
#include <stdlib.h>

/* sluice eval ppl: perplexity of a text. The definition is in windows.h; here is the way of the windows through a cluster. */

enum {
    WINDOWS_AT_ONCE = 8,           /* keeps every stage of a small pipeline busy */
    DEFAULT_CTX = 512,             /* llama-perplexity's */
    TEXT_BYTES_MAX = 1 << 30
};

typedef struct {
    const settings *s;
    token_list tokens;
    uint32_t ctx, bos;             /* bos TOKEN_NONE: the model adds none */
    uint32_t *window;              /* [ctx] */
    size_t n, sent, done;          /* windows */
    ppl_sum *part;                 /* [n], added up in order at the end, so that the order of completion changes nothing */
    progress bar;
} ppl;

static err_code next(void *me, request *out, bool *more, err *e)
{
    ppl *p = me;
    *more = p->sent < p->n;
    if (!*more) return ERR_OK;
    windows_fill(p->window, p->tokens.id, p->sent++, p->ctx, p->bos);
    err_code rc = request_init(out, p->s, e);
    out->m.submit.kind = 1;
    return rc == ERR_OK ? request_set_tokens(out, p->window, p->ctx, e) : rc;
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    ppl *p = me;
    if (a->fail.code != ERR_OK) {
        *e = a->fail;
        return err_wrap(e, "window %zu", index);
    }
    if (a->n_scores != p->ctx) return err_set(e, ERR_PROTO, "%zu rows came for %u tokens", a->n_scores, p->ctx);
    for (uint32_t j = windows_first(p->ctx); j < windows_end(p->ctx); j++)
        ppl_add(&p->part[index], (double)a->score[j].lse, (double)a->score[j].target_logit);
    progress_set(&p->bar, ++p->done, p->n);
    return ERR_OK;
}

/* As llama-perplexity reads a file: one newline at the end does not count. */
static err_code read_text(ppl *p, const tokenizer *t, err *e)
{
    text in = { 0 };
    err_code rc = text_read_file(&in, p->s->file, TEXT_BYTES_MAX, e);
    if (rc == ERR_OK && in.len && in.ptr[in.len - 1] == '\n') in.len--;
    if (rc == ERR_OK) rc = tokenizer_encode(t, (view){ in.ptr, in.len }, true, false, &p->tokens, e);
    text_free(&in);
    return rc;
}

static err_code tokenize(ppl *p, const char *model, err *e)
{
    gguf *g = NULL;
    tokenizer *t = NULL;
    err_code rc = gguf_open(&g, model, e);
    if (rc == ERR_OK) rc = tokenizer_open(&t, g, e);
    if (rc == ERR_OK) p->bos = tokenizer_adds_bos(t) ? tokenizer_bos(t) : TOKEN_NONE;
    if (rc == ERR_OK) rc = read_text(p, t, e);
    tokenizer_close(&t);
    gguf_close(&g);
    return rc;
}

static err_code cut(ppl *p, uint64_t n_ctx, err *e)
{
    uint64_t want = p->s->window ? p->s->window : n_ctx && n_ctx < DEFAULT_CTX ? n_ctx : DEFAULT_CTX;
    if (want < 4) return err_set(e, ERR_INPUT, "-c %llu: a window has 4 tokens at least", (unsigned long long)want);
    if (n_ctx && want > n_ctx)
        return err_set(e, ERR_INPUT, "-c %llu is more than the context of the model (%llu)", (unsigned long long)want,
                       (unsigned long long)n_ctx);
    p->ctx = (uint32_t)want;
    p->n = windows_count(p->tokens.n, p->ctx);
    if (!p->n)
        return err_set(e, ERR_INPUT, "%s: %zu tokens, and a window has %u (-c makes it smaller)", p->s->file, p->tokens.n, p->ctx);
    p->window = calloc(p->ctx, sizeof *p->window);
    p->part = calloc(p->n, sizeof *p->part);
    return p->window && p->part ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

static err_code print(evaluation *v, const ppl *p, err *e)
{
    ppl_sum sum = { 0 };
    for (size_t i = 0; i < p->n; i++) {
        sum.nll += p->part[i].nll;
        sum.nll2 += p->part[i].nll2;
        sum.n += p->part[i].n;
    }
    if (p->s->json)
        return show_json(json_pack("{s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:o}", "schema", "sluice.eval/1", "eval", "ppl", "ppl",
                                   json_finite(ppl_value(&sum)), "error", json_finite(ppl_error(&sum)), "context",
                                   (json_int_t)p->ctx, "windows", (json_int_t)p->n, "tokens", (json_int_t)p->tokens.n, "scored",
                                   (json_int_t)sum.n, "stages", evaluation_stages(v)),
                         e);
    printf("ppl %.4f +/- %.5f  (%zu tokens, %zu windows of %u, %llu scored)\n", ppl_value(&sum), ppl_error(&sum), p->tokens.n, p->n,
           p->ctx, (unsigned long long)sum.n);
    return show_write("", 0, e);
}

err_code eval_ppl(settings *s, err *e)
{
    static const flight_ops ops = { next, NULL, done };
    ppl p = { .s = s, .bar = progress_open("perplexity") };
    evaluation v = { 0 };
    err_code rc = s->file ? ERR_OK : err_set(e, ERR_USAGE, "-f TEXT is missing");
    if (rc == ERR_OK) rc = evaluation_open(&v, s, e);
    if (rc == ERR_OK) rc = tokenize(&p, v.model, e);
    if (rc == ERR_OK) rc = cut(&p, v.n_ctx, e);
    if (rc == ERR_OK) progress_set(&p.bar, 0, p.n);
    if (rc == ERR_OK) rc = flight_run(v.c, WINDOWS_AT_ONCE, &ops, &p, e);
    progress_close(&p.bar);
    if (rc == ERR_OK) rc = print(&v, &p, e);
    token_list_free(&p.tokens);
    free(p.window);
    free(p.part);
    return evaluation_close(&v, rc, e);
}
