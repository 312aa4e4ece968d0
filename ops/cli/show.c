#include "ops/cli/show.h"
#include "ops/cli/describe.h"
#include "ops/cli/pieces.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Owns stdout while a job runs. It starts no job and stops none. */

err_code show_write(const void *p, size_t n, err *e)
{
    if (n && fwrite(p, 1, n, stdout) != n) return err_set(e, ERR_IO, "standard output: %s", strerror(errno));
    return fflush(stdout) ? err_set(e, ERR_IO, "standard output: %s", strerror(errno)) : ERR_OK;
}

err_code show_json(json_t *o, err *e)
{
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(o);
    if (!line) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = show_write(line, strlen(line), e);
    if (rc == ERR_OK) rc = show_write("\n", 1, e);
    free(line);
    return rc;
}

err_code show_open(show *w, const settings *s, const char *schema, const char *dir, request *req, err *e)
{
    *w = (show){ .s = s, .schema = schema, .req = req };
    return client_open(&w->side, s, dir, e);
}

void show_close(show *w)
{
    client_close(&w->side);
}

static err_code next(void *me, request *out, bool *more, err *e)
{
    show *w = me;
    (void)e;
    *more = w->req != NULL;
    if (w->req) {
        *out = *w->req;
        *w->req = (request){ 0 };
        w->req = NULL;
    }
    return ERR_OK;
}

static err_code event(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    show *w = me;
    (void)index;
    (void)a;
    if (p->head.type != MSG_TOKEN || w->s->json || p->head.token.index) return ERR_OK;
    return show_write(p->frame[TOKEN_TEXT].ptr, p->frame[TOKEN_TEXT].len, e);
}

static err_code write_choices(const answer *a, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0; i < a->n_choices && rc == ERR_OK; i++) {
        const text *t = &a->choice[i].text;
        char head[32];
        snprintf(head, sizeof head, "\n--- choice %u\n", i);
        if (i) rc = show_write(head, strlen(head), e);
        if (i && rc == ERR_OK) rc = show_write(t->ptr, t->len, e);
        if (rc == ERR_OK && t->len && t->ptr[t->len - 1] != '\n') rc = show_write("\n", 1, e);
    }
    return rc;
}

static err_code write_object(const show *w, const answer *a, const json_t *status, uint64_t kv, err *e)
{
    const char *file = json_string_value(json_object_get(json_object_get(status, "model"), "file"));
    tokenizer *names = w->s->logprobs && file ? pieces_open(file) : NULL;
    json_t *o = answer_json(a, w->s->logprobs > 0, names), *stages = json_object_get(status, "stages"),
           *lossy = json_object_get(status, "lossy");
    tokenizer_close(&names);
    json_object_set_new(o, "schema", json_string(w->schema));
    json_object_set_new(o, "id", json_integer((json_int_t)a->job));
    json_object_set_new(o, "kv_bytes", json_integer((json_int_t)kv));
    json_object_set_new(o, "stages", stages ? json_incref(stages) : json_array());
    json_object_set_new(o, "lossy", json_is_array(lossy) ? json_incref(lossy) : json_array());
    return show_json(o, e);
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    show *w = me;
    json_t *status = NULL;
    err quiet;
    (void)index;
    w->job = a->fail;
    if (a->fail.code != ERR_OK) return w->s->json || !a->n_choices ? ERR_OK : write_choices(a, e);
    err_code asked = client_status(w->side, 0, &status, &quiet);
    if (asked == ERR_GONE && client_reopen(w->side, &quiet) == ERR_OK) asked = client_status(w->side, 0, &status, &quiet); /* another one now */
    if (asked != ERR_OK) status = json_object();
    uint64_t kv = describe_kv_bytes(status, a);
    err_code rc = w->s->json ? write_object(w, a, status, kv, e) : write_choices(a, e);
    if (a->n_choices && a->choice[0].done.cache_note[0])
        fprintf(stderr, "prompt cache not used: %s\n", a->choice[0].done.cache_note);
    if (rc == ERR_OK && !w->s->json) {
        describe_stages(stderr, status);
        describe_answer(stderr, a, kv);
    }
    json_decref(status);
    return rc;
}

const flight_ops show_ops = { next, event, done };
