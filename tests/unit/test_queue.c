/* Who is next among the jobs that wait, and who is told to come back. */
#include "coordinator/queue.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MINUTE 60000000000u

typedef struct { job_list l; job_queue q; uint64_t id; } world;

static job *arrive(world *w, uint8_t client, uint64_t priority)
{
    job *j = calloc(1, sizeof *j);
    cr_assert_not_null(j);
    j->id = ++w->id;
    j->state = JOB_QUEUED;
    j->ask.priority = priority;
    j->client = (link_id){ .len = 1, .bytes = { client } };
    snprintf(j->owner, sizeof j->owner, "local");
    job_list_put(&w->l, j);
    queue_put(&w->q, j);
    return j;
}

static uint64_t start(world *w, uint64_t now)
{
    job *j = queue_next(&w->l, now, true);
    if (!j) return 0;
    queue_started(&w->q, &w->l, j, now);
    j->state = JOB_RUNNING;
    return j->id;
}

static void expect_order(world *w, const uint64_t want[], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t got = start(w, 0);
        cr_expect_eq(got, want[i], "place %zu: job %d instead of %d", i, (int)got, (int)want[i]);
    }
}

#define ORDER(w, ...) expect_order(w, (const uint64_t[]){ __VA_ARGS__ }, sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

Test(queue, one_client_is_served_in_order)
{
    world w = { 0 };
    for (int i = 0; i < 4; i++) arrive(&w, 'a', 5);
    ORDER(&w, 1, 2, 3, 4, 0);
    job_list_free(&w.l);
}

Test(queue, clients_take_turns_however_many_jobs_one_has)
{
    world w = { 0 };
    for (int i = 0; i < 6; i++) arrive(&w, 'a', 5);       /* 1-6 */
    for (int i = 0; i < 2; i++) arrive(&w, 'b', 5);       /* 7 8 */
    arrive(&w, 'c', 5);                                   /* 9 */
    ORDER(&w, 1, 7, 9, 2, 8, 3, 4, 5, 6);
    job_list_free(&w.l);
}

/* A client that opens a connection for each job gets a turn for each, but never two in front of the others. */
Test(queue, newcomers_do_not_hold_up_who_waited)
{
    world w = { 0 };
    for (int i = 0; i < 4; i++) arrive(&w, 'a', 5);       /* 1-4 */
    ORDER(&w, 1);
    arrive(&w, 'b', 5);                                   /* 5 */
    arrive(&w, 'c', 5);                                   /* 6 */
    ORDER(&w, 2, 5, 6, 3);
    arrive(&w, 'd', 5);                                   /* 7 */
    ORDER(&w, 4, 7);
    job_list_free(&w.l);
}

Test(queue, a_tenant_is_one_client_over_many_connections)
{
    world w = { 0 };
    for (int i = 0; i < 4; i++) arrive(&w, (uint8_t)('a' + i), 5)->ask.tenant = 3;
    arrive(&w, 'z', 5);
    ORDER(&w, 1, 5, 2, 3, 4);
    job_list_free(&w.l);
}

Test(queue, priority_goes_first_and_waiting_raises_it)
{
    world w = { 0 };
    arrive(&w, 'a', 0);
    arrive(&w, 'b', 5);
    arrive(&w, 'c', 9);
    ORDER(&w, 3, 2);
    job *late = arrive(&w, 'd', 5);
    late->t_submit = 6 * MINUTE;
    cr_expect_eq(start(&w, 6 * MINUTE), 1, "after six minutes 0 is more than a fresh 5");
    cr_expect_eq(start(&w, 6 * MINUTE), 4);
    job_list_free(&w.l);
}

Test(queue, jobs_that_want_retrieval_wait_for_it)
{
    world w = { 0 };
    arrive(&w, 'a', 5)->ask.rag = true;
    arrive(&w, 'a', 5);
    job *j = queue_next(&w.l, 0, false);
    cr_assert_not_null(j);
    cr_expect_eq(j->id, 2);
    cr_expect_eq(queue_next(&w.l, 0, true)->id, 1);
    job_list_free(&w.l);
}

Test(queue, a_full_one_says_when_to_come_back)
{
    world w = { 0 };
    err e;
    uint64_t ms;
    queue_limits max = { 8, 1 << 30 };
    job like = { .client = { .len = 1, .bytes = { 'x' } }, .owner = "local" }, other = { .client = { .len = 1, .bytes = { 'y' } }, .owner = "local" };
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 10, &ms, &e), ERR_OK);
        arrive(&w, 'x', 5);
    }
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 10, &ms, &e), ERR_FULL, "three quarters are one client's");
    cr_expect(strstr(e.text, "of this client"), "%s", e.text);
    cr_expect_geq(ms, 100);
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &other, 10, &ms, &e), ERR_OK, "others have room");
    arrive(&w, 'y', 5);
    arrive(&w, 'z', 5);
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &other, 10, &ms, &e), ERR_FULL);
    cr_expect(strstr(e.text, "busy: 8 jobs wait") && strstr(e.text, "retry after"), "%s", e.text);
    uint64_t now = 1;
    for (int i = 0; i < 3; i++) start(&w, now += 2000000000u); /* one in two seconds */
    while (w.l.n < 3 + 8) arrive(&w, (uint8_t)w.id, 5);
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &other, 10, &ms, &e), ERR_FULL);
    cr_expect(ms >= 1000 && ms <= 4000, "%d ms at one start in two seconds", (int)ms);
    cr_expect_eq(w.q.refused, 3);
    job_list_free(&w.l);
}

Test(queue, memory_is_a_limit_too_and_answers_nobody_reads_count)
{
    world w = { 0 };
    err e;
    uint64_t ms;
    queue_limits max = { 4, 1 << 20 };
    job like = { .client = { .len = 1, .bytes = { 'x' } }, .owner = "local" };
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 1 << 21, &ms, &e), ERR_OK, "one job may be as large as it likes");
    job *j = arrive(&w, 'a', 5);
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 1 << 21, &ms, &e), ERR_FULL);
    cr_expect(strstr(e.text, "--max-queue-mb"), "%s", e.text);
    j->state = JOB_DONE;
    j->acked = true;
    for (int i = 0; i < 3; i++) arrive(&w, (uint8_t)i, 5);
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 10, &ms, &e), ERR_OK);
    cr_assert_not_null(watch_add(&j->watch, &like.client, 0));
    cr_expect_eq(queue_admit(&w.q, &w.l, &max, &like, 10, &ms, &e), ERR_FULL);
    job_list_free(&w.l);
}
