/* The rig's client: jobs out, answers in. */
#include "core/clock.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

message rig_generate(uint32_t max_tokens)
{
    message m = msg_init(MSG_SUBMIT);
    m.submit.max_tokens = max_tokens;
    m.submit.ignore_eog = true;
    return m;
}

message rig_score(uint32_t role)
{
    message m = msg_init(MSG_SUBMIT);
    m.submit.kind = 1;
    m.submit.score_rows = 1;
    m.submit.role = role;
    return m;
}

rig_job *rig_submit(rig *r, message m, const rig_input *in)
{
    static uint64_t refs;
    err e;
    rig_job *j = calloc(1, sizeof *j);
    cr_assert_not_null(j);
    j->ref = m.submit.ref = ++refs;
    m.submit.n_tokens = in->n;
    m.submit.n_bias = in->n_bias;
    view f[MSG_FRAMES_MAX] = { [SUBMIT_PROMPT] = { in->prompt, in->prompt ? strlen(in->prompt) : 0 },
                               [SUBMIT_TOKENS] = { in->ids, in->n * sizeof(id_rec) },
                               [SUBMIT_STOP] = { in->stop, in->stop_len },
                               [SUBMIT_BIAS] = { in->bias, in->n_bias * sizeof *in->bias } };
    cr_assert_eq(link_send(rig_client(r), NULL, &m, f, 5000, &e), ERR_OK, "%s", e.text);
    j->next = *rig_jobs(r);
    *rig_jobs(r) = j;
    return j;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

static rig_job *job_by(rig *r, uint64_t ref, uint64_t id)
{
    for (rig_job *j = *rig_jobs(r); j; j = j->next)
        if (!j->over && ((ref && j->ref == ref) || (id && j->id == id))) return j;
    return NULL;
}

/* p [*n] of `size` bytes an item grows by the items of a frame. */
static void grow(void *p, size_t n, size_t size, view v)
{
    void *old, *q;
    memcpy(&old, p, sizeof old);
    if (!v.len) return;
    q = realloc(old, n * size + v.len);
    cr_assert_not_null(q);
    memcpy((uint8_t *)q + n * size, v.ptr, v.len);
    memcpy(p, &q, sizeof q);
}

static void on_token(rig *r, const packet *p)
{
    const msg_token *m = &p->head.token;
    rig_job *j = job_by(r, 0, m->job);
    if (!j) return;
    rig_choice *c = &j->choice[m->index];
    cr_assert_eq(m->offset, c->n_tok, "tokens of choice %d came out of order", (int)m->index);
    grow(&c->tok, c->n_tok, sizeof *c->tok, p->frame[TOKEN_TOKENS]);
    grow(&c->top, c->n_top, sizeof *c->top, p->frame[TOKEN_TOP]);
    c->n_tok += m->n;
    c->n_top += m->n_top;
    cr_assert(text_add(&c->text, p->frame[TOKEN_TEXT].ptr, p->frame[TOKEN_TEXT].len));
}

static void on_scored(rig *r, const packet *p)
{
    const msg_scored *m = &p->head.scored;
    rig_job *j = job_by(r, 0, m->job);
    if (!j) return;
    cr_assert_eq(m->first, j->n_score, "scored rows came out of order");
    grow(&j->score, j->n_score, sizeof *j->score, p->frame[SCORED_ROWS]);
    grow(&j->full, (size_t)j->n_full * m->vocab, sizeof *j->full, p->frame[SCORED_FULL]);
    j->n_score += (uint32_t)m->n;
    j->n_full += (uint32_t)m->n_full;
    j->vocab = (uint32_t)m->vocab;
}

static void on_done(rig *r, const packet *p)
{
    const msg_done *m = &p->head.done;
    rig_job *j = job_by(r, 0, m->job);
    if (!j) return;
    j->choice[m->index].done = true;
    j->choice[m->index].end = *m;
    if (m->code && !j->fail.code) err_set(&j->fail, (err_code)m->code, "%.*s", (int)p->frame[DONE_TEXT].len, (const char *)p->frame[DONE_TEXT].ptr);
    j->over = m->last;
}

static void on_fail(rig *r, const packet *p)
{
    const msg_fail *m = &p->head.fail;
    rig_job *j = job_by(r, m->ref, 0);
    if (!j) return;
    err_set(&j->fail, (err_code)m->code, "%s", m->text);
    j->over = true;
}

static void on_accepted(rig *r, const packet *p)
{
    rig_job *j = job_by(r, p->head.accepted.ref, 0);
    if (j) j->id = p->head.accepted.job;
}

bool rig_take(rig *r, int timeout_ms)
{
    err e;
    packet *p = rig_packet(r);
    err_code rc = link_recv(rig_client(r), p, timeout_ms, &e);
    if (rc == ERR_TIMEOUT) return false;
    cr_assert_eq(rc, ERR_OK, "%s", e.text);
    switch (p->head.type) {
    case MSG_ACCEPTED: on_accepted(r, p); break;
    case MSG_TOKEN: on_token(r, p); break;
    case MSG_SCORED: on_scored(r, p); break;
    case MSG_DONE: on_done(r, p); break;
    case MSG_FAIL: on_fail(r, p); break;
    default: break;
    }
    return true;
}

void rig_wait(rig *r, rig_job *j)
{
    while (!j->over) cr_assert(rig_take(r, RIG_PATIENCE_MS), "nothing came for job %d within %d ms", (int)j->id, RIG_PATIENCE_MS);
}

void rig_wait_all(rig *r)
{
    for (rig_job *j = *rig_jobs(r); j; j = j->next) rig_wait(r, j);
}

rig_job *rig_do(rig *r, message m, const rig_input *in)
{
    rig_job *j = rig_submit(r, m, in);
    rig_wait(r, j);
    return j;
}

void rig_cancel(rig *r, const rig_job *j)
{
    err e;
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = j->id;
    cr_assert_eq(link_send(rig_client(r), NULL, &m, NULL, 5000, &e), ERR_OK, "%s", e.text);
}

void rig_forget(rig *r)
{
    for (rig_job *j = *rig_jobs(r), *next; j; j = next) {
        next = j->next;
        cr_assert(j->over, "job %d is not over", (int)j->id);
        for (int i = 0; i < 64; i++) {
            free(j->choice[i].tok);
            free(j->choice[i].top);
            text_free(&j->choice[i].text);
        }
        free(j->score);
        free(j->full);
        free(j);
    }
    *rig_jobs(r) = NULL;
}

/* ---- status -------------------------------------------------------------------------------------------------------- */

json_t *rig_status(rig *r)
{
    err e;
    message m = msg_init(MSG_ASK);
    m.ask.ref = 1;
    cr_assert_eq(link_send(rig_client(r), NULL, &m, NULL, 5000, &e), ERR_OK, "%s", e.text);
    const packet *p = rig_packet(r);
    do cr_assert(rig_take(r, RIG_PATIENCE_MS), "no report came");
    while (p->head.type != MSG_REPORT);
    json_t *o = json_loadb(p->frame[0].ptr, p->frame[0].len, 0, NULL);
    cr_assert_not_null(o, "the report is no JSON");
    return o;
}

bool rig_idle(rig *r, double seconds)
{
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    for (;;) {
        json_t *o = rig_status(r);
        json_int_t n = json_integer_value(json_object_get(o, "sessions"));
        json_decref(o);
        if (!n) return true;
        if (clock_ns() > end) return false;
        usleep(10000);
    }
}

/* ---- comparing ----------------------------------------------------------------------------------------------------- */

bool rig_same_rows(const rig_job *got, const rig_job *want, const char *what)
{
    if (got->fail.code || want->fail.code || got->n_full != want->n_full || got->vocab != want->vocab || !want->n_full) {
        printf("# %s: %u rows of %u (%s), want %u of %u (%s)\n", what, got->n_full, got->vocab, got->fail.text, want->n_full, want->vocab, want->fail.text);
        return false;
    }
    bool same = support_same(got->full, want->full, (size_t)want->n_full * want->vocab, what);
    if (same && memcmp(got->score, want->score, want->n_score * sizeof *want->score)) return printf("# %s: scores differ\n", what), false;
    return same;
}

bool rig_same_choice(const rig_choice *got, const rig_choice *want, const char *what)
{
    size_t n = got->n_tok < want->n_tok ? got->n_tok : want->n_tok;
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got->tok[i], &want->tok[i], sizeof *got->tok)) {
            printf("# %s: token %zu is %u (%.9g), want %u (%.9g)\n", what, i, got->tok[i].id, (double)got->tok[i].logprob, want->tok[i].id,
                   (double)want->tok[i].logprob);
            return false;
        }
    if (got->n_tok != want->n_tok || got->end.finish != want->end.finish) {
        printf("# %s: %zu tokens (%s), want %zu (%s)\n", what, got->n_tok, finish_name(got->end.finish), want->n_tok, finish_name(want->end.finish));
        return false;
    }
    bool tops = got->n_top == want->n_top && (!want->n_top || !memcmp(got->top, want->top, want->n_top * sizeof *want->top));
    bool words = got->text.len == want->text.len && (!want->text.len || !memcmp(got->text.ptr, want->text.ptr, want->text.len));
    if (!tops || !words) printf("# %s: %s differ\n", what, tops ? "texts" : "top log-probabilities");
    return tops && words;
}
