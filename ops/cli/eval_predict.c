#include "engine/lab.h"
#include "engine/predictor.h"
#include "engine/tokenizer.h"
#include "core/clock.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/plot.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* sluice eval predict: how far the model goes wrong behind a predicted prompt. Windows of a text are cut into a prompt and what
 * follows it; both ways the model is given what really follows, so that every row has a right answer: what it says behind the
 * prompt's own rows. Runs in this process, over engine/lab.h. What a predicted prompt does to answers, `eval qa --prefill predict`
 * counts. */

enum { NEXT = 32, SINKS = 4, DEFAULT_WINDOW = 256, LEAST_WINDOW = NEXT + SINKS + 16 };
enum { SPANS = 6 };            /* distances from the prompt: 1, 2, 3-4, 5-8, 9-16, 17-32 */

typedef struct {
    const settings *s;
    lab *lab;
    predictor *predictor;
    token_list tokens;
    uint32_t bos, window, V, newest;
    uint32_t *ids;             /* [window] */
    float *exact, *logits;     /* [NEXT][V]: rows prompt - 1 ... */
    float *att[2];             /* [L][NEXT][H*d]: what attention gave, exact and predicted */
    uint32_t first;            /* row of the first of NEXT */
    int side;                  /* of att; and whether logits go to `exact` */
    size_t n, done;
    double kl[NEXT], off[MODEL_MAX_LAYERS], len[MODEL_MAX_LAYERS];
    uint64_t agreed, ns[2];    /* of a prompt: exact, predicted */
} trial;

/* ---- what is kept of a run ------------------------------------------------------------------------------------------------ */

static void watch(void *arg, forward_place at, const forward_view *v)
{
    trial *t = arg;
    const model_shape *s = lab_shape(t->lab);
    size_t n = (size_t)s->H * s->d;
    if (at != FORWARD_ATTENDED || v->T != NEXT) return; /* the prompt */
    for (uint32_t i = 0; i < NEXT; i++)
        memcpy(t->att[t->side] + ((size_t)v->layer * NEXT + i) * n, v->att + i * v->ld_att, n * sizeof(float));
}

static err_code keep(void *arg, uint32_t first, uint32_t n, const float *h, err *e)
{
    trial *t = arg;
    row_stats stats[RUNNER_HEAD_ROWS];
    (void)first, (void)e;
    const float *y = lab_logits(t->lab, h, n, stats);
    float *to = t->side ? t->logits : t->exact;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t v = 0; v < t->V; v++) to[(size_t)i * t->V + v] = y[(size_t)i * t->V + v] - stats[i].lse;
    return ERR_OK;
}

/* ---- one window, twice ------------------------------------------------------------------------------------------------------- */

static err_code feed_prompt(trial *t, kv_seq *q, uint32_t n, err *e)
{
    err_code rc = ERR_OK;
    if (!t->side) return lab_feed(t->lab, q, t->ids, n, NULL, NULL, e);
    uint32_t to = n - t->newest;
    rc = predictor_begin(t->predictor, e);
    if (!rc) rc = lab_feed(t->lab, q, t->ids, SINKS, NULL, NULL, e);
    for (uint32_t at = 0, k; !rc && at < to; at += k) {
        k = to - at < 256 ? to - at : 256;
        rc = predictor_rows(t->predictor, q, NULL, t->ids + at, at, k, e);
    }
    return rc ? rc : lab_feed(t->lab, q, t->ids + to, t->newest, NULL, NULL, e);
}

/* All rows but the prompt's last are the prompt here: that one brings the first token. */
static err_code read_once(trial *t, int side, err *e)
{
    kv_seq *q;
    uint32_t prompt = t->window - NEXT;
    t->side = side;
    err_code rc = lab_fresh(t->lab, &q, e);
    uint64_t from = clock_ns();
    if (!rc) rc = feed_prompt(t, q, prompt, e);
    t->ns[side] += clock_ns() - from;
    runner_watch(lab_runner(t->lab), watch, t);
    if (!rc) rc = lab_feed(t->lab, q, t->ids + prompt, NEXT, keep, t, e);
    runner_watch(lab_runner(t->lab), NULL, NULL);
    return rc;
}

static uint32_t best(const float *x, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

static void compare(trial *t)
{
    const model_shape *s = lab_shape(t->lab);
    size_t n = (size_t)NEXT * s->H * s->d;
    for (uint32_t i = 0; i < NEXT; i++) {
        const float *p = t->exact + (size_t)i * t->V, *q = t->logits + (size_t)i * t->V;
        for (uint32_t v = 0; v < t->V; v++) t->kl[i] += exp((double)p[v]) * ((double)p[v] - (double)q[v]);
    }
    t->agreed += best(t->exact, t->V) == best(t->logits, t->V);
    for (uint32_t l = 0; l < s->L; l++)
        for (size_t i = 0; i < n; i++) {
            double want = (double)t->att[0][l * n + i], off = (double)t->att[1][l * n + i] - want;
            t->off[l] += off * off;
            t->len[l] += want * want;
        }
}

static err_code run_all(trial *t, err *e)
{
    err_code rc = ERR_OK;
    progress bar = progress_open("windows");
    uint32_t own = t->window - (t->bos != TOKEN_NONE);
    for (; !rc && t->done < t->n; t->done++) {
        uint32_t *to = t->ids;
        if (t->bos != TOKEN_NONE) *to++ = t->bos;
        memcpy(to, t->tokens.id + t->done * own, own * sizeof *to);
        for (int side = 0; !rc && side < 2; side++) rc = read_once(t, side, e);
        if (!rc) compare(t);
        progress_set(&bar, t->done + 1, t->n);
    }
    progress_close(&bar);
    return rc;
}

/* ---- what came of it ---------------------------------------------------------------------------------------------------------- */

static double span_kl(const trial *t, int span)
{
    uint32_t lo = span ? (1u << (span - 1)) : 0, hi = 1u << span;
    double sum = 0;
    for (uint32_t i = lo; i < hi; i++) sum += t->kl[i];
    return sum / (hi - lo) / (double)t->n;
}

static err_code print(const trial *t, err *e)
{
    static const char *const names[SPANS] = { "1", "2", "3-4", "5-8", "9-16", "17-32" };
    const model_shape *s = lab_shape(t->lab);
    double ms[2] = { (double)t->ns[0] / 1e6 / (double)t->n, (double)t->ns[1] / 1e6 / (double)t->n };
    if (t->s->json) {
        json_t *kl = json_object(), *att = json_array();
        for (int i = 0; i < SPANS; i++) json_object_set_new(kl, names[i], json_real(span_kl(t, i)));
        for (uint32_t l = 0; l < s->L; l++) json_array_append_new(att, json_real(sqrt(t->off[l] / t->len[l])));
        return show_json(json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "schema", "sluice.eval/1", "eval", "predict", "auxiliary",
                                   t->s->aux, "windows", (json_int_t)t->n, "prompt", (json_int_t)(t->window - NEXT), "exact_ms", ms[0],
                                   "predicted_ms", ms[1], "first_token", (double)t->agreed / (double)t->n, "kl", kl, "attention_error", att), e);
    }
    printf("%zu prompts of %u tokens: exact %.1f ms, predicted %.1f ms (%.2fx)\nfirst token as with an exact prompt: %.1f %%\nKL by distance from the prompt:",
           t->n, t->window - NEXT, ms[0], ms[1], ms[0] / ms[1], 100 * (double)t->agreed / (double)t->n);
    for (int i = 0; i < SPANS; i++) printf("  %s: %.4f", names[i], span_kl(t, i));
    printf("\nrelative error of what attention gives, by layer:");
    for (uint32_t l = 0; l < s->L; l++) printf(" %.3f", sqrt(t->off[l] / t->len[l]));
    printf("\n");
    return show_write("", 0, e);
}

static err_code draw(const trial *t, err *e)
{
    double x[NEXT], y[NEXT];
    for (int i = 0; i < NEXT; i++) x[i] = i + 1, y[i] = t->kl[i] / (double)t->n;
    const plot_series line = { .name = t->s->aux, .x = x, .y = y, .n = NEXT };
    plot p = { .title = "KV prediction: KL from the exact prompt", .x_label = "tokens behind the prompt", .y_label = "KL, nats", .from_zero = true,
               .series = &line, .n = 1 };
    return plot_write(&p, t->s->out, e);
}

/* ---- open ------------------------------------------------------------------------------------------------------------------------ */

static err_code read_text(trial *t, const gguf *g, err *e)
{
    text in = { 0 };
    tokenizer *tok = NULL;
    err_code rc = tokenizer_open(&tok, g, e);
    if (!rc) rc = text_read_file(&in, t->s->file, 64 << 20, e);
    if (!rc) rc = tokenizer_encode(tok, (view){ in.ptr, in.len }, false, false, &t->tokens, e);
    t->bos = !rc && tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : TOKEN_NONE;
    tokenizer_close(&tok);
    text_free(&in);
    if (rc) return rc;
    t->n = t->tokens.n / (t->window - (t->bos != TOKEN_NONE));
    if (t->s->limit && t->n > t->s->limit) t->n = t->s->limit;
    return t->n ? ERR_OK : err_set(e, ERR_INPUT, "%s: %zu tokens, and a window has %u (-c makes it smaller)", t->s->file, t->tokens.n, t->window);
}

static err_code open_models(trial *t, const gguf *g, err *e)
{
    const settings *s = t->s;
    pack_options pack = { .on = !s->no_pack, .dir = s->pack_dir, .max_bytes = s->pack_cap << 20 };
    err_code rc = lab_open(&t->lab, g, &(lab_options){ .path = PATH_I8B32, .threads = (uint32_t)s->threads, .n_ctx = t->window, .pack = pack }, e);
    if (rc) return rc;
    predictor_source from = { .aux = s->aux, .profile = s->profile, .base = g, .path = PATH_I8B32 };
    predictor_place at = { .base = lab_model(t->lab), .pool = lab_pool(t->lab), .pack = pack, .isa = lab_isa(t->lab), .n_ctx = t->window,
                           .max_rows = 256, .format = KV_F16 };
    return predictor_open(&t->predictor, &from, &at, e);
}

static err_code scratch(trial *t, err *e)
{
    const model_shape *s = lab_shape(t->lab);
    size_t att = (size_t)s->L * NEXT * s->H * s->d;
    t->V = s->V;
    t->ids = malloc(t->window * sizeof *t->ids);
    t->exact = malloc((size_t)NEXT * t->V * sizeof *t->exact);
    t->logits = malloc((size_t)NEXT * t->V * sizeof *t->logits);
    t->att[0] = malloc(att * sizeof(float));
    t->att[1] = malloc(att * sizeof(float));
    return t->ids && t->exact && t->logits && t->att[0] && t->att[1] ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

static err_code check(trial *t, settings *s, err *e)
{
    t->window = s->window ? (uint32_t)s->window : DEFAULT_WINDOW;
    t->newest = (uint32_t)s->predict_newest;
    if (!s->file) return err_set(e, ERR_USAGE, "-f TEXT is missing");
    if (!s->aux) return err_set(e, ERR_USAGE, "--aux MODEL is missing");
    if (t->window < LEAST_WINDOW + t->newest)
        return err_set(e, ERR_INPUT, "-c %u: a prompt and the %u tokens behind it want %u at least", t->window, (unsigned)NEXT, LEAST_WINDOW + t->newest);
    return s->model ? ERR_OK : path_default_model(s, e);
}

err_code eval_predict(settings *s, err *e)
{
    trial *t = calloc(1, sizeof *t);
    gguf *g = NULL;
    if (!t) return err_set(e, ERR_NOMEM, "out of memory");
    t->s = s;
    err_code rc = check(t, s, e);
    if (!rc) rc = gguf_open(&g, s->model, e);
    if (!rc) rc = read_text(t, g, e);
    if (!rc) rc = open_models(t, g, e);
    if (!rc) rc = scratch(t, e);
    if (!rc) rc = run_all(t, e);
    if (!rc) rc = print(t, e);
    if (!rc && s->out) rc = draw(t, e);
    void *mine[] = { t->ids, t->exact, t->logits, t->att[0], t->att[1] };
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
    predictor_close(&t->predictor);
    lab_close(&t->lab);
    token_list_free(&t->tokens);
    if (g) gguf_close(&g);
    free(t);
    return rc;
}
