#include "core/alarm.h"
#include "engine/tokenizer.h"
#include "ops/cli/command.h"
#include "ops/cli/evaluation.h"
#include "ops/cli/flight.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* sluice eval back-off RULE: which of the alarms sees best that a session which leaves out layers goes wrong. Sessions are recorded: they
 * generate under the rule, then every token's row is judged by the model with all layers (KL), and the alarms see what they would have
 * seen. Nothing is turned back here: what would be left of the divergence is computed from the record. */

enum { DOCS = 40, PROMPT_MOST = 64, PROMPT_LEAST = 12, MADE = 160, AHEAD = 16, FROM = 56, AT_ONCE = 8, STEPS = 200 };
#define TEMPERATURE 0.8          /* as people sample; greedy, a small model says one sentence for ever with or without its layers */

typedef struct {
    uint32_t id[PROMPT_MOST + MADE], n, prompt;
    float entropy[MADE], margin[MADE], kl[MADE];
    double score[ALARM_KINDS][MADE];
} record;

typedef struct {
    settings *s;
    evaluation v;
    const char *rule;
    uint32_t V, bos, n;
    record *r;                   /* [n] */
    float *base;                 /* [n][MADE][V] logits less lse, all layers */
    bool masked;                 /* the flight under way follows the rule */
    size_t sent;
    progress bar;
    uint64_t steps;
} study;

/* ---- records ---------------------------------------------------------------------------------------------------------- */

static err_code read_prompts(study *y, const tokenizer *t, err *e)
{
    text in = { 0 };
    err_code rc = text_read_file(&in, y->s->file, 1 << 28, e);
    const char *at = in.ptr, *end = rc ? at : at + in.len;
    while (!rc && at < end && y->n < (y->s->limit && y->s->limit < DOCS ? y->s->limit : DOCS)) {
        token_list ids = { 0 };
        record *r = &y->r[y->n];
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        if (!stop) stop = end;
        rc = tokenizer_encode(t, (view){ at, (size_t)(stop - at) }, false, false, &ids, e);
        if (y->bos != TOKEN_NONE) r->id[r->n++] = y->bos;
        for (size_t i = 0; !rc && i < ids.n / 2 && r->n < PROMPT_MOST; i++) r->id[r->n++] = ids.id[i];
        r->prompt = r->n;
        if (r->n < PROMPT_LEAST) r->n = 0;
        else y->n++;
        token_list_free(&ids);
        at = stop + 2;
    }
    text_free(&in);
    if (!rc && y->n < 4) return err_set(e, ERR_INPUT, "%s: %u documents (parted by blank lines) that are long enough; four are wanted", y->s->file, y->n);
    return rc;
}

static err_code open_model(study *y, err *e)
{
    gguf *g = NULL;
    tokenizer *t = NULL;
    y->V = (uint32_t)json_integer_value(json_object_get(json_object_get(y->v.status, "model"), "vocab"));
    err_code rc = y->V ? gguf_open(&g, y->v.model, e) : err_set(e, ERR_PROTO, "the coordinator does not say how large its model is");
    if (!rc) rc = tokenizer_open(&t, g, e);
    if (!rc) y->bos = tokenizer_adds_bos(t) ? tokenizer_bos(t) : TOKEN_NONE;
    if (!rc && y->v.n_ctx < PROMPT_MOST + MADE) rc = err_set(e, ERR_INPUT, "a context of %d tokens is wanted", PROMPT_MOST + MADE);
    if (!rc) rc = read_prompts(y, t, e);
    tokenizer_close(&t);
    gguf_close(&g);
    if (!rc && !(y->base = malloc((size_t)y->n * MADE * y->V * sizeof *y->base))) rc = err_set(e, ERR_NOMEM, "out of memory for %u rows of logits (--limit takes fewer documents)", y->n * MADE);
    return rc;
}

static err_code begin(study *y, request *out, err *e)
{
    err_code rc = request_init(out, y->s, e);
    snprintf(out->m.submit.skip, sizeof out->m.submit.skip, "%s", y->masked ? y->rule : "none");
    return rc;
}

static err_code next_made(void *me, request *out, bool *more, err *e)
{
    study *y = me;
    *more = y->sent < y->n;
    if (!*more) return ERR_OK;
    record *r = &y->r[y->sent++];
    err_code rc = begin(y, out, e);
    out->m.submit.max_tokens = MADE;
    out->m.submit.ignore_eog = true;
    out->m.submit.temperature = TEMPERATURE;
    out->m.submit.seed = y->s->seed + y->sent;
    return rc ? rc : request_set_tokens(out, r->id, r->prompt, e);
}

static err_code made(void *me, size_t index, answer *a, err *e)
{
    study *y = me;
    record *r = &y->r[index];
    if (a->fail.code) return *e = a->fail, err_wrap(e, "rule %s", y->rule);
    for (size_t i = 0; i < a->choice[0].n_tokens && i < MADE; i++) r->id[r->n++] = a->choice[0].token[i].id;
    progress_set(&y->bar, ++y->steps, 3 * y->n);
    return r->n == r->prompt + MADE ? ERR_OK : err_set(e, ERR_PROTO, "an answer ended early");
}

static err_code next_scored(void *me, request *out, bool *more, err *e)
{
    study *y = me;
    *more = y->sent < y->n;
    if (!*more) return ERR_OK;
    record *r = &y->r[y->sent++];
    err_code rc = begin(y, out, e);
    out->m.submit.kind = 1;
    out->m.submit.score_rows = 1;
    out->m.submit.prompt_rows = r->prompt;
    return rc ? rc : request_set_tokens(out, r->id, r->n, e);
}

static void judge(study *y, size_t index, uint32_t i, const float *logits, const score_rec *s)
{
    record *r = &y->r[index];
    float *base = y->base + (index * MADE + i) * y->V, best = -INFINITY, second = -INFINITY;
    double kl = 0;
    for (uint32_t t = 0; t < y->V; t++) {
        double got = (double)logits[t] - (double)s->lse;
        if (!y->masked) base[t] = (float)got;
        else kl += exp((double)base[t]) * ((double)base[t] - got);
        if (logits[t] > best) second = best, best = logits[t];
        else if (logits[t] > second) second = logits[t];
    }
    if (!y->masked) return;
    r->kl[i] = (float)kl;
    r->entropy[i] = s->entropy;
    r->margin[i] = best - second;
}

/* Row prompt - 1 + i says token i. */
static void take_row(void *me, size_t index, uint64_t at, const float *logits, const score_rec *r)
{
    study *y = me;
    uint32_t before = y->r[index].prompt - 1;
    if (at >= before && at < before + MADE) judge(y, index, (uint32_t)at - before, logits, r);
}

static err_code scored(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    (void)a;
    return answer_rows(p, ((study *)me)->V, take_row, me, index, e);
}

static err_code score_done(void *me, size_t index, answer *a, err *e)
{
    study *y = me;
    (void)index;
    if (a->fail.code) return *e = a->fail, err_wrap(e, "rule %s", y->rule);
    progress_set(&y->bar, ++y->steps, 3 * y->n);
    return ERR_OK;
}

static err_code fly(study *y, const flight_ops *ops, bool masked, err *e)
{
    y->sent = 0;
    y->masked = masked;
    return flight_run(y->v.c, AT_ONCE, ops, y, e);
}

static err_code record_all(study *y, err *e)
{
    static const flight_ops makes = { next_made, NULL, made }, scores = { next_scored, scored, score_done };
    err_code rc = fly(y, &makes, true, e);
    if (!rc) rc = fly(y, &scores, false, e);
    if (!rc) rc = fly(y, &scores, true, e);
    for (uint32_t d = 0; !rc && d < y->n; d++) {
        alarm_series a = { 0 };
        record *r = &y->r[d];
        for (uint32_t i = 0; i < MADE; i++) {
            alarm_push(&a, r->entropy[i], r->margin[i], r->id[r->prompt + i]);
            for (int k = 0; k < ALARM_KINDS; k++) r->score[k][i] = alarm_score(&a, (alarm_kind)k);
        }
    }
    return rc;
}

/* ---- what they are worth ----------------------------------------------------------------------------------------------- */

typedef struct { double auc, limit[2], share[2], left[2]; } worth;   /* for two shares of the tokens still under the mask */
static const double shares[2] = { 0.75, 0.5 };

static double ahead(const record *r, uint32_t i)
{
    double sum = 0;
    for (uint32_t k = 1; k <= AHEAD; k++) sum += (double)r->kl[i + k] / AHEAD;
    return sum;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of a place with trouble ahead (the worst quarter) and one without: how often the first has the higher score; equal ones count half. */
static double auc_of(const study *y, alarm_kind k, double *mem)
{
    enum { PLACES = MADE - AHEAD - FROM };
    uint32_t n = y->n * PLACES;
    double good = 0, pairs = 0, *next = mem, *sorted = mem + n;
    for (uint32_t i = 0; i < n; i++) sorted[i] = next[i] = ahead(&y->r[i / PLACES], FROM + i % PLACES);
    qsort(sorted, n, sizeof *sorted, by_value);
    double worst = sorted[3 * n / 4];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; next[i] >= worst && j < n; j++) {
            if (next[j] >= worst) continue;
            double a = y->r[i / PLACES].score[k][FROM + i % PLACES], b = y->r[j / PLACES].score[k][FROM + j % PLACES];
            good += a > b ? 1 : a == b ? 0.5 : 0;
            pairs++;
        }
    return pairs > 0 ? good / pairs : 0;
}

/* With this limit: tokens still under the mask, and the divergence that they have, as parts of all. */
static void turned(const study *y, alarm_kind k, double limit, double *share, double *left)
{
    double all = 0, kept = 0, n = 0;
    for (uint32_t d = 0; d < y->n; d++) {
        const record *r = &y->r[d];
        bool on = true;
        for (uint32_t i = 0; i < MADE; i++) {
            all += (double)r->kl[i];
            if (on) kept += (double)r->kl[i], n++;
            on = on && r->score[k][i] < limit;
        }
    }
    *share = n / ((double)y->n * MADE);
    *left = all > 0 ? kept / all : 0;
}

static worth worth_of(const study *y, alarm_kind k, double *mem)
{
    worth w = { .auc = auc_of(y, k, mem) };
    uint32_t n = 0;
    for (uint32_t i = 0; i < y->n * MADE; i++) {
        double x = y->r[i / MADE].score[k][i % MADE];
        if (isfinite(x)) mem[n++] = x;
    }
    qsort(mem, n, sizeof *mem, by_value);
    for (int s = 0; s < 2 && n; s++) {
        double off = INFINITY;
        for (uint32_t i = 0; i <= STEPS; i++) {
            double limit = mem[(size_t)(n - 1) * i / STEPS], share, left;
            turned(y, k, limit, &share, &left);
            if (fabs(share - shares[s]) >= off) continue;
            off = fabs(share - shares[s]);
            w.limit[s] = limit, w.share[s] = share, w.left[s] = left;
        }
    }
    return w;
}

static err_code report(const study *y, err *e)
{
    double *mem = malloc(2 * (size_t)y->n * MADE * sizeof *mem), kl = 0;
    json_t *list = json_array();
    if (!mem) return json_decref(list), err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < y->n * MADE; i++) kl += (double)y->r[i / MADE].kl[i % MADE] / (y->n * MADE);
    if (!y->s->json) {
        printf("%s, %u sessions of %d tokens at temperature %g: KL %.4f nats a token\n\n", y->rule, y->n, MADE, TEMPERATURE, kl);
        printf("| alarm | AUC: KL of the next %d tokens in the worst quarter | KL left, tokens masked, limit | KL left, tokens masked, limit |\n|---|---|---|---|\n", AHEAD);
    }
    for (int k = 0; k < ALARM_KINDS; k++) {
        worth w = worth_of(y, (alarm_kind)k, mem);
        if (!y->s->json)
            printf("| %s | %.3f | %.0f %% at %.0f %% (%.3g) | %.0f %% at %.0f %% (%.3g) |\n", alarm_name((alarm_kind)k), w.auc, 100 * w.left[0], 100 * w.share[0], w.limit[0],
                   100 * w.left[1], 100 * w.share[1], w.limit[1]);
        json_array_append_new(list, json_pack("{s:s,s:f,s:[f,f],s:[f,f],s:[f,f]}", "alarm", alarm_name((alarm_kind)k), "auc", w.auc, "masked", w.share[0], w.share[1], "kl_left",
                                              w.left[0], w.left[1], "limit", w.limit[0], w.limit[1]));
    }
    free(mem);
    if (!y->s->json) return json_decref(list), show_write("", 0, e);
    return show_json(json_pack("{s:s,s:s,s:s,s:i,s:f,s:o}", "schema", "sluice.eval/1", "eval", "back-off", "rule", y->rule, "sessions", (int)y->n, "kl", kl, "alarms", list), e);
}

err_code eval_back_off(settings *s, err *e)
{
    study *y = calloc(1, sizeof *y);
    if (!y) return err_set(e, ERR_NOMEM, "out of memory");
    y->s = s;
    y->rule = s->args.n > 1 ? s->args.at[1] : "";
    y->bar = progress_open("sessions");
    y->r = calloc(DOCS, sizeof *y->r);
    err_code rc = y->r ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc && (!s->file || s->args.n != 2)) rc = err_set(e, ERR_USAGE, "%s", s->file ? "one RULE is wanted" : "-f TEXT is missing");
    if (!rc) rc = evaluation_open(&y->v, s, e);
    if (!rc) rc = open_model(y, e);
    if (!rc) rc = record_all(y, e);
    progress_close(&y->bar);
    if (!rc) rc = report(y, e);
    free(y->base);
    free(y->r);
    rc = evaluation_close(&y->v, rc, e);
    free(y);
    return rc;
}
