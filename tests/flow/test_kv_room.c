/* A KV budget that is smaller than the load: jobs wait for each other, nobody fails, nobody's answer changes. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>

TestSuite(kv_room, .timeout = 300);

static isa widest(void)
{
    isa i;
    err e;
    cr_assert_eq(isa_pick(&i, &e), ERR_OK, "%s", e.text);
    return i;
}

enum { JOBS = 6, N = 300, NEW = 16 };

Test(kv_room, jobs_wait_for_room_and_their_answers_do_not_change)
{
    rig_options o = { .model = support_root("models/sluice-tiny-Q8_0.gguf"), .use = widest(), .threads = 1, .stages = 2, .chunk = 64 };
    uint32_t ids[JOBS][N];
    uint64_t seed = support_seed();
    rig_job *want[JOBS], *got[JOBS];
    for (uint32_t i = 0; i < JOBS * N; i++) ids[i / N][i % N] = (uint32_t)support_draw(seed, i, 4096);
    rig *wide = rig_open(&o);
    for (uint32_t i = 0; i < JOBS; i++) want[i] = rig_submit(wide, rig_generate(NEW), &(rig_input){ .ids = ids[i], .n = N });
    rig_wait_all(wide);
    o.kv_mem = 2;           /* MB a stage: 585 rows of 7 layers, so one job of 316 at a time beside shared blocks */
    rig *narrow = rig_open(&o);
    for (uint32_t i = 0; i < JOBS; i++) got[i] = rig_submit(narrow, rig_generate(NEW), &(rig_input){ .ids = ids[i], .n = N });
    rig_wait_all(narrow);
    for (uint32_t i = 0; i < JOBS; i++) {
        cr_expect_eq(got[i]->choice[0].n_tok, NEW, "job %u: %s", i, got[i]->fail.text);
        cr_expect(rig_same_choice(&got[i]->choice[0], &want[i]->choice[0], "with little room"), "job %u", i);
    }
    rig_close(&narrow);
    rig_close(&wide);
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
    rig_job *small = rig_submit(g, rig_generate(NEW), &(rig_input){ .ids = ids, .n = 50 });
    rig_job *large = rig_submit(g, rig_generate(NEW), &(rig_input){ .ids = ids, .n = 400 });
    rig_job *after = rig_submit(g, rig_generate(NEW), &(rig_input){ .ids = ids, .n = 50 });
    rig_wait_all(g);
    cr_expect_eq(small->choice[0].n_tok, NEW, "%s", small->fail.text);
    cr_expect_eq(after->choice[0].n_tok, NEW, "%s", after->fail.text);
    cr_expect_eq(large->choice[0].end.code, ERR_FULL, "%d", (int)large->choice[0].end.code);
    cr_expect(rig_same_choice(&after->choice[0], &small->choice[0], "after it"));
    rig_close(&g);
}
