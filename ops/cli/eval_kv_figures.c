#include "ops/cli/bootstrap_ci.h"
#include "ops/cli/eval_kv.h"
#include "ops/cli/eval_kv_chart.h"
#include "ops/cli/needle.h"
#include "ops/cli/samples.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What was measured as rows of figures in JSON. Owns the statistics; measures nothing, and writes no text. */

static const double full_enough = 0.8;   /* below it a model's own failures hide what a cache loses */
static const char *const asked_names[] = { "inside", "after" };

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* ---- of a text ------------------------------------------------------------------------------------------------------ */

static err_code put_interval(json_t *row, const char *name, const double *x, size_t n, uint64_t seed, double times, err *e)
{
    interval i;
    char lo[40], hi[40];
    err_code rc = bootstrap_mean(x, n, seed, &i, e);
    snprintf(lo, sizeof lo, "%s_lo", name);
    snprintf(hi, sizeof hi, "%s_hi", name);
    json_object_set_new(row, name, real(i.mean * times));
    json_object_set_new(row, lo, real(i.lo * times));
    json_object_set_new(row, hi, real(i.hi * times));
    return rc;
}

/* Difference of perplexity from the exact cache's, and its standard error over windows: by the mean log-likelihood of each. */
static err_code put_perplexity(json_t *row, const kv_eval *v, const kv_trial *t, err *e)
{
    samples exact = { 0 }, more = { 0 };
    bool ok = true;
    for (uint32_t i = 0; ok && i < v->windows; i++)
        ok = samples_add(&exact, v->trial[0].nll_window[i]) && samples_add(&more, t->nll_window[i] - v->trial[0].nll_window[i]);
    double ppl = exp(samples_mean(&exact)), grown = exp(samples_mean(&more));
    json_object_set_new(row, "ppl", real(ppl * grown));
    json_object_set_new(row, "dppl", real(ppl * (grown - 1)));
    json_object_set_new(row, "dppl_se", real(ppl * grown * samples_sd(&more) / sqrt(v->windows ? v->windows : 1)));
    samples_free(&exact);
    samples_free(&more);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* Window by window, so that what all policies find hard does not count. */
static err_code put_against(json_t *row, const kv_eval *v, const kv_trial *t, err *e)
{
    if (!v->against || t == v->against) return ERR_OK;
    double *more = calloc(v->windows, sizeof *more);
    if (!more) return err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < v->windows; i++) more[i] = t->kl_window[i] - v->against->kl_window[i];
    err_code rc = put_interval(row, "kl_more", more, v->windows, v->seed, 1, e);
    free(more);
    return rc;
}

static err_code put_text(json_t *row, const kv_eval *v, const kv_trial *t, err *e)
{
    samples all = { 0 };
    bool ok = true;
    if (!v->windows || t->oracle) return ERR_OK;
    err_code rc = put_interval(row, "kl", t->kl_window, v->windows, v->seed, 1, e);
    if (rc == ERR_OK) rc = put_against(row, v, t, e);
    for (uint32_t i = 0; ok && i < v->scored; i++) ok = samples_add(&all, t->kl[i]);
    json_object_set_new(row, "kl_99", real(samples_quantile(&all, 0.99)));
    json_object_set_new(row, "same_top", real(100.0 * (double)t->top_same / v->scored));
    if (t->there) json_object_set_new(row, "rows_read", real(100.0 * (double)t->read / (double)t->there));
    samples_free(&all);
    if (rc == ERR_OK && !ok) rc = err_set(e, ERR_NOMEM, "out of memory");
    return rc == ERR_OK ? put_perplexity(row, v, t, e) : rc;
}

/* ---- of needles ----------------------------------------------------------------------------------------------------- */

/* Outcomes are kept beside the figures, so that runs can be put together: by seed, a digit an item. */
static bool put_items(json_t *row, const kv_eval *v, const kv_trial *t)
{
    char seed[24], *digits = malloc(v->needles + 1);
    json_t *one = json_object(), *all = json_object();
    const uint8_t *from[] = { v->trial[0].right[KV_INSIDE], t->right[KV_INSIDE], t->right[KV_AFTER] };
    static const char *const names[] = { "exact", "inside", "after" };
    bool ok = digits && one && all;
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)v->seed);
    for (size_t k = 0; ok && k < sizeof from / sizeof *from; k++) {
        for (uint32_t i = 0; i < v->needles; i++) digits[i] = (char)('0' + from[k][i]);
        ok = !json_object_set_new(one, names[k], json_stringn(digits, v->needles));
    }
    ok = ok && !json_object_set(all, seed, one) && !json_object_set(row, "items", all);
    json_decref(one);
    json_decref(all);
    free(digits);
    return ok;
}

typedef struct { double *diff; size_t n; uint32_t right[NEEDLE_DEPTHS], exact[NEEDLE_DEPTHS], all[NEEDLE_DEPTHS]; } tally;

/* One seed's items; depths come in turn (needle.h). */
static bool tally_seed(tally *t, const json_t *items, const char *asked)
{
    const json_t *is = json_object_get(items, asked), *full = json_object_get(items, "exact");
    size_t n = json_string_length(is);
    double *more = realloc(t->diff, (t->n + n + 1) * sizeof *more);
    if (!more) return false;
    t->diff = more;
    for (size_t i = 0; i < n && i < json_string_length(full); i++) {
        uint32_t r = json_string_value(is)[i] == '1', e = json_string_value(full)[i] == '1';
        t->right[i % NEEDLE_DEPTHS] += r;
        t->exact[i % NEEDLE_DEPTHS] += e;
        t->all[i % NEEDLE_DEPTHS]++;
        t->diff[t->n++] = (double)r - (double)e;
    }
    return true;
}

static double share(const uint32_t *of, const uint32_t *all, int depth)
{
    double right = 0, n = 0;
    for (int d = 0; d < NEEDLE_DEPTHS; d++)
        if (depth < 0 || d == depth) right += of[d], n += all[d];
    return n > 0 ? right / n : 0;
}

/* Per cent right, the difference from the exact cache in points with its interval (paired), and by depth; null where the exact cache
 * itself is not good enough. */
static err_code put_asked(json_t *row, const char *asked, uint64_t seed, err *e)
{
    char name[40], list[40];
    const char *of;
    json_t *items, *by = json_array();
    tally t = { 0 };
    bool ok = by != NULL;
    json_object_foreach(json_object_get(row, "items"), of, items) ok = ok && tally_seed(&t, items, asked);
    if (!ok) return free(t.diff), json_decref(by), err_set(e, ERR_NOMEM, "out of memory for needles");
    for (int d = 0; d < NEEDLE_DEPTHS; d++)
        json_array_append_new(by, share(t.exact, t.all, d) < full_enough ? json_null() : real(100 * share(t.right, t.all, d)));
    bool able = share(t.exact, t.all, -1) >= full_enough;
    snprintf(name, sizeof name, "%s_diff", asked);
    snprintf(list, sizeof list, "%s_by_depth", asked);
    json_object_set_new(row, "needles", json_integer((json_int_t)t.n));
    json_object_set_new(row, asked, able ? real(100 * share(t.right, t.all, -1)) : json_null());
    err_code rc = able ? put_interval(row, name, t.diff, t.n, seed + 1, 100, e) : ERR_OK;
    json_object_set_new(row, list, by);
    free(t.diff);
    return rc;
}

err_code eval_kv_needle_figures(json_t *row, uint64_t seed, err *e)
{
    err_code rc = ERR_OK;
    for (int k = 0; rc == ERR_OK && json_object_get(row, "items") && k < KV_ASKED; k++) rc = put_asked(row, asked_names[k], seed, e);
    return rc;
}

/* ---- of one policy -------------------------------------------------------------------------------------------------- */

static json_t *row_begin(const kv_eval *v, const kv_trial *t)
{
    char ini[KV_POLICY_TEXT];
    const kv_trial *full = &v->trial[0];
    double rows = t->rows ? (double)t->rows : 1, bytes = (t->bytes[0] + t->bytes[1] + t->bytes[2]) / rows;
    double exact = (full->bytes[0] + full->bytes[1] + full->bytes[2]) / (full->rows ? (double)full->rows : 1);
    json_t *row = json_pack("{s:s, s:s}", "policy", t->name, "kind", eval_kv_kind(&t->policy, t->oracle));
    if (!row) return NULL;
    kv_policy_print(&t->policy, ini);
    json_object_set_new(row, "ini", json_string(ini));
    if (!full->rows) return row;
    json_object_set_new(row, "bytes", real(t->rows ? bytes : NAN));
    json_object_set_new(row, "smaller", real(t->rows ? exact / bytes : NAN));
    json_object_set_new(row, "data", real(t->bytes[0] / rows));
    json_object_set_new(row, "index", real(t->bytes[1] / rows));
    json_object_set_new(row, "scores", real(t->bytes[2] / rows));
    return row;
}

static json_t *row_of(const kv_eval *v, const kv_trial *t, err_code *rc, err *e)
{
    static const char *const copies[] = { "near", "far" };
    json_t *row = row_begin(v, t);
    if (!row) return *rc = err_set(e, ERR_NOMEM, "out of memory"), NULL;
    *rc = put_text(row, v, t, e);
    if (*rc == ERR_OK && v->needles)
        *rc = put_items(row, v, t) ? eval_kv_needle_figures(row, v->seed, e) : err_set(e, ERR_NOMEM, "out of memory");
    for (int k = 0; k < 2 && v->copies[k]; k++) json_object_set_new(row, copies[k], real(100.0 * t->copied[k] / v->copies[k]));
    if (t->prefill > 0) {
        json_object_set_new(row, "prefill", real(t->prefill));
        json_object_set_new(row, "decode", real(t->decode));
    }
    return row;
}

json_t *eval_kv_figures(const kv_eval *v, err *e)
{
    err_code rc = ERR_OK;
    json_t *rows = json_array(), *all = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:[I], s:s, s:s, s:o}", "schema", "sluice.eval/1", "eval", "kv",
        "prompt", (json_int_t)v->prompt, "windows", (json_int_t)v->windows, "scored", (json_int_t)v->scored, "needles",
        (json_int_t)v->needles, "copied", (json_int_t)v->copies[KV_NEAR], "seeds", (json_int_t)v->seed, "model", v->s->model,
        "digest", gguf_digest(v->lab.file), "rows", rows);
    if (!all) return err_set(e, ERR_NOMEM, "out of memory"), NULL;
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++) {
        json_t *row = row_of(v, &v->trial[i], &rc, e);
        if (row) json_array_append_new(rows, row);
    }
    return rc == ERR_OK ? all : (json_decref(all), NULL);
}
