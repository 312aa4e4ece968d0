#include "ops/cli/bootstrap_ci.h"
#include "ops/cli/eval_kv.h"
#include "ops/cli/eval_kv_chart.h"
#include "ops/cli/needle.h"
#include "ops/cli/samples.h"
#include "ops/cli/show.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What was measured as rows of figures, and those as Markdown, CSV and JSON. Owns the statistics; measures nothing. */

static const double full_enough = 0.8;   /* below it a model's own failures hide what a cache loses */
static const char *const asked_names[] = { "inside", "after" };

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* ---- figures of one policy ------------------------------------------------------------------------------------------ */

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

static err_code put_text(json_t *row, const kv_eval *v, const kv_trial *t, err *e)
{
    samples all = { 0 };
    bool ok = true;
    if (!v->windows || t->oracle) return ERR_OK;
    err_code rc = put_interval(row, "kl", t->kl_window, v->windows, v->seed, 1, e);
    for (uint32_t i = 0; ok && i < v->scored; i++) ok = samples_add(&all, t->kl[i]);
    json_object_set_new(row, "kl_99", real(samples_quantile(&all, 0.99)));
    json_object_set_new(row, "same_top", real(100.0 * (double)t->top_same / v->scored));
    samples_free(&all);
    if (rc == ERR_OK && !ok) rc = err_set(e, ERR_NOMEM, "out of memory");
    return rc == ERR_OK ? put_perplexity(row, v, t, e) : rc;
}

static double share_right(const kv_eval *v, const kv_trial *t, int asked, int depth)
{
    uint32_t right = 0, n = 0;
    for (uint32_t i = 0; i < v->needles; i++)
        if (depth < 0 || v->depth[i] == depth) right += t->right[asked][i], n++;
    return n ? (double)right / n : 0;
}

/* Per cent right, the difference from the exact cache in points with its interval (paired), and by depth; null where the exact cache
 * itself is not good enough. */
static err_code put_needles(json_t *row, const kv_eval *v, const kv_trial *t, int asked, err *e)
{
    char name[40], list[40];
    double *diff = calloc(v->needles + 1, sizeof *diff);
    json_t *by = json_array();
    if (!diff || !by) return free(diff), json_decref(by), err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < v->needles; i++) diff[i] = (double)t->right[asked][i] - (double)v->trial[0].right[asked][i];
    for (int d = 0; d < NEEDLE_DEPTHS; d++)
        json_array_append_new(by, share_right(v, &v->trial[0], asked, d) < full_enough ? json_null()
                                                                                       : real(100 * share_right(v, t, asked, d)));
    bool able = share_right(v, &v->trial[0], asked, -1) >= full_enough;
    snprintf(name, sizeof name, "%s_diff", asked_names[asked]);
    snprintf(list, sizeof list, "%s_by_depth", asked_names[asked]);
    json_object_set_new(row, asked_names[asked], able ? real(100 * share_right(v, t, asked, -1)) : json_null());
    err_code rc = able ? put_interval(row, name, diff, v->needles, v->seed + 1, 100, e) : ERR_OK;
    json_object_set_new(row, list, by);
    free(diff);
    return rc;
}

static json_t *row_of(const kv_eval *v, const kv_trial *t, err_code *rc, err *e)
{
    const kv_trial *full = &v->trial[0];
    double rows = t->rows ? (double)t->rows : 1, bytes = (t->bytes[0] + t->bytes[1] + t->bytes[2]) / rows;
    double exact = (full->bytes[0] + full->bytes[1] + full->bytes[2]) / (full->rows ? (double)full->rows : 1);
    json_t *row = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "policy", t->name, "bytes", real(t->rows ? bytes : NAN), "smaller",
                            real(t->rows ? exact / bytes : NAN), "data", real(t->bytes[0] / rows), "index", real(t->bytes[1] / rows),
                            "scores", real(t->bytes[2] / rows));
    if (!row) return *rc = err_set(e, ERR_NOMEM, "out of memory"), NULL;
    *rc = put_text(row, v, t, e);
    for (int k = 0; *rc == ERR_OK && v->needles && k < KV_ASKED; k++) *rc = put_needles(row, v, t, k, e);
    static const char *const copies[] = { "near", "far" };
    for (int k = 0; k < 2; k++) json_object_set_new(row, copies[k], real(v->copies[k] ? 100.0 * t->copied[k] / v->copies[k] : NAN));
    if (!t->oracle) {
        json_object_set_new(row, "prefill", real(t->prefill));
        json_object_set_new(row, "decode", real(t->decode));
    }
    return row;
}

static json_t *about(const kv_eval *v)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "schema", "sluice.eval/1", "eval", "kv", "prompt",
                     (json_int_t)v->prompt, "windows", (json_int_t)v->windows, "scored", (json_int_t)v->scored, "needles",
                     (json_int_t)v->needles, "copied", (json_int_t)v->copies[KV_NEAR], "seed", (json_int_t)v->seed, "model", v->s->model);
}

/* ---- texts ---------------------------------------------------------------------------------------------------------- */

/* How a column is written: its key, its head, digits, keys of an interval or error that follow it. */
typedef struct { const char *key, *head; int digits; const char *lo, *hi, *se; } column;
static const column columns[] = {
    { "bytes", "bytes/token", 0, NULL, NULL, NULL }, { "smaller", "smaller", 2, NULL, NULL, NULL },
    { "kl", "KL mean [95 %]", 4, "kl_lo", "kl_hi", NULL }, { "kl_99", "KL 99 %", 3, NULL, NULL, NULL },
    { "same_top", "same top %", 1, NULL, NULL, NULL }, { "dppl", "Δppl ± se", 2, NULL, NULL, "dppl_se" },
    { "near", "copy near %", 0, NULL, NULL, NULL }, { "far", "copy far %", 0, NULL, NULL, NULL },
    { "inside", "needle %, question inside", 1, NULL, NULL, NULL }, { "inside_diff", "to exact [95 %]", 1, "inside_diff_lo", "inside_diff_hi", NULL },
    { "after", "needle %, question after", 1, NULL, NULL, NULL }, { "after_diff", "to exact [95 %]", 1, "after_diff_lo", "after_diff_hi", NULL },
    { "prefill", "prefill tok/s", 0, NULL, NULL, NULL }, { "decode", "decode tok/s", 0, NULL, NULL, NULL },
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static bool number_in(const json_t *row, const char *key, double *x)
{
    const json_t *v = key ? json_object_get(row, key) : NULL;
    *x = json_number_value(v);
    return json_is_number(v);
}

static void add_cell(text *out, const json_t *row, const column *c)
{
    double x, lo, hi;
    if (!number_in(row, c->key, &x)) {
        text_adds(out, json_is_null(json_object_get(row, c->key)) ? " n/a |" : " – |");
        return;
    }
    text_addf(out, " %.*f", c->digits, x);
    if (number_in(row, c->lo, &lo) && number_in(row, c->hi, &hi)) text_addf(out, " [%.*f, %.*f]", c->digits, lo, c->digits, hi);
    if (number_in(row, c->se, &lo)) text_addf(out, " ± %.*f", c->digits, lo);
    text_adds(out, " |");
}

/* Columns that no row has are left out. */
static bool anywhere(const json_t *rows, const char *key)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) if (json_object_get(row, key)) return true;
    return false;
}

static void add_table(text *out, const json_t *rows)
{
    size_t i;
    json_t *row;
    text_adds(out, "| policy |");
    for (size_t c = 0; c < COLUMNS; c++)
        if (anywhere(rows, columns[c].key)) text_addf(out, " %s |", columns[c].head);
    text_adds(out, "\n|---|");
    for (size_t c = 0; c < COLUMNS; c++)
        if (anywhere(rows, columns[c].key)) text_adds(out, "---:|");
    json_array_foreach(rows, i, row)
    {
        text_addf(out, "\n| %s |", json_string_value(json_object_get(row, "policy")));
        for (size_t c = 0; c < COLUMNS; c++)
            if (anywhere(rows, columns[c].key)) add_cell(out, row, &columns[c]);
    }
    text_adds(out, "\n");
}

static void add_depths(text *out, const json_t *rows)
{
    size_t i;
    json_t *row;
    text_adds(out, "\nNeedles by depth (0: the first sentence), per cent right:\n\n| policy |");
    for (int k = 0; k < KV_ASKED; k++)
        for (int d = 0; d < NEEDLE_DEPTHS; d++) text_addf(out, " %s %g |", asked_names[k], needle_depth[d]);
    text_adds(out, "\n|---|");
    for (int d = 0; d < KV_ASKED * NEEDLE_DEPTHS; d++) text_adds(out, "---:|");
    json_array_foreach(rows, i, row)
    {
        text_addf(out, "\n| %s |", json_string_value(json_object_get(row, "policy")));
        for (int k = 0; k < KV_ASKED * NEEDLE_DEPTHS; k++) {
            const json_t *x = json_array_get(json_object_get(row, k < NEEDLE_DEPTHS ? "inside_by_depth" : "after_by_depth"),
                                             (size_t)k % NEEDLE_DEPTHS);
            if (json_is_number(x)) text_addf(out, " %.1f |", json_number_value(x));
            else text_adds(out, " n/a |");
        }
    }
    text_adds(out, "\n");
}

static bool add_markdown(text *out, const kv_eval *v, const json_t *rows)
{
    const char *name = strrchr(v->s->model, '/');
    text_addf(out, "model %s, prompts of %u tokens, %u windows (%u tokens scored), %u needles, %u tokens copied, seed %llu\n\n",
              name ? name + 1 : v->s->model, v->prompt, v->windows, v->scored, v->needles, v->copies[KV_NEAR], (unsigned long long)v->seed);
    add_table(out, rows);
    if (v->needles) add_depths(out, rows);
    return text_adds(out, "");
}

static void add_csv(text *out, const json_t *rows)
{
    static const char *const extra[] = { "data", "index", "scores", "ppl" };
    size_t i;
    json_t *row;
    text_adds(out, "policy");
    for (size_t c = 0; c < COLUMNS; c++) {
        text_addf(out, ",%s", columns[c].key);
        if (columns[c].lo) text_addf(out, ",%s,%s", columns[c].lo, columns[c].hi);
        if (columns[c].se) text_addf(out, ",%s", columns[c].se);
    }
    for (size_t k = 0; k < 4; k++) text_addf(out, ",%s", extra[k]);
    json_array_foreach(rows, i, row)
    {
        text_addf(out, "\n%s", json_string_value(json_object_get(row, "policy")));
        for (size_t c = 0; c < COLUMNS + 4; c++) {
            const column *k = c < COLUMNS ? &columns[c] : NULL;
            const char *keys[] = { k ? k->key : extra[c - COLUMNS], k ? k->lo : NULL, k ? k->hi : NULL, k ? k->se : NULL };
            for (int j = 0; j < 4; j++) {
                double x;
                if (j && !keys[j]) continue;
                if (number_in(row, keys[j], &x)) text_addf(out, ",%.9g", x);
                else text_adds(out, ",");
            }
        }
    }
    text_adds(out, "\n");
}

/* ---- out ------------------------------------------------------------------------------------------------------------ */

static err_code write_file(const char *prefix, const char *end, const char *s, size_t n, err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", prefix, end);
    FILE *f = fopen(path, "we");
    bool ok = f && fwrite(s, 1, n, f) == n;
    if (f && fclose(f)) ok = false;
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}

static err_code write_files(const kv_eval *v, json_t *all, const json_t *rows, const text *md, err *e)
{
    if (!v->s->out) return ERR_OK;
    text csv = { 0 };
    char *json = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    add_csv(&csv, rows);
    err_code rc = json && csv.ptr ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = write_file(v->s->out, ".json", json, strlen(json), e);
    if (rc == ERR_OK) rc = write_file(v->s->out, ".csv", csv.ptr, csv.len, e);
    if (rc == ERR_OK) rc = write_file(v->s->out, ".md", md->ptr, md->len, e);
    if (rc == ERR_OK) rc = eval_kv_draw(v, rows, v->s->out, e);
    text_free(&csv);
    free(json);
    return rc;
}

err_code eval_kv_print(const kv_eval *v, err *e)
{
    json_t *all = about(v), *rows = json_array();
    text md = { 0 };
    err_code rc = all && rows ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++) {
        json_t *row = row_of(v, &v->trial[i], &rc, e);
        if (row) json_array_append_new(rows, row);
    }
    if (rc == ERR_OK && (json_object_set(all, "rows", rows) || !add_markdown(&md, v, rows)))
        rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = write_files(v, all, rows, &md, e);
    if (rc == ERR_OK) rc = v->s->json ? show_json(json_incref(all), e) : show_write(md.ptr, md.len, e);
    text_free(&md);
    json_decref(rows);
    json_decref(all);
    return rc;
}
