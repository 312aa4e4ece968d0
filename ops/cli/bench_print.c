#include "ops/cli/bench.h"
#include "ops/cli/command.h"
#include "ops/cli/show.h"
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Owns how a measurement is written down: a head that says where it was made, then the table. It measures nothing. */

static void cpu_name(char out[static 128])
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, 128, "unknown CPU");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        snprintf(out, 128, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

static const char *word(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* "avx2", or "avx2,plain" when stages differ. */
static void join_isas(const json_t *stages, char *out, size_t cap)
{
    size_t i, n = 0;
    json_t *s;
    const char *before = "";
    *out = 0;
    json_array_foreach(stages, i, s) {
        const char *one = word(s, "isa");
        if (strcmp(one, before) && n < cap) n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? "," : "", one);
        before = one;
    }
}

/* "i8b32", or "bf16amx (prompts), i8b32". */
static const char *paths(const json_t *status, char *out, size_t cap)
{
    const char *rows = word(status, "path"), *prompt = word(status, "prompt_path");
    snprintf(out, cap, *prompt && strcmp(prompt, rows) ? "%s (prompts), %s" : "%s", *prompt ? prompt : rows, rows);
    return out;
}

/* Where, with what, on what. */
static json_t *about(const bench *b)
{
    char cpu[128], isas[128], path[64];
    struct utsname u = { 0 };
    const json_t *m = json_object_get(b->v.status, "model"), *stages = json_object_get(b->v.status, "stages");
    json_int_t threads = json_integer_value(json_object_get(json_array_get(stages, 0), "threads"));
    cpu_name(cpu);
    join_isas(stages, isas, sizeof isas);
    uname(&u);
    double crowd[1] = { 0 };
    getloadavg(crowd, 1); /* whoever reads the figures later should know whether the machine was idle */
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:f}", "machine", cpu, "cpus",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "system", u.release, "isa", isas, "path", paths(b->v.status, path, sizeof path), "kv",
                     word(b->v.status, "kv"), "stages", (json_int_t)json_array_size(stages), "threads", threads, "in_flight",
                     json_integer_value(json_object_get(json_object_get(b->v.status, "pump"), "in_flight")), "revision",
                     version_revision(), "model", word(m, "name"), "digest", word(m, "digest"), "load", crowd[0]);
}

static void cell(const json_t *v, char *out, size_t cap)
{
    double x = json_number_value(v);
    if (json_is_string(v)) snprintf(out, cap, "%s", json_string_value(v));
    else if (json_is_integer(v)) snprintf(out, cap, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v)) snprintf(out, cap, x >= 100 || x <= -100 ? "%.1f" : x >= 10 ? "%.2f" : "%.3f", x);
    else snprintf(out, cap, "-");
}

static bool is_sd(const char *key)
{
    size_t n = strlen(key);
    return n > 3 && !strcmp(key + n - 3, "_sd");
}

static void md_line(const json_t *row, bool names)
{
    const char *key;
    json_t *v;
    bool first = true;
    json_object_foreach((json_t *)row, key, v) {
        char x[256];
        cell(v, x, sizeof x);
        if (is_sd(key)) printf(names ? "%s" : " ± %s", names ? "" : x);
        else printf("%s %s", first ? "|" : " |", names ? key : x);
        first = false;
    }
    puts(" |");
}

static void print_head(const json_t *head, const char *mark)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)head, key, v) {
        char x[256];
        cell(v, x, sizeof x);
        printf("%s%s: %s\n", mark, key, x);
    }
}

static void print_md(const json_t *rows)
{
    const char *key;
    json_t *v, *row;
    size_t i;
    if (!json_array_size(rows)) return;
    putchar('\n');
    md_line(json_array_get(rows, 0), true);
    json_object_foreach(json_array_get(rows, 0), key, v)
        if (!is_sd(key)) printf(json_is_number(v) ? "|---:" : "|---");
    puts("|");
    json_array_foreach(rows, i, row) md_line(row, false);
}

static void csv_line(const json_t *row, bool names)
{
    const char *key, *comma = "";
    json_t *v;
    json_object_foreach((json_t *)row, key, v) {
        char x[256];
        cell(v, x, sizeof x);
        if (json_is_real(v)) snprintf(x, sizeof x, "%.9g", json_real_value(v));
        printf("%s%s", comma, names ? key : x);
        comma = ",";
    }
    putchar('\n');
}

static void print_csv(const json_t *rows)
{
    json_t *row;
    size_t i;
    if (json_array_size(rows)) csv_line(json_array_get(rows, 0), true);
    json_array_foreach(rows, i, row) csv_line(row, false);
}

static void print_tables(const json_t *head, const json_t *rows, const json_t *more, bool md)
{
    const char *key;
    json_t *v;
    print_head(head, md ? "" : "# ");
    (md ? print_md : print_csv)(rows);
    json_object_foreach((json_t *)more, key, v) {
        if (!md) printf("# %s\n", key);
        (md ? print_md : print_csv)(v);
    }
}

err_code bench_print(bench *b, json_t *more, err *e)
{
    json_t *head = about(b);
    const char *format = b->s->json ? "json" : b->s->bench_format ? b->s->bench_format : "md";
    progress_close(&b->bar);
    if (!head) return json_decref(more), err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = bench_draw(b, head, e);
    if (rc) return json_decref(head), json_decref(more), rc;
    if (!strcmp(format, "json"))
        return show_json(json_pack("{s:s, s:o, s:O, s:o*}", "schema", "sluice.bench/1", "about", head, "rows", b->rows, "more", more), e);
    print_tables(head, b->rows, more, !strcmp(format, "md"));
    json_decref(head);
    json_decref(more);
    return show_write("", 0, e);
}
