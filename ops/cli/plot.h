#ifndef CLI_PLOT_H
#define CLI_PLOT_H
/* Small charts as SVG: lines or points over a number axis, or groups of bars over words. Colours are readable on white and
 * told apart without colour by marks; axes get round steps, legends and labels are text, so a chart can be searched. Not in it:
 * layout, interaction, anything that needs a font's widths. Any thread; numbers that are not finite are left out.
 *
 *   const double b[] = { 1, 2, 4, 8 }, s[] = { 29, 40, 61, 100 };
 *   const plot_series lines[] = { { .name = "S_TG", .x = b, .y = s, .n = 4 } };
 *   plot p = { .title = "batch", .x_label = "sessions", .y_label = "tokens/s", .log_x = true, .series = lines, .n = 1 };
 *   err_code rc = plot_write(&p, "batch.svg", &e);                                                                        */
#include "core/buf.h"

typedef enum { PLOT_LINES, PLOT_POINTS, PLOT_BARS } plot_kind;

typedef struct {
    const char *name;              /* for the legend; NULL: not in it */
    const double *x, *y;           /* [n]; bars need no x: y[i] belongs to words[i] */
    const double *sd;              /* [n] or NULL: a whisker of y +/- sd */
    size_t n;
    bool dashed;                   /* a limit, a peer, a prediction */
} plot_series;

typedef struct {
    plot_kind kind;
    const char *title, *x_label, *y_label;   /* NULL: none */
    bool log_x, log_y;             /* base 2 and base 10; values <= 0 are left out */
    bool from_zero;                /* the y axis begins at 0 (bars always do, unless log_y) */
    const char *const *words;      /* [n of a series] under the bars */
    const plot_series *series;     /* [n], at most 8 are told apart by colour */
    size_t n;
} plot;

/* Append the SVG to *out. ERR_NOMEM; ERR_INPUT: there is nothing finite to draw. */
err_code plot_svg(const plot *p, text *out, err *e);
/* The same into a file. ERR_IO. */
err_code plot_write(const plot *p, const char *path, err *e);
#endif
