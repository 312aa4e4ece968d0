#include "ops/cli/eval_kv.h"
#include "ops/cli/signals.h"
#include <math.h>
#include <stdlib.h>

/* How far a policy's next-token distributions are from the exact ones: a prompt is compressed, then the text goes on, teacher-forced,
 * the policy active. KL(exact || policy), and the negative log-likelihood of the text. */

enum { TEXT_BYTES_MAX = 1 << 30 };

/* One window of one policy. */
typedef struct {
    const kv_eval *v;
    kv_trial *t;
    const uint32_t *next;      /* [scored of a window] tokens that follow */
    float *exact, *share;      /* [scored][V] logits of trial 0 and their softmax */
    float *lse;                /* [scored] of trial 0 */
    uint32_t *top;             /* [scored] of trial 0 */
    double nll, sum;
    uint32_t at;               /* where the window's first row lies in t->kl */
} window;

static void keep_exact(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    window *w = me;
    size_t V = w->v->lab.V;
    candidate c;
    forward_top(logits, (uint32_t)V, &c, 1);
    w->top[i] = c.id;
    w->lse[i] = s->lse;
    w->nll += (double)s->lse - (double)logits[w->next[i]];
    for (size_t k = 0; k < V; k++) {
        w->exact[i * V + k] = logits[k];
        w->share[i * V + k] = expf(logits[k] - s->lse);
    }
}

static void compare(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    window *w = me;
    size_t V = w->v->lab.V;
    const float *x = w->exact + i * V, *p = w->share + i * V;
    candidate c;
    double kl = (double)s->lse - (double)w->lse[i];
    for (size_t k = 0; k < V; k++) kl += (double)p[k] * (double)(x[k] - logits[k]);
    if (kl < 0) kl = 0;        /* rounding: f32 logits of equal rows */
    forward_top(logits, (uint32_t)V, &c, 1);
    w->t->top_same += c.id == w->top[i];
    w->t->kl[w->at + i] = kl;
    w->sum += kl;
    w->nll += (double)s->lse - (double)logits[w->next[i]];
}

/* Window `at` of one policy, forked off the prompt; n rows are scored. */
static err_code run_one(kv_eval *v, window *w, size_t trial, kv_seq *prompt, const uint32_t *ids, uint32_t n, uint32_t at, err *e)
{
    kv_seq *q = NULL;
    kv_usage before = kv_bytes(v->lab.store), after;
    w->t = &v->trial[trial];
    w->at = at * n;
    w->nll = w->sum = 0;
    err_code rc = kvlab_fork(&v->lab, prompt, &w->t->policy, &q, e);
    if (rc == ERR_OK) eval_kv_count(w->t, q);
    if (rc == ERR_OK) rc = kvlab_feed(&v->lab, q, ids, n, NULL, &(kvlab_sink){ trial ? compare : keep_exact, w, 0 }, e);
    kvlab_drop(&v->lab, &q);
    after = kv_bytes(v->lab.store);
    w->t->read += after.sparse_read - before.sparse_read;
    w->t->there += after.sparse_seen - before.sparse_seen;
    w->t->kl_window[at] = w->sum / n;
    w->t->nll_window[at] = w->nll / n;
    if (rc == ERR_OK && !trial) w->t->top_same += n;
    return rc;
}

static err_code run_window(kv_eval *v, window *w, uint32_t *ids, uint32_t n, uint32_t at, err *e)
{
    kv_seq *prompt = NULL;
    err_code rc = kvlab_watch(&v->lab, v->policy, v->n, v->prompt, &prompt, e);
    if (rc == ERR_OK) rc = kvlab_feed(&v->lab, prompt, ids, v->prompt, NULL, NULL, e);
    w->next = ids + v->prompt + 1;
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++)
        if (!v->trial[i].oracle) rc = run_one(v, w, i, prompt, ids + v->prompt, n, at, e);
    kvlab_drop(&v->lab, &prompt);
    eval_kv_step(v);
    return rc;
}

static err_code read_tokens(const kv_eval *v, token_list *out, err *e)
{
    text in = { 0 };
    err_code rc = text_read_file(&in, v->s->file, TEXT_BYTES_MAX, e);
    if (rc == ERR_OK) rc = tokenizer_encode(v->lab.words, (view){ in.ptr, in.len }, true, false, out, e);
    text_free(&in);
    return rc;
}

/* Windows begin evenly spread over the text, and may overlap: what is scored of two does not unless there are many. */
static err_code run_windows(kv_eval *v, window *w, token_list *ids, uint32_t n, err *e)
{
    size_t need = (size_t)v->prompt + n + 1;
    if (ids->n < need)
        return err_set(e, ERR_INPUT, "%s: %zu tokens, and a window with what is scored behind it has %zu (-c makes it smaller)",
                       v->s->file, ids->n, need);
    err_code rc = ERR_OK;
    uint32_t all = v->windows;
    for (uint32_t i = 0; rc == ERR_OK && i < v->windows; i++) {
        size_t from = all > 1 ? (size_t)((double)(ids->n - need) * i / (all - 1)) : 0;
        if (signals_caught()) {                    /* what there is counts */
            v->windows = i;
            v->scored = i * n;
            break;
        }
        uint32_t was = ids->id[from];
        if (v->lab.bos != TOKEN_NONE) ids->id[from] = v->lab.bos;
        rc = run_window(v, w, ids->id + from, n, i, e);
        ids->id[from] = was;
    }
    return rc;
}

err_code eval_kv_text(kv_eval *v, err *e)
{
    if (!v->windows) return ERR_OK;
    uint32_t n = v->scored / v->windows;
    token_list ids = { 0 };
    window w = { .v = v, .exact = malloc(sizeof *w.exact * n * v->lab.V), .share = malloc(sizeof *w.share * n * v->lab.V),
                 .lse = malloc(sizeof *w.lse * n), .top = malloc(sizeof *w.top * n) };
    err_code rc = w.exact && w.share && w.lse && w.top ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the logits of %u rows", n);
    if (rc == ERR_OK) rc = read_tokens(v, &ids, e);
    if (rc == ERR_OK) rc = run_windows(v, &w, &ids, n, e);
    token_list_free(&ids);
    void *mem[] = { w.exact, w.share, w.lse, w.top };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    return rc;
}
