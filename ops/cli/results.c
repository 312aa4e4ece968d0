#include "ops/cli/results.h"
#include "core/buf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Owns the output file of a batch, from what an earlier run left there to its last line. */

static err_code no_memory(err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory");
}
static err_code io_error(const results *r, err *e)
{
    return err_set(e, ERR_IO, "%s: %s", r->name, strerror(errno));
}

/* ---- what is there already ---- */

typedef enum { LINE_ANSWER, LINE_AGAIN, LINE_STRANGE } line_kind;

/* An answer has a custom_id and no error; OpenAI's shape has "error": null in it, and a status in "response". */
static line_kind judge(results *r, json_t *o)
{
    const json_t *id = json_object_get(o, "custom_id"), *error = json_object_get(o, "error");
    const json_t *status = json_object_get(json_object_get(o, "response"), "status_code");
    bool failed = (error && !json_is_null(error)) || (json_is_integer(status) && json_integer_value(status) != 200);
    if (failed) return LINE_AGAIN; /* a line that could not be read has no custom_id */
    if (!json_is_string(id)) return LINE_STRANGE;
    return json_object_set_new(r->have, json_string_value(id), json_true()) ? LINE_STRANGE : LINE_ANSWER;
}

typedef struct {
    FILE *from, *to; /* to NULL: only look */
    char *line;
    size_t cap;
    ssize_t n;
    bool dirty; /* something has to go, or an end of line is missing */
} reading;

static err_code take_line(results *r, reading *t, uint64_t number, err *e)
{
    bool whole = t->line[t->n - 1] == '\n';
    size_t n = (size_t)t->n - whole;
    if (!n && whole) return ERR_OK;
    json_t *o = json_loadb(t->line, n, JSON_REJECT_DUPLICATES, NULL);
    line_kind k = o ? judge(r, o) : whole ? LINE_STRANGE : LINE_AGAIN;
    json_decref(o);
    if (k == LINE_STRANGE)
        return err_set(e, ERR_INPUT, "%s:%llu: no result of a batch, so the file is left alone; -o another one", r->name,
                       (unsigned long long)number);
    t->dirty = t->dirty || !whole || k == LINE_AGAIN;
    if (k == LINE_AGAIN) return r->retried++, ERR_OK;
    r->kept++;
    return !t->to || (fwrite(t->line, 1, n, t->to) == n && fputc('\n', t->to) >= 0) ? ERR_OK : io_error(r, e);
}

static err_code read_old(results *r, reading *t, err *e)
{
    err_code rc = ERR_OK;
    rewind(t->from);
    r->kept = r->retried = 0;
    for (uint64_t number = 1; rc == ERR_OK && (t->n = getline(&t->line, &t->cap, t->from)) > 0; number++)
        rc = take_line(r, t, number, e);
    if (rc == ERR_OK && ferror(t->from)) rc = io_error(r, e);
    return rc;
}

/* A new file takes the old one's place in one move: whatever happens meanwhile, one of the two is there, whole. */
static err_code repair(results *r, const char *path, reading *t, err *e)
{
    text tmp = { 0 };
    if (!text_addf(&tmp, "%s.repair", path)) return no_memory(e);
    t->to = fopen(tmp.ptr, "we");
    err_code rc = t->to ? read_old(r, t, e) : io_error(r, e);
    if (rc == ERR_OK && (fflush(t->to) || fsync(fileno(t->to)))) rc = io_error(r, e);
    if (t->to && fclose(t->to) && rc == ERR_OK) rc = io_error(r, e);
    if (rc == ERR_OK && rename(tmp.ptr, path)) rc = io_error(r, e);
    if (rc != ERR_OK && t->to) unlink(tmp.ptr);
    text_free(&tmp);
    return rc;
}

static err_code lock(const results *r, FILE *f, err *e)
{
    if (!flock(fileno(f), LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return ERR_OK; /* where locks are unknown, none is kept */
    return err_set(e, ERR_STATE, "%s: another batch is writing to it", r->name);
}

static err_code open_append(results *r, const char *path, err *e)
{
    r->f = fopen(path, "ae");
    if (!r->f) return io_error(r, e);
    return lock(r, r->f, e);
}

/* The lock goes with the file: after a repair the new one is locked anew. */
static err_code go_on(results *r, const char *path, err *e)
{
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return open_append(r, path, e); /* new, or a pipe, which holds no old results */
    reading t = { .from = fopen(path, "r+e") };
    err_code rc = t.from ? lock(r, t.from, e) : io_error(r, e);
    if (rc == ERR_OK) rc = read_old(r, &t, e);
    if (rc == ERR_OK && t.dirty) rc = repair(r, path, &t, e);
    if (t.from) fclose(t.from);
    free(t.line);
    return rc == ERR_OK ? open_append(r, path, e) : rc;
}

err_code results_open(results *r, const char *path, err *e)
{
    bool file = path && strcmp(path, "-");
    *r = (results){ .name = file ? path : "standard output", .have = json_object() };
    if (!r->have) return no_memory(e);
    if (file) return go_on(r, path, e);
    r->f = stdout;
    return ERR_OK;
}

bool results_have(const results *r, const char *custom_id)
{
    return json_object_get(r->have, custom_id) != NULL;
}

/* ---- what is added ---- */

err_code results_write(results *r, json_t *o, err *e)
{
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(o);
    if (!line) return no_memory(e);
    bool ok = fputs(line, r->f) >= 0 && fputc('\n', r->f) >= 0 && !fflush(r->f);
    free(line);
    return ok ? ERR_OK : io_error(r, e);
}

err_code results_close(results *r, err_code rc, err *e)
{
    if (r->f && r->f != stdout && fclose(r->f) && rc == ERR_OK) rc = io_error(r, e);
    json_decref(r->have);
    *r = (results){ 0 };
    return rc;
}
