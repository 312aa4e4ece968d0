#include "ops/cli/eval_kv.h"
#include "ops/cli/eval_kv_chart.h"
#include "ops/cli/needle.h"
#include "ops/cli/show.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Rows of figures as Markdown, CSV, JSON and charts. Owns the texts; computes nothing. */

static const char *const asked_names[] = { "inside", "after" };

/* ---- texts ---------------------------------------------------------------------------------------------------------- */

/* How a column is written: its key, its head, digits, keys of an interval or error that follow it. */
typedef struct { const char *key, *head; int digits; const char *lo, *hi, *se; } column;
static const column columns[] = {
    { "bytes", "bytes/token", 0, NULL, NULL, NULL }, { "smaller", "smaller", 2, NULL, NULL, NULL },
    { "rows_read", "rows read %", 1, NULL, NULL, NULL }, { "kl", "KL mean [95 %]", 4, "kl_lo", "kl_hi", NULL },
    { "kl_more", "KL more than --against [95 %]", 4, "kl_more_lo", "kl_more_hi", NULL }, { "kl_99", "KL 99 %", 3, NULL, NULL, NULL },
    { "same_top", "same top %", 1, NULL, NULL, NULL }, { "dppl", "Δppl ± se", 2, NULL, NULL, "dppl_se" },
    { "near", "copy near %", 0, NULL, NULL, NULL }, { "far", "copy far %", 0, NULL, NULL, NULL },
    { "needles", "needles", 0, NULL, NULL, NULL }, { "inside", "needle %, question inside", 1, NULL, NULL, NULL }, { "inside_diff", "to exact [95 %]", 1, "inside_diff_lo", "inside_diff_hi", NULL },
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

static long long number(const json_t *all, const char *key) { return (long long)json_integer_value(json_object_get(all, key)); }

static bool add_markdown(text *out, const json_t *all, const json_t *rows)
{
    const char *path = json_string_value(json_object_get(all, "model")), *name = strrchr(path, '/');
    size_t i;
    json_t *seed;
    text_addf(out, "model %s, prompts of %lld tokens, %lld windows (%lld tokens scored), %lld needles, %lld tokens copied, seed", name ? name + 1 : path,
              number(all, "prompt"), number(all, "windows"), number(all, "scored"), number(all, "needles"), number(all, "copied"));
    json_array_foreach(json_object_get(all, "seeds"), i, seed) text_addf(out, "%s %lld", i ? "," : "", (long long)json_integer_value(seed));
    text_adds(out, "\n\n");
    add_table(out, rows);
    if (number(all, "needles")) add_depths(out, rows);
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

static err_code write_files(const char *prefix, const json_t *all, const json_t *rows, const text *md, err *e)
{
    text csv = { 0 };
    char *json = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    add_csv(&csv, rows);
    err_code rc = json && csv.ptr ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = write_file(prefix, ".json", json, strlen(json), e);
    if (rc == ERR_OK) rc = write_file(prefix, ".csv", csv.ptr, csv.len, e);
    if (rc == ERR_OK) rc = write_file(prefix, ".md", md->ptr, md->len, e);
    if (rc == ERR_OK) rc = eval_kv_draw(rows, prefix, e);
    text_free(&csv);
    free(json);
    return rc;
}

err_code eval_kv_print(const settings *s, json_t *all, err *e)
{
    const json_t *rows = json_object_get(all, "rows");
    text md = { 0 };
    err_code rc = add_markdown(&md, all, rows) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK && s->out) rc = write_files(s->out, all, rows, &md, e);
    if (rc == ERR_OK) rc = s->json ? show_json(json_incref(all), e) : show_write(md.ptr, md.len, e);
    text_free(&md);
    return rc;
}
