/* KV prediction in a cluster: predicted prompts, exact rows that take their place, and what a rerun of either gives. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include "tests/support_predict.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT = 70, NEW = 40, AT = 5, TOP = 8, LONG = 300 };

static char base[512], aux[512], profile_of_aux[128], profile_of_all[128];
static const char all[] = "layers:0,1,2,3,4,5,6,7,8,9,10,11";

static void make(const char *which, kvmap_inputs inputs, char *file, size_t n, const char *name)
{
    err e = { 0 };
    snprintf(file, n, "%s/%s", support_tmpdir(), name);
    predict_made m = { .base = base, .aux = which, .inputs = inputs, .type = WTYPE_F16, .format = KV_F16 };
    cr_assert(predict_make(&m, file, NULL, &e), "%s", e.text);
}

static void begin(void)
{
    snprintf(base, sizeof base, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(aux, sizeof aux, "%s", support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    make(aux, KVMAP_BOTH, profile_of_aux, sizeof profile_of_aux, "aux.gguf");
}

TestSuite(predict, .init = begin, .timeout = 120);

static isa fast(void) { return isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN; }

static rig *cluster(const char *way, uint32_t stages, uint32_t chunk)
{
    return rig_open(&(rig_options){ .model = base, .use = fast(), .stages = stages, .chunk = chunk, .prefill = way, .aux = aux, .profile = profile_of_aux });
}

static const uint32_t *prompt(void)
{
    static uint32_t ids[PROMPT + NEW];
    ids[0] = 1;
    for (uint32_t i = 1; i < PROMPT; i++) ids[i] = 300 + (uint32_t)support_draw(11, i, 3000);
    return ids;
}

static message ask(uint32_t n)
{
    message m = rig_generate(n);
    m.submit.logprobs = TOP;
    return m;
}

static rig_job *run(rig *r, message m)
{
    rig_job *j = rig_do(r, m, &(rig_input){ .ids = prompt(), .n = PROMPT });
    cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    return j;
}

/* Token k of an answer as an exact prompt of all tokens before it gives it: the same id, log-probability and neighbours. */
static void check_exact(rig *exact, const char *mask, const rig_choice *c, uint32_t k)
{
    uint32_t ids[PROMPT + NEW];
    memcpy(ids, prompt(), PROMPT * sizeof *ids);
    for (uint32_t i = 0; i < k; i++) ids[PROMPT + i] = c->tok[i].id;
    message m = ask(1);
    snprintf(m.submit.skip, sizeof m.submit.skip, "%s", mask);
    rig_job *j = rig_do(exact, m, &(rig_input){ .ids = ids, .n = PROMPT + k });
    cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    cr_assert_eq(j->choice[0].tok[0].id, c->tok[k].id, "token %u", k);
    cr_assert_eq(memcmp(&j->choice[0].tok[0].logprob, &c->tok[k].logprob, 4), 0, "token %u: %.9g, exact rows give %.9g", k,
                 (double)c->tok[k].logprob, (double)j->choice[0].tok[0].logprob);
    cr_assert_eq(memcmp(j->choice[0].top, c->top + (size_t)k * TOP, TOP * sizeof *c->top), 0, "token %u: another distribution", k);
}

/* The same of tokens [from, n) behind the prompt, each on the path of its own role, for jobs with a mask or a KV policy (`how`): what a scoring
 * job, which is never predicted, says of them. */
static void check_forced(rig *exact, message how, const rig_choice *c, uint32_t from, uint32_t n)
{
    uint32_t ids[PROMPT + LONG];
    message m = rig_score(0);
    memcpy(ids, prompt(), PROMPT * sizeof *ids);
    for (uint32_t i = 0; i < n; i++) ids[PROMPT + i] = c->tok[i].id;
    memcpy(m.submit.skip, how.submit.skip, sizeof m.submit.skip);
    memcpy(m.submit.kv, how.submit.kv, sizeof m.submit.kv);
    memcpy(m.submit.kv_policy, how.submit.kv_policy, sizeof m.submit.kv_policy);
    m.submit.prompt_rows = PROMPT;
    rig_job *j = rig_do(exact, m, &(rig_input){ .ids = ids, .n = PROMPT + n });
    cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    for (uint32_t k = from; k < n; k++) {
        const score_rec *r = &j->score[PROMPT - 1 + k];
        candidate best[TOP];
        forward_top(j->full + (size_t)(PROMPT - 1 + k) * j->vocab, j->vocab, best, TOP);
        float is = r->target_logit - r->lse;
        cr_assert(support_same(&c->tok[k].logprob, &is, 1, "log-probability"), "%s%s: token %u", m.submit.skip, m.submit.kv, k);
        for (uint32_t i = 0; i < TOP; i++) {
            cand_rec want = { best[i].id, best[i].logit - r->lse };
            cr_assert_eq(memcmp(&want, &c->top[(size_t)k * TOP + i], sizeof want), 0, "%s%s: token %u, place %u", m.submit.skip, m.submit.kv, k, i);
        }
    }
}

static bool same_logprob(const rig_choice *a, const rig_choice *b, uint32_t k) { return !memcmp(&a->tok[k].logprob, &b->tok[k].logprob, 4); }

Test(predict, the_same_bits_from_one_two_and_three_stages)
{
    rig *one = cluster("predict", 1, 64);
    rig_job *want = run(one, ask(NEW));
    cr_expect_eq(want->choice[0].end.prefill_mode, 2);
    cr_expect_eq(want->choice[0].end.predicted, NEW, "no token came from exact rows");
    cr_expect_str_eq(want->choice[0].end.aux, aux);
    for (uint32_t n = 2; n <= 3; n++) {
        rig *r = cluster("predict", n, n == 2 ? 7 : 64);
        cr_expect(rig_same_choice(&run(r, ask(NEW))->choice[0], &want->choice[0], n == 2 ? "two stages, chunks of 7" : "three stages"));
        rig_close(&r);
    }
    rig_close(&one);
}

/* An auxiliary that is the base predicts what the base computes, to rounding: the text is the exact one. */
Test(predict, all_layers_as_auxiliary_give_the_exact_text)
{
    make(all, KVMAP_OWN, profile_of_all, sizeof profile_of_all, "all.gguf");
    rig *r = rig_open(&(rig_options){ .model = base, .use = fast(), .stages = 2, .prefill = "predict", .aux = all, .profile = profile_of_all });
    message m = ask(24);
    m.submit.prefill = 2;
    rig_job *want = run(r, m), *got = run(r, ask(24));
    cr_expect_eq(got->choice[0].end.predicted, 24);
    for (uint32_t k = 0; k < 24; k++) {
        cr_assert_eq(got->choice[0].tok[k].id, want->choice[0].tok[k].id, "token %u", k);
        cr_assert_float_eq(got->choice[0].tok[k].logprob, want->choice[0].tok[k].logprob, 0.1, "token %u: f16 rows and maps round differently", k);
    }
    rig_close(&r);
}

Test(predict, behind_a_refresh_every_bit_is_the_exact_ones)
{
    rig *r = cluster("hybrid", 2, 16), *exact = rig_open(&(rig_options){ .model = base, .use = fast(), .prefill = "local" });
    message m = ask(AT + 6), lossy = ask(AT + 6);
    m.submit.refresh_at = AT;
    lossy.submit.prefill = 4;
    const rig_choice *got = &run(r, m)->choice[0], *lossy_one = &run(r, lossy)->choice[0];
    cr_expect_eq(got->end.prefill_mode, 3);
    cr_expect_eq(got->end.predicted, AT);
    for (uint32_t k = 0; k < AT; k++) cr_expect(same_logprob(got, lossy_one, k), "token %u came before the refresh", k);
    for (uint32_t k = AT; k < AT + 6; k++) check_exact(exact, "", got, k);
    rig_close(&exact);
    rig_close(&r);
}

/* ---- masks ---- */

static const char *const masks[] = { "none", "list:2,3", "list:0a,7f,10", "list:2,3,4,5,6,7,rows=decode", "skipdecode:max=10,min=3,over=12",
                                     "ffn-skip:theta=0.99,warm=2" };
enum { MASKS = sizeof masks / sizeof *masks };

static message masked(uint32_t n, const char *rule)
{
    message m = ask(n);
    snprintf(m.submit.skip, sizeof m.submit.skip, "%s", rule);
    return m;
}

Test(predict, under_a_mask_the_same_bits_from_one_two_and_three_stages)
{
    static const uint32_t chunks[] = { 64, 7, 64 };
    rig_choice want[MASKS];
    rig *first = NULL;
    for (uint32_t n = 1; n <= 3; n++) {
        rig *r = cluster("predict", n, chunks[n - 1]);
        for (uint32_t i = 0; i < MASKS; i++) {
            const rig_choice *c = &run(r, masked(NEW, masks[i]))->choice[0];
            cr_expect(c->end.prefill_mode == 2 && c->end.predicted == NEW, "%s", masks[i]);
            if (n == 1) want[i] = *c;
            else cr_expect(rig_same_choice(c, &want[i], masks[i]), "%u stages", n);
            if (i) cr_expect_neq(memcmp(c->top, want[0].top, NEW * TOP * sizeof *c->top), 0, "%s changed nothing", masks[i]);
        }
        if (n == 1) first = r;
        else rig_close(&r);
    }
    rig_close(&first);
}

/* list: in all rows, so that an exact prompt of all tokens says the same; the others leave nothing out of a prompt. */
Test(predict, behind_a_refresh_under_a_mask_every_bit_is_the_exact_ones)
{
    rig *r = cluster("hybrid", 3, 16), *exact = rig_open(&(rig_options){ .model = base, .use = fast(), .prefill = "local" });
    for (uint32_t i = 0; i < MASKS; i++) {
        message m = masked(AT + 12, masks[i]), lossy = masked(AT + 12, masks[i]);
        m.submit.refresh_at = AT;
        lossy.submit.prefill = 3;
        const rig_choice *got = &run(r, m)->choice[0], *before = &run(r, lossy)->choice[0];
        cr_expect_eq(got->end.predicted, AT, "%s", masks[i]);
        for (uint32_t k = 0; k < AT; k++) cr_expect(same_logprob(got, before, k), "%s: token %u came before the refresh", masks[i], k);
        check_forced(exact, m, got, AT, AT + 12);
        for (uint32_t k = AT; i < 3 && k < AT + 12; k += 5) check_exact(exact, masks[i], got, k);
    }
    rig_close(&exact);
    rig_close(&r);
}

/* What a router has to see of a prompt, nobody sees who only predicts it: the prompt is computed, and DONE says so. */
Test(predict, a_mask_that_a_router_chooses_takes_an_exact_prompt)
{
    char linked[128], file[128];
    text bundled = { 0 };
    err e = { 0 };
    snprintf(linked, sizeof linked, "%s/route.gguf", support_tmpdir());
    snprintf(file, sizeof file, "%s/route.profile.gguf", support_tmpdir()); /* beside the model: stages look there, too */
    cr_assert_eq(symlink(base, linked), 0);
    cr_assert_eq(text_read_file(&bundled, support_root("models/sluice-tiny-Q8_0.profile.gguf"), 1 << 24, &e), ERR_OK, "%s", e.text);
    cr_assert(support_write(file, bundled.ptr, bundled.len));
    make(aux, KVMAP_OWN, file, sizeof file, "route.profile.gguf"); /* its other sections stay */
    rig *r = rig_open(&(rig_options){ .model = linked, .use = fast(), .prefill = "predict", .aux = aux });
    static const char *const rules[] = { "first:2", "exit:q=0.5" };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        message m = masked(8, rules[i]);
        const rig_choice *got = &run(r, m)->choice[0];
        cr_expect(got->end.prefill_mode == 0 && got->end.predicted == 0, "%s: mode %d", rules[i], (int)got->end.prefill_mode);
        m.submit.prefill = 1;
        cr_expect(rig_same_choice(got, &run(r, m)->choice[0], rules[i]));
    }
    cr_expect_eq(run(r, ask(8))->choice[0].end.prefill_mode, 2, "without such a rule it is predicted");
    rig_close(&r);
    text_free(&bundled);
}

/* ---- the log, choices, company ---- */

Test(predict, a_refresh_is_in_the_log_and_a_replay_has_the_same_bits)
{
    rig *r = cluster("hybrid", 2, 16);
    rig_job *want = run(r, ask(LONG));
    uint32_t at = (uint32_t)want->choice[0].end.predicted;
    cr_assert(at % 16 == 0 && at < LONG, "exact from token %u on", at);
    for (int i = 0; i < 2; i++) {
        message m = rig_generate(1);
        m.submit.replay = want->id;
        rig_job *again = rig_do(r, m, &(rig_input){ 0 });
        cr_assert_eq(again->fail.code, ERR_OK, "%s", again->fail.text);
        cr_expect(rig_same_choice(&again->choice[0], &want->choice[0], "replay"));
        cr_expect_eq(again->choice[0].end.predicted, at);
    }
    rig_close(&r);
}

Test(predict, choices_are_refreshed_one_by_one)
{
    rig *r = cluster("hybrid", 1, 16), *exact = rig_open(&(rig_options){ .model = base, .use = fast() });
    message m = ask(AT + 3);
    m.submit.refresh_at = AT;
    m.submit.n = 3;
    m.submit.temperature = 1;
    rig_job *j = run(r, m);
    for (uint32_t i = 0; i < 3; i++) {
        cr_expect_eq(j->choice[i].end.predicted, AT, "choice %u", i);
        uint32_t ids[PROMPT + NEW];
        memcpy(ids, prompt(), PROMPT * sizeof *ids);
        for (uint32_t k = 0; k < AT + 2; k++) ids[PROMPT + k] = j->choice[i].tok[k].id;
        rig_job *x = rig_do(exact, ask(1), &(rig_input){ .ids = ids, .n = PROMPT + AT + 2 });
        cr_expect_eq(memcmp(x->choice[0].top, j->choice[i].top + (size_t)(AT + 2) * TOP, TOP * sizeof(cand_rec)), 0, "choice %u", i);
    }
    rig_close(&exact);
    rig_close(&r);
}

Test(predict, predicted_rows_are_never_shared)
{
    rig *r = cluster("predict", 1, 64), *exact = rig_open(&(rig_options){ .model = base, .use = fast() });
    message m = ask(8);
    m.submit.prefill = 1;
    rig_job *want = run(exact, m);
    run(r, ask(8));
    cr_expect(rig_same_choice(&run(r, m)->choice[0], &want->choice[0], "an exact prompt behind a predicted one"));
    cr_expect(rig_same_choice(&run(r, m)->choice[0], &want->choice[0], "and once more"));
    rig_close(&exact);
    rig_close(&r);
}

Test(predict, many_jobs_of_all_ways_at_once_do_not_touch_each_other)
{
    rig *alone = cluster("pipeline", 2, 16), *r = cluster("pipeline", 2, 16);
    rig_job *want[4], *got[8];
    message m[4];
    for (uint32_t i = 0; i < 4; i++) {
        m[i] = ask(20);
        m[i].submit.prefill = 1 + i;
        m[i].submit.refresh_at = 7;
        want[i] = run(alone, m[i]);
    }
    for (uint32_t i = 0; i < 8; i++) got[i] = rig_submit(r, m[i % 4], &(rig_input){ .ids = prompt(), .n = PROMPT });
    rig_wait_all(r);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_eq(got[i]->fail.code, ERR_OK, "%s", got[i]->fail.text);
        cr_expect(rig_same_choice(&got[i]->choice[0], &want[i % 4]->choice[0], "in company"));
    }
    cr_expect(rig_idle(r, 10));
    rig_close(&r);
    rig_close(&alone);
}

Test(predict, a_cancel_while_exact_rows_are_under_way_leaves_nothing)
{
    rig *r = cluster("hybrid", 2, 2);
    rig_job *want = run(r, ask(20));
    for (int i = 0; i < 4; i++) {
        rig_job *j = rig_submit(r, ask(200), &(rig_input){ .ids = prompt(), .n = PROMPT });
        while (!j->choice[0].n_tok && !j->over) rig_take(r, 100);
        for (int k = 0; k < i; k++) rig_take(r, 20);
        rig_cancel(r, j);
        rig_wait(r, j);
        cr_expect(rig_idle(r, 10), "sessions stayed");
    }
    message m = rig_generate(1);
    m.submit.replay = want->id;
    cr_expect(rig_same_choice(&rig_do(r, m, &(rig_input){ 0 })->choice[0], &want->choice[0], "behind four cancels"));
    rig_close(&r);
}

Test(predict, a_lossy_policy_waits_for_exact_rows)
{
    rig *r = cluster("pipeline", 1, 16);
    message m = ask(AT + 4);
    snprintf(m.submit.kv, sizeof m.submit.kv, "small");
    snprintf(m.submit.kv_policy, sizeof m.submit.kv_policy, "[policy]\nname = small\n[format]\nk = q8_0\nv = q8_0\n");
    m.submit.prefill = 3;
    rig_job *j = rig_do(r, m, &(rig_input){ .ids = prompt(), .n = PROMPT });
    cr_expect_eq(j->fail.code, ERR_INPUT);
    cr_expect(strstr(j->fail.text, "KV policy small"), "%s", j->fail.text);
    m.submit.prefill = 4;
    m.submit.refresh_at = AT;
    rig_job *hybrid = run(r, m), *again = run(r, m);
    cr_expect(rig_same_choice(&again->choice[0], &hybrid->choice[0], "once more"));
    m.submit.kv_policy[0] = m.submit.kv[0] = 0;
    rig_job *plain = run(r, m);
    for (uint32_t k = 0; k < AT; k++) cr_expect(same_logprob(&plain->choice[0], &hybrid->choice[0], k), "token %u came from rows as they were predicted", k);
    cr_expect(!same_logprob(&plain->choice[0], &hybrid->choice[0], AT + 1), "behind the refresh rows are packed");
    rig_close(&r);
}

/* Policies that pack, evict, merge and choose what is read, beyond the row at which decoding rows settle too: up to the refresh the answer is
 * that of no policy at all, and from it on the one of a session that had the policy from its first row on. */
Test(predict, no_policy_touches_predicted_rows_and_exact_ones_settle_as_ever)
{
    enum { LATE = 200, ALL = LATE + 12 };
    static const char *const some[] = { "[format]\nk = kivi3\nv = kivi2\n", "[keep]\nscore = h2o\nrows = 24\nsinks = 4\nwindow = 8\n",
                                        "[keep]\nscore = position\nshare = 0.25\nsinks = 4\nwindow = 8\n[change]\nmerge = nearest\n",
                                        "[change]\nretrieve = tidal\nretrieve_rows = 16\n" };
    rig *r = cluster("hybrid", 2, 16), *exact = rig_open(&(rig_options){ .model = base, .use = fast() });
    message m = ask(ALL);
    m.submit.prefill = 3;
    const rig_choice *plain = &run(r, m)->choice[0];
    m.submit.prefill = 4;
    m.submit.refresh_at = LATE;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        snprintf(m.submit.kv, sizeof m.submit.kv, "p%zu", i);
        snprintf(m.submit.kv_policy, sizeof m.submit.kv_policy, "[policy]\nname = p%zu\n%s", i, some[i]);
        const rig_choice *got = &run(r, m)->choice[0];
        cr_expect_eq(got->end.predicted, LATE, "%s", some[i]);
        for (uint32_t k = 0; k < LATE; k++) cr_assert(same_logprob(got, plain, k), "%s: token %u", some[i], k);
        check_forced(exact, m, got, LATE, ALL);
        cr_expect_neq(memcmp(got->top + LATE * TOP, plain->top + LATE * TOP, (ALL - LATE) * TOP * sizeof *got->top), 0, "%s changed nothing", some[i]);
    }
    rig_close(&exact);
    rig_close(&r);
}

/* Nothing but the first answer depends on how fast this machine is: 1 ms is never enough, and 10 hours are. */
Test(predict, a_time_or_a_quality_chooses_by_what_was_measured)
{
    static const struct { uint64_t ms; double quality; const char *why; uint64_t mode; } as[] = {
        { 1, 0, "exact: no prompt has been measured", 0 }, { 36000000, 0, "exact: takes about", 0 }, { 1, 1, "exact: predicted rows have quality", 0 },
        { 1, 0, "predicted: exact takes about", 3 }, { 0, 0, "", 0 },
    };
    rig *r = cluster("auto", 1, 64);
    for (size_t i = 0; i < sizeof as / sizeof *as; i++) {
        uint32_t ids[PROMPT];
        memcpy(ids, prompt(), sizeof ids);
        ids[1] += (uint32_t)i; /* no rows are shared */
        message m = ask(2);
        m.submit.ttft_ms = as[i].ms;
        m.submit.quality = as[i].quality;
        const rig_job *j = rig_do(r, m, &(rig_input){ .ids = ids, .n = PROMPT });
        cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
        cr_expect_eq(j->choice[0].end.prefill_mode, as[i].mode, "%zu: %s", i, j->choice[0].end.why);
        cr_expect(strstr(j->choice[0].end.why, as[i].why), "%zu: %s", i, j->choice[0].end.why);
    }
    rig_close(&r);
    r = rig_open(&(rig_options){ .model = base, .use = fast() });
    message m = ask(2);
    m.submit.ttft_ms = 1;
    cr_expect(strstr(run(r, m)->choice[0].end.why, "no auxiliary model"), "an exact prompt says why");
    rig_close(&r);
}

Test(predict, what_cannot_predict_says_why)
{
    static const struct { const char *prefill, *aux, *profile, *says; } bad[] = {
        { "predict", NULL, NULL, "--aux" },
        { "hybrid", "/nowhere/aux.gguf", NULL, "/nowhere/aux.gguf" },
        { "predict", "layers:0,2", profile_of_aux, "auxiliary" },
        { "predict", aux, "/nowhere/p.gguf", "/nowhere/p.gguf" },
        { "predict", "layers:0,99", profile_of_aux, "\"99\"" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        rig *r = rig_try_open(&(rig_options){ .model = base, .prefill = bad[i].prefill, .aux = bad[i].aux, .profile = bad[i].profile }, &e);
        cr_assert_null(r, "%zu", i);
        cr_expect(strstr(e.text, bad[i].says), "%zu: %s", i, e.text);
    }
    rig *r = rig_open(&(rig_options){ .model = base, .use = fast() });
    message m = ask(4);
    m.submit.prefill = 3;
    rig_job *j = rig_do(r, m, &(rig_input){ .ids = prompt(), .n = PROMPT });
    cr_expect_eq(j->fail.code, ERR_CONFIG);
    cr_expect(strstr(j->fail.text, "no auxiliary model"), "%s", j->fail.text);
    rig_close(&r);
}

Test(predict, a_prompt_hardly_longer_than_its_ends_is_exact)
{
    rig *r = cluster("predict", 1, 64);
    rig_job *j = rig_do(r, ask(3), &(rig_input){ .ids = prompt(), .n = 12 });
    cr_assert_eq(j->fail.code, ERR_OK, "%s", j->fail.text);
    cr_expect_eq(j->choice[0].end.prefill_mode, 0);
    cr_expect_eq(j->choice[0].end.predicted, 0);
    rig_close(&r);
}
