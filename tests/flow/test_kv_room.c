/* A KV budget that is smaller than the load: jobs wait for each other or keep less, nobody fails, nobody's answer changes. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>

TestSuite(kv_room, .timeout = 300);

enum { JOBS = 6, N = 300, NEW = 16, HEADS = 4, LAYERS = 12, BUDGET_MB = 2 };

static isa widest(void)
{
    isa i;
    err e;
    cr_assert_eq(isa_pick(&i, &e), ERR_OK, "%s", e.text);
    return i;
}

/* A figure of all stages together: of a stage's object, or of "kv" in it. */
static json_int_t summed(rig *g, const char *key)
{
    size_t i;
    json_int_t n = 0;
    json_t *stage, *all = rig_status(g);
    json_array_foreach(json_object_get(all, "stages"), i, stage)
    {
        const json_t *x = json_object_get(stage, key);
        n += json_integer_value(x ? x : json_object_get(json_object_get(stage, "kv"), key));
    }
    json_decref(all);
    return n;
}

static rig_job *ask(rig *g, const char *policy, const uint32_t *ids, uint32_t n)
{
    message m = rig_generate(NEW);
    m.submit.logprobs = 4;
    snprintf(m.submit.kv, sizeof m.submit.kv, "%s", policy ? "test" : "");
    snprintf(m.submit.kv_policy, sizeof m.submit.kv_policy, "%s", policy ? policy : "");
    return rig_submit(g, m, &(rig_input){ .ids = ids, .n = n });
}

/* Six jobs of two policies in turn (NULL: exact), the first `alike` tokens of all the same, without a budget and with one that two
 * of them overrun. In both so many rows go, and everybody's answer is the same to the last bit. */
static void crowd(const char *const policy[2], uint32_t alike, json_int_t evicted)
{
    rig_options o = { .model = support_root("models/sluice-tiny-Q8_0.gguf"), .use = widest(), .threads = 1, .stages = 2, .chunk = 64,
                      .ctx = 2048 };
    uint32_t ids[JOBS][N];
    uint64_t seed = support_seed();
    rig *g[2];
    rig_job *all[2][JOBS];
    json_int_t arena[2];
    for (uint32_t i = 0; i < JOBS * N; i++) ids[i / N][i % N] = (uint32_t)support_draw(seed, i % N < alike ? i % N : i, 4096);
    for (int k = 0; k < 2; k++) {
        o.kv_mem = k ? BUDGET_MB : 0;   /* a stage: 585 rows of 7 layers, so one job of 316 at a time beside shared blocks */
        g[k] = rig_open(&o);
        for (uint32_t i = 0; i < JOBS; i++) all[k][i] = ask(g[k], policy[i % 2], ids[i], N);
        rig_wait_all(g[k]);
        arena[k] = summed(g[k], "kv_arena");
        json_int_t went = summed(g[k], "evicted_rows");
        cr_expect_eq(went, evicted, "%lld rows went, not %lld", (long long)went, (long long)evicted);
    }
    for (uint32_t i = 0; i < JOBS; i++) {
        cr_expect_eq(all[1][i]->choice[0].n_tok, NEW, "job %u: %s", i, all[1][i]->fail.text);
        cr_expect(rig_same_choice(&all[1][i]->choice[0], &all[0][i]->choice[0], "with little room"), "job %u", i);
    }
    cr_expect(arena[0] > 2 * (BUDGET_MB << 20) && arena[1] <= 2 * (BUDGET_MB << 20), "%lld and %lld bytes", (long long)arena[0],
              (long long)arena[1]);
    for (int k = 0; k < 2; k++) rig_close(&g[k]);
}

Test(kv_room, jobs_wait_for_room_and_their_answers_do_not_change) { crowd((const char *const[2]){ NULL, NULL }, 0, 0); }

/* Prompts that begin alike, a quarter of the rows kept, those in 4 bits. */
Test(kv_room, jobs_under_a_policy_wait_too)
{
    static const char packs[] = "[keep]\nscore=keydiff\nshare=0.25\nsinks=4\nwindow=16\n[format]\nk=kivi4\nv=kivi4\n";
    crowd((const char *const[2]){ packs, packs }, 128, (json_int_t)JOBS * (N - N / 4) * HEADS * LAYERS);
}

/* CRITIC's budget: 300 rows are 14.6 % of the context, so r = 0.5 + 0.5 * 0.146 of them go; the exact jobs beside lose none. */
Test(kv_room, jobs_shrink_under_pressure_and_those_beside_them_keep_all)
{
    static const char shrinks[] = "[keep]\nscore=critic\nbudget=pressure\nshare=0.5\nalpha=0.5\ntau=0.75\nsinks=4\nwindow=16\n"
                                  "queries=8\n";
    json_int_t kept = (json_int_t)((1 - (0.5 + 0.5 * N / 2048)) * N);
    crowd((const char *const[2]){ shrinks, NULL }, 0, JOBS / 2 * (N - kept) * HEADS * LAYERS);
}

/* One that cannot ever fit fails alone, and says why. */
Test(kv_room, a_job_that_never_fits_fails_alone)
{
    rig_options o = { .model = support_root("models/sluice-tiny-Q8_0.gguf"), .use = widest(), .threads = 1, .stages = 1,
                      .chunk = 64, .kv_mem = 1 };
    static uint32_t ids[400];
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < 400; i++) ids[i] = (uint32_t)support_draw(seed, i, 4096);
    rig *g = rig_open(&o);
    rig_job *small = ask(g, NULL, ids, 50), *large = ask(g, NULL, ids, 400), *after = ask(g, NULL, ids, 50);
    rig_wait_all(g);
    cr_expect_eq(small->choice[0].n_tok, NEW, "%s", small->fail.text);
    cr_expect_eq(after->choice[0].n_tok, NEW, "%s", after->fail.text);
    cr_expect_eq(large->choice[0].end.code, ERR_FULL, "%d", (int)large->choice[0].end.code);
    cr_expect(rig_same_choice(&after->choice[0], &small->choice[0], "after it"));
    rig_close(&g);
}
