/* Prompts that begin alike: the second one begins with the first one's rows, and nothing else changes. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>

TestSuite(prefix, .timeout = 300);

static isa widest(void)
{
    isa i;
    err e;
    cr_assert_eq(isa_pick(&i, &e), ERR_OK, "%s", e.text);
    return i;
}

enum { N = 210, NEW = 12 };

static rig_job *ask(rig *g, const uint32_t *ids, uint32_t n, const char *policy)
{
    message s = rig_generate(NEW);
    kv_policy p;
    err e;
    s.submit.logprobs = 8;
    if (policy) {
        cr_assert_eq(kv_policy_parse(&p, policy, strlen(policy), "test", &e), ERR_OK, "%s", e.text);
        snprintf(s.submit.kv, sizeof s.submit.kv, "test");
        kv_policy_print(&p, s.submit.kv_policy);
    }
    rig_job *j = rig_submit(g, s, &(rig_input){ .ids = ids, .n = n });
    rig_wait(g, j);
    cr_assert_eq(j->choice[0].n_tok, NEW, "%s", j->fail.text);
    return j;
}

static void expect(rig_job *got, rig_job *want, uint64_t cached, const char *what)
{
    cr_expect(rig_same_choice(&got->choice[0], &want->choice[0], what), "%s", what);
    cr_expect_eq(got->choice[0].end.cached, cached, "%s: %u rows", what, (unsigned)got->choice[0].end.cached);
}

Test(prefix, the_second_prompt_begins_with_the_rows_of_the_first)
{
    static const char packs[] = "[format]\nk=kivi4\nv=kivi4\n", looks[] = "[keep]\nscore=h2o\nrows=64\nwindow=8\n";
    rig_options o = { .model = support_root("models/sluice-tiny-Q8_0.gguf"), .use = widest(), .threads = 1, .stages = 3, .chunk = 50 };
    rig *g = rig_open(&o), *alone = rig_open(&o);
    uint32_t a[N], b[N];
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < N; i++) a[i] = b[i] = (uint32_t)support_draw(seed, i, 4096);
    for (uint32_t i = 140; i < N; i++) b[i] = (a[i] + 7) % 4096;
    rig_job *first = ask(g, a, N, NULL), *other = ask(alone, b, N, NULL);
    cr_expect_eq(first->choice[0].end.cached, 0);
    expect(ask(g, a, N, NULL), first, 192, "the same prompt");
    expect(ask(g, b, N, NULL), other, 128, "a prompt that differs from its 140th token on");
    expect(ask(g, b, N, NULL), other, 192, "that one again");
    cr_expect_eq(ask(g, a, 64, NULL)->choice[0].end.cached, 0, "the last row of a prompt is computed");
    cr_expect_eq(ask(g, a, 65, NULL)->choice[0].end.cached, 64);
    expect(ask(g, a, N, looks), ask(alone, a, N, looks), 0, "a policy that has to see its rows computed");
    expect(ask(g, a, N, packs), ask(alone, a, N, packs), 192, "a policy that packs exact rows");
    rig_close(&alone);
    rig_close(&g);
}
