/* Sessions that leave out layers keep the contract: the same bits whatever the stages (those that are passed by too), chunks, threads,
 * prefill, and neighbours with other masks. What is left out is not read, has no KV, and does not come back unasked. */
#include "tests/flow/rig.h"
#include "tests/flow/rig_low.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(route, .timeout = 300);

enum { TOKENS = 24, PROMPT = 70 };

static const char *model_file(void) { return support_root("models/sluice-tiny-Q8_0.gguf"); }
static isa widest(void) { return isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN; }

typedef struct { uint32_t L, V, ids[PROMPT]; } world;

static world world_of(const char *file)
{
    err e;
    gguf *f;
    model_shape s;
    uint64_t seed = support_seed();
    cr_assert_eq(gguf_open(&f, file, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, f, &e), ERR_OK, "%s", e.text);
    world w = { .L = s.L, .V = s.V };
    for (uint32_t i = 0; i < PROMPT; i++) w.ids[i] = (uint32_t)support_draw(seed, i, s.V);
    gguf_close(&f);
    return w;
}

static message job_with(const char *skip)
{
    message m = rig_generate(TOKENS);
    m.submit.logprobs = 16;
    m.submit.temperature = 0.8;
    m.submit.seed = 3;
    snprintf(m.submit.skip, sizeof m.submit.skip, "%s", skip);
    return m;
}

static int64_t at(rig *r, const char *a, const char *b)
{
    json_t *o = rig_status(r);
    int64_t n = json_integer_value(json_object_get(json_object_get(o, a), b));
    json_decref(o);
    return n;
}

/* ---- the contract ---------------------------------------------------------------------------------------------------- */

static const char *const rules[] = { "none", "list:2,3", "list:2,3,4,5,rows=decode", "list:0a,3f", "unified:3", "random:4,seed=5",
                                     "skipdecode:max=10,min=3,over=12", "list:1a,2a,3a,6f,7f", "ffn-skip:theta=0.999,next=0,warm=0", "ffn-skip:theta=0.99,warm=2",
                                     "duo:4", "duo:10,back=entropy,alarm=9", "adaskip:3", "adaskip:4,rows=decode", "ffn-skip:theta=0.99,warm=0,patch=on" };
enum { RULES = sizeof rules / sizeof *rules };

typedef struct { uint32_t stages, threads, chunk; bool together, local; } way;

typedef struct { rig *g; rig_job *job[RULES]; } answers;

static answers run(const world *w, const way *y)
{
    answers a = { .g = rig_open(&(rig_options){ .model = model_file(), .stages = y->stages, .threads = y->threads, .use = widest(), .chunk = y->chunk,
                                                .prefill = y->local ? "local" : "pipeline" }) };
    for (int i = 0; i < RULES; i++) {
        a.job[i] = rig_submit(a.g, job_with(rules[i]), &(rig_input){ .ids = w->ids, .n = PROMPT });
        if (!y->together) rig_wait(a.g, a.job[i]);
    }
    rig_wait_all(a.g);
    return a;
}

Test(route, the_bits_are_the_same_in_every_way)
{
    world w = world_of(model_file());
    const way ways[] = { { 1, 1, 64, false, false }, { 2, 1, 64, false, false }, { 3, 1, 64, true, false },  { 6, 1, 64, true, false },
                         { 6, 1, 7, false, false }, { 1, 2, 7, true, false },  { 2, 1, 64, false, true }, { 6, 1, 16, true, true } };
    answers want = run(&w, &ways[0]);
    for (int i = 0; i < RULES; i++) cr_assert_eq(want.job[i]->fail.code, ERR_OK, "%s: %s", rules[i], want.job[i]->fail.text);
    for (int i = 1; i < RULES; i++)
        cr_expect_neq(memcmp(want.job[i]->choice[0].top, want.job[0]->choice[0].top, 16 * sizeof(cand_rec) * 8), 0, "%s changed nothing", rules[i]);
    for (size_t k = 1; k < sizeof ways / sizeof *ways; k++) {
        answers got = run(&w, &ways[k]);
        for (int i = 0; i < RULES; i++)
            cr_expect(rig_same_choice(&got.job[i]->choice[0], &want.job[i]->choice[0], rules[i]), "%s: stages=%u threads=%u chunk=%u together=%d local=%d: %s",
                      rules[i], ways[k].stages, ways[k].threads, ways[k].chunk, ways[k].together, ways[k].local, got.job[i]->fail.text);
        if (ways[k].stages == 6 && !ways[k].together) cr_expect_gt(at(got.g, "pump", "passed_by"), 0, "no stage was passed by");
        printf("# steps sent again: %lld\n", (long long)at(got.g, "pump", "resent")); /* none, unless the machine stood still */
        rig_close(&got.g);
    }
    rig_close(&want.g);
}

/* ---- what is saved ---------------------------------------------------------------------------------------------------- */

Test(route, weights_that_are_left_out_are_not_read_and_have_no_kv)
{
    world w = world_of(model_file());
    static const char *const masks[] = { "none", "list:1,2", "list:1a,2a", "list:1f,2f" };
    uint64_t read[4];
    int64_t pages[4];
    for (int i = 0; i < 4; i++) {
        rig *g = rig_open(&(rig_options){ .model = model_file(), .use = widest() });
        uint64_t before = kernels_counted().weights_read;
        rig_job *j = rig_do(g, job_with(masks[i]), &(rig_input){ .ids = w.ids, .n = PROMPT });
        cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
        read[i] = kernels_counted().weights_read - before;
        json_t *o = rig_status(g);
        pages[i] = json_integer_value(json_object_get(json_object_get(json_array_get(json_object_get(o, "stages"), 0), "kv"), "shared"));
        json_decref(o);
        cr_expect_float_eq(j->choice[0].end.skipped > 0, i > 0, 1e-9);
        rig_close(&g);
    }
    printf("# weights read: all %llu, without two layers %llu, without their attention %llu, without their FFN %llu\n", (unsigned long long)read[0],
           (unsigned long long)read[1], (unsigned long long)read[2], (unsigned long long)read[3]);
    cr_expect_eq(read[0] - read[1], (read[0] - read[2]) + (read[0] - read[3]), "the halves are not the whole");
    cr_expect_lt(read[1], read[0]);
    cr_expect(read[2] < read[0] && read[3] < read[0]);
    cr_expect_eq(pages[1] * (int64_t)w.L, pages[0] * (int64_t)(w.L - 2), "shared rows: %lld bytes of all layers, %lld without two", (long long)pages[0], (long long)pages[1]);
    cr_expect_eq(pages[1], pages[2]);
    cr_expect_eq(pages[3], pages[0]);
}

/* ---- what else jobs do ------------------------------------------------------------------------------------------------ */

Test(route, choices_slides_and_scores_follow_the_mask)
{
    world w = world_of(model_file());
    rig_job *want[3] = { 0 };
    rig *first = NULL;
    for (uint32_t stages = 1; stages <= 6; stages += 5) {
        rig *g = rig_open(&(rig_options){ .model = model_file(), .stages = stages, .use = widest(), .ctx = 96 });
        message m = job_with("skipdecode:max=10,min=3,over=40"), four = job_with("list:2,3,rows=decode");
        m.submit.max_tokens = 90;
        m.submit.full_policy = 1;
        four.submit.n = 4;
        rig_job *slid = rig_submit(g, m, &(rig_input){ .ids = w.ids, .n = PROMPT });
        rig_job *choices = rig_submit(g, four, &(rig_input){ .ids = w.ids, .n = 40 });
        rig_wait_all(g);
        cr_assert_eq(slid->fail.code, ERR_OK, "%s", slid->fail.text);
        cr_assert_eq(choices->fail.code, ERR_OK, "%s", choices->fail.text);
        cr_expect_gt(slid->choice[0].end.slides, 0u);
        if (!first) first = g, want[0] = slid, want[1] = choices;
        else {
            cr_expect(rig_same_choice(&slid->choice[0], &want[0]->choice[0], "slid"));
            for (uint32_t i = 0; i < 4; i++) cr_expect(rig_same_choice(&choices->choice[i], &want[1]->choice[i], "choice"), "choice %u", i);
            rig_close(&g);
        }
    }
    rig_close(&first);
}

/* Rows behind the prompt play the decode role, whether they are generated or given. */
Test(route, scoring_with_a_prompt_gives_what_generating_gave)
{
    world w = world_of(model_file());
    rig *g = rig_open(&(rig_options){ .model = model_file(), .stages = 2, .use = widest() });
    message m = rig_generate(TOKENS);
    snprintf(m.submit.skip, sizeof m.submit.skip, "list:1,3,rows=decode");
    rig_job *j = rig_do(g, m, &(rig_input){ .ids = w.ids, .n = 40 });
    uint32_t ids[40 + TOKENS];
    memcpy(ids, w.ids, 40 * sizeof *ids);
    for (uint32_t i = 0; i < TOKENS; i++) ids[40 + i] = j->choice[0].tok[i].id;
    message s = rig_score(0);
    memcpy(s.submit.skip, m.submit.skip, sizeof s.submit.skip);
    s.submit.prompt_rows = 40;
    s.submit.score_rows = 0;
    rig_job *k = rig_do(g, s, &(rig_input){ .ids = ids, .n = 40 + TOKENS });
    cr_assert_eq(k->fail.code, ERR_OK, "%s", k->fail.text);
    for (uint32_t i = 0; i < TOKENS; i++) {
        const score_rec *r = &k->score[39 + i];
        float got = r->target_logit - r->lse;
        cr_expect(support_same(&got, &j->choice[0].tok[i].logprob, 1, "log-probability"), "token %u", i);
    }
    rig_close(&g);
}

Test(route, a_rule_the_model_cannot_follow_fails_its_job_alone)
{
    world w = world_of(model_file());
    rig *g = rig_open(&(rig_options){ .model = model_file(), .use = widest() });
    rig_job *bad = rig_submit(g, job_with("list:99"), &(rig_input){ .ids = w.ids, .n = 8 }), *ill = rig_submit(g, job_with("fist:9"), &(rig_input){ .ids = w.ids, .n = 8 });
    rig_job *good = rig_submit(g, job_with("list:1"), &(rig_input){ .ids = w.ids, .n = 8 });
    rig_wait_all(g);
    cr_expect(bad->fail.code == ERR_INPUT && strstr(bad->fail.text, "layer 99"), "%s", bad->fail.text);
    cr_expect(ill->fail.code == ERR_INPUT && strstr(ill->fail.text, "fist"), "%s", ill->fail.text);
    cr_expect_eq(good->fail.code, ERR_OK, "%s", good->fail.text);
    rig_close(&g);
}

/* Rows given as if they were generated, in chunks or one at a time, beside others or alone: each carries its own state. */
Test(route, ffns_that_do_little_are_left_out_of_generated_rows_alone)
{
    world w = world_of(model_file());
    rig *g = rig_open(&(rig_options){ .model = model_file(), .stages = 3, .use = widest() });
    double share[4];
    static const char *const some[] = { "ffn-skip:theta=1", "ffn-skip:theta=0.995", "ffn-skip:theta=0.98", "ffn-skip:theta=0.001,next=0,warm=0,cold=0,last=0" };
    for (int i = 0; i < 4; i++) {
        rig_job *j = rig_do(g, job_with(some[i]), &(rig_input){ .ids = w.ids, .n = PROMPT });
        cr_assert_eq(j->fail.code, ERR_OK, "%s: %s", some[i], j->fail.text);
        share[i] = j->choice[0].end.skipped;
        message s = rig_score(0);
        memcpy(s.submit.skip, some[i], strlen(some[i]) + 1);
        s.submit.prompt_rows = PROMPT;
        uint32_t ids[PROMPT + TOKENS];
        memcpy(ids, w.ids, PROMPT * sizeof *ids);
        for (uint32_t k = 0; k < TOKENS; k++) ids[PROMPT + k] = j->choice[0].tok[k].id;
        rig_job *k = rig_do(g, s, &(rig_input){ .ids = ids, .n = PROMPT + TOKENS });
        cr_assert_eq(k->fail.code, ERR_OK, "%s: %s", some[i], k->fail.text);
        for (uint32_t t = 0; t < TOKENS; t++) {
            float got = k->score[PROMPT - 1 + t].target_logit - k->score[PROMPT - 1 + t].lse;
            cr_expect(support_same(&got, &j->choice[0].tok[t].logprob, 1, "log-probability"), "%s, token %u", some[i], t);
        }
    }
    printf("# share left out at theta 1, 0.995, 0.98, and of all but the first FFN: %.3f %.3f %.3f %.3f\n", share[0], share[1], share[2], share[3]);
    cr_expect(share[0] == 0 && share[1] > 0 && share[2] > share[1] && share[3] > share[2]);
    rig_close(&g);
}

/* Of every FFN that goes its stand-in is read: a sixteenth of it. Without stand-ins more is left out, and other words come of it. */
Test(route, a_stand_in_is_read_in_place_of_its_ffn)
{
    world w = world_of(model_file());
    static const char *const some[] = { "none", "duo:10", "list:1f,2f,3f,4f,5f,6f,7f,8f,9f,10f,rows=decode" };
    uint64_t read[3];
    rig_job *jobs[3];
    rig *rigs[3];
    for (int i = 0; i < 3; i++) {
        rigs[i] = rig_open(&(rig_options){ .model = model_file(), .use = widest() });
        uint64_t before = kernels_counted().weights_read;
        jobs[i] = rig_do(rigs[i], job_with(some[i]), &(rig_input){ .ids = w.ids, .n = PROMPT });
        cr_assert_eq(jobs[i]->fail.code, ERR_OK, "%s", jobs[i]->fail.text);
        read[i] = kernels_counted().weights_read - before;
    }
    double stood = (double)(read[1] - read[2]) / (double)(read[0] - read[2]);
    printf("# stand-ins are %.4f of the FFNs; shares left out: %.4f with them, %.4f without\n", stood, jobs[1]->choice[0].end.skipped, jobs[2]->choice[0].end.skipped);
    cr_expect(stood > 0.05 && stood < 1.0 / 16, "read %llu, %llu and %llu", (unsigned long long)read[0], (unsigned long long)read[1], (unsigned long long)read[2]);
    cr_expect_float_eq(jobs[1]->choice[0].end.skipped / jobs[2]->choice[0].end.skipped, 1 - stood, 1e-6);
    cr_expect_neq(memcmp(jobs[1]->choice[0].top, jobs[2]->choice[0].top, 16 * sizeof(cand_rec) * 8), 0);
    for (int i = 0; i < 3; i++) rig_close(&rigs[i]);
}

/* ---- back-off ---------------------------------------------------------------------------------------------------------- */

enum { BACK = 40 };

static rig_job *backing(rig *g, const world *w, const char *skip, double temperature)
{
    message m = job_with(skip);
    m.submit.max_tokens = BACK;
    m.submit.temperature = temperature;
    return rig_submit(g, m, &(rig_input){ .ids = w->ids, .n = PROMPT });
}

/* From the token behind which it turned back on it says what a session without a mask says of these tokens; before it does not. */
static void expect_unmasked_from(rig *g, const world *w, const rig_job *j)
{
    uint32_t ids[PROMPT + BACK], from = (uint32_t)j->choice[0].end.back_off;
    message m = rig_score(0);
    memcpy(ids, w->ids, PROMPT * sizeof *ids);
    for (uint32_t i = 0; i < BACK; i++) ids[PROMPT + i] = j->choice[0].tok[i].id;
    m.submit.prompt_rows = PROMPT;
    rig_job *k = rig_do(g, m, &(rig_input){ .ids = ids, .n = PROMPT + BACK });
    cr_assert_eq(k->fail.code, ERR_OK, "%s", k->fail.text);
    cr_assert(from > 0 && from < BACK, "it turned back behind token %u", from);
    uint32_t others = 0;
    for (uint32_t i = 0; i < BACK; i++) {
        const score_rec *r = &k->score[PROMPT - 1 + i];
        float got = r->target_logit - r->lse;
        if (i < from) others += got != j->choice[0].tok[i].logprob;
        else cr_expect(support_same(&got, &j->choice[0].tok[i].logprob, 1, "log-probability"), "token %u", i);
    }
    cr_expect(others, "the mask changed nothing");
}

Test(route, a_session_that_goes_wrong_goes_on_with_all_its_layers)
{
    static const char *const some[] = { "list:2,3,5,back=entropy,alarm=0.001", "skipdecode:max=12,min=5,over=12,back=margin,alarm=-50",
                                        "ffn-skip:theta=0.9,warm=0,back=entropy,alarm=0.001", "list:4,6,rows=decode,back=csd,alarm=2" };
    world w = world_of(model_file());
    rig_job *want[4] = { 0 };
    rig *first = NULL;
    for (uint32_t stages = 1; stages <= 6; stages += 5) {
        rig *g = rig_open(&(rig_options){ .model = model_file(), .stages = stages, .use = widest(), .chunk = stages > 1 ? 7 : 64 });
        rig_job *jobs[4];
        for (int i = 0; i < 4; i++) jobs[i] = backing(g, &w, some[i], i == 3 ? 0 : 0.8);
        rig_wait_all(g);
        for (int i = 0; i < 4; i++) cr_assert_eq(jobs[i]->fail.code, ERR_OK, "%s: %s", some[i], jobs[i]->fail.text);
        for (int i = 0; i < 3 && !first; i++) expect_unmasked_from(g, &w, jobs[i]);
        if (first)
            for (int i = 0; i < 4; i++) cr_expect(rig_same_choice(&jobs[i]->choice[0], &want[i]->choice[0], some[i]), "%u stages", stages);
        message again = job_with("");
        again.submit.replay = jobs[0]->id;
        rig_job *r = rig_do(g, again, &(rig_input){ .ids = NULL, .n = 0 });
        cr_assert_eq(r->fail.code, ERR_OK, "%s", r->fail.text);
        cr_expect(rig_same_choice(&r->choice[0], &jobs[0]->choice[0], "replayed"));
        cr_expect_eq(r->choice[0].end.back_off, jobs[0]->choice[0].end.back_off);
        printf("# turned back behind %u, %u, %u and %u tokens\n", (uint32_t)jobs[0]->choice[0].end.back_off, (uint32_t)jobs[1]->choice[0].end.back_off,
               (uint32_t)jobs[2]->choice[0].end.back_off, (uint32_t)jobs[3]->choice[0].end.back_off);
        if (first) rig_close(&g);
        else first = g, memcpy(want, jobs, sizeof want);
    }
    rig_close(&first);
}

/* ---- by hand ---------------------------------------------------------------------------------------------------------- */

static void row(low_rig *r, uint32_t i, uint32_t layer, uint32_t from)
{
    low_step s = low_begin(r);
    if (i) low_op(&s, OP_COMMIT, 1, i - 1, 0);
    if (layer != UINT32_MAX) low_op(&s, OP_SKIP, 1, from, layer);
    low_row(&s, 1, i, i, MSG_NO_ROW, i + 5);
    low_send(r, &s);
    low_result(r, &s);
}

Test(route, a_mask_that_grows_without_its_rows_computed_again_is_refused)
{
    low_rig r;
    low_open(&r, model_file(), 2, widest(), 64);
    for (int ffn = 0; ffn < 2; ffn++) {
        low_session(&r, 1);
        row(&r, 0, UINT32_MAX, 0);
        row(&r, 1, 2 + ffn, 2);                     /* layer 1, from row 2 on */
        cr_expect_eq(low_result_row(&r, 0).status, 0, "a mask may shrink");
        row(&r, 2, UINT32_MAX, 0);
        row(&r, 3, 2 + ffn, UINT32_MAX);
        cr_expect_eq(low_result_row(&r, 0).status, ERR_STATE, "a layer came back, and row 2 has nothing there");
        for (uint32_t i = 0; i < r.n; i++) {        /* every stage knows the mask */
            const msg_fail *f = low_fail(&r, 5000);
            cr_expect(f && strstr(f->text, "layer 1"), "%s", f ? f->text : "no word");
        }
        low_drop(&r, 1);
    }
    low_close(&r);
}

/* Other stand-ins are other words: a session that asks for some that a stage has not is refused, and the stage goes on. */
Test(route, stand_ins_that_a_stage_has_not_are_refused)
{
    low_rig r;
    world w = world_of(model_file());
    mask_rec recs[MASK_LAYERS];
    low_open(&r, model_file(), 2, widest(), 64);
    message m = msg_init(MSG_SESSION_OPEN);
    m.session_open.epoch = LOW_EPOCH;
    m.session_open.session = 3;
    m.session_open.n_mask = w.L;
    for (uint32_t l = 0; l < w.L; l++) recs[l] = (mask_rec){ MASK_NEVER, l == 2 ? 0 : MASK_NEVER };
    for (uint32_t kind = MASK_LOW_RANK; kind < MASK_STANDS; kind++) {
        m.session_open.stand = kind;
        m.session_open.stand_id = 12345;
        low_ask_session(&r, &m, (view){ recs, w.L * sizeof *recs });
        for (uint32_t i = 0; i < r.n; i++) {
            const msg_fail *f = low_fail(&r, 60000);
            cr_expect(f && f->code == ERR_CONFIG && strstr(f->text, "stand-ins 00003039"), "%s", f ? f->text : "no word");
        }
    }
    low_session(&r, 1);
    row(&r, 0, UINT32_MAX, 0);
    cr_expect_eq(low_result_row(&r, 0).status, 0);
    low_close(&r);
}
