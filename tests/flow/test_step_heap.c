#include "tests/flow/rig_low.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A decode step allocates nothing: once a stage has seen a few decode steps, nothing of ours in it calls the heap, from the message
 * that comes in to the one that goes out. The linker gives this binary its own malloc, calloc, realloc, aligned_alloc and
 * free (Makefile); calls inside libraries (libzmq has a block for each message) are not counted. The tables of a session's rows double when
 * they are full, and the KV arena grows by slabs: both are a matter of the session's length and not of the step, and the rows
 * that are counted here lie between two doublings. */

TestSuite(step_heap, .timeout = 120);

enum { WARM = 130, COUNTED = 120, SESSIONS = 3 };   /* 128 and 256 rows are where tables double */

static _Thread_local bool own;      /* the test's thread makes messages by hand: not counted */
static atomic_bool armed;
static atomic_uint calls;

static void count(void)
{
    if (!own && atomic_load(&armed)) atomic_fetch_add(&calls, 1);
}

#define WRAP(ret, name, params, args)  \
    ret __real_##name params;          \
    ret __wrap_##name params;          \
    ret __wrap_##name params           \
    {                                  \
        count();                       \
        return __real_##name args;     \
    }
WRAP(void *, malloc, (size_t n), (n))
WRAP(void *, calloc, (size_t n, size_t size), (n, size))
WRAP(void *, realloc, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, (size_t a, size_t n), (a, n))
WRAP(void, free, (void *p), (p))

static void decode(low_rig *r, uint32_t row)
{
    low_step s = low_begin(r);
    for (uint64_t id = 1; id <= SESSIONS; id++) {
        if (row) low_op(&s, OP_COMMIT, id, row - 1, 0);
        low_row(&s, id, row, row, MSG_NO_ROW, (row * 7 + (uint32_t)id) % r->V)->want = WANT_CANDIDATES;
    }
    low_send(r, &s);
    cr_assert_eq(low_result(r, &s)->n_rows, SESSIONS);
    for (uint32_t i = 0; i < SESSIONS; i++) cr_assert_eq(low_result_row(r, i).status, 0);
}

/* Session `id` leaves out layer `masked` from row id x 50 on, the first two of them at a row of the warm part. */
static void leave_out(low_rig *r, uint32_t masked)
{
    low_step s = low_begin(r);
    for (uint64_t id = 1; id < SESSIONS; id++)
        for (uint64_t half = 0; half < 2; half++) low_op(&s, OP_SKIP, id, (uint32_t)id * 50, 2 * masked + half);
    low_send(r, &s);
    low_result(r, &s);
}

static void steps_on(uint32_t stages, uint32_t masked)
{
    low_rig r;
    own = true;
    low_open(&r, support_root("models/sluice-tiny-aux-Q8_0.gguf"), stages, isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN, 256);
    for (uint64_t id = 1; id <= SESSIONS; id++) low_session(&r, id);
    uint32_t row = 0;
    if (masked) leave_out(&r, masked);
    for (; row < WARM; row++) decode(&r, row);
    atomic_store(&armed, true);
    for (; row < WARM + COUNTED; row++) decode(&r, row);
    atomic_store(&armed, false);
    cr_expect_eq(atomic_load(&calls), 0, "%u calls of the heap in %u steps on %u stages", atomic_load(&calls), COUNTED, stages);
    for (uint64_t id = 1; id <= SESSIONS; id++) low_drop(&r, id);
    low_close(&r);
}

Test(step_heap, decoding_calls_it_never_on_one_stage) { steps_on(1, 0); }
Test(step_heap, nor_on_two) { steps_on(2, 0); }
Test(step_heap, nor_where_sessions_leave_out_layers) { steps_on(2, 2); }

static void *from_another_thread(void *arg)
{
    text_add(arg, "x", 1);
    text_free(arg);
    return NULL;
}

Test(step_heap, the_counter_counts)
{
    pthread_t t;
    text x = { 0 };
    atomic_store(&armed, true);
    cr_assert_eq(pthread_create(&t, NULL, from_another_thread, &x), 0);
    pthread_join(t, NULL);
    atomic_store(&armed, false);
    cr_expect_eq(atomic_load(&calls), 2);
}
