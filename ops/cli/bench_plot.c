#include "ops/cli/bench.h"
#include "ops/cli/plot.h"
#include <math.h>
#include <stdlib.h>

/* Owns the chart of a measurement: which columns of which table become lines or bars. */

typedef struct { const char *words; const char *x; const char *y[2], *sd; const char *x_label, *y_label; } look;

/* By the first key of the rows, which tells the shapes apart. */
static bool look_of(const json_t *row, look *out)
{
    static const struct { const char *first; look l; } all[] = {
        { "test", { .words = "test", .y = { "t/s" }, .sd = "t/s_sd", .y_label = "tokens a second" } },
        { "PP", { .x = "B", .y = { "S_TG t/s", "S_PP t/s" }, .x_label = "sessions at once", .y_label = "tokens a second" } },
        { "ms", { .words = "ms", .y = { "median", "p99" }, .y_label = "ms" } },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (json_object_get(row, all[i].first)) return *out = all[i].l, true;
    return false;
}

static void column(const json_t *rows, const char *key, double *out)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) out[i] = json_is_number(json_object_get(row, key)) ? json_number_value(json_object_get(row, key)) : NAN;
}

static err_code draw(const json_t *rows, const look *l, const char *title, const char *path, err *e)
{
    size_t n = json_array_size(rows), i, series = l->y[1] ? 2 : 1;
    double *at = calloc(n * 4, sizeof *at);
    const char **words = calloc(n, sizeof *words);
    json_t *row;
    plot_series s[2];
    err_code rc = at && words ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a chart");
    for (size_t k = 0; !rc && k < series; k++) column(rows, l->y[k], at + (1 + k) * n);
    if (!rc && l->x) column(rows, l->x, at);
    if (!rc && l->sd) column(rows, l->sd, at + 3 * n);
    for (size_t k = 0; k < series; k++)
        s[k] = (plot_series){ .name = l->y[k], .x = at, .y = at + (1 + k) * n, .sd = l->sd ? at + 3 * n : NULL, .n = n };
    json_array_foreach(rows, i, row)
        if (!rc && l->words) words[i] = json_string_value(json_object_get(row, l->words));
    plot p = { .kind = l->words ? PLOT_BARS : PLOT_LINES, .title = title, .x_label = l->x_label, .y_label = l->y_label, .log_x = true,
               .from_zero = true, .words = words, .series = s, .n = series };
    if (!rc) rc = plot_write(&p, path, e);
    free(at);
    free(words);
    return rc;
}

err_code bench_draw(const bench *b, const json_t *about, err *e)
{
    look l;
    char title[256];
    if (!b->s->bench_plot) return ERR_OK;
    if (!look_of(json_array_get(b->rows, 0), &l)) return err_set(e, ERR_USAGE, "--plot: this shape has no chart");
    snprintf(title, sizeof title, "%s, %lld stages x %lld threads, %s", json_string_value(json_object_get(about, "model")),
             (long long)json_integer_value(json_object_get(about, "stages")), (long long)json_integer_value(json_object_get(about, "threads")),
             json_string_value(json_object_get(about, "isa")));
    return draw(b->rows, &l, title, b->s->bench_plot, e);
}
