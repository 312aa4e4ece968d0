#include "ops/cli/plot.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* Charts: what is drawn stands in the SVG at the right place, odd numbers are left out, and the text is well-formed. */

static text drawn(const plot *p)
{
    text t = { 0 };
    err e;
    cr_assert_eq(plot_svg(p, &t, &e), ERR_OK, "%s", e.text);
    return t;
}

static size_t count(const char *s, const char *what)
{
    size_t n = 0;
    for (; (s = strstr(s, what)); s += strlen(what)) n++;
    return n;
}

Test(plot, a_line_goes_from_corner_to_corner)
{
    const double x[] = { 0, 5, 10 }, y[] = { 0, 50, 100 };
    const plot_series s = { .name = "a & b", .x = x, .y = y, .n = 3 };
    const plot p = { .title = "<t>", .series = &s, .n = 1, .x_label = "x", .y_label = "y" };
    text t = drawn(&p);
    cr_expect(strstr(t.ptr, "d=\"M74.0 364.0L387.0 202.0L700.0 40.0\""), "%s", t.ptr);
    cr_expect(strstr(t.ptr, "&lt;t&gt;") && !strstr(t.ptr, "<t>"));
    cr_expect_eq(count(t.ptr, "<circle"), 3);
    cr_expect(strstr(t.ptr, ">100</text>") && strstr(t.ptr, ">20</text>"), "round steps");
    text_free(&t);
}

Test(plot, what_is_not_finite_is_a_gap)
{
    const double x[] = { 1, 2, 4, 8 }, y[] = { 1, NAN, 3, INFINITY };
    const plot_series s[] = { { .name = "one", .x = x, .y = y, .n = 4 }, { .name = "two", .x = x, .y = x, .n = 4, .dashed = true } };
    const plot p = { .series = s, .n = 2, .log_x = true };
    text t = drawn(&p);
    cr_expect(!strstr(t.ptr, "nan") && !strstr(t.ptr, "inf"), "%s", t.ptr);
    cr_expect_eq(count(t.ptr, "<circle"), 3, "two points and the legend's");
    cr_expect(strstr(t.ptr, ">one</text>") && strstr(t.ptr, ">two</text>") && strstr(t.ptr, "stroke-dasharray"));
    text_free(&t);
}

Test(plot, bars_stand_on_zero_beside_each_other)
{
    const char *const words[] = { "pp512", "tg128" };
    const double y[] = { 200, 40 }, z[] = { 100, 20 }, sd[] = { 5, 1 };
    const plot_series s[] = { { .name = "ours", .y = y, .sd = sd, .n = 2 }, { .name = "peer", .y = z, .n = 2, .dashed = true } };
    const plot p = { .kind = PLOT_BARS, .series = s, .n = 2, .words = words };
    text t = drawn(&p);
    cr_expect(strstr(t.ptr, ">pp512</text>") && strstr(t.ptr, ">tg128</text>"));
    cr_expect_eq(count(t.ptr, "fill=\"#0072b2\""), 2 + 1, "two bars and the legend");
    cr_expect(strstr(t.ptr, ">200</text>"));
    text_free(&t);
}

Test(plot, extreme_numbers_make_a_chart_or_an_error)
{
    const double odd[][2] = { { 0, 0 }, { -1e300, 1e300 }, { 1e-300, 2e-300 }, { 5, 5 }, { -3, -1 } };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (int log = 0; log < 2; log++) {
            const plot_series s = { .x = odd[i], .y = odd[i], .n = 2 };
            const plot p = { .series = &s, .n = 1, .log_x = log, .log_y = log };
            text t = { 0 };
            err e;
            err_code rc = plot_svg(&p, &t, &e);
            cr_expect(rc == ERR_OK || rc == ERR_INPUT);
            if (!rc) cr_expect(strstr(t.ptr, "</svg>") && !strstr(t.ptr, "nan") && t.len < 100000, "%zu: %zu bytes", i, t.len);
            text_free(&t);
        }
    const plot none = { .title = "empty" };
    text t = { 0 };
    err e;
    cr_expect_eq(plot_svg(&none, &t, &e), ERR_INPUT);
    cr_expect_eq(plot_write(&none, "/nowhere/at/all.svg", &e), ERR_INPUT);
    text_free(&t);
}
