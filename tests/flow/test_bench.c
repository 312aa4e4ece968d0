#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <string.h>

/* `sluice bench` on the bundled model: every shape measures what it says and leaves nothing behind. No figure is judged. */

#define SECONDS 120
TestSuite(bench, .init = programs_begin, .timeout = 600);

static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

static json_t *measured(const char *const argv[])
{
    ran r = program_run(0, SECONDS, NULL, argv);
    json_t *o = ran_json(&r);
    cr_assert(o);
    cr_expect_str_eq(json_string_at(o, "schema"), "sluice.bench/1");
    static const char *const head[] = { "machine", "isa", "path", "revision", "digest" };
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        cr_expect(*json_string_value(json_object_get(json_object_get(o, "about"), head[i])), "%s", head[i]);
    return o;
}

Test(bench, prompts_and_tokens_are_measured_at_a_depth_too)
{
    json_t *o = measured(SLUICE("bench", "--stages", "2", "-p", "32", "-n", "8", "-d", "0,16", "-r", "2", "--json")), *row;
    const char *const want[] = { "pp32", "tg8", "pp32 @ d16", "tg8 @ d16" };
    size_t i;
    cr_assert_eq(json_array_size(json_object_get(o, "rows")), 4);
    json_array_foreach(json_object_get(o, "rows"), i, row) {
        cr_expect_str_eq(json_string_value(json_object_get(row, "test")), want[i]);
        cr_expect(number(row, "t/s") >= (i == 2 ? 0 : 1e-3), "%s", want[i]); /* a difference may be lost in noise */
    }
    cr_expect_eq(json_number_at(o, "about.stages"), 2);
    json_decref(o);
    cr_expect(programs_gone(10));
}

Test(bench, a_context_of_random_rows_is_deep_at_once)
{
    json_t *o = measured(SLUICE("bench", "--stages", "2", "-p", "16", "-n", "8", "-d", "900", "--fill", "random", "--kv", "kivi2", "-r", "1", "--json"));
    cr_assert_eq(json_array_size(json_object_get(o, "rows")), 2);
    cr_expect_gt(json_number_at(o, "rows.0.t/s"), 1e-3);
    cr_expect_gt(json_number_at(o, "rows.1.t/s"), 1e-3);
    json_decref(o);
    ran r = program_run(2, SECONDS, NULL, SLUICE("bench", "--stages", "1", "-p", "0", "-n", "8", "-d", "900", "--fill", "zeros", "-r", "1"));
    
    cr_expect(strstr(ran_errs(&r), "--fill random, not \"zeros\""), "%s", ran_errs(&r));
    cr_expect(programs_gone(10));
}

Test(bench, a_batch_has_the_columns_of_its_model)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("bench", "batch", "--stages", "1", "-p", "16", "-n", "4", "-b", "1,3", "-o", "csv"));
    const char *table = strstr(ran_out(&r), "PP,TG,B,N_KV,T_PP s,S_PP t/s,T_TG s,S_TG t/s,T s,S t/s\n");
    cr_assert(table, "%s", ran_out(&r));
    cr_expect(strstr(table, "\n16,4,1,20,") && strstr(table, "\n16,4,3,60,"), "%s", table);
    cr_expect(!strncmp(ran_out(&r), "# machine: ", 11), "%s", ran_out(&r));
    ran_free(&r);
    cr_expect(programs_gone(10));
}

static void serves(const char *rate)
{
    json_t *o = measured(SLUICE("bench", "serve", "--stages", "2", "-p", "8,16", "-n", "4", "--requests", "9", "--clients", "3", "--rate", rate, "--json"));
    cr_expect_eq(json_number_at(o, "more.summary.0.requests"), 9);
    cr_expect_eq(json_number_at(o, "more.summary.0.failed"), 0);
    cr_expect_eq(json_number_at(o, "rows.0.n"), 9, "a time to first token for each request");
    cr_expect_eq(json_number_at(o, "rows.1.n"), 9, "a time per token for each");
    cr_expect_eq(json_number_at(o, "rows.2.n"), 27, "three times between four tokens for each");
    cr_expect_eq(json_array_size(json_object_get(json_object_get(o, "more"), "stages")), 2);
    cr_expect_gt(json_number_at(o, "more.stages.1.rows"), 9);
    json_decref(o);
    cr_expect(programs_gone(10));
}

Test(bench, clients_are_served_in_a_closed_loop) { serves("0"); }
Test(bench, requests_are_served_at_a_rate) { serves("50"); }

Test(bench, the_footprint_counts_memory_and_idle_time)
{
    json_t *o = measured(SLUICE("bench", "footprint", "--stages", "2", "-p", "16", "-r", "1", "--idle", "0.3", "--json")), *row;
    size_t i;
    double pss = 0, weights = 0;
    cr_assert_eq(json_array_size(json_object_get(o, "rows")), 7);
    json_array_foreach(json_object_get(o, "rows"), i, row) {
        const char *what = json_string_value(json_object_get(row, "what"));
        if (!strncmp(what, "PSS of", 6)) pss = number(row, "value");
        if (!strcmp(what, "weights")) weights = number(row, "value");
    }
    cr_expect(weights > 10 && pss > weights, "PSS %g MB, weights %g MB", pss, weights);
    json_decref(o);
    cr_expect(programs_gone(10));
}

Test(bench, a_session_that_does_not_fit_is_refused)
{
    ran r = program_run(11, SECONDS, NULL, SLUICE("bench", "--stages", "1", "-p", "4000", "-n", "0", "-r", "1"));
    cr_expect(strstr(ran_errs(&r), "4001") && strstr(ran_errs(&r), "2048"), "%s", ran_errs(&r));
    ran_free(&r);
    r = program_run(2, SECONDS, NULL, SLUICE("bench", "bacth"));
    cr_expect(strstr(ran_errs(&r), "did you mean batch?"), "%s", ran_errs(&r));
    ran_free(&r);
}
