#include "core/mask.h"
#include "engine/tokenizer.h"
#include "ops/cli/command.h"
#include "ops/cli/documents.h"
#include "ops/cli/evaluation.h"
#include "ops/cli/flight.h"
#include "ops/cli/lines.h"
#include "ops/cli/progress.h"
#include "ops/cli/qa.h"
#include "ops/cli/route_map.h"
#include "ops/cli/show.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* sluice eval route: what leaving out layers costs, rule by rule: how far the model's words for a text move (KL, perplexity), how many
 * questions it still answers, how fast it is. Prompts go as the rule says; what is judged are rows behind them, as they are generated. */

enum { DOC_LEAST = 24, DOC_MOST = 128, DOCS = 40, TRIALS = 64, FILES = 4, AT_ONCE = 8, ANSWER_TOKENS = 24, SPEED_TOKENS = 48, ROUNDS = 3 };

typedef struct {
    char rule[128];
    double kl[DOCS], nll[DOCS];     /* nats a token of each document */
    double skipped;                 /* share of the weights, mean over documents */
    size_t right[FILES];
    double speed[ROUNDS];           /* tokens a second */
    route_map map[1 + FILES];       /* how often each layer is left out: in the text, in each file */
} trial;

typedef struct {
    settings *s;
    evaluation v;
    uint32_t L, V;
    documents docs;
    uint32_t n_docs;
    float *base;                    /* [rows judged][V] log-probabilities without a rule, document after document */
    size_t first_row[DOCS];
    question *q[FILES];
    size_t n_q[FILES];
    uint32_t n_files;
    trial *t;                       /* [n] the first one has no rule */
    uint32_t n;
    /* the flight under way */
    trial *now;
    uint32_t file, round;
    size_t sent;
    progress bar;
    uint64_t steps, all;
} study;

static void tick(study *y) { progress_set(&y->bar, ++y->steps, y->all); }

/* ---- what is read and asked ------------------------------------------------------------------------------------------- */

static err_code read_docs(study *y, const tokenizer *t, err *e)
{
    const documents_limits limit = { DOC_LEAST, DOC_MOST, y->s->limit && y->s->limit < DOCS ? (uint32_t)y->s->limit : DOCS };
    text in = { 0 };
    err_code rc = text_read_file(&in, y->s->file, 1 << 28, e);
    if (!rc) rc = documents_read(&y->docs, t, (view){ in.ptr, in.len }, &limit, e);
    text_free(&in);
    y->n_docs = y->docs.n;
    if (!rc && y->n_docs < 4) return err_set(e, ERR_INPUT, "%s: %u documents (parted by blank lines) of %d tokens or more; four are wanted", y->s->file, y->n_docs, DOC_LEAST);
    return rc;
}

static err_code read_questions(study *y, const char *path, err *e)
{
    lines in;
    view line;
    uint32_t f = y->n_files;
    err_code rc = f < FILES ? lines_open(&in, path, e) : err_set(e, ERR_USAGE, "more than %d files of questions", FILES);
    if (rc) return rc;
    y->n_files++;
    while (!rc && (!y->s->limit || y->n_q[f] < y->s->limit) && lines_next(&in, &line, e)) {
        question *more = realloc(y->q[f], (y->n_q[f] + 1) * sizeof *more);
        if (!more) rc = err_set(e, ERR_NOMEM, "out of memory");
        if (rc) break;
        y->q[f] = more;
        more[y->n_q[f]] = (question){ 0 };
        rc = question_read(&more[y->n_q[f]++], line, false, e);
    }
    if (!rc) rc = e->code;
    lines_close(&in);
    return rc;
}

static err_code open_model(study *y, err *e)
{
    gguf *g = NULL;
    tokenizer *t = NULL;
    const json_t *m = json_object_get(y->v.status, "model");
    y->L = (uint32_t)json_integer_value(json_object_get(m, "layers"));
    y->V = (uint32_t)json_integer_value(json_object_get(m, "vocab"));
    err_code rc = y->L && y->L <= MASK_LAYERS && y->V ? gguf_open(&g, y->v.model, e) : err_set(e, ERR_PROTO, "the coordinator does not say how large its model is");
    if (!rc) rc = tokenizer_open(&t, g, e);
    if (!rc) rc = read_docs(y, t, e);
    tokenizer_close(&t);
    gguf_close(&g);
    size_t rows = 0;
    for (uint32_t i = 0; i < y->n_docs; i++) y->first_row[i] = rows, rows += y->docs.doc[i].n - y->docs.doc[i].prompt;
    if (!rc && !(y->base = malloc(rows * y->V * sizeof *y->base))) rc = err_set(e, ERR_NOMEM, "out of memory for %zu rows of %u logits (--limit takes fewer documents)", rows, y->V);
    return rc;
}

/* ---- rules -------------------------------------------------------------------------------------------------------------- */

static trial *add_rule(study *y, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static trial *add_rule(study *y, const char *fmt, ...)
{
    va_list ap;
    if (y->n == TRIALS) return NULL;
    va_start(ap, fmt);
    vsnprintf(y->t[y->n].rule, sizeof y->t->rule, fmt, ap);
    va_end(ap);
    return &y->t[y->n++];
}

/* A tenth to four tenths of the layers, by every way of choosing. A profile is needed for those behind unified. */
static void add_grid(study *y)
{
    for (uint32_t i = 1; i <= 4; i++) {
        uint32_t k = (y->L * i + 5) / 10;
        if (!k || k + 2 > y->L) continue;
        for (int seed = 1; seed <= 3; seed++) add_rule(y, "random:%u,seed=%d,rows=decode", k, seed);
        add_rule(y, "unified:%u,rows=decode", k);
        add_rule(y, "adaskip:%u,rows=decode", k);
        add_rule(y, "fixed:%u", k);
        add_rule(y, "first:%u", k);
        if (2 * k + 2 < y->L) add_rule(y, "skipdecode:max=%u,min=%u,over=%d", y->L, y->L - 2 * k, DOC_MOST / 2);
        if (2 * k + 2 < y->L) add_rule(y, "skipdecode:max=%u,min=%u,over=%d,order=learned", y->L, y->L - 2 * k, DOC_MOST / 2);
    }
}

static err_code add_rules(study *y, err *e)
{
    y->t = calloc(TRIALS, sizeof *y->t);
    if (!y->t) return err_set(e, ERR_NOMEM, "out of memory");
    add_rule(y, "none");
    for (size_t i = 1; i < y->s->args.n; i++)
        if (!add_rule(y, "%.120s", y->s->args.at[i])) return err_set(e, ERR_USAGE, "more than %d rules", TRIALS - 1);
    if (y->s->args.n < 2) add_grid(y);
    return ERR_OK;
}

static err_code begin(study *y, request *out, err *e)
{
    err_code rc = request_init(out, y->s, e);
    snprintf(out->m.submit.skip, sizeof out->m.submit.skip, "%s", y->now->rule);
    return rc;
}

static err_code failed(const study *y, const answer *a, err *e)
{
    *e = a->fail;
    return err_wrap(e, "rule %s", y->now->rule);
}

/* ---- texts ---------------------------------------------------------------------------------------------------------------- */

static err_code next_doc(void *me, request *out, bool *more, err *e)
{
    study *y = me;
    *more = y->sent < y->n_docs;
    if (!*more) return ERR_OK;
    const document *d = &y->docs.doc[y->sent++];
    err_code rc = begin(y, out, e);
    out->m.submit.kind = 1;
    out->m.submit.score_rows = 1;
    out->m.submit.prompt_rows = d->prompt;
    return rc ? rc : request_set_tokens(out, y->docs.tokens.id + d->at, d->n, e);
}

static void judge_row(void *me, size_t index, uint64_t row, const float *logits, const score_rec *r)
{
    study *y = me;
    const document *d = &y->docs.doc[index];
    double kl = 0, judged = d->n - 1 - d->prompt;
    if (row < d->prompt || row + 1 >= d->n) return;
    float *base = y->base + (y->first_row[index] + row - d->prompt) * y->V;
    for (uint32_t i = 0; i < y->V; i++) {
        double got = (double)logits[i] - (double)r->lse;
        if (y->now == y->t) base[i] = (float)got;
        else kl += exp((double)base[i]) * ((double)base[i] - got);
    }
    y->now->kl[index] += kl / judged;
    y->now->nll[index] += ((double)r->lse - (double)r->target_logit) / judged;
}

static err_code scored(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    (void)a;
    return answer_rows(p, ((study *)me)->V, judge_row, me, index, e);
}

static err_code doc_done(void *me, size_t index, answer *a, err *e)
{
    study *y = me;
    (void)index;
    if (a->fail.code) return failed(y, a, e);
    y->now->skipped += a->choice[0].done.skipped / y->n_docs;
    route_map_add(&y->now->map[0], y->L, (view){ a->mask.ptr, a->mask.len });
    tick(y);
    return ERR_OK;
}

/* ---- questions ------------------------------------------------------------------------------------------------------------ */

static err_code next_question(void *me, request *out, bool *more, err *e)
{
    study *y = me;
    *more = y->sent < y->n_q[y->file];
    if (!*more) return ERR_OK;
    const question *q = &y->q[y->file][y->sent++];
    err_code rc = begin(y, out, e);
    out->m.submit.max_tokens = ANSWER_TOKENS;
    if (!rc) rc = request_add_stop(out, "\n", e);
    return rc ? rc : request_set_prompt(out, q->prompt.ptr, q->prompt.len, e);
}

static err_code question_done(void *me, size_t index, answer *a, err *e)
{
    study *y = me;
    const question *q = &y->q[y->file][index];
    if (a->fail.code) return failed(y, a, e);
    view got = a->n_choices ? qa_answer((view){ a->choice[0].text.ptr, a->choice[0].text.len }) : (view){ 0 };
    y->now->right[y->file] += qa_same(got, (view){ q->answer, strlen(q->answer) });
    route_map_add(&y->now->map[1 + y->file], y->L, (view){ a->mask.ptr, a->mask.len });
    tick(y);
    return ERR_OK;
}

/* ---- speed ---------------------------------------------------------------------------------------------------------------- */

static err_code next_speed(void *me, request *out, bool *more, err *e)
{
    study *y = me;
    const document *d = &y->docs.doc[y->round % y->n_docs];
    *more = !y->sent++;
    if (!*more) return ERR_OK;
    err_code rc = begin(y, out, e);
    out->m.submit.max_tokens = SPEED_TOKENS;
    out->m.submit.ignore_eog = true;
    return rc ? rc : request_set_tokens(out, y->docs.tokens.id + d->at, d->prompt, e);
}

static err_code speed_done(void *me, size_t index, answer *a, err *e)
{
    study *y = me;
    (void)index;
    if (a->fail.code) return failed(y, a, e);
    const msg_done *d = &a->choice[0].done;
    y->now->speed[y->round] = d->decode_us ? (double)(d->tokens - 1) * 1e6 / (double)d->decode_us : 0;
    tick(y);
    return ERR_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------ */

static err_code fly(study *y, const flight_ops *ops, size_t limit, err *e)
{
    y->sent = 0;
    return flight_run(y->v.c, limit, ops, y, e);
}

static err_code run(study *y, err *e)
{
    static const flight_ops texts = { next_doc, scored, doc_done }, questions = { next_question, NULL, question_done }, speed = { next_speed, NULL, speed_done };
    err_code rc = ERR_OK;
    y->all = (uint64_t)y->n * (y->n_docs + ROUNDS);
    for (uint32_t f = 0; f < y->n_files; f++) y->all += (uint64_t)y->n * y->n_q[f];
    for (uint32_t i = 0; !rc && i < y->n; i++) {
        y->now = &y->t[i];
        rc = fly(y, &texts, AT_ONCE, e);
        for (y->file = 0; !rc && y->file < y->n_files; y->file++) rc = fly(y, &questions, AT_ONCE, e);
    }
    for (y->round = 0; !rc && y->round < ROUNDS; y->round++) /* in turns, so that a busy moment hits all rules */
        for (uint32_t i = 0; !rc && i < y->n; i++) {
            y->now = &y->t[i];
            rc = fly(y, &speed, 1, e);
        }
    return rc;
}

static double mean_of(const double *x, uint32_t n, double *error)
{
    double m = 0, v = 0;
    for (uint32_t i = 0; i < n; i++) m += x[i] / n;
    for (uint32_t i = 0; i < n; i++) v += (x[i] - m) * (x[i] - m) / (n > 1 ? n - 1 : 1);
    if (error) *error = 1.96 * sqrt(v / n);
    return m;
}

static double middle(const double x[ROUNDS])
{
    double a = x[0], b = x[1], c = x[2];
    return a < b ? b < c ? b : a < c ? c : a : a < c ? a : b < c ? c : b;
}

typedef struct { double kl, kl_error, ppl, skipped, speed; } figures;

static figures figures_of(const study *y, const trial *t)
{
    figures f = { .skipped = t->skipped, .speed = middle(t->speed) };
    f.kl = mean_of(t->kl, y->n_docs, &f.kl_error);
    f.ppl = exp(mean_of(t->nll, y->n_docs, NULL));
    return f;
}

static err_code print_json(const study *y, err *e)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < y->n; i++) {
        figures f = figures_of(y, &y->t[i]);
        json_t *right = json_array();
        for (uint32_t k = 0; k < y->n_files; k++) json_array_append_new(right, json_pack("{s:I,s:I}", "right", (json_int_t)y->t[i].right[k], "total", (json_int_t)y->n_q[k]));
        json_array_append_new(list, json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "rule", y->t[i].rule, "kl", json_finite(f.kl), "kl_error", json_finite(f.kl_error),
                                              "ppl", json_finite(f.ppl), "skipped", json_finite(f.skipped), "decode_tok_s", json_finite(f.speed), "questions", right));
    }
    return show_json(json_pack("{s:s,s:s,s:i,s:o}", "schema", "sluice.eval/1", "eval", "route", "documents", (int)y->n_docs, "rules", list), e);
}

static err_code print(const study *y, err *e)
{
    if (y->s->json) return print_json(y, e);
    printf("| rule | left out | KL (nats a token) | ppl | tok/s |");
    for (uint32_t k = 0; k < y->n_files; k++) printf(" right of %zu |", y->n_q[k]);
    printf("\n|---|---|---|---|---|");
    for (uint32_t k = 0; k < y->n_files; k++) printf("---|");
    printf("\n");
    for (uint32_t i = 0; i < y->n; i++) {
        figures f = figures_of(y, &y->t[i]);
        printf("| %s | %.0f %% | %.4f ± %.4f | %.3f | %.1f |", y->t[i].rule, 100 * f.skipped, f.kl, f.kl_error, f.ppl, f.speed);
        for (uint32_t k = 0; k < y->n_files; k++) printf(" %zu |", y->t[i].right[k]);
        printf("\n");
    }
    return show_write("", 0, e);
}

static err_code draw(const study *y, err *e)
{
    route_row rows[TRIALS * (1 + FILES)];
    uint32_t n = 0;
    for (uint32_t i = 1; y->s->out && i < y->n; i++)
        for (uint32_t k = 0; k <= y->n_files; k++)
            if (y->t[i].map[k].n) rows[n++] = (route_row){ y->t[i].rule, k ? y->s->questions.at[k - 1] : "text", &y->t[i].map[k] };
    return y->s->out ? route_map_write(y->s->out, y->L, rows, n, e) : ERR_OK;
}

err_code eval_route(settings *s, err *e)
{
    study *y = calloc(1, sizeof *y);
    if (!y) return err_set(e, ERR_NOMEM, "out of memory");
    y->s = s;
    y->bar = progress_open("rules");
    err_code rc = s->file ? ERR_OK : err_set(e, ERR_USAGE, "-f TEXT is missing");
    for (size_t i = 0; !rc && i < s->questions.n; i++) rc = read_questions(y, s->questions.at[i], e);
    if (!rc) rc = evaluation_open(&y->v, s, e);
    if (!rc) rc = open_model(y, e);
    if (!rc) rc = add_rules(y, e);
    if (!rc) rc = run(y, e);
    progress_close(&y->bar);
    if (!rc) rc = print(y, e);
    if (!rc) rc = draw(y, e);
    for (uint32_t f = 0; f < y->n_files; f++) {
        for (size_t i = 0; i < y->n_q[f]; i++) question_free(&y->q[f][i]);
        free(y->q[f]);
    }
    documents_free(&y->docs);
    free(y->base);
    free(y->t);
    rc = evaluation_close(&y->v, rc, e);
    free(y);
    return rc;
}
