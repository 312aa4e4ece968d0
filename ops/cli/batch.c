#include "ops/cli/batch.h"
#include "core/clock.h"
#include "ops/cli/answer_openai.h"
#include "ops/cli/chat_model.h"
#include "ops/cli/flight.h"
#include "ops/cli/lines.h"
#include "ops/cli/pieces.h"
#include "ops/cli/progress.h"
#include "ops/cli/results.h"
#include "proto/finish.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Owns the batch file on its way through. What a line may say is in request_line.c, and the output file is in results.c. */

/* As many as a cluster runs at once by default (--max-sessions): fewer would leave places empty, more would only queue. */
enum { IN_FLIGHT = 64 };

typedef struct { char *id, *model; request_shape shape; } asked;

typedef struct {
    const settings *s;
    lines in;
    results out;
    json_t *seen;             /* custom_id -> line number */
    asked *asked;             /* [n] by request index */
    size_t n;
    uint64_t good, bad, skipped;
    uint64_t total;           /* lines of the input, 0: not known beforehand */
    uint64_t t_start;
    progress bar;
    text file;                /* of the model that the cluster runs */
    chat_model chat;          /* opened by the first line with messages */
    tokenizer *names;         /* opened by the first answer with log-probabilities */
} batch;

static void draw(batch *b)
{
    progress_rate(&b->bar, b->good + b->bad + b->skipped, b->total, b->skipped);
}

static err_code write_error(batch *b, const asked *q, uint64_t job, uint64_t line, const err *why, err *e)
{
    const openai_line l = { q->id, q->model, q->shape };
    const char *id = q->id;
    b->bad++;
    draw(b);
    if (q->shape != SHAPE_OWN) return results_write(&b->out, openai_failure(&l, job, why), e);
    json_t *o = json_object();
    json_object_set_new(o, "custom_id", *id ? json_bytes(id, strlen(id)) : json_null());
    json_object_set_new(o, "line", json_integer((json_int_t)line));
    json_object_set_new(o, "error", answer_error_json(why));
    return results_write(&b->out, o, e);
}

static err_code doubled(const char *id, uint64_t line, const json_t *before, err *e)
{
    return err_set(e, ERR_INPUT, "custom_id \"%.200s\" of line %llu is already in line %lld", id, (unsigned long long)line,
                   (long long)json_integer_value(before));
}

static err_code remember(batch *b, const request *r, err *why, err *e)
{
    const char *id = r->m.submit.custom_id, *model = r->model.ptr ? r->model.ptr : b->file.ptr;
    const json_t *line = json_object_get(b->seen, id);
    if (line) return doubled(id, b->in.number, line, why);
    asked *more = realloc(b->asked, (b->n + 1) * sizeof *more);
    if (!more) return err_set(e, ERR_NOMEM, "out of memory");
    b->asked = more;
    more[b->n++] = (asked){ strdup(id), strdup(model), r->shape };
    bool ok = more[b->n - 1].id && more[b->n - 1].model && !json_object_set_new(b->seen, id, json_integer((json_int_t)b->in.number));
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* Messages become tokens. A model whose chat template is unknown ends the batch: no line with messages could do better. */
static err_code render(batch *b, request *r, err *why, err *e)
{
    if (!r->chat.n) return ERR_OK;
    err_code rc = b->chat.tok ? ERR_OK : chat_model_open(&b->chat, b->file.ptr, b->s->chat_template, e);
    if (rc == ERR_OK) chat_model_request(&b->chat, &r->chat, r, why);
    return rc;
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
        err_code read = request_line(out, line, &why);
        bool have = *out->m.submit.custom_id && results_have(&b->out, out->m.submit.custom_id);
        if (have) {
            request_free(out);
            b->skipped++;
            continue;
        }
        if (read == ERR_OK) rc = render(b, out, &why, e);
        if (rc == ERR_OK && why.code == ERR_OK) rc = remember(b, out, &why, e);
        if (rc == ERR_OK && why.code == ERR_OK) return ERR_OK;
        if (rc != ERR_OK && why.code == ERR_OK) return rc;
        const asked q = { out->m.submit.custom_id, out->model.ptr ? out->model.ptr : b->file.ptr, out->shape };
        rc = write_error(b, &q, 0, b->in.number, &why, e);
        request_free(out);
        if (rc != ERR_OK) return rc;
    }
    return e->code;
}

/* A job that somebody cancelled (sluice cancel, sluice down --now) has no answer: it is tried again when the batch goes on. */
static bool was_cancelled(const answer *a)
{
    for (uint32_t i = 0; i < a->n_choices; i++)
        if (a->choice[i].done.finish == FINISH_CANCELLED) return true;
    return false;
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    batch *b = me;
    const asked *q = &b->asked[index];
    const openai_line l = { q->id, q->model, q->shape };
    const char *id = q->id;
    bool logprobs = b->s->logprobs > 0 || (a->n_choices && a->choice[0].n_top);
    if (a->fail.code == ERR_OK && was_cancelled(a)) err_set(&a->fail, ERR_CANCELLED, "the job was cancelled");
    if (a->fail.code != ERR_OK)
        return write_error(b, q, a->job, (uint64_t)json_integer_value(json_object_get(b->seen, id)), &a->fail, e);
    b->good++;
    draw(b);
    if (logprobs && !b->names) b->names = pieces_open(b->file.ptr);
    if (q->shape != SHAPE_OWN) return results_write(&b->out, openai_answer(&l, a, logprobs, b->names), e);
    json_t *o = answer_json(a, logprobs, b->names), *usage = json_object();
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) tokens += a->choice[i].n_tokens;
    uint64_t prompt = a->n_choices ? a->choice[0].done.prompt_tokens : 0;
    json_object_set_new(usage, "prompt_tokens", json_integer((json_int_t)prompt));
    json_object_set_new(usage, "completion_tokens", json_integer((json_int_t)tokens));
    json_object_set_new(usage, "total_tokens", json_integer((json_int_t)(prompt + tokens)));
    json_object_set_new(o, "custom_id", json_bytes(id, strlen(id)));
    json_object_set_new(o, "id", json_integer((json_int_t)a->job));
    json_object_set_new(o, "usage", usage);
    return results_write(&b->out, o, e);
}

/* A file is looked through beforehand: a custom_id that stands there twice is named before anything is sent, and the lines
 * are counted. A pipe can be read only once. */
static err_code survey(batch *b, err *e)
{
    struct stat st;
    view line;
    err_code rc = ERR_OK;
    if (b->in.f == stdin || fstat(fileno(b->in.f), &st) || !S_ISREG(st.st_mode)) return ERR_OK;
    json_t *ids = json_object();
    while (rc == ERR_OK && ids && lines_next(&b->in, &line, e)) {
        json_t *o = json_loadb(line.ptr, line.len, JSON_REJECT_DUPLICATES, NULL);
        const char *id = json_string_value(json_object_get(o, "custom_id"));
        const json_t *before = id ? json_object_get(ids, id) : NULL;
        if (before) rc = doubled(id, b->in.number, before, e), err_wrap(e, "%s", b->s->batch);
        else if (id && json_object_set_new(ids, id, json_integer((json_int_t)b->in.number)))
            rc = err_set(e, ERR_NOMEM, "out of memory");
        json_decref(o);
        b->total++;
    }
    if (rc == ERR_OK) rc = ids ? e->code : err_set(e, ERR_NOMEM, "out of memory");
    json_decref(ids);
    rewind(b->in.f);
    b->in.number = 0;
    return rc;
}

static err_code open_files(batch *b, err *e)
{
    err_code rc = lines_open(&b->in, b->s->batch, e);
    if (rc != ERR_OK) return rc;
    bool file = b->s->out && strcmp(b->s->out, "-");
    struct stat in, out;
    bool same =
        file && !fstat(fileno(b->in.f), &in) && !stat(b->s->out, &out) && in.st_dev == out.st_dev && in.st_ino == out.st_ino;
    if (same && S_ISREG(in.st_mode)) return err_set(e, ERR_USAGE, "%s is the input too", b->s->out);
    rc = survey(b, e);
    return rc == ERR_OK ? results_open(&b->out, b->s->out, e) : rc;
}

static err_code close_files(batch *b, err_code rc, err *e)
{
    progress_close(&b->bar);
    lines_close(&b->in);
    for (size_t i = 0; i < b->n; i++) {
        free(b->asked[i].id);
        free(b->asked[i].model);
    }
    free(b->asked);
    text_free(&b->file);
    chat_model_close(&b->chat);
    tokenizer_close(&b->names);
    json_decref(b->seen);
    return results_close(&b->out, rc, e);
}

/* For people, at the end and when it was stopped: what there is now, and how fast it came. */
static void sum_up(const batch *b)
{
    double s = (double)(clock_ns() - b->t_start) * 1e-9;
    fprintf(stderr, "batch: %llu answered, %llu failed", (unsigned long long)b->good, (unsigned long long)b->bad);
    if (b->skipped) fprintf(stderr, ", %llu had an answer in %s", (unsigned long long)b->skipped, b->out.name);
    fprintf(stderr, " (%.1f s, %.2f jobs/s)\n", s, s > 0 ? (double)(b->good + b->bad) / s : 0);
}

err_code batch_run(client *c, const settings *s, err *e)
{
    static const flight_ops ops = { next, NULL, done };
    batch b = { .s = s, .seen = json_object(), .bar = progress_open("batch"), .t_start = clock_ns() };
    err_code rc = b.seen ? open_files(&b, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = chat_model_file(&b.file, c, e);   /* now: later there are jobs under way on this connection */
    bool ready = rc == ERR_OK;
    if (ready) draw(&b);
    if (ready) rc = flight_run(c, IN_FLIGHT, &ops, &b, e);
    if (rc == ERR_OK && b.bad)
        rc = err_set(e, ERR_INPUT, "%llu of %llu lines failed; their errors are in the output", (unsigned long long)b.bad,
                     (unsigned long long)(b.good + b.bad + b.skipped));
    progress_close(&b.bar);
    if (ready) sum_up(&b);
    return close_files(&b, rc, e);
}
