#include "ops/cli/plot.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Owns charts. It knows no measurements: what is drawn is the caller's. */

enum { WIDTH = 720, HEIGHT = 420, LEFT = 74, RIGHT = 20, TOP = 40, BOTTOM = 56, TICKS = 6, COLOURS = 8 };

/* Okabe and Ito's palette: told apart by people who see few colours. */
static const char *const colours[COLOURS] = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999933" };

typedef struct { double lo, hi; bool log, any; } range;       /* in log space when log */
typedef struct { const plot *p; text *out; range x, y; bool ok; } canvas;

static void put(canvas *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(canvas *c, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    c->ok = c->ok && text_adds(c->out, line);
}

static void put_text(canvas *c, const char *s)
{
    for (; *s; s++) {
        const char *as = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '"' ? "&quot;" : NULL;
        c->ok = c->ok && (as ? text_adds(c->out, as) : text_add(c->out, s, 1));
    }
}

static void put_label(canvas *c, double x, double y, const char *anchor, const char *more, const char *s)
{
    put(c, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more);
    put_text(c, s);
    put(c, "</text>\n");
}

/* ---- ranges and where a value is --------------------------------------------------------------------------------------- */

static bool fits(bool log, double v) { return isfinite(v) && (!log || v > 0); }

static void widen(range *r, double v)
{
    if (!fits(r->log, v)) return;
    v = r->log ? log10(v) : v;
    if (!r->any || v < r->lo) r->lo = v;
    if (!r->any || v > r->hi) r->hi = v;
    r->any = true;
}

static double x_of(const plot *p, const plot_series *s, size_t i) { return p->kind == PLOT_BARS ? (double)i : s->x[i]; }

static bool drawn(const canvas *c, const plot_series *s, size_t i)
{
    return fits(c->x.log, x_of(c->p, s, i)) && fits(c->y.log, s->y[i]);
}

static void find_ranges(canvas *c)
{
    const plot *p = c->p;
    c->x.log = p->log_x && p->kind != PLOT_BARS;
    c->y.log = p->log_y;
    for (size_t k = 0; k < p->n; k++)
        for (size_t i = 0; i < p->series[k].n; i++) {
            const plot_series *s = &p->series[k];
            if (!drawn(c, s, i)) continue;
            widen(&c->x, x_of(p, s, i));
            widen(&c->y, s->y[i] + (s->sd && isfinite(s->sd[i]) ? s->sd[i] : 0));
            widen(&c->y, s->y[i] - (s->sd && isfinite(s->sd[i]) ? s->sd[i] : 0));
        }
    if (!c->y.log && (p->from_zero || p->kind == PLOT_BARS)) widen(&c->y, 0);
    if (p->kind == PLOT_BARS) c->x.lo -= 0.5, c->x.hi += 0.5;
    if (c->x.hi <= c->x.lo) c->x.lo -= 0.5, c->x.hi += 0.5;
    if (c->y.hi <= c->y.lo) c->y.lo -= 0.5, c->y.hi += 0.5;
}

static double place(const range *r, double v) { return ((r->log ? log10(v) : v) - r->lo) / (r->hi - r->lo); }
static double px(const canvas *c, double v) { return LEFT + place(&c->x, v) * (WIDTH - LEFT - RIGHT); }
static double py(const canvas *c, double v) { return HEIGHT - BOTTOM - place(&c->y, v) * (HEIGHT - TOP - BOTTOM); }

/* ---- axes ---------------------------------------------------------------------------------------------------------------- */

/* 1, 2 or 5 times a power of ten. */
static double round_step(double span)
{
    double raw = span / TICKS, ten = pow(10, floor(log10(raw))), m = raw / ten;
    return (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10) * ten;
}

static void tick(canvas *c, bool is_x, double v)
{
    char label[32];
    snprintf(label, sizeof label, "%.6g", v);
    double at = is_x ? px(c, v) : py(c, v);
    if (is_x) put(c, "<path class=\"grid\" d=\"M%.1f %dV%d\"/>", at, TOP, HEIGHT - BOTTOM);
    else put(c, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>", LEFT, at, WIDTH - RIGHT);
    if (is_x) put_label(c, at, HEIGHT - BOTTOM + 18, "middle", "", label);
    else put_label(c, LEFT - 8, at + 4, "end", "", label);
}

static void log_ticks(canvas *c, bool is_x, const range *r)
{
    double base = is_x ? 2 : 10;
    int lo = (int)ceil(r->lo / log10(base) - 1e-9), hi = (int)floor(r->hi / log10(base) + 1e-9), each = (hi - lo) / 10 + 1;
    for (int i = lo; i <= hi; i += each) tick(c, is_x, pow(base, i));
}

static void axis(canvas *c, bool is_x)
{
    const range *r = is_x ? &c->x : &c->y;
    if (r->log) {
        log_ticks(c, is_x, r);
        return;
    }
    double step = round_step(r->hi - r->lo);
    for (double k = ceil(r->lo / step - 1e-9); k * step <= r->hi + 1e-9 * step; k++) tick(c, is_x, k * step == 0 ? 0 : k * step);
}

static void words(canvas *c)
{
    const plot *p = c->p;
    for (size_t i = 0; p->words && p->n && i < p->series[0].n; i++)
        put_label(c, px(c, (double)i), HEIGHT - BOTTOM + 18, "middle", "", p->words[i]);
}

static void frame(canvas *c)
{
    const plot *p = c->p;
    put(c, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", WIDTH, HEIGHT);
    put(c, "<style>.grid{stroke:#ddd;fill:none}.axis{stroke:#333;fill:none}.line{fill:none;stroke-width:2}</style>\n");
    put(c, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", WIDTH, HEIGHT);
    if (p->kind == PLOT_BARS) words(c);
    else axis(c, true);
    axis(c, false);
    put(c, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    if (p->title) put_label(c, LEFT, 22, "start", " font-size=\"15\" font-weight=\"bold\"", p->title);
    if (p->x_label) put_label(c, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14, "middle", "", p->x_label);
    char turn[64];
    snprintf(turn, sizeof turn, " transform=\"rotate(-90 16 %d)\"", (TOP + HEIGHT - BOTTOM) / 2);
    if (p->y_label) put_label(c, 16, (TOP + HEIGHT - BOTTOM) / 2.0, "middle", turn, p->y_label);
}

/* ---- series -------------------------------------------------------------------------------------------------------------- */

/* A circle, a square, a triangle, a diamond: by number of the series. */
static void mark(canvas *c, size_t k, double x, double y)
{
    const char *col = colours[k % COLOURS];
    switch (k % 4) {
    case 0: put(c, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>", x, y, col); break;
    case 1: put(c, "<rect x=\"%.1f\" y=\"%.1f\" width=\"7\" height=\"7\" fill=\"%s\"/>", x - 3.5, y - 3.5, col); break;
    case 2: put(c, "<path d=\"M%.1f %.1fl4.5 8h-9z\" fill=\"%s\"/>", x, y - 5, col); break;
    default: put(c, "<path d=\"M%.1f %.1fl5 5l-5 5l-5-5z\" fill=\"%s\"/>", x, y - 5, col);
    }
}

static void whisker(canvas *c, size_t k, const plot_series *s, size_t i, double x)
{
    if (!s->sd || !isfinite(s->sd[i]) || !fits(c->y.log, s->y[i] - s->sd[i])) return;
    put(c, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"%s\"/>", x, py(c, s->y[i] - s->sd[i]), py(c, s->y[i] + s->sd[i]), k == 6 ? "#888" : "#000");
}

static void line_series(canvas *c, size_t k)
{
    const plot_series *s = &c->p->series[k];
    const char *pen = "M";
    if (c->p->kind == PLOT_LINES) {
        put(c, "<path class=\"line\" stroke=\"%s\"%s d=\"", colours[k % COLOURS], s->dashed ? " stroke-dasharray=\"6 4\"" : "");
        for (size_t i = 0; i < s->n; i++) {
            if (drawn(c, s, i)) put(c, "%s%.1f %.1f", pen, px(c, s->x[i]), py(c, s->y[i]));
            pen = drawn(c, s, i) ? "L" : "M"; /* a gap stays a gap */
        }
        put(c, "\"/>\n");
    }
    for (size_t i = 0; i < s->n; i++)
        if (drawn(c, s, i)) whisker(c, k, s, i, px(c, s->x[i])), mark(c, k, px(c, s->x[i]), py(c, s->y[i]));
    put(c, "\n");
}

static void bar_series(canvas *c, size_t k)
{
    const plot_series *s = &c->p->series[k];
    double slot = 0.8 / (double)c->p->n, foot = c->y.log ? HEIGHT - BOTTOM : py(c, 0);
    for (size_t i = 0; i < s->n; i++) {
        if (!drawn(c, s, i)) continue;
        double from = px(c, (double)i - 0.4 + slot * (double)k), to = px(c, (double)i - 0.4 + slot * (double)(k + 1)), top = py(c, s->y[i]);
        put(c, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"%s/>", from, top < foot ? top : foot, to - from - 1,
            fabs(foot - top), colours[k % COLOURS], s->dashed ? " fill-opacity=\"0.4\"" : "");
        whisker(c, k, s, i, (from + to) / 2);
        char value[32];
        snprintf(value, sizeof value, "%.4g", s->y[i]);
        put_label(c, (from + to) / 2, top - 4, "middle", " font-size=\"10\"", value);
    }
    put(c, "\n");
}

static void legend(canvas *c)
{
    double y = TOP + 8;
    for (size_t k = 0; k < c->p->n; k++) {
        if (!c->p->series[k].name || c->p->n < 2) continue;
        mark(c, k, WIDTH - RIGHT - 8, y);
        put_label(c, WIDTH - RIGHT - 18, y + 4, "end", "", c->p->series[k].name);
        y += 17;
    }
}

err_code plot_svg(const plot *p, text *out, err *e)
{
    canvas c = { .p = p, .out = out, .ok = true };
    find_ranges(&c);
    if (!c.x.any || !c.y.any) return err_set(e, ERR_INPUT, "chart \"%s\": nothing to draw", p->title ? p->title : "");
    frame(&c);
    for (size_t k = 0; k < p->n; k++) (p->kind == PLOT_BARS ? bar_series : line_series)(&c, k);
    legend(&c);
    put(&c, "</svg>\n");
    return c.ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a chart");
}

err_code plot_write(const plot *p, const char *path, err *e)
{
    text svg = { 0 };
    err_code rc = plot_svg(p, &svg, e);
    FILE *f = rc ? NULL : fopen(path, "we");
    bool bad = !rc && (!f || fwrite(svg.ptr, 1, svg.len, f) != svg.len);
    if (f && fclose(f)) bad = true;
    if (bad) rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    text_free(&svg);
    return rc;
}
