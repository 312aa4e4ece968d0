#include "ops/cli/command.h"
#include "ops/cli/evaluation.h"
#include "ops/cli/flight.h"
#include "ops/cli/lines.h"
#include "ops/cli/progress.h"
#include "ops/cli/qa.h"
#include "ops/cli/show.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* sluice eval qa: greedy answers to questions with a known answer. What is right is in qa.h. */

enum {
    ANSWER_TOKENS = 24,      /* shared/README: an answer is the text up to a newline, an end token or 24 tokens */
    QUESTIONS_AT_ONCE = 32
};

typedef struct {
    const settings *s;
    bool retrieve;           /* the cluster has a corpus */
    question *q;
    size_t n, sent, done, right;
    FILE *out;               /* one JSON object a question, or NULL */
    progress bar;
} quiz;

static err_code add_question(quiz *z, view line, err *e)
{
    question *more = realloc(z->q, (z->n + 1) * sizeof *more);
    if (!more) return err_set(e, ERR_NOMEM, "out of memory");
    z->q = more;
    z->q[z->n] = (question){ 0 };
    return question_read(&z->q[z->n++], line, z->retrieve, e);
}

static err_code read_questions(quiz *z, err *e)
{
    lines in;
    view line;
    err_code rc = lines_open(&in, z->s->file, e);
    if (rc != ERR_OK) return rc;
    while (rc == ERR_OK && (!z->s->limit || z->n < z->s->limit) && lines_next(&in, &line, e)) {
        rc = add_question(z, line, e);
        if (rc != ERR_OK) err_wrap(e, "%s:%llu", in.path, (unsigned long long)in.number);
    }
    if (rc == ERR_OK) rc = e->code;
    if (rc == ERR_OK && !z->n) rc = err_set(e, ERR_INPUT, "%s: no questions", in.path);
    lines_close(&in);
    return rc;
}

static err_code next(void *me, request *out, bool *more, err *e)
{
    quiz *z = me;
    *more = z->sent < z->n;
    if (!*more) return ERR_OK;
    const question *q = &z->q[z->sent++];
    err_code rc = request_init(out, z->s, e);
    out->m.submit.max_tokens = ANSWER_TOKENS;
    out->m.submit.rag = q->retrieve;
    if (rc == ERR_OK) rc = request_add_stop(out, "\n", e);
    return rc == ERR_OK ? request_set_prompt(out, q->prompt.ptr, q->prompt.len, e) : rc;
}

static err_code write_one(const quiz *z, const question *q, view got, bool right, const answer *a, err *e)
{
    if (!z->out) return ERR_OK;
    json_t *o =
        json_pack("{s:s, s:s, s:o, s:b}", "id", q->id, "want", q->answer, "got", json_bytes(got.ptr, got.len), "right", right);
    if (o && a->passages) json_object_set(o, "passages", a->passages);
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(o);
    bool ok = line && fprintf(z->out, "%s\n", line) > 0;
    free(line);
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", z->s->out, strerror(errno));
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    quiz *z = me;
    const question *q = &z->q[index];
    if (a->fail.code != ERR_OK) {
        *e = a->fail;
        return err_wrap(e, "question %zu (%.40s)", index + 1, q->id);
    }
    view got = { 0 };
    if (a->n_choices) got = qa_answer((view){ a->choice[0].text.ptr, a->choice[0].text.len });
    bool right = qa_same(got, (view){ q->answer, strlen(q->answer) });
    z->right += right;
    progress_set(&z->bar, ++z->done, z->n);
    return write_one(z, q, got, right, a, e);
}

static err_code print(const quiz *z, err *e)
{
    double share = (double)z->right / (double)z->n;
    if (z->s->json)
        return show_json(json_pack("{s:s, s:s, s:I, s:I, s:f}", "schema", "sluice.eval/1", "eval", "qa", "right",
                                   (json_int_t)z->right, "total", (json_int_t)z->n, "accuracy", share),
                         e);
    printf("accuracy %zu/%zu (%.1f %%)\n", z->right, z->n, 100 * share);
    return show_write("", 0, e);
}

static err_code ask_all(quiz *z, evaluation *v, err *e)
{
    static const flight_ops ops = { next, NULL, done };
    if (z->s->out && !(z->out = fopen(z->s->out, "we"))) return err_set(e, ERR_IO, "%s: %s", z->s->out, strerror(errno));
    progress_set(&z->bar, 0, z->n);
    err_code rc = flight_run(v->c, QUESTIONS_AT_ONCE, &ops, z, e);
    progress_close(&z->bar);
    if (z->out && fclose(z->out) && rc == ERR_OK) rc = err_set(e, ERR_IO, "%s: %s", z->s->out, strerror(errno));
    return rc == ERR_OK ? print(z, e) : rc;
}

err_code eval_qa(settings *s, err *e)
{
    quiz z = { .s = s, .retrieve = s->rag != NULL, .bar = progress_open("questions") };
    evaluation v = { 0 };
    err_code rc = s->file ? ERR_OK : err_set(e, ERR_USAGE, "-f FILE.jsonl is missing");
    if (rc == ERR_OK) rc = read_questions(&z, e);
    if (rc == ERR_OK) rc = evaluation_open(&v, s, e);
    if (rc == ERR_OK) rc = ask_all(&z, &v, e);
    for (size_t i = 0; i < z.n; i++) question_free(&z.q[i]);
    free(z.q);
    return evaluation_close(&v, rc, e);
}
