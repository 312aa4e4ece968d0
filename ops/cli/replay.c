#include "ops/cli/chat_model.h"
#include "ops/cli/command.h"
#include "ops/cli/compare.h"
#include "ops/cli/flight.h"
#include "ops/cli/ids.h"
#include "ops/cli/paths.h"
#include "ops/cli/pieces.h"
#include "ops/cli/show.h"
#include "proto/finish.h"
#include <stdlib.h>
#include <string.h>

/* sluice replay ID: a job that is over once more, from its log, and a comparison. The coordinator repeats; this compares. */

typedef struct {
    client *c;
    uint64_t job;
    answer was, is;
    json_t *log;
    request again;           /* sent once */
    bool sent;
} replay;

/* ---- two answers ---- */

static err_code keep(answer *to, answer *a)
{
    *to = *a;
    *a = (answer){ 0 };
    return ERR_OK;
}

static err_code keep_old(void *me, size_t index, answer *a, err *e)
{
    (void)index, (void)e;
    return keep(&((replay *)me)->was, a);
}

static err_code keep_new(void *me, size_t index, answer *a, err *e)
{
    (void)index, (void)e;
    return keep(&((replay *)me)->is, a);
}

static err_code next(void *me, request *out, bool *more, err *e)
{
    replay *r = me;
    (void)e;
    *more = !r->sent;
    r->sent = true;
    if (*more) *out = r->again, r->again = (request){ 0 };
    return ERR_OK;
}

static err_code ask_log(replay *r, err *e)
{
    const packet *p;
    message m = msg_init(MSG_ASK);
    m.ask = (msg_ask){ .ref = client_ref(r->c), .what = 2, .job = r->job };
    uint64_t ref = m.ask.ref;
    err_code rc = client_send(r->c, &m, NULL, e);
    while (rc == ERR_OK) {
        rc = client_next(r->c, 30000, false, &p, e);
        if (rc == ERR_OK && p->head.type == MSG_REPORT && p->head.report.ref == ref) return client_report(p, &r->log, e);
        if (rc == ERR_OK && p->head.type == MSG_FAIL && p->head.fail.ref == ref) return client_failed(p, e);
    }
    return rc;
}

static err_code run_both(replay *r, err *e)
{
    static const flight_ops old = { next, NULL, keep_old }, again = { next, NULL, keep_new };
    err_code rc = ask_log(r, e);
    if (rc == ERR_OK) rc = flight_fetch(r->c, &(flight_part){ r->job, 0, true }, &old, r, e);
    r->again.m = msg_init(MSG_SUBMIT);
    r->again.m.submit.replay = r->job;
    if (rc == ERR_OK) rc = flight_run(r->c, 1, &again, r, e);
    return rc;
}

/* ---- what there is to say ---- */

/* A job that failed at its beginning fails again, in the same words, and that is the same. */
static bool fails_alike(const replay *r) { return r->was.fail.code == r->is.fail.code && !strcmp(r->was.fail.text, r->is.fail.text); }

static bool stopped_early(const replay *r)
{
    bool part = r->was.fail.code != ERR_OK;
    for (uint32_t i = 0; i < r->was.n_choices; i++) part = part || r->was.choice[i].done.finish == FINISH_CANCELLED;
    return part;
}

static json_t *token_json(const answer *a, const answer_diff *d, const tokenizer *names)
{
    const choice *c = d->choice < a->n_choices ? &a->choice[d->choice] : NULL;
    if (!c || d->token >= c->n_tokens) return json_null();
    json_t *o = json_object();
    json_object_set_new(o, "id", json_integer(c->token[d->token].id));
    pieces_put(o, "text", names, c->token[d->token].id);
    json_object_set_new(o, "logprob", json_finite((double)c->token[d->token].logprob));
    return o;
}

static json_t *difference(replay *r, const answer_diff *d)
{
    text file = { 0 };
    err quiet;
    tokenizer *names = chat_model_file(&file, r->c, &quiet) == ERR_OK ? pieces_open(file.ptr) : NULL;
    json_t *o = json_pack("{s:s, s:i, s:I, s:o, s:o}", "what", diff_name(d->kind), "choice", (int)d->choice, "token", (json_int_t)d->token, "was",
                          token_json(&r->was, d, names), "is", token_json(&r->is, d, names));
    tokenizer_close(&names);
    text_free(&file);
    return o;
}

static void print_log(const json_t *log)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(log, "events"), i, v) {
        const char *words = json_string_value(json_object_get(v, "payload")), *kind = json_string_value(json_object_get(v, "kind"));
        int n = words ? (int)strcspn(words, "\n") : 0;
        printf("log    row %lld  %s  %.*s%s\n", (long long)json_integer_value(json_object_get(v, "row")), kind ? kind : "?", n < 100 ? n : 100,
               words ? words : "", words && words[n < 100 ? n : 100] ? " ..." : "");
    }
}

static err_code say(replay *r, const settings *s, const answer_diff *d, json_t *diff, err *e)
{
    bool same = d->kind == DIFF_NONE;
    if (s->json) {
        json_t *events = json_object_get(r->log, "events");
        return show_json(json_pack("{s:s, s:I, s:b, s:I, s:o?, s:s, s:O}", "schema", "sluice.replay/1", "id", (json_int_t)r->job, "same", same, "compared",
                                   (json_int_t)d->compared, "difference", json_incref(diff), "original",
                                   r->was.fail.code ? "failed" : stopped_early(r) ? "cancelled" : "done", "log", events ? events : json_null()), e);
    }
    print_log(r->log);
    if (same) printf("job %llu: %zu tokens, the same%s\n", (unsigned long long)r->job, d->compared, stopped_early(r) ? " as far as it came" : "");
    return show_write("", 0, e);
}

static err_code judge(replay *r, const settings *s, err *e)
{
    answer_diff d = { 0 };
    json_t *diff = json_null();
    if (r->is.fail.code && !fails_alike(r)) return err_set(e, r->is.fail.code, "%s", r->is.fail.text);
    if (!r->is.fail.code) d = answer_compare(&r->was, &r->is, stopped_early(r));
    if (d.kind) diff = difference(r, &d);
    err_code rc = say(r, s, &d, diff, e);
    char *words = d.kind ? json_dumps(diff, JSON_COMPACT) : NULL;
    if (rc == ERR_OK && d.kind)
        rc = err_set(e, ERR_DIFFERS, "job %llu is not what it was: choice %u, token %zu: %s differs: %.300s", (unsigned long long)r->job, d.choice, d.token,
                     diff_name(d.kind), words ? words : "");
    free(words);
    json_decref(diff);
    return rc;
}

err_code cmd_replay(settings *s, err *e)
{
    text dir = { 0 };
    replay r = { 0 };
    err_code rc = job_id_of(s, &r.job, e);
    if (rc == ERR_OK) rc = path_live_dir(&dir, s, e);
    if (rc == ERR_OK) rc = client_open(&r.c, s, dir.ptr, e);
    if (rc == ERR_OK) rc = run_both(&r, e);
    if (rc == ERR_OK) rc = judge(&r, s, e);
    answer_free(&r.was);
    answer_free(&r.is);
    json_decref(r.log);
    client_close(&r.c);
    text_free(&dir);
    return rc;
}
