/* Needles from a seed, and intervals by drawing again. */
#include "core/rng.h"
#include "ops/cli/bootstrap_ci.h"
#include "ops/cli/needle.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static uint32_t sentences(const char *s)
{
    uint32_t n = 0;
    for (; *s; s++) n += *s == '.' && (s[1] == ' ' || s[1] == '\n');
    return n;
}

Test(needle, the_fact_stands_where_its_depth_says_and_holds_the_answer)
{
    needle n = { 0 };
    err e;
    for (uint32_t i = 0; i < 150; i++) {
        cr_assert_eq(needle_make(&n, support_seed(), i, &e), ERR_OK);
        char fact[256];
        uint32_t lines = needle_lines[n.length], before = 0;
        snprintf(fact, sizeof fact, "%.*s", (int)n.len, n.context.ptr + n.at);
        cr_expect_not_null(strstr(fact, n.answer), "%s: %s", n.answer, fact);
        cr_expect_eq(sentences(n.context.ptr), lines + 1, "%s", n.context.ptr);
        for (size_t k = 0; k < n.at; k++) before += n.context.ptr[k] == '.';
        cr_expect_eq(before, (uint32_t)(needle_depth[n.depth] * lines + 0.5));
        cr_expect_eq(strncmp(n.context.ptr, "Context:\n[1] ", 13), 0);
        cr_expect_eq(strncmp(n.question.ptr, "Question: ", 10), 0);
        cr_expect(n.question.len > 8 && !strcmp(n.question.ptr + n.question.len - 8, "\nAnswer:"), "%s", n.question.ptr);
        cr_expect_null(strchr(n.context.ptr, '{'));
        cr_expect_null(strchr(n.question.ptr, '{'));
    }
    needle_free(&n);
}

Test(needle, a_seed_gives_the_same_items_and_another_one_others)
{
    needle a = { 0 }, b = { 0 };
    err e;
    uint32_t same = 0;
    for (uint32_t i = 0; i < 60; i++) {
        cr_assert_eq(needle_make(&a, 5, i, &e), ERR_OK);
        cr_assert_eq(needle_make(&b, 5, i, &e), ERR_OK);
        cr_expect_str_eq(a.context.ptr, b.context.ptr);
        cr_expect_str_eq(a.question.ptr, b.question.ptr);
        cr_assert_eq(needle_make(&b, 6, i, &e), ERR_OK);
        same += !strcmp(a.question.ptr, b.question.ptr);
    }
    cr_expect_eq(same, 0);
    needle_free(&a);
    needle_free(&b);
}

/* 95 of 100 intervals hold the true mean of what was drawn, give or take. */
Test(needle, intervals_hold_the_mean)
{
    uint32_t held = 0;
    for (uint64_t t = 0; t < 60; t++) {
        double x[80];
        interval i;
        err e;
        for (uint32_t k = 0; k < 80; k++) x[k] = rng_unit(support_seed() + t, k) < 0.3;
        cr_assert_eq(bootstrap_mean(x, 80, t, &i, &e), ERR_OK);
        cr_expect(i.lo <= i.mean && i.mean <= i.hi && i.hi - i.lo < 0.25 && i.hi - i.lo > 0.1, "[%g %g %g]", i.lo, i.mean, i.hi);
        held += i.lo <= 0.3 && 0.3 <= i.hi;
    }
    cr_expect_geq(held, 50, "%u of 60", held);
}
