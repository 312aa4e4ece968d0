#include "ops/cli/batch.h"
#include "ops/cli/flight.h"
#include "ops/cli/lines.h"
#include "ops/cli/progress.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Owns the batch file on its way through. What a line may say is in request_line.c. */

/* As many as a cluster runs at once by default (--max-sessions): fewer would leave places empty, more would only queue. */
enum { IN_FLIGHT = 64 };

typedef struct {
    const settings *s;
    lines in;
    FILE *out;
    const char *out_name;
    json_t *seen;             /* custom_id -> line number */
    char **id;                /* [n] custom ids by request index */
    size_t n;
    uint64_t good, bad;
    progress bar;
} batch;

static err_code write_line(batch *b, json_t *o, err *e)
{
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(o);
    if (!line) return err_set(e, ERR_NOMEM, "out of memory");
    bool ok = fputs(line, b->out) >= 0 && fputc('\n', b->out) >= 0 && !fflush(b->out);
    free(line);
    progress_set(&b->bar, b->good + b->bad, 0);
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", b->out_name, strerror(errno));
}

static err_code write_error(batch *b, const char *id, uint64_t line, const err *why, err *e)
{
    json_t *o = json_object();
    b->bad++;
    json_object_set_new(o, "custom_id", *id ? json_bytes(id, strlen(id)) : json_null());
    json_object_set_new(o, "line", json_integer((json_int_t)line));
    json_object_set_new(o, "error", answer_error_json(why));
    return write_line(b, o, e);
}

static err_code remember(batch *b, const char *id, err *why, err *e)
{
    json_t *line = json_object_get(b->seen, id);
    if (line)
        return err_set(why, ERR_INPUT, "custom_id \"%.200s\" is already in line %lld", id, (long long)json_integer_value(line));
    char **more = realloc(b->id, (b->n + 1) * sizeof *more), *copy = strdup(id);
    if (more) b->id = more;
    if (!more || !copy || json_object_set_new(b->seen, id, json_integer((json_int_t)b->in.number)))
        return free(copy), err_set(e, ERR_NOMEM, "out of memory");
    b->id[b->n++] = copy;
    return ERR_OK;
}

/* Read on until a line makes a request; every bad one on the way is answered at once. */
static err_code next(void *me, request *out, bool *more, err *e)
{
    batch *b = me;
    view line;
    while ((*more = lines_next(&b->in, &line, e))) {
        err why = { 0 };
        err_code rc = request_init(out, b->s, e);
        if (rc != ERR_OK) return rc;
        if (request_line(out, line, &why) == ERR_OK) rc = remember(b, out->m.submit.custom_id, &why, e);
        if (rc == ERR_OK && why.code == ERR_OK) return ERR_OK;
        if (rc == ERR_NOMEM) return rc;
        rc = write_error(b, out->m.submit.custom_id, b->in.number, &why, e);
        request_free(out);
        if (rc != ERR_OK) return rc;
    }
    return e->code;
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    batch *b = me;
    const char *id = b->id[index];
    if (a->fail.code != ERR_OK) return write_error(b, id, (uint64_t)json_integer_value(json_object_get(b->seen, id)), &a->fail, e);
    json_t *o = answer_json(a, b->s->logprobs > 0 || (a->n_choices && a->choice[0].n_top)), *usage = json_object();
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) tokens += a->choice[i].n_tokens;
    uint64_t prompt = a->n_choices ? a->choice[0].done.prompt_tokens : 0;
    b->good++;
    json_object_set_new(usage, "prompt_tokens", json_integer((json_int_t)prompt));
    json_object_set_new(usage, "completion_tokens", json_integer((json_int_t)tokens));
    json_object_set_new(usage, "total_tokens", json_integer((json_int_t)(prompt + tokens)));
    json_object_set_new(o, "custom_id", json_bytes(id, strlen(id)));
    json_object_set_new(o, "id", json_integer((json_int_t)a->job));
    json_object_set_new(o, "usage", usage);
    return write_line(b, o, e);
}

static err_code open_files(batch *b, err *e)
{
    err_code rc = lines_open(&b->in, b->s->batch, e);
    if (rc != ERR_OK) return rc;
    bool file = b->s->out && strcmp(b->s->out, "-");
    b->out_name = file ? b->s->out : "standard output";
    struct stat in, out;
    bool same =
        file && !fstat(fileno(b->in.f), &in) && !stat(b->s->out, &out) && in.st_dev == out.st_dev && in.st_ino == out.st_ino;
    if (same && S_ISREG(in.st_mode)) return err_set(e, ERR_USAGE, "%s is the input too", b->s->out);
    b->out = file ? fopen(b->s->out, "we") : stdout;
    return b->out ? ERR_OK : err_set(e, ERR_IO, "%s: %s", b->out_name, strerror(errno));
}

static err_code close_files(batch *b, err_code rc, err *e)
{
    progress_close(&b->bar);
    lines_close(&b->in);
    if (b->out && b->out != stdout && fclose(b->out) && rc == ERR_OK)
        rc = err_set(e, ERR_IO, "%s: %s", b->out_name, strerror(errno));
    for (size_t i = 0; i < b->n; i++) free(b->id[i]);
    free(b->id);
    json_decref(b->seen);
    return rc;
}

err_code batch_run(client *c, const settings *s, err *e)
{
    static const flight_ops ops = { next, NULL, done };
    batch b = { .s = s, .seen = json_object(), .bar = progress_open("batch") };
    err_code rc = b.seen ? open_files(&b, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = flight_run(c, IN_FLIGHT, &ops, &b, e);
    if (rc == ERR_OK && b.bad)
        rc = err_set(e, ERR_INPUT, "%llu of %llu lines failed; their errors are in the output", (unsigned long long)b.bad,
                     (unsigned long long)(b.good + b.bad));
    return close_files(&b, rc, e);
}
