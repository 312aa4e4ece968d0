/* What people write: INI files, command lines (one word a line) and addresses. Whatever the bytes, the answer is a value or an
 * error with a text. The first byte chooses the reader and the command.
 * Parser: core/settings.c core/settings_ini.c core/settings_help.c */
#include "core/settings.h"
#include "core/settings_table.h"
#include "proto/endpoint.h"
#include "tests/fuzz/kit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

enum { ARGV, INI, ADDRESS, READERS };

/* ---- well-formed ones: options and keys from the table ---- */

static const char *value_of(const opt_row *o, uint32_t pick, char buf[static 64])
{
    static const char *const texts[] = { "x", "a b", "a\\nb", "1", "-1", "0.5", "yes", "" };
    size_t word = strcspn(o->meta, "|");
    if (o->kind == KIND_UINT) return snprintf(buf, 64, "%llu", (unsigned long long)(pick % 2 ? o->ulo : o->uhi)), buf;
    if (o->kind == KIND_REAL) return snprintf(buf, 64, "%g", pick % 2 ? o->rlo : o->rhi), buf;
    if (o->meta[word] == '|' && word < 32 && pick % 4) return snprintf(buf, 64, "%.*s", (int)word, o->meta), buf;
    return texts[pick % 8];
}

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const char *const addresses[] = { "tcp://127.0.0.1:5555", "tcp://[::1]:0", "tcp://localhost:*", "ipc:///tmp/a", "inproc://a",
                                             "tcp://lo:1", "tcp://10.0.0.1:99999", "tcp://[fe80::1%eth0]:1" };
    char buf[64], section[64] = "";
    text t = { 0 };
    uint32_t mode = pick % READERS, n = 1 + pick / 7 % 6;
    char first = (char)(mode + READERS * (pick / 3 % 18));
    text_add(&t, &first, 1);
    for (uint32_t i = 0, at = pick; i < n; i++, at = at * 1103515245 + 12345) {
        const opt_row *o = &opt_table[(at >> 8) % opt_count];
        const char *dot = strchr(o->ini, '.'), *v = value_of(o, at >> 4, buf);
        if (mode == ADDRESS) text_adds(&t, addresses[(at >> 8) % 8]);
        else if (mode == ARGV && o->kind == KIND_FLAG) text_addf(&t, "%s--%s", i ? "\n" : "", o->name);
        else if (mode == ARGV && o->letter && at % 2) text_addf(&t, "%s-%c%s%s", i ? "\n" : "", o->letter, at % 4 ? "" : "\n", v);
        else if (mode == ARGV) text_addf(&t, "%s--%s%s%s", i ? "\n" : "", o->name, at % 3 ? "\n" : "=", v);
        else if (dot) {
            if (strncmp(section, o->ini, (size_t)(dot - o->ini)) || section[dot - o->ini]) text_addf(&t, "[%.*s]\n", (int)(dot - o->ini), o->ini);
            snprintf(section, sizeof section, "%.*s", (int)(dot - o->ini), o->ini);
            text_addf(&t, "%s = %s\n", dot + 1, v);
        }
        if (mode == ADDRESS) break;
    }
    size_t len = t.len <= max ? t.len : 0;
    memcpy(out, t.ptr, len);
    text_free(&t);
    return len;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

/* ---- reading ---- */

static void read_argv(settings *s, const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1), *argv[64] = { "sluice" }, *save = copy, *word;
    int argc = 1;
    err e = { 0 };
    string_list out = { 0 };
    settings again;
    if (!copy) return;
    memcpy(copy, data, size);
    copy[size] = 0;
    while (argc < 63 && (word = strsep(&save, "\n"))) argv[argc++] = word;
    err_code rc = settings_argv(s, argc, argv, &e);
    kit_said(rc, &e);
    if (rc == ERR_OK) {
        kit_must(string_list_add(&out, "sluice-coordinator") ? ERR_OK : ERR_NOMEM, NULL);
        kit_must(settings_to_argv(s, CMD_COORDINATOR, &out, &e), &e);
        settings_init(&again, CMD_COORDINATOR); /* what a program is given must be what it takes */
        kit_must(settings_argv(&again, (int)out.n, out.at, &e), &e);
        settings_free(&again);
    }
    string_list_free(&out);
    free(copy);
}

static void read_address(const uint8_t *data, size_t size)
{
    endpoint ep;
    char addr[512];
    err e = { 0 };
    size_t n = size < sizeof addr ? size : sizeof addr - 1;
    memcpy(addr, data, n);
    addr[n] = 0;
    kit_said(endpoint_parse(&ep, addr, false, &e), &e);
    e.text[0] = 0;
    err_code rc = endpoint_parse(&ep, addr, true, &e);
    kit_said(rc, &e);
    if (rc == ERR_OK && (strlen(ep.addr) > ENDPOINT_MAX || ep.kind > ENDPOINT_TCP)) abort();
}

static void help(uint32_t command)
{
    static FILE *null;
    static uint32_t done;
    if (done & command) return;
    if (!null && !(null = fopen("/dev/null", "we"))) abort();
    done |= command;
    settings_help(command, null);
    settings_help(command | (uint32_t)CMD_RARE, null);
    settings_write_ini(null);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    settings s;
    err e = { 0 };
    if (!size) return 0;
    uint32_t command = 1u << (data[0] / READERS % 18);
    help(command);
    settings_init(&s, command);
    if (data[0] % READERS == ARGV) read_argv(&s, data + 1, size - 1);
    else if (data[0] % READERS == ADDRESS) read_address(data + 1, size - 1);
    else kit_said(settings_ini_view(&s, (view){ data + 1, size - 1 }, "fuzz.ini", &e), &e);
    if (settings_was_given(&s, "config") && settings_given_only_for(&s, CMD_RUN, CMD_UP) && !s.given[0] && !s.given[1]) abort();
    settings_free(&s);
    return 0;
}
