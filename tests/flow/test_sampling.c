/* What a job may ask for, through a whole cluster: choices by fork, whole-row fall-back, log-probabilities, stop strings,
 * limits, cancelling, queueing. */
#include "core/clock.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(sampling, .timeout = 120);

#define PROMPT 24u

typedef struct { rig *g; uint32_t ids[512]; } world;

static isa best_isa(void) { return isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN; }

static void world_open(world *w, rig_options o)
{
    uint64_t seed = support_seed();
    o.model = support_root("models/sluice-tiny-aux-Q8_0.gguf");
    o.use = best_isa();
    if (!o.stages) o.stages = 2;
    w->g = rig_open(&o);
    for (uint32_t i = 0; i < 512; i++) w->ids[i] = 300 + (uint32_t)support_draw(seed, i, 3000);   /* past bytes and control tokens */
}

static rig_job *run(world *w, message m, uint32_t n) { return rig_do(w->g, m, &(rig_input){ .ids = w->ids, .n = n }); }

static bool finished(const rig_job *j, uint32_t i, finish_reason why, uint32_t tokens)
{
    const rig_choice *c = &j->choice[i];
    if (c->done && c->end.finish == (uint64_t)why && c->n_tok == tokens && c->end.tokens == tokens) return true;
    printf("# choice %u: %s after %zu tokens (%s), want %s after %u\n", i, c->done ? finish_name(c->end.finish) : "not done", c->n_tok,
           j->fail.text, finish_name(why), tokens);
    return false;
}

static message drawing(uint32_t tokens, double temperature, uint32_t top_k, uint64_t seed)
{
    message m = rig_generate(tokens);
    m.submit.temperature = temperature;
    m.submit.top_k = top_k;
    m.submit.seed = seed;
    m.submit.logprobs = 3;
    return m;
}

/* ---- choices ---------------------------------------------------------------------------------------------------------- */

static void choices_equal_singles(world *w, message m, uint32_t n)
{
    uint64_t seed = m.submit.seed;
    char what[64];
    m.submit.n = n;
    rig_job *all = run(w, m, PROMPT);
    m.submit.n = 1;
    uint32_t differ = 0;
    for (uint32_t i = 0; i < n; i++) {
        m.submit.seed = seed + i;
        rig_job *one = run(w, m, PROMPT);
        snprintf(what, sizeof what, "choice %u at T = %g", i, m.submit.temperature);
        cr_expect(finished(all, i, FINISH_LENGTH, (uint32_t)m.submit.max_tokens));
        cr_expect(rig_same_choice(&all->choice[i], &one->choice[0], what), "%s", what);
        differ += i && memcmp(all->choice[i].tok, all->choice[0].tok, all->choice[0].n_tok * sizeof(token_rec));
    }
    cr_expect(m.submit.temperature == 0 || differ, "all choices are the same: nothing was drawn");
}

Test(sampling, choices_are_single_runs_with_seed_plus_index)
{
    world w;
    world_open(&w, (rig_options){ .chunk = 7 });
    choices_equal_singles(&w, drawing(24, 0.9, 40, 100), 5);
    choices_equal_singles(&w, drawing(24, 1, 0, 200), 3);
    choices_equal_singles(&w, drawing(24, 1.3, 0, 300), 3);     /* needs the whole row at every token */
    choices_equal_singles(&w, drawing(24, 0, 0, 0), 2);
    rig_close(&w.g);
}

Test(sampling, choices_hold_behind_local_prefill)
{
    world w;
    world_open(&w, (rig_options){ .prefill = "local" });
    choices_equal_singles(&w, drawing(16, 0.9, 40, 100), 3);
    rig_close(&w.g);
}

/* ---- whole rows ------------------------------------------------------------------------------------------------------- */

#define DRAWS 12u                    /* some of them need the row at their first token, where it repeats a prompt row */

static uint64_t draw_freely(world *w, rig_job **out)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        out[i] = run(w, drawing(40, 1, 0, 7000 + i), PROMPT);
        cr_expect(finished(out[i], 0, FINISH_LENGTH, 40));
        rows += out[i]->choice[0].end.full_rows;
    }
    return rows;
}

Test(sampling, temperature_one_without_top_k_falls_back_to_whole_rows_whatever_the_stages_and_chunks)
{
    static const uint32_t stages[] = { 1, 2, 4 }, chunks[] = { 64, 7, 1 };
    world w[3];
    rig_job *j[3][DRAWS];
    for (int k = 0; k < 3; k++) {
        world_open(&w[k], (rig_options){ .stages = stages[k], .chunk = chunks[k] });
        memcpy(w[k].ids, w[0].ids, sizeof w[k].ids);
        uint64_t rows = draw_freely(&w[k], j[k]);
        printf("# %u stages, chunk %u: %llu whole rows asked for in %u tokens\n", stages[k], chunks[k], (unsigned long long)rows, DRAWS * 40);
        cr_expect_gt(rows, 0u, "no draw needed the whole row");
        for (uint32_t i = 0; k && i < DRAWS; i++) cr_expect(rig_same_choice(&j[k][i]->choice[0], &j[0][i]->choice[0], "a free draw"));
    }
    for (int k = 0; k < 3; k++) rig_close(&w[k].g);
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------------ */

Test(sampling, logprobs_are_those_of_the_scored_rows)
{
    enum { N = 16, TOP = 5 };
    world w;
    world_open(&w, (rig_options){ .stages = 1 });
    message m = rig_generate(N);
    m.submit.logprobs = TOP;
    rig_job *g = run(&w, m, PROMPT);
    cr_assert(finished(g, 0, FINISH_LENGTH, N));
    const rig_choice *c = &g->choice[0];
    uint32_t ids[PROMPT + N];
    memcpy(ids, w.ids, PROMPT * sizeof *ids);
    for (int i = 0; i < N; i++) ids[PROMPT + i] = c->tok[i].id;
    rig_job *s = rig_do(w.g, rig_score(1), &(rig_input){ .ids = ids, .n = PROMPT + N });
    cr_assert_eq(s->n_full, PROMPT + N, "%s", s->fail.text);
    cr_assert_eq(c->n_top, (size_t)N * TOP);
    for (uint32_t i = 0; i < N; i++) {
        const float *row = s->full + (size_t)(PROMPT + i - 1) * s->vocab;
        const cand_rec *top = c->top + (size_t)i * TOP;
        float lse = s->score[PROMPT + i - 1].lse;
        cr_expect_eq(c->tok[i].n_top, (uint32_t)TOP);
        cr_expect_eq(c->tok[i].logprob, row[c->tok[i].id] - lse, "token %u", i);
        cr_expect_eq(s->score[PROMPT + i - 1].target_logit, row[c->tok[i].id], "target of row %u", PROMPT + i - 1);
        cr_expect_eq(top[0].id, c->tok[i].id, "greedy takes the best");
        for (int k = 0; k < TOP; k++) {
            cr_expect_eq(top[k].logit, row[top[k].id] - lse, "token %u, top %d", i, k);
            cr_expect(!k || top[k].logit <= top[k - 1].logit, "tops are not in order");
        }
    }
    rig_close(&w.g);
}

/* ---- where answers end ------------------------------------------------------------------------------------------------ */

/* Three bytes out of the middle of `t` that are plain letters, so that a character is never cut. */
static size_t some_word(const text *t)
{
    for (size_t i = t->len / 3; i + 3 < t->len; i++)
        if ((t->ptr[i] & 0x80) == 0 && (t->ptr[i + 1] & 0x80) == 0 && (t->ptr[i + 2] & 0x80) == 0) return i;
    return 0;
}

Test(sampling, a_stop_string_ends_the_text_in_front_of_it)
{
    world w;
    world_open(&w, (rig_options){ 0 });
    rig_input in = { .prompt = "Once upon a time there was a little dog who" };
    rig_job *whole = rig_do(w.g, rig_generate(40), &in);
    const text *t = &whole->choice[0].text;
    cr_assert_gt(t->len, 20u, "the text is too short for this test: \"%s\"", t->ptr ? t->ptr : "");
    char ends[16] = "\x01\x02never";
    size_t at = some_word(t), n = strlen(ends) + 1;
    memcpy(ends + n, t->ptr + at, 3);
    const char *found = memmem(t->ptr, t->len, t->ptr + at, 3);
    in.stop = ends;
    in.stop_len = n + 4;
    for (int stream = 0; stream < 2; stream++) {
        message m = rig_generate(40);
        m.submit.stream = stream;
        rig_job *j = rig_do(w.g, m, &in);
        const rig_choice *c = &j->choice[0];
        cr_expect_eq(c->end.finish, FINISH_STOP_STRING, "finish %s %s", finish_name(c->end.finish), j->fail.text);
        cr_expect_eq(c->text.len, (size_t)(found - t->ptr), "stop \"%s\", got \"%.*s\" of \"%s\"", ends + n, (int)c->text.len, c->text.ptr, t->ptr);
        cr_expect(!memcmp(c->text.ptr, t->ptr, c->text.len), "another text");
        cr_expect_lt(c->n_tok, whole->choice[0].n_tok);
    }
    rig_close(&w.g);
}

Test(sampling, no_tokens_asked_for_gives_none)
{
    world w;
    world_open(&w, (rig_options){ 0 });
    rig_job *j = run(&w, rig_generate(0), PROMPT);
    cr_expect(finished(j, 0, FINISH_LENGTH, 0));
    cr_expect_eq(j->choice[0].text.len, 0u);
    cr_expect_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    message m = rig_generate(0);
    m.submit.n = 3;
    j = run(&w, m, PROMPT);
    for (uint32_t i = 0; i < 3; i++) cr_expect(finished(j, i, FINISH_LENGTH, 0));
    cr_expect(rig_idle(w.g, 10));
    rig_close(&w.g);
}

Test(sampling, a_full_context_stops_or_slides_as_asked)
{
    enum { CTX = 64 };
    static const uint32_t stages[] = { 1, 2 };
    rig_job *slid[2];
    world w[2];
    for (int k = 0; k < 2; k++) {
        world_open(&w[k], (rig_options){ .ctx = CTX, .stages = stages[k], .chunk = k ? 7 : 64 });
        memcpy(w[k].ids, w[0].ids, sizeof w[k].ids);
        rig_job *j = run(&w[k], rig_generate(200), PROMPT);
        cr_expect(finished(j, 0, FINISH_CONTEXT, CTX - PROMPT + 1));
        cr_expect_eq(j->choice[0].end.slides, 0u);
        j = run(&w[k], rig_generate(5), CTX);       /* a prompt that just fits: its last row still decides one token */
        cr_expect(finished(j, 0, FINISH_CONTEXT, 1));
        message m = drawing(150, 0.8, 20, 5);
        m.submit.full_policy = 1;
        slid[k] = run(&w[k], m, PROMPT);
        cr_expect(finished(slid[k], 0, FINISH_LENGTH, 150));
        cr_expect_gt(slid[k]->choice[0].end.slides, 1u, "the context did not slide");
        printf("# %llu slides in 150 tokens\n", (unsigned long long)slid[k]->choice[0].end.slides);
    }
    cr_expect(rig_same_choice(&slid[1]->choice[0], &slid[0]->choice[0], "a context that slides"));
    for (int k = 0; k < 2; k++) rig_close(&w[k].g);
}

/* ---- bad requests ------------------------------------------------------------------------------------------------------ */

static void refused(world *w, message m, rig_input in, const char *word)
{
    rig_job *j = rig_do(w->g, m, &in);
    cr_expect_eq(j->fail.code, ERR_INPUT, "code %d: %s", j->fail.code, j->fail.text);
    cr_expect_not_null(strstr(j->fail.text, word), "\"%s\" does not say \"%s\"", j->fail.text, word);
}

Test(sampling, prompts_that_cannot_be_are_refused_with_a_clear_word)
{
    world w;
    world_open(&w, (rig_options){ .ctx = 64 });
    uint32_t bad = 1u << 20;
    char long_text[4096];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    refused(&w, rig_generate(4), (rig_input){ .ids = w.ids, .n = 65 }, "65 tokens");
    refused(&w, rig_generate(4), (rig_input){ .prompt = long_text }, "the context holds 64");
    refused(&w, rig_generate(4), (rig_input){ .prompt = "" }, "empty");
    refused(&w, rig_score(0), (rig_input){ .prompt = "text" }, "token ids");
    refused(&w, rig_generate(4), (rig_input){ .ids = &bad, .n = 1 }, "1048576");
    message m = rig_generate(4);
    m.submit.min_p = 0.5;
    m.submit.temperature = 99.0;
    m.submit.repeat_penalty = 500;
    refused(&w, m, (rig_input){ .ids = w.ids, .n = 4 }, "repeat_penalty is 500");
    cr_expect(finished(run(&w, rig_generate(4), PROMPT), 0, FINISH_LENGTH, 4));
    cr_expect(rig_idle(w.g, 10));
    rig_close(&w.g);
}

/* ---- many at once ------------------------------------------------------------------------------------------------------ */

Test(sampling, a_cancelled_job_ends_and_its_session_is_dropped)
{
    world w;
    world_open(&w, (rig_options){ 0 });
    message m = rig_generate(1000);
    m.submit.stream = true;
    m.submit.n = 2;
    rig_job *j = rig_submit(w.g, m, &(rig_input){ .ids = w.ids, .n = PROMPT });
    rig_job *other = rig_submit(w.g, rig_generate(30), &(rig_input){ .ids = w.ids + 100, .n = PROMPT });
    while (j->choice[0].n_tok < 5) cr_assert(rig_take(w.g, RIG_PATIENCE_MS));
    rig_cancel(w.g, j);
    rig_wait_all(w.g);
    cr_expect_eq(j->choice[0].end.finish, FINISH_CANCELLED, "finish %s", finish_name(j->choice[0].end.finish));
    cr_expect_lt(j->choice[0].n_tok, 1000u);
    cr_expect(finished(other, 0, FINISH_LENGTH, 30));
    cr_expect(rig_idle(w.g, 10), "sessions are left");
    rig_job *again = rig_do(w.g, rig_generate(30), &(rig_input){ .ids = w.ids + 100, .n = PROMPT });
    cr_expect(rig_same_choice(&other->choice[0], &again->choice[0], "the job beside the cancelled one"));
    rig_close(&w.g);
}

static json_int_t number(json_t *o, const char *a, const char *b)
{
    json_t *v = json_object_get(o, a);
    return json_integer_value(b ? json_object_get(v, b) : v);
}

Test(sampling, jobs_beyond_max_sessions_queue_and_all_give_their_single_run_answers)
{
    enum { JOBS = 64, ROOM = 4 };
    world w;
    world_open(&w, (rig_options){ .max_sessions = ROOM });
    rig_job *one[JOBS], *j[JOBS];
    json_int_t most = 0, queued = 0;
    for (uint32_t i = 0; i < JOBS; i++) one[i] = rig_do(w.g, drawing(4 + i % 9, 0.7, 30, i), &(rig_input){ .ids = w.ids + i, .n = 1 + i % 40 });
    for (uint32_t i = 0; i < JOBS; i++) j[i] = rig_submit(w.g, drawing(4 + i % 9, 0.7, 30, i), &(rig_input){ .ids = w.ids + i, .n = 1 + i % 40 });
    for (bool busy = true; busy;) {
        json_t *o = rig_status(w.g);
        if (number(o, "sessions", NULL) > most) most = number(o, "sessions", NULL);
        if (number(o, "jobs", "queued") > queued) queued = number(o, "jobs", "queued");
        json_decref(o);
        busy = false;
        for (uint32_t i = 0; i < JOBS; i++) busy |= !j[i]->over;
    }
    printf("# at most %d sessions at once, %d jobs waiting\n", (int)most, (int)queued);
    cr_expect_leq(most, ROOM);
    cr_expect_gt(queued, 0, "no job ever waited");
    for (uint32_t i = 0; i < JOBS; i++) cr_expect(rig_same_choice(&j[i]->choice[0], &one[i]->choice[0], "a job among many"), "job %u", i);
    rig_close(&w.g);
}

Test(sampling, thirty_two_jobs_share_decode_steps_and_one_is_cancelled)
{
    enum { JOBS = 32 };
    world w;
    world_open(&w, (rig_options){ .stages = 2 });
    rig_job *one[JOBS], *j[JOBS];
    for (uint32_t i = 0; i < JOBS; i++) one[i] = rig_do(w.g, drawing(40 + i, 0.7, 30, i), &(rig_input){ .ids = w.ids + i, .n = 1 + 5 * (i % 9) });
    json_t *before = rig_status(w.g);
    for (uint32_t i = 0; i < JOBS; i++) {
        message m = drawing(i == 7 ? 2000 : 40 + i, 0.7, 30, i);
        m.submit.stream = true;
        j[i] = rig_submit(w.g, m, &(rig_input){ .ids = w.ids + i, .n = 1 + 5 * (i % 9) });
    }
    while (j[7]->choice[0].n_tok < 10) cr_assert(rig_take(w.g, RIG_PATIENCE_MS));
    rig_cancel(w.g, j[7]);
    rig_wait_all(w.g);
    json_t *after = rig_status(w.g);
    double rows = (double)(number(after, "pump", "decode_rows") - number(before, "pump", "decode_rows"));
    double steps = (double)(number(after, "pump", "decode_steps") - number(before, "pump", "decode_steps"));
    printf("# %.1f rows in a decode step on average (%g rows, %g steps)\n", rows / steps, rows, steps);
    cr_expect_geq(rows / steps, 8.0, "continuous batching is not");
    for (uint32_t i = 0; i < JOBS; i++)
        if (i != 7) cr_expect(rig_same_choice(&j[i]->choice[0], &one[i]->choice[0], "a job among 32"), "job %u", i);
    cr_expect_eq(j[7]->choice[0].end.finish, FINISH_CANCELLED);
    cr_expect(rig_idle(w.g, 10), "sessions are left");
    json_decref(before);
    json_decref(after);
    rig_close(&w.g);
}
