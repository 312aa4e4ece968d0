/* Buckets of tokens: how much at once, how fast afterwards, and what coming under many names brings. */
#include "core/rng.h"
#include "proto/pace.h"
#include <criterion/criterion.h>
#include <string.h>

#define S 1000000000ull

Test(rate, a_full_bucket_gives_its_burst_and_then_as_many_a_second_as_it_was_told)
{
    rate_limit l = rate_of(10, 4);
    uint64_t full = 0, wait, now = 5 * S;
    for (int i = 0; i < 40; i++) cr_assert(rate_take(&l, &full, 1, now, &wait), "token %d", i);
    cr_expect(!rate_take(&l, &full, 1, now, &wait));
    cr_expect_eq(wait, S / 10);
    cr_expect(!rate_take(&l, &full, 5, now, &wait), "five are not there either");
    cr_expect_eq(wait, S / 2);
    cr_expect(!rate_take(&l, &full, 1, now + S / 10 - 1, &wait));
    cr_expect(rate_take(&l, &full, 1, now + S / 10, &wait), "what was refused was not charged");
    int got = 0;
    for (uint64_t t = now + S / 10; t < now + 20 * S; t += S / 1000) got += rate_take(&l, &full, 1, t, &wait);
    cr_expect(got >= 197 && got <= 199, "%d in 19.9 s", got);
    cr_expect(rate_take(&l, &full, 40, now + 60 * S, &wait), "a rest fills the bucket again");
    cr_expect(!rate_take(&l, &full, 41, now + 600 * S, &wait), "more than a bucket holds never comes");
}

Test(rate, each_name_has_a_bucket_of_its_own)
{
    rate_table *t = rate_table_open(rate_of(1, 3));
    uint64_t wait;
    for (int i = 0; i < 3; i++) cr_assert(rate_table_take(t, "a", 1, 1, S, &wait));
    cr_expect(!rate_table_take(t, "a", 1, 1, S, &wait));
    cr_expect(rate_table_take(t, "b", 1, 3, S, &wait));
    cr_expect(!rate_table_take(t, "b", 1, 1, S, &wait));
    cr_expect(rate_table_take(t, "a", 1, 1, 2 * S, &wait));
    rate_table_close(&t);
}

/* 100,000 names in a second: those in debt beyond the table's places inherit debts, so all together get no more than its places' worth. */
Test(rate, coming_under_many_names_does_not_make_more_than_a_table_of_them)
{
    rate_table *t = rate_table_open(rate_of(1, 3));
    uint64_t wait, got = 0;
    for (uint32_t i = 0; i < 100000; i++)
        for (int k = 0; k < 3; k++) got += rate_table_take(t, &i, sizeof i, 1, S, &wait);
    cr_expect(got > 1000 && got <= 3 * 1024, "%lu", (unsigned long)got);
    cr_expect(rate_table_take(t, "late", 4, 1, 10 * S, &wait), "and somebody who comes later is served");
    rate_table_close(&t);
}

Test(rate, a_peer_is_its_key_or_its_address_and_this_host_is_nobody)
{
    pace *p = pace_open(1);
    uint32_t wait = 0;
    err e = { 0 };
    cr_expect_eq(pace_check(p, 7, "10.0.0.1", "x", 4, &wait, &e), ERR_OK);
    cr_expect_eq(pace_check(p, 7, "10.0.0.2", "x", 4, &wait, &e), ERR_FULL, "a key is one peer wherever it comes from");
    cr_expect(wait > 3000 && wait <= 4001, "%u ms", wait);
    cr_expect(strstr(e.text, "more than 1 frames a second at x, retry after"), "%s", e.text);
    cr_expect_eq(pace_check(p, 8, "10.0.0.1", "x", 4, &wait, &e), ERR_OK);
    cr_expect_eq(pace_check(p, 0, "10.0.0.1", "x", 4, &wait, &e), ERR_OK);
    cr_expect_eq(pace_check(p, 0, "10.0.0.1", "x", 4, &wait, &e), ERR_FULL);
    for (int i = 0; i < 100; i++) cr_expect_eq(pace_check(p, 0, "localhost:0:0:17", "x", 4, &wait, &e), ERR_OK);
    cr_expect_eq(pace_check(p, 0, NULL, "x", 4, &wait, &e), ERR_OK);
    cr_expect_eq(pace_refused(p), 2);
    pace_close(&p);
}
