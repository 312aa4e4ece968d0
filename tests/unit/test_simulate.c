#include "ops/cli/cluster_ini.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The simulation against sums that can be done by hand, and the reading of CLUSTER.ini. */

/* 4 layers of 1 ms alone, 1.5 ms in a full crowd of two, head 0.5 ms, whatever the rows; messages and turns take no time. */
static costs flat(void)
{
    costs c = { .L = 4, .D = 64, .cpus = 2, .n_rows = 2, .rows = { 1, 4096 }, .n_teams = 1 };
    c.team[0] = (cost_team){ 1, 2, { 2, { 1000, 1000 } }, { 2, { 500, 500 } }, { 2, { 1500, 1500 } }, { 2, { 750, 750 } } };
    for (uint32_t l = 0; l < 4; l++) c.weight[l] = 1, c.layer_bytes[l] = 100;
    return c;
}

/* n stages of equal layers, each on cores of its own on its own node. */
static sim_cluster line_of(const costs *c, uint32_t n)
{
    sim_cluster s = { .costs = c, .n = n };
    for (uint32_t i = 0; i < n; i++)
        s.stage[i] = (sim_stage){ .part = { 4 * i / n, 4 * (i + 1) / n, i == 0, i + 1 == n }, .node = i, .threads = 1, .speed = 1 };
    return s;
}

static sim_load load_of(uint32_t clients, uint32_t requests, uint32_t gen)
{
    return (sim_load){ .clients = clients, .requests = requests, .chunk = 64, .max_rows = 512, .prompt = { 8 }, .gen = { gen }, .n_prompt = 1, .n_gen = 1 };
}

static sim_result run(const sim_cluster *c, const sim_load *l)
{
    sim_result r;
    err e;
    cr_assert_eq(simulate(c, l, &r, &e), ERR_OK, "%s", e.text);
    return r;
}

static void near(double got, double want, const char *what) { cr_expect_lt(fabs(got - want), 1e-6 * want, "%s: %.9g, want %.9g", what, got, want); }

Test(simulate, one_session_alone_takes_the_sum_of_all_parts)
{
    costs c = flat();
    for (uint32_t n = 1; n <= 4; n *= 2) {
        sim_cluster s = line_of(&c, n);
        sim_load l = load_of(1, 1, 11);
        sim_result r = run(&s, &l);
        near(r.seconds, 11 * 4.5e-3, "eleven steps of four layers and the head");
        near(samples_mean(&r.ttft), 4.5, "the first of them");
        near(samples_mean(&r.itl), 4.5, "each of the others");
        cr_expect_eq(r.itl.n, 10);
        simulate_free(&r);
    }
}

Test(simulate, two_sessions_keep_two_stages_busy)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 2);
    sim_load l = load_of(2, 2, 200);
    sim_result r = run(&s, &l);
    cr_expect_lt(fabs(r.gen_s - 2 / 5e-3), 0.02 * r.gen_s, "%g: a round takes twice the slower stage, 2.5 ms", r.gen_s);
    cr_expect_gt(r.busy[1], 0.97);
    cr_expect_lt(fabs(r.busy[0] - 0.8), 0.02);
    simulate_free(&r);
}

Test(simulate, stages_that_share_a_core_share_its_time_and_neighbours_its_memory)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 2);
    sim_load l = load_of(2, 2, 200);
    s.stage[1].node = 0;                     /* one node, one group: nothing is gained over one stage */
    sim_result shared = run(&s, &l);
    cr_expect_lt(fabs(shared.gen_s - 1 / 4.5e-3), 0.02 * shared.gen_s, "%g", shared.gen_s);
    s.stage[1].group = 1;                    /* cores of their own, but they crowd each other's memory */
    sim_result crowded = run(&s, &l);
    cr_expect_gt(crowded.gen_s, 1.2 * shared.gen_s);
    cr_expect_lt(crowded.gen_s, 1.5 * shared.gen_s, "both at once would be 1.8 times as fast");
    simulate_free(&shared);
    simulate_free(&crowded);
}

Test(simulate, hops_take_their_latency_and_their_bytes)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 2);
    sim_load l = load_of(1, 1, 2);
    s.first_us = 100;
    s.stage[0].latency_us = 1000;
    s.stage[0].mb_us = 1000;
    c.turn_us = 10;
    c.turn_row_us = 5;
    sim_result r = run(&s, &l);
    near(samples_mean(&r.ttft), 4.5 + 0.1 + 1 + 8 * (40 + 40 + 256) * 1e-6, "prompt of eight rows");
    near(samples_mean(&r.itl), 4.5 + 0.1 + 1 + (40 + 40 + 256) * 1e-6 + 0.015, "a row, and the coordinator's turn");
    simulate_free(&r);
}

Test(simulate, a_long_prompt_does_not_hold_up_who_decodes)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 2);
    sim_load l = load_of(2, 2, 400);
    l.n_prompt = 2;
    l.prompt[0] = 8;
    l.prompt[1] = 64 * 40;
    l.rate = 100;                            /* the second one comes while the first decodes, or the other way round */
    l.seed = 3;
    sim_result r = run(&s, &l);
    cr_expect_lt(samples_quantile(&r.itl, 1), 4 * 4.5, "a token waits for a chunk or two and never for the prompt");
    simulate_free(&r);
}

Test(simulate, the_same_seed_gives_the_same_run_and_a_rate_is_kept)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 4);
    sim_load l = load_of(1, 400, 4);
    l.rate = 20;
    sim_result a = run(&s, &l), b = run(&s, &l);
    cr_expect(a.seconds == b.seconds && a.events == b.events);
    cr_expect_lt(fabs(a.req_s - 20), 3, "%g requests a second", a.req_s);
    l.seed = 1;
    sim_result other = run(&s, &l);
    cr_expect_neq(a.seconds, other.seconds);
    simulate_free(&a);
    simulate_free(&b);
    simulate_free(&other);
}

Test(simulate, a_load_that_never_ends_is_refused)
{
    costs c = flat();
    sim_cluster s = line_of(&c, 1);
    sim_result r;
    err e;
    const sim_load good = load_of(1, 1, 1);
    sim_load bad[5] = { good, good, good, good, good };
    bad[0].clients = 0;
    bad[1].requests = 0;
    bad[2].prompt[0] = 0;
    bad[3].gen[0] = 0;
    bad[4].chunk = 0;
    for (int i = 0; i < 5; i++) cr_expect_eq(simulate(&s, &bad[i], &r, &e), ERR_CONFIG, "%d", i);
    s.n = 0;
    cr_expect_eq(simulate(&s, &good, &r, &e), ERR_CONFIG);
}

/* ---- CLUSTER.ini -------------------------------------------------------------------------------------------------------- */

static err_code read_ini(const char *ini, cluster_spec *c, err *e)
{
    char path[200];
    snprintf(path, sizeof path, "%s/c.ini", support_tmpdir());
    cr_assert(support_write(path, ini, strlen(ini)));
    return cluster_spec_read(c, path, e);
}

Test(simulate, a_cluster_of_hundreds_of_nodes_is_read_split_and_run)
{
    cluster_spec c;
    err e;
    costs k = flat();
    static sim_cluster s;
    static plan_seat seat[SIM_STAGES_MAX];
    k.L = 400;
    for (uint32_t l = 0; l < 400; l++) k.weight[l] = 1, k.layer_bytes[l] = 100;
    cr_assert_eq(read_ini("[load]\nclients = 400\nrequests = 800\nprompt = 8,32\ngenerate = 16\n[link]\nlatency_us = 20\nbandwidth_mbs = 100\n"
                          "[node fast]\ncount = 100\nspeed = 2\nmemory_mb = 1\n[node slow]\ncount = 100\nstages = 2\nthreads = 1\ncores = 1\nlatency_us = 7\n", &c, &e),
                 ERR_OK, "%s", e.text);
    cr_assert_eq(cluster_spec_stages(&c, &k, 1, &s, seat, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(s.n, 300);
    cr_expect(s.stage[0].latency_us == 20 && s.stage[100].latency_us == 0 && s.stage[101].latency_us == 7 && s.stage[101].mb_us == 1e4);
    cr_expect(s.stage[100].node == s.stage[101].node && s.stage[100].group == s.stage[101].group, "two stages, one core");
    cr_expect(seat[0].speed == 2 && seat[0].memory == 1000000 && seat[100].speed == 0.5 && !seat[100].memory);
    double layer[MODEL_MAX_LAYERS], slowest;
    plan_part part[SIM_STAGES_MAX];
    plan_work w = cluster_spec_work(&k, 1, layer);
    cr_assert_eq(plan_seats(&w, seat, s.n, true, part, &slowest, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < s.n; i++) s.stage[i].part = part[i];
    sim_result r = run(&s, &c.load);
    cr_expect(r.gen_s > 0 && r.itl.n == 800 * 15);
    simulate_free(&r);
    cluster_spec_free(&c);
}

Test(simulate, what_is_wrong_in_a_cluster_file_is_named)
{
    static const struct { const char *ini, *says; } bad[] = {
        { "[load]\nclients = 1\n", "no [node NAME]" },       { "[nod a]\ncount = 1\n", "[nod a]" },
        { "[node a]\ncuont = 1\n", "cuont" },                { "[node a]\ncount = 0\n", "count = \"0\"" },
        { "[node a]\nspeed = -1\n", "speed = \"-1\"" },      { "[node a]\nspeed = 1x\n", "speed" },
        { "[load]\nprompt = 1,,2\n[node a]\ncount=1\n", "prompt" }, { "[link]\nlatency = 1\n", "latency" },
        { "[node a]\ncount = 1\n[node b]\ncount = 1\n[node a]\ncount = 1\n", "twice" }, { "[load]\ngenerate = 0\n", "generate" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cluster_spec c;
        err e;
        cr_expect_eq(read_ini(bad[i].ini, &c, &e), ERR_CONFIG, "%s", bad[i].ini);
        cr_expect(strstr(e.text, bad[i].says) && strstr(e.text, "c.ini"), "%s: %s", bad[i].says, e.text);
        cluster_spec_free(&c);
    }
}
