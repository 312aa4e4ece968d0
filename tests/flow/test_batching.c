/* Continuous batching: 32 jobs of mixed length at once, one of them cancelled, give the texts they give alone, many rows a
 * step; and a long prompt that comes in the middle lets the others' tokens through. A small client speaks to the running
 * cluster; what was sent when is read from the coordinator's trace. Times are printed and decide nothing. */
#include "core/clock.h"
#include "core/rng.h"
#include "proto/finish.h"
#include "proto/link.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOBS 32
#define CANCELLED 11                  /* this one is cancelled when it has a few tokens */
#define CANCEL_AT 5
#define LONG_PROMPT 2000u
#define ROWS_WANTED 8.0

static char model[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
}

TestSuite(batching, .init = begin, .timeout = 240);

/* ---- jobs */

typedef struct {
    text prompt;                      /* or: */
    uint32_t *token, n_token;
    uint64_t max_tokens, job;
    text answer;
    uint64_t n, prompt_tokens, finish;
    bool accepted, over;
} task;

static text source;                   /* prose for prompts */

/* Prompts of about 5 to 200 tokens, 8 to 96 new ones; more long answers than short ones. */
static void make_tasks(task *t, size_t n, uint64_t seed)
{
    cr_assert(source.len || !text_read_file(&source, support_root("configs/demo/corpus/village.md"), 1 << 20, NULL));
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 20 + (size_t)(support_draw(seed, 3 * i, 100) * support_draw(seed, 3 * i + 1, 101) * 6 / 100);
        t[i] = (task){ .max_tokens = 96 - (i % 4 == 3 ? support_draw(seed, 3 * i + 2, 89) : support_draw(seed, 3 * i + 2, 25)) };
        if (i == 0) bytes = 12;
        if (i == 1) bytes = 620;
        if (i == 2) t[i].max_tokens = 8;
        if (i == CANCELLED) t[i].max_tokens = 96;
        cr_assert_gt(source.len, bytes);
        cr_assert(text_add(&t[i].prompt, source.ptr + support_draw(seed, 1000 + i, source.len - bytes), bytes));
    }
}

static void clear_answers(task *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        text_clear(&t[i].answer);
        t[i].n = t[i].job = 0;
        t[i].accepted = t[i].over = false;
    }
}

static void free_tasks(task *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        text_free(&t[i].prompt);
        text_free(&t[i].answer);
        free(t[i].token);
    }
}

/* ---- a client */

typedef struct { hub *h; link_t *l; packet in; } caller;

static void caller_open(caller *c, const standing *to)
{
    char addr[256];
    err e;
    memset(c, 0, sizeof *c);
    snprintf(addr, sizeof addr, "ipc://%s/client", to->dir);
    cr_assert_eq(hub_open(&c->h, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_connect(&c->l, c->h, LINK_DEALER, LINK_CLIENT, addr, &e), ERR_OK, "%s", e.text);
}

static void caller_close(caller *c)
{
    packet_done(&c->in);
    link_close(&c->l);
    hub_close(&c->h);
}

static void submit(caller *c, const task *t, uint64_t ref)
{
    err e;
    message m = msg_init(MSG_SUBMIT);
    m.submit.ref = ref;
    m.submit.max_tokens = t->max_tokens;
    m.submit.stream = true;
    m.submit.ignore_eog = true;
    m.submit.n_tokens = t->n_token;
    view f[MSG_FRAMES_MAX] = { [SUBMIT_PROMPT] = { t->prompt.ptr, t->prompt.len }, [SUBMIT_TOKENS] = { t->token, t->n_token * 4 } };
    cr_assert_eq(link_send(c->l, NULL, &m, f, 5000, &e), ERR_OK, "%s", e.text);
}

static void cancel(caller *c, const task *t)
{
    err e;
    message m = msg_init(MSG_CANCEL);
    m.cancel.job = t->job;
    cr_assert_eq(link_send(c->l, NULL, &m, NULL, 5000, &e), ERR_OK, "%s", e.text);
}

static task *task_of(task *t, size_t n, uint64_t job)
{
    for (size_t i = 0; i < n; i++)
        if (t[i].accepted && t[i].job == job) return &t[i];
    cr_assert_fail("a message for job %llu, which is not ours", (unsigned long long)job);
    return NULL;
}

static void take_token(const packet *p, task *t)
{
    const msg_token *m = &p->head.token;
    if (!m->n && !p->frame[TOKEN_TEXT].len) return;          /* a probe: are you there? */
    cr_assert_eq(m->offset, t->n, "tokens are missing");
    t->n += m->n;
    cr_assert(text_add(&t->answer, p->frame[TOKEN_TEXT].ptr, p->frame[TOKEN_TEXT].len));
}

/* One message; refs are 1 + index. */
static void take(caller *c, task *t, size_t n)
{
    err e;
    cr_assert_eq(link_recv(c->l, &c->in, (int)(30000 * programs_patience()), &e), ERR_OK, "%s", e.text);
    const message *m = &c->in.head;
    switch (m->type) {
    case MSG_ACCEPTED:
        cr_assert_leq(m->accepted.ref, n);
        t[m->accepted.ref - 1].accepted = true;
        t[m->accepted.ref - 1].job = m->accepted.job;
        break;
    case MSG_TOKEN: take_token(&c->in, task_of(t, n, m->token.job)); break;
    case MSG_DONE: {
        task *x = task_of(t, n, m->done.job);
        x->over = true;
        x->finish = m->done.finish;
        x->prompt_tokens = m->done.prompt_tokens;
        break;
    }
    case MSG_FAIL: cr_assert_fail("the cluster says: %s", m->fail.text); break;
    default: cr_assert_fail("%s is no answer", msg_name(m->type));
    }
}

static size_t still_open(const task *t, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += !t[i].over;
    return k;
}

static void run_alone(caller *c, task *t)
{
    submit(c, t, 1);
    while (!t->over) take(c, t, 1);
    cr_assert_eq(t->finish, FINISH_LENGTH);
}

/* ---- texts and rows */

static void run_together(caller *c, task *t, size_t n)
{
    bool sent = false;
    for (size_t i = 0; i < n; i++) submit(c, &t[i], i + 1);
    while (still_open(t, n)) {
        take(c, t, n);
        if (sent || t[CANCELLED].n < CANCEL_AT) continue;
        cancel(c, &t[CANCELLED]);
        sent = true;
    }
}

static void check_texts(const task *alone, const task *together, size_t n)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (size_t i = 0; i < n; i++) {
        const task *a = &alone[i], *b = &together[i];
        if (b->prompt_tokens < least) least = b->prompt_tokens;
        if (b->prompt_tokens > most) most = b->prompt_tokens;
        size_t len = i == CANCELLED ? b->answer.len : a->answer.len;   /* the cancelled one has a beginning */
        cr_expect_eq(b->finish, i == CANCELLED ? FINISH_CANCELLED : FINISH_LENGTH, "job %zu: %s", i, finish_name(b->finish));
        cr_expect(b->answer.len == len && a->answer.len >= len && (!len || !memcmp(a->answer.ptr, b->answer.ptr, len)),
                  "job %zu (%d prompt tokens, %d new)\nalone:    %s\ntogether: %s", i, (int)b->prompt_tokens, (int)b->max_tokens,
                  a->answer.len ? a->answer.ptr : "", b->answer.len ? b->answer.ptr : "");
    }
    cr_expect_lt(together[CANCELLED].n, 96, "it was cancelled too late to say anything");
    printf("# prompts of %llu to %llu tokens\n", (unsigned long long)least, (unsigned long long)most);
    cr_expect_leq(least, 10);
    cr_expect_geq(most, 120);
}

Test(batching, thirty_two_jobs_at_once_give_the_texts_they_give_alone)
{
    static task alone[JOBS], together[JOBS];
    uint64_t seed = support_seed();
    standing one, two;
    caller c;
    make_tasks(alone, JOBS, seed);
    make_tasks(together, JOBS, seed);
    cr_assert(standing_up(&one, "one", (const char *const[]){ "-m", model, "--stages", "1", NULL }));
    caller_open(&c, &one);
    for (size_t i = 0; i < JOBS; i++) run_alone(&c, &alone[i]);
    caller_close(&c);
    cr_assert(standing_down(&one));
    cr_assert(standing_up(&two, "two", (const char *const[]){ "-m", model, "--stages", "2", NULL }));
    caller_open(&c, &two);
    run_together(&c, together, JOBS);
    caller_close(&c);
    check_texts(alone, together, JOBS);
    json_t *s = standing_status(&two);
    double steps = (double)json_number_at(s, "pump.decode_steps"), rows = (double)json_number_at(s, "pump.decode_rows");
    printf("# %.0f decode rows in %.0f steps: %.1f a step; %lld prompt rows in %lld steps\n", rows, steps, rows / steps,
           (long long)json_number_at(s, "pump.prompt_rows"), (long long)json_number_at(s, "pump.prompt_steps"));
    cr_expect_geq(rows / steps, ROWS_WANTED);
    cr_expect_eq(json_number_at(s, "sessions"), 0);
    cr_expect_eq(json_number_at(s, "jobs.done"), JOBS);
    json_decref(s);
    free_tasks(alone, JOBS);
    free_tasks(together, JOBS);
    cr_assert(standing_down(&two));
    cr_assert(programs_gone(5));
}

Test(batching, a_batch_file_gives_the_same_texts_too)
{
    static task t[8];
    text lines = { 0 };
    standing c;
    caller call;
    char in[128], out[128];
    make_tasks(t, 8, support_seed());
    for (size_t i = 0; i < 8; i++) {
        json_t *o = json_pack("{s:s%, s:s, s:I, s:b}", "prompt", t[i].prompt.ptr, t[i].prompt.len, "custom_id", (char[]){ 'a' + (char)i, 0 },
                              "max_tokens", (json_int_t)t[i].max_tokens, "ignore_eos", 1);
        char *s = o ? json_dumps(o, JSON_COMPACT) : NULL;
        cr_assert(s, "the prompt is cut inside a character");
        text_addf(&lines, "%s\n", s);
        free(s);
        json_decref(o);
    }
    snprintf(in, sizeof in, "%s", programs_file("in.jsonl"));
    snprintf(out, sizeof out, "%s", programs_file("out.jsonl"));
    cr_assert(support_write(in, lines.ptr, lines.len));
    cr_assert(standing_up(&c, "file", (const char *const[]){ "-m", model, "--stages", "2", NULL }));
    caller_open(&call, &c);
    for (size_t i = 0; i < 8; i++) run_alone(&call, &t[i]);
    caller_close(&call);
    ran r = program_run(0, 60, NULL, SLUICE("submit", "--dir", c.dir, "--batch", in, "-o", out));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    text_clear(&lines);
    cr_assert_eq(text_read_file(&lines, out, 1 << 24, NULL), ERR_OK);
    size_t n = 0;
    for (char *line = strtok(lines.ptr, "\n"); line; line = strtok(NULL, "\n"), n++) {
        json_t *o = json_loads(line, 0, NULL);
        int i = *json_string_at(o, "custom_id") - 'a';
        cr_assert(i >= 0 && i < 8, "%s", line);
        cr_expect_str_eq(json_string_at(o, "text"), t[i].answer.ptr);
        cr_expect_eq(json_number_at(o, "usage.completion_tokens"), (int64_t)t[i].max_tokens);
        json_decref(o);
    }
    cr_expect_eq(n, 8);
    text_free(&lines);
    free_tasks(t, 8);
    cr_assert(standing_down(&c));
}

/* ---- a long prompt in the middle */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* A step as the coordinator sent it: rows of other sessions than the long one, and when its result came. */
typedef struct { uint64_t step, t_sent, t_back; bool prompt; uint64_t session[64]; uint32_t n; } sent_step;

static sent_step read_step(const trace_event *ev, uint64_t long_job)
{
    sent_step s = { .step = ev->head.step.step, .t_sent = ev->t_ns };
    for (uint64_t i = 0; i < ev->head.step.n_rows; i++) {
        step_row r;
        memcpy(&r, (const char *)ev->frame[STEP_ROWS].ptr + i * sizeof r, sizeof r);
        if (r.session >> 6 == long_job && r.row < LONG_PROMPT) s.prompt = true;
        else if (s.n < 64) s.session[s.n++] = r.session;
    }
    return s;
}

static sent_step *read_steps(const char *path, uint64_t long_job, size_t *n)
{
    static trace_event ev;
    trace_reader *r;
    err e = { 0 };
    sent_step *s = NULL;
    *n = 0;
    cr_assert_eq(trace_read_open(&r, path, &e), ERR_OK, "%s", e.text);
    while (trace_next(r, &ev, &e)) {
        for (size_t i = *n; ev.dir == 'R' && ev.head.type == MSG_RESULT && i-- > 0;)
            if (s[i].step == ev.head.result.step) s[i].t_back = ev.t_ns;
        if (ev.dir != 'S' || ev.head.type != MSG_STEP) continue;
        s = realloc(s, (*n + 1) * sizeof *s);
        cr_assert(s);
        s[(*n)++] = read_step(&ev, long_job);
    }
    trace_read_close(&r);
    return s;
}

static bool has(const sent_step *s, uint64_t session)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->session[i] == session) return true;
    return false;
}

/* Milliseconds between two results of a session, for steps sent in [from, to); sorted. */
static double *gaps_of(const sent_step *s, size_t n, uint64_t from, uint64_t to, size_t *count)
{
    double *gap = calloc(n * 64 + 1, sizeof *gap);
    cr_assert(gap);
    *count = 0;
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < s[i].n && s[i].t_sent >= from && s[i].t_sent < to; k++) {
            size_t j = i + 1;
            while (j < n && !has(&s[j], s[i].session[k])) j++;
            if (j < n && s[i].t_back && s[j].t_back) gap[(*count)++] = (double)(s[j].t_back - s[i].t_back) / 1e6;
        }
    qsort(gap, *count, sizeof *gap, by_value);
    return gap;
}

static double at_share(const double *sorted, size_t n, double q) { return n ? sorted[(size_t)(q * (double)(n - 1))] : 0; }

/* From sending a prompt step to its result: this share of them took less. */
static double chunk_ms(const sent_step *s, size_t n, double share)
{
    double *ms = calloc(n + 1, sizeof *ms), time;
    size_t k = 0;
    cr_assert(ms);
    for (size_t i = 0; i < n; i++)
        if (s[i].prompt && s[i].t_back) ms[k++] = (double)(s[i].t_back - s[i].t_sent) / 1e6;
    qsort(ms, k, sizeof *ms, by_value);
    time = at_share(ms, k, share);
    free(ms);
    return time;
}

static void print_times(const char *stages, const sent_step *s, size_t n, uint64_t from, uint64_t to, uint64_t calm_from, uint64_t calm_to)
{
    size_t n_calm, n_busy;
    double *calm = gaps_of(s, n, calm_from, calm_to, &n_calm), *busy = gaps_of(s, n, from, to, &n_busy);
    printf("# %s stages: between tokens p99 %.2f ms (median %.2f) without, %.2f ms (median %.2f) with the long prompt; one chunk %.2f ms, p99 %.2f\n", stages,
           at_share(calm, n_calm, 0.99), at_share(calm, n_calm, 0.5), at_share(busy, n_busy, 0.99), at_share(busy, n_busy, 0.5), chunk_ms(s, n, 0.5), chunk_ms(s, n, 0.99));
    free(calm);
    free(busy);
}

/* Prompt steps and decode steps take turns, and while a prompt is under way all tokens go in as few micro-batches as leave
 * one place for it: with one or two stages a session waits for one prompt step, with S stages for S - 1 at most. */
static void check_alternation(const sent_step *s, size_t n, size_t stages)
{
    size_t prompts = 0, worst = 0, in_a_row = 0;
    for (size_t i = 0; i < n; i++) {
        prompts += s[i].prompt;
        if (i && s[i].prompt && s[i - 1].prompt) in_a_row++;
        for (uint32_t k = 0; k < s[i].n; k++) {
            size_t between = 0, j = i + 1;
            while (j < n && !has(&s[j], s[i].session[k])) between += s[j++].prompt;
            if (j < n && between > worst) worst = between;
        }
    }
    printf("# %zu stages: %zu prompt steps of the long prompt, at most %zu between two steps of a session, %zu times two in a row\n", stages,
           prompts, worst, in_a_row);
    cr_expect_geq(prompts, LONG_PROMPT / 64, "the prompt came in few pieces: nothing was measured");
    cr_expect_leq(worst, stages > 2 ? stages - 1 : 1);
    cr_expect_eq(in_a_row, 0, "two prompt steps in a row while others decode");
}

static bool all_decode(const task *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!t[i].n) return false;
    return true;
}

/* The last task is the long one; it starts when all others have a token, and they go on until it is done. */
static void run_with_long(caller *c, task *t, size_t n, uint64_t *from, uint64_t *to)
{
    for (size_t i = 0; i + 1 < n; i++) submit(c, &t[i], i + 1);
    while (!all_decode(t, n - 1)) take(c, t, n);
    *from = clock_ns();
    submit(c, &t[n - 1], n);
    while (!t[n - 1].over) take(c, t, n);
    *to = clock_ns();
    cr_assert_geq(still_open(t, n - 1), (n - 1) / 2, "the others were done before the long prompt was");
    while (still_open(t, n)) take(c, t, n);
}

static void long_prompt_with(const char *stages)
{
    enum { N = 17 };
    static task t[N];
    char file[128];
    uint64_t seed = support_seed(), from, to, calm_from, calm_to;
    standing two;
    caller c;
    size_t n;
    snprintf(file, sizeof file, "%s", programs_file("trace"));
    make_tasks(t, N, seed);
    for (size_t i = 0; i < N; i++) t[i].max_tokens = 200;
    t[N - 1].max_tokens = 2;
    text_clear(&t[N - 1].prompt);
    t[N - 1].token = calloc(LONG_PROMPT, sizeof *t[N - 1].token);
    cr_assert(t[N - 1].token);
    t[N - 1].n_token = LONG_PROMPT;
    for (uint32_t i = 0; i < LONG_PROMPT; i++) t[N - 1].token[i] = i ? 300 + (uint32_t)support_draw(seed, 5000 + i, 3000) : 1;
    cr_assert(standing_up(&two, "long", (const char *const[]){ "-m", model, "--stages", stages, "--trace", file, NULL }));
    caller_open(&c, &two);
    for (size_t i = 0; i + 1 < N; i++) submit(&c, &t[i], i + 1);            /* once without, for comparison */
    while (!all_decode(t, N - 1)) take(&c, t, N);
    calm_from = clock_ns();
    while (still_open(t, N - 1) == N - 1) take(&c, t, N);
    calm_to = clock_ns();
    while (still_open(t, N - 1)) take(&c, t, N);
    clear_answers(t, N);
    run_with_long(&c, t, N, &from, &to);
    caller_close(&c);
    cr_assert(standing_down(&two));
    sent_step *s = read_steps(file, t[N - 1].job, &n);
    print_times(stages, s, n, from, to, calm_from, calm_to);
    check_alternation(s, n, (size_t)atoi(stages));
    free(s);
    free_tasks(t, N);
    cr_assert(programs_gone(5));
}

Test(batching, a_long_prompt_lets_the_others_through_two_stages) { long_prompt_with("2"); }
Test(batching, a_long_prompt_lets_the_others_through_three_stages) { long_prompt_with("3"); }
Test(batching, a_long_prompt_lets_the_others_through_one_stage) { long_prompt_with("1"); }
