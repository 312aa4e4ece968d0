#include "core/settings.h"
#include "ops/cli/request.h"
#include <stdlib.h>
#include <string.h>

/* What people write: INI files, command lines (one word a line) and batch lines. Whatever the bytes, the answer is a value or an
 * error with a text; the first byte chooses the reader and the command. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(err_code rc, const err *e)
{
    if (rc != ERR_OK && !e->text[0]) abort();
}

static void fuzz_argv(settings *s, const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1), *argv[64] = { "sluice" }, *save = copy, *word;
    int argc = 1;
    err e = { 0 };
    string_list out = { 0 };
    if (!copy) return;
    memcpy(copy, data, size);
    copy[size] = 0;
    while (argc < 63 && (word = strsep(&save, "\n"))) argv[argc++] = word;
    err_code rc = settings_argv(s, argc, argv, &e);
    check(rc, &e);
    if (rc == ERR_OK) check(settings_to_argv(s, CMD_COORDINATOR, &out, &e), &e);
    string_list_free(&out);
    free(copy);
}

static void fuzz_line(const settings *s, const uint8_t *data, size_t size)
{
    request r;
    view frames[4];
    err e = { 0 };
    if (request_init(&r, s, &e) == ERR_OK) check(request_line(&r, (view){ data, size }, &e), &e);
    request_frames(&r, frames);
    request_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    settings s;
    err e = { 0 };
    if (!size) return 0;
    settings_init(&s, 1u << (data[0] / 4 % 18));
    if (data[0] % 4 == 0) fuzz_argv(&s, data + 1, size - 1);
    else if (data[0] % 4 == 1) fuzz_line(&s, data + 1, size - 1);
    else check(settings_ini_view(&s, (view){ data + 1, size - 1 }, "fuzz.ini", &e), &e);
    settings_free(&s);
    return 0;
}
