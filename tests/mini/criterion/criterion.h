#ifndef TESTS_MINI_CRITERION_H
#define TESTS_MINI_CRITERION_H
/* The part of Criterion's interface that our tests use, for MODE=tsan only: Criterion's own runner maps memory where
 * ThreadSanitizer keeps its shadow and dies before the first test. Every test runs in a forked child, in the order of the
 * file. Knows no parameterized tests and no theories. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wformat-zero-length"   /* an assert without words of its own */

typedef struct {
    void (*init)(void), (*fini)(void);
    double timeout;                     /* seconds; 0: the suite's, or none */
    int signal, exit_code;              /* how the test is expected to end */
    bool disabled;
    const char *description;
} mini_extra;

typedef struct mini_test {
    const char *suite, *name;           /* name NULL: these are a suite's defaults */
    void (*run)(void);
    mini_extra extra;
    struct mini_test *next;
} mini_test;

void mini_add(mini_test *t);
void mini_fail(bool fatal, const char *file, int line, const char *expr, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
_Noreturn void mini_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define MINI_ADD(id, s, n, fn, ...) \
    static mini_test id = { .suite = s, .name = n, .run = fn, .extra = { __VA_ARGS__ } }; \
    __attribute__((constructor)) static void id##_add(void) { mini_add(&id); }
#define Test(S, N, ...) \
    static void S##_##N##_impl(void); \
    MINI_ADD(S##_##N##_test, #S, #N, S##_##N##_impl, __VA_ARGS__) \
    static void S##_##N##_impl(void)
#define TestSuite(S, ...) MINI_ADD(S##_suite, #S, NULL, NULL, __VA_ARGS__)

#define MINI_CHECK(fatal, cond, expr, ...) \
    do { if (!(cond)) mini_fail(fatal, __FILE__, __LINE__, expr, "" __VA_ARGS__); } while (0)
#define MINI_CMP(fatal, a, op, b, ...) MINI_CHECK(fatal, (a) op (b), #a " " #op " " #b, __VA_ARGS__)
#define MINI_STR(fatal, a, op, b, ...) MINI_CHECK(fatal, strcmp(a, b) op 0, #a " " #op " " #b, __VA_ARGS__)
#define MINI_MEM(fatal, a, op, b, n, ...) MINI_CHECK(fatal, memcmp(a, b, n) op 0, #a " " #op " " #b, __VA_ARGS__)
#define MINI_NEAR(fatal, a, b, eps, ...) MINI_CHECK(fatal, fabs((double)((a) - (b))) <= (eps), #a " near " #b, __VA_ARGS__)

#define cr_assert(c, ...) MINI_CHECK(true, c, #c, __VA_ARGS__)
#define cr_expect(c, ...) MINI_CHECK(false, c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...) MINI_CHECK(true, !(c), "not " #c, __VA_ARGS__)
#define cr_expect_not(c, ...) MINI_CHECK(false, !(c), "not " #c, __VA_ARGS__)
#define cr_assert_null(p, ...) MINI_CHECK(true, !(p), #p " is NULL", __VA_ARGS__)
#define cr_expect_null(p, ...) MINI_CHECK(false, !(p), #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...) MINI_CHECK(true, p, #p " is not NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...) MINI_CHECK(false, p, #p " is not NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) MINI_CMP(true, a, ==, b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) MINI_CMP(false, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) MINI_CMP(true, a, !=, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) MINI_CMP(false, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) MINI_CMP(true, a, <, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) MINI_CMP(false, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) MINI_CMP(true, a, <=, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) MINI_CMP(false, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) MINI_CMP(true, a, >, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) MINI_CMP(false, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) MINI_CMP(true, a, >=, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) MINI_CMP(false, a, >=, b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) MINI_STR(true, a, ==, b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) MINI_STR(false, a, ==, b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) MINI_STR(true, a, !=, b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) MINI_STR(false, a, !=, b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) MINI_MEM(true, a, ==, b, n, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) MINI_MEM(false, a, ==, b, n, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) MINI_MEM(true, a, !=, b, n, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...) MINI_MEM(false, a, !=, b, n, __VA_ARGS__)
#define cr_assert_float_eq(a, b, eps, ...) MINI_NEAR(true, a, b, eps, __VA_ARGS__)
#define cr_expect_float_eq(a, b, eps, ...) MINI_NEAR(false, a, b, eps, __VA_ARGS__)
#define cr_assert_fail(...) MINI_CHECK(true, false, "reached", __VA_ARGS__)
#define cr_expect_fail(...) MINI_CHECK(false, false, "reached", __VA_ARGS__)
#define cr_fatal(...) cr_assert_fail(__VA_ARGS__)
#define cr_fail(...) cr_expect_fail(__VA_ARGS__)
#define cr_skip_test(...) mini_skip("" __VA_ARGS__)
#define cr_skip(...) mini_skip("" __VA_ARGS__)
#define cr_log_info(...) (printf("# " __VA_ARGS__), puts(""))
#define cr_log_warn(...) cr_log_info(__VA_ARGS__)
#define cr_log_error(...) cr_log_info(__VA_ARGS__)
#endif
