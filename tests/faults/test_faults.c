/* The fault rig, small: the driver of `make faults` with few blows, so that it and what it finds are part of every test run. */
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(faults, .timeout = 1500);

/* Under a sanitizer everything takes longer: fewer blows say as much. */
static void run_rig(unsigned events, unsigned jobs)
{
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)support_seed());
    setenv("SEED", seed, 1);
    snprintf(seed, sizeof seed, "%u", events);
    setenv("EVENTS", seed, 1);
    snprintf(seed, sizeof seed, "%u", jobs);
    setenv("JOBS", seed, 1);
    ran r = program_run(0, 300, NULL, (const char *const[]){ support_bin("tests/faults/faults"), NULL });
    const char *last = strstr(ran_out(&r), "FAULTS seed");
    printf("# %s", last ? last : "FAULTS: no verdict\n");
    if (r.status) printf("%s", ran_out(&r));
    cr_assert_eq(r.status, 0);
    cr_expect_not_null(last);
    ran_free(&r);
}

Test(faults, blows_of_every_kind_change_no_answer_and_leave_nothing_behind)
{
    if (programs_patience() > 1) run_rig(10, 30);
    else run_rig(25, 60);
}
