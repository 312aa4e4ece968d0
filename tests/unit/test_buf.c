#include "core/buf.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

Test(buf, an_empty_text_can_be_cleared_freed_and_grown_by_nothing)
{
    text t = { 0 };
    text_clear(&t);
    text_free(&t);
    cr_assert(text_add(&t, NULL, 0));
    cr_assert_eq(t.len, 0);
    cr_assert_str_eq(t.ptr, "");
    text_free(&t);
    cr_assert(!t.ptr && !t.len && !t.cap);
}

Test(buf, adding_piece_by_piece_equals_adding_at_once)
{
    uint64_t seed = support_seed();
    unsigned char all[5000];
    support_fill_bytes(all, sizeof all, seed);
    text t = { 0 };
    for (size_t at = 0, i = 0; at < sizeof all; i++) {
        size_t n = (size_t)support_draw(seed + 1, i, 90);
        if (n > sizeof all - at) n = sizeof all - at;
        cr_assert(text_add(&t, all + at, n));
        at += n;
        cr_assert_eq(t.len, at);
        cr_assert_lt(t.len, t.cap);
        cr_assert_eq(t.ptr[t.len], 0);
    }
    cr_assert_eq(memcmp(t.ptr, all, sizeof all), 0);
    text_free(&t);
}

Test(buf, formatting_appends_whatever_the_length)
{
    text t = { 0 };
    cr_assert(text_adds(&t, "a="));
    cr_assert(text_addf(&t, "%d;", 42));
    cr_assert_str_eq(t.ptr, "a=42;");
    cr_assert(text_addf(&t, "%01000d", 7));
    cr_assert_eq(t.len, 1005);
    cr_assert_eq(t.ptr[1004], '7');
    cr_assert_eq(strlen(t.ptr), 1005);
    text_clear(&t);
    cr_assert_str_eq(t.ptr, "");
    cr_assert(text_addf(&t, "%s", ""));
    cr_assert_eq(t.len, 0);
    text_free(&t);
}

Test(buf, bytes_after_a_nul_are_kept)
{
    text t = { 0 };
    cr_assert(text_add(&t, "a\0b", 3) && text_adds(&t, "c"));
    cr_assert_eq(t.len, 4);
    cr_assert_eq(memcmp(t.ptr, "a\0bc", 5), 0);
    text_free(&t);
}

Test(buf, an_absurd_size_is_refused_and_changes_nothing)
{
    text t = { 0 };
    cr_assert(text_adds(&t, "keep"));
    char *p = t.ptr;
    size_t cap = t.cap;
    cr_assert_not(text_reserve(&t, SIZE_MAX));
    cr_assert_not(text_reserve(&t, SIZE_MAX - 4));
    cr_assert_not(text_reserve(&t, SIZE_MAX / 4));
    cr_assert(t.ptr == p && t.cap == cap && t.len == 4);
    cr_assert_str_eq(t.ptr, "keep");
    text_free(&t);
}

Test(buf, reserve_makes_room_and_keeps_the_text)
{
    text t = { 0 };
    cr_assert(text_adds(&t, "x"));
    cr_assert(text_reserve(&t, 100000));
    cr_assert_geq(t.cap, 100002);
    cr_assert_str_eq(t.ptr, "x");
    text_free(&t);
}

static const char *file_of(size_t n, uint64_t seed)
{
    static char path[128];
    char *p = malloc(n + 1);
    cr_assert(p);
    support_fill_bytes(p, n, seed);
    snprintf(path, sizeof path, "%s/file", support_tmpdir());
    cr_assert(support_write(path, p, n));
    free(p);
    return path;
}

Test(buf, a_file_is_read_whole_behind_what_is_there)
{
    enum { N = 200001 };
    const char *path = file_of(N, 3);
    text t = { 0 };
    err e = { 0 };
    cr_assert(text_adds(&t, "ab"));
    cr_assert_eq(text_read_file(&t, path, N + 2, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(t.len, N + 2);
    static unsigned char want[N];
    support_fill_bytes(want, N, 3);
    cr_assert_eq(memcmp(t.ptr, "ab", 2), 0);
    cr_assert_eq(memcmp(t.ptr + 2, want, N), 0);
    cr_assert_eq(t.ptr[t.len], 0);
    text_free(&t);
}

Test(buf, an_empty_file_gives_an_empty_text)
{
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, file_of(0, 0), 10, NULL), ERR_OK);
    cr_assert_str_eq(t.ptr, "");
    text_free(&t);
}

Test(buf, a_file_over_the_limit_is_refused_and_named)
{
    const char *path = file_of(1000, 1);
    text t = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&t, path, 1000, &e), ERR_OK);
    text_free(&t);
    cr_assert_eq(text_read_file(&t, path, 999, &e), ERR_IO);
    cr_assert(strstr(e.text, path) && strstr(e.text, "999"), "%s", e.text);
    text_free(&t);
}

Test(buf, absent_files_and_folders_are_errors_that_name_them)
{
    text t = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&t, "/nowhere/at/all", 10, &e), ERR_IO);
    cr_assert(strstr(e.text, "/nowhere/at/all: No such file"), "%s", e.text);
    cr_assert_eq(text_read_file(&t, "/tmp", 10, &e), ERR_IO);
    cr_assert(strstr(e.text, "/tmp: "), "%s", e.text);
    text_free(&t);
}

Test(buf, a_dash_reads_standard_input)
{
    int fd = open(file_of(300, 9), O_RDONLY);
    cr_assert(fd >= 0 && dup2(fd, 0) == 0);
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, "-", 1000, NULL), ERR_OK);
    cr_assert_eq(t.len, 300);
    text_free(&t);
    close(fd);
}
