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

/* ---- under a policy: what is kept is less, and the status says how it is kept --------------------------------------------------- */

typedef struct { json_int_t channel, token, evicted, reused; } seen;

/* The most of each that any stage ever said. */
static void look(rig *g, seen *s)
{
    size_t i;
    json_t *stage, *all = rig_status(g);
    json_array_foreach(json_object_get(all, "stages"), i, stage)
    {
        const json_t *room = json_object_get(stage, "kv"), *packed = json_object_get(room, "packed");
        json_int_t now[] = { json_integer_value(json_object_get(packed, "channel")), json_integer_value(json_object_get(packed, "token")),
                             json_integer_value(json_object_get(room, "evicted_rows")), json_integer_value(json_object_get(room, "prefix_rows")) };
        json_int_t *most[] = { &s->channel, &s->token, &s->evicted, &s->reused };
        for (size_t k = 0; k < 4; k++) *most[k] = now[k] > *most[k] ? now[k] : *most[k];
    }
    json_decref(all);
}

static bool all_seen(const seen *s) { return s->channel && s->token && s->evicted && s->reused; }

/* Prompts that begin alike, a quarter of the rows kept, those in 4 bits. Jobs go on coming until the status was caught with one that
 * has settled: how long that takes is the machine's. */
Test(kv_room, jobs_under_a_policy_wait_too_and_the_status_says_what_was_kept)
{
    char path[256];
    snprintf(path, sizeof path, "%s/room.ini", support_tmpdir());
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs("[keep]\nscore=keydiff\nshare=0.25\nsinks=4\nwindow=16\n[format]\nk=kivi4\nv=kivi4\n", f) >= 0 && !fclose(f));
    rig_options o = { .model = support_root("models/sluice-tiny-Q8_0.gguf"), .use = widest(), .threads = 1, .stages = 2, .chunk = 64, .kv = path };
    uint32_t ids[JOBS][N];
    uint64_t seed = support_seed();
    rig_job *want[JOBS], *got[JOBS];
    seen s = { 0 };
    for (uint32_t i = 0; i < JOBS * N; i++) ids[i / N][i % N] = (uint32_t)support_draw(seed, i % N < 128 ? i % N : i, 4096);
    rig *wide = rig_open(&o);
    for (uint32_t i = 0; i < JOBS; i++) want[i] = rig_submit(wide, rig_generate(NEW), &(rig_input){ .ids = ids[i], .n = N });
    rig_wait_all(wide);
    o.kv_mem = 2;
    rig *narrow = rig_open(&o);
    for (uint32_t i = 0; i < JOBS; i++) got[i] = rig_submit(narrow, rig_generate(NEW), &(rig_input){ .ids = ids[i], .n = N });
    rig_wait_all(narrow);
    for (uint32_t i = 0; i < JOBS; i++) {
        cr_expect_eq(got[i]->choice[0].n_tok, NEW, "job %u: %s", i, got[i]->fail.text);
        cr_expect(rig_same_choice(&got[i]->choice[0], &want[i]->choice[0], "with little room"), "job %u", i);
    }
    for (uint32_t i = 0; i < 100 && !all_seen(&s); i++) {
        rig_job *j = rig_submit(narrow, rig_generate(200), &(rig_input){ .ids = ids[i % JOBS], .n = N });
        while (!j->over && !all_seen(&s)) look(narrow, &s);
        rig_wait(narrow, j);
    }
    cr_expect(all_seen(&s), "channel %lld, token %lld bytes; %lld rows evicted, %lld reused", (long long)s.channel, (long long)s.token,
              (long long)s.evicted, (long long)s.reused);
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
