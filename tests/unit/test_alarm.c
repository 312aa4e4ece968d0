/* Alarms see what they are for, and are quiet where there is nothing. */
#include "core/alarm.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

TestSuite(alarm, .timeout = 30);

static double noise(uint64_t seed, uint64_t i) { return (double)support_draw(seed, i, 2001) / 1000 - 1; }

Test(alarm, nothing_is_said_of_too_few_tokens)
{
    alarm_series a = { 0 };
    for (uint32_t i = 0; i + 1 < ALARM_NEAR; i++) alarm_push(&a, 9, 0, i);
    cr_expect(alarm_score(&a, ALARM_ENTROPY) == -INFINITY && alarm_score(&a, ALARM_MARGIN) == -INFINITY && alarm_score(&a, ALARM_CSD) == -INFINITY);
    alarm_push(&a, 1, 3, 9);
    cr_expect_float_eq(alarm_score(&a, ALARM_ENTROPY), 8, 1e-6);
    cr_expect_float_eq(alarm_score(&a, ALARM_MARGIN), -3.0 / 8, 1e-6);
    cr_expect_eq(alarm_score(&a, ALARM_LOOP), 0);
}

Test(alarm, a_loop_is_counted_from_its_third_time_on)
{
    for (uint32_t period = 1; period <= 16; period++) {
        alarm_series a = { 0 };
        for (uint32_t i = 0; i < 30; i++) alarm_push(&a, 1, 1, 1000 + i);
        for (uint32_t i = 0; i < 3 * period; i++) {
            double score = alarm_score(&a, ALARM_LOOP);
            cr_expect(score < 2 * period, "period %u, %u tokens: %g", period, i, score);
            alarm_push(&a, 1, 1, i % period);
        }
        cr_expect_eq(alarm_score(&a, ALARM_LOOP), 2 * period, "period %u", period);
    }
}

/* x(t+1) = k x(t) + noise: as k goes to 1 it recovers more and more slowly, and its variance and memory rise. */
Test(alarm, slowing_down_is_seen_and_steady_noise_is_not)
{
    uint64_t seed = support_seed();
    uint32_t slow = 0, steady = 0, n = 200;
    for (uint64_t round = 0; round < n; round++) {
        alarm_series a = { 0 }, b = { 0 };
        double x = 0, y = 0;
        for (uint64_t i = 0; i < ALARM_SEEN; i++) {
            double e = noise(seed, round * 1000 + i);
            x = (0.0 + 0.97 * (double)i / ALARM_SEEN) * x + e;
            y = 0.2 * y + e;
            alarm_push(&a, (float)(5 + x), 1, (uint32_t)i);
            alarm_push(&b, (float)(5 + y), 1, (uint32_t)i);
        }
        slow += alarm_score(&a, ALARM_CSD) >= 0.5;
        steady += alarm_score(&b, ALARM_CSD) >= 0.5;
    }
    printf("# slowing down seen in %u of %u, in steady noise %u\n", slow, n, steady);
    cr_expect(slow > steady + n / 10, "%u against %u", slow, steady);
}
