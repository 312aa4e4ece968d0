#include "core/err.h"
#include "core/buf.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(err, every_code_has_a_text_and_a_status_of_its_own)
{
    for (int i = 0; i < ERR_COUNT; i++) {
        cr_expect(err_name((err_code)i) && *err_name((err_code)i), "code %d has no text", i);
        for (int j = 0; j < i; j++) {
            cr_expect_neq(err_exit_status((err_code)i), err_exit_status((err_code)j), "codes %d and %d share a status", i, j);
            cr_expect_neq(strcmp(err_name((err_code)i), err_name((err_code)j)), 0, "codes %d and %d share a text", i, j);
        }
        cr_expect(err_exit_status((err_code)i) < 126, "126 and above belong to the shell");
    }
}

Test(err, only_ok_exits_with_zero)
{
    cr_assert_eq(err_exit_status(ERR_OK), 0);
    for (int i = 1; i < ERR_COUNT; i++) cr_expect_gt(err_exit_status((err_code)i), 0);
}

Test(err, documented_statuses_stay)
{
    cr_expect_eq(err_exit_status(ERR_USAGE), 2);
    cr_expect_eq(err_exit_status(ERR_CONFIG), 3);
    cr_expect_eq(err_exit_status(ERR_IO), 4);
    cr_expect_eq(err_exit_status(ERR_MODEL), 5);
    cr_expect_eq(err_exit_status(ERR_ABSENT), 14);
}

Test(err, a_code_out_of_range_is_named_not_read)
{
    cr_expect_str_eq(err_name((err_code)ERR_COUNT), "unknown error");
    cr_expect_str_eq(err_name((err_code)-1), "unknown error");
    cr_expect_eq(err_exit_status((err_code)ERR_COUNT), 1);
    cr_expect_eq(err_exit_status((err_code)-1), 1);
}

Test(err, set_returns_the_code_and_keeps_the_text)
{
    err e = { 0 };
    cr_assert_eq(err_set(&e, ERR_MODEL, "%s: %d dimensions", "a.gguf", 9), ERR_MODEL);
    cr_assert_eq(e.code, ERR_MODEL);
    cr_assert_str_eq(e.text, "a.gguf: 9 dimensions");
    cr_assert_eq(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

Test(err, a_long_text_is_cut_not_spilled)
{
    err e[2];
    memset(e, 0x5a, sizeof e);
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    err_set(&e[0], ERR_INPUT, "%s", longer);
    cr_assert_eq(strlen(e[0].text), sizeof e[0].text - 1);
    cr_assert_eq(e[0].code, ERR_INPUT);
    for (size_t i = 0; i < sizeof e[1]; i++) cr_assert_eq(((unsigned char *)&e[1])[i], 0x5a);
}

Test(err, wrap_puts_its_text_in_front)
{
    err e;
    err_set(&e, ERR_GONE, "connection refused");
    cr_assert_eq(err_wrap(&e, "stage %d", 2), ERR_GONE);
    cr_assert_str_eq(e.text, "stage 2: connection refused");
    err_wrap(&e, "job 7");
    cr_assert_str_eq(e.text, "job 7: stage 2: connection refused");
    cr_assert_neq(err_wrap(NULL, "nobody"), ERR_OK);
}

Test(err, wrap_of_a_full_text_keeps_the_front)
{
    err e;
    char longer[600];
    memset(longer, 'y', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    err_set(&e, ERR_IO, "%s", longer);
    cr_assert_eq(err_wrap(&e, "outer"), ERR_IO);
    cr_assert_eq(strncmp(e.text, "outer: yyy", 10), 0);
    cr_assert_eq(strlen(e.text), sizeof e.text - 1);
    cr_assert_eq(err_wrap(&e, "%s", longer), ERR_IO);
    cr_assert_eq(strlen(e.text), sizeof e.text - 1);
}

Test(err, the_readme_lists_every_status)
{
    text readme = { 0 };
    err e;
    cr_assert_eq(text_read_file(&readme, support_root("README.md"), 1 << 20, &e), ERR_OK, "%s", e.text);
    for (int i = 0; i < ERR_COUNT; i++) {
        char row[80];
        snprintf(row, sizeof row, "\n| %d | %s |\n", err_exit_status((err_code)i), err_name((err_code)i));
        cr_expect(strstr(readme.ptr, row), "README.md has no row \"%s\"", row + 1);
    }
    text_free(&readme);
}
