#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <string.h>

/* `sluice plan` as people use it: costs are measured and kept in a file, a cluster takes the split, a simulation needs no
 * model. No figure is judged. */

#define SECONDS 120
TestSuite(plan_cli, .init = programs_begin, .timeout = 600);

static char file[200];

static json_t *planned(void)
{
    snprintf(file, sizeof file, "%s", programs_file("plan.json"));
    ran r = program_run(0, SECONDS, NULL, SLUICE("plan", "-m", support_root("models/sluice-tiny-aux-Q8_0.gguf"), "--stages", "3", "-t", "1", "-o", file, "--json"));
    json_t *o = ran_json(&r);
    cr_assert(o);
    return o;
}

Test(plan_cli, a_cluster_takes_the_split_of_a_plan)
{
    json_t *o = planned();
    standing c;
    cr_expect_eq(json_array_size(json_object_get(o, "stages")), 3);
    cr_expect_eq(json_array_size(json_object_get(o, "choices")), 3);
    cr_assert(standing_up(&c, "planned", (const char *const[]){ "-m", support_root("models/sluice-tiny-aux-Q8_0.gguf"), "--stages", "3", "--plan", file, NULL }));
    for (int i = 0; i < 3; i++) {
        char at[40];
        snprintf(at, sizeof at, "stages.%d.first", i);
        cr_expect_eq(json_number_at(c.status, at), json_number_at(o, at), "%s", at);
    }
    cr_expect(standing_down(&c));
    ran r = program_run(5, SECONDS, NULL, SLUICE("up", "--dir", programs_file("other"), "--stages", "3", "--plan", file));
    cr_expect(strstr(ran_errs(&r), "is for model"), "%s", ran_errs(&r));
    ran_free(&r);
    json_decref(o);
}

Test(plan_cli, a_simulation_needs_costs_and_no_model)
{
    json_decref(planned());
    const char *ini = programs_file("cluster.ini"), *words = "[load]\nclients = 8\nrequests = 16\nprompt = 32\ngenerate = 8\n[node a]\ncount = 2\n";
    cr_assert(support_write(ini, words, strlen(words)));
    ran r = program_run(0, SECONDS, NULL, SLUICE("plan", "--costs", file, "--simulate", ini, "--json"));
    json_t *o = ran_json(&r);
    cr_assert(o);
    cr_expect_gt(json_number_value(json_object_get(json_object_get(o, "simulated"), "output t/s")), 0);
    cr_expect_eq(json_array_size(json_object_get(json_object_get(o, "simulated"), "busy")), 2);
    json_decref(o);
    r = program_run(0, SECONDS, NULL, SLUICE("plan", "--costs", file, "--simulate", ini));
    cr_expect(strstr(ran_out(&r), "simulated (not measured)"), "%s", ran_out(&r));
    ran_free(&r);
    r = program_run(0, SECONDS, NULL, SLUICE("plan", "--costs", file, "--nodes", ini));
    cr_expect(strstr(ran_out(&r), "predictions from costs"), "%s", ran_out(&r));
    ran_free(&r);
}
