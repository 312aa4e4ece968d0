#include "ops/cli/bench.h"
#include "ops/cli/samples.h"
#include "ops/cli/stage_times.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* Statistics of measurements, lists of numbers, and differences of the stages' counters. */

static samples of(const double *x, size_t n)
{
    samples s = { 0 };
    for (size_t i = 0; i < n; i++) cr_assert(samples_add(&s, x[i]));
    return s;
}

Test(samples, quantiles_lie_between_neighbours)
{
    samples s = of((double[]){ 40, 10, 20, 30 }, 4);
    cr_expect_eq(samples_quantile(&s, 0), 10);
    cr_expect_eq(samples_quantile(&s, 0.5), 25);
    cr_expect_eq(samples_quantile(&s, 1), 40);
    cr_expect_lt(fabs(samples_quantile(&s, 0.9) - 37), 1e-12);
    cr_assert(samples_add(&s, 0));
    cr_expect_eq(samples_quantile(&s, 0), 0, "one that came later is sorted in");
    samples_free(&s);
}

Test(samples, mean_and_deviation_are_those_of_the_sample)
{
    samples s = of((double[]){ 2, 4, 4, 4, 5, 5, 7, 9 }, 8), one = of((double[]){ 3 }, 1), none = { 0 };
    cr_expect_eq(samples_mean(&s), 5);
    cr_expect_lt(fabs(samples_sd(&s) - sqrt(32.0 / 7)), 1e-12);
    cr_expect_eq(samples_sd(&one), 0);
    cr_expect(samples_mean(&none) == 0 && samples_sd(&none) == 0 && samples_quantile(&none, 0.5) == 0);
    samples_free(&s);
    samples_free(&one);
}

Test(samples, lists_of_numbers_are_read_and_bad_ones_quoted)
{
    bench_list l;
    err e;
    cr_assert_eq(bench_list_read(&l, "512,0,7", "1", "-p", &e), ERR_OK);
    cr_expect(l.n == 3 && l.at[0] == 512 && l.at[1] == 0 && l.at[2] == 7);
    cr_assert_eq(bench_list_read(&l, NULL, "128", "-p", &e), ERR_OK);
    cr_expect(l.n == 1 && l.at[0] == 128);
    const char *const bad[] = { "", "1,", ",1", "1;2", "-1", "1,x", "99999999999999999999", "16777217" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(bench_list_read(&l, bad[i], "1", "-p", &e), ERR_USAGE, "\"%s\"", bad[i]);
        cr_expect(strstr(e.text, bad[i]) && strstr(e.text, "-p"), "%s", e.text);
    }
    char many[300] = "1";
    for (int i = 0; i < 64; i++) strcat(many, ",1");
    cr_expect_eq(bench_list_read(&l, many, "1", "-p", &e), ERR_USAGE, "65 numbers");
}

Test(samples, a_stage_that_computed_half_of_the_time_has_a_bubble_of_half)
{
    json_t *a = json_loads("{\"stages\": [{\"stage\": 0, \"steps\": 1, \"rows\": 5, \"busy_us\": 100, \"wait_us\": 0, \"transfer_us\": 7}]}", 0, NULL);
    json_t *b = json_loads("{\"stages\": [{\"stage\": 0, \"steps\": 3, \"rows\": 9, \"busy_us\": 600, \"wait_us\": 400, \"transfer_us\": 107}]}", 0, NULL);
    json_t *t = stage_times_json(a, b, 1000000), *s = json_array_get(t, 0);
    cr_assert(s);
    cr_expect_eq(json_number_value(json_object_get(s, "busy %")), 50);
    cr_expect_eq(json_number_value(json_object_get(s, "bubble %")), 50);
    cr_expect_eq(json_number_value(json_object_get(s, "wait %")), 40);
    cr_expect_eq(json_number_value(json_object_get(s, "transfer %")), 10);
    cr_expect_eq(json_number_value(json_object_get(s, "rows/step")), 2);
    cr_expect_eq(json_integer_value(json_object_get(s, "steps")), 2);
    json_decref(a);
    json_decref(b);
    json_decref(t);
}
