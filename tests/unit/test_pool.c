/* core/pool.h: everyone runs, everyone meets, and an idle team costs nothing. */
#include "core/pool.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

static pool *team(uint32_t n)
{
    pool *p;
    err e = { 0 };
    cr_assert_eq(pool_open(&p, n, NULL, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pool_threads(p), n);
    return p;
}

typedef struct { uint32_t ran[16], n; } roll;

static void mark(void *arg, uint32_t tid, uint32_t n)
{
    roll *r = arg;
    r->ran[tid]++;                                   /* one writer a slot: a second one would be a race under TSan */
    if (tid == 0) r->n = n;
}

Test(pool, every_member_runs_once_a_run)
{
    for (uint32_t n = 1; n <= 8; n++) {
        pool *p = team(n);
        roll r = { 0 };
        for (uint32_t i = 1; i <= 300; i++) {
            pool_run(p, mark, &r);
            for (uint32_t t = 0; t < 16; t++) cr_assert_eq(r.ran[t], t < n ? i : 0);
            cr_assert_eq(r.n, n);
        }
        pool_close(&p);
        cr_assert_null(p);
    }
}

typedef struct { pool *p; uint32_t wrong[16]; uint64_t sum[2][16]; } relay;

/* Each round everyone writes its own slot, meets, and reads all slots: without the barrier a slot is old or new. */
static void pass_on(void *arg, uint32_t tid, uint32_t n)
{
    relay *r = arg;
    for (uint64_t round = 1; round <= 500; round++) {
        r->sum[round & 1][tid] = round;
        pool_barrier(r->p);
        for (uint32_t t = 0; t < n; t++) r->wrong[tid] += r->sum[round & 1][t] != round;
    }
}

Test(pool, what_is_written_before_a_barrier_is_read_after_it)
{
    for (uint32_t n = 1; n <= 5; n++) {
        relay r = { .p = team(n) };
        pool_run(r.p, pass_on, &r);
        pool_run(r.p, pass_on, &r);
        for (uint32_t t = 0; t < 16; t++) cr_assert_eq(r.wrong[t], 0, "member %u of %u", t, n);
        pool_close(&r.p);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Test(pool, an_idle_team_uses_no_cpu)
{
    pool *p = team(4);
    roll r = { 0 };
    pool_run(p, mark, &r);
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    double at = cpu_seconds();
    nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
    double used = cpu_seconds() - at;
    cr_assert(used < 0.02, "%g s of CPU in 0.2 s of rest", used);
    pool_run(p, mark, &r);                           /* and it wakes again */
    for (uint32_t t = 0; t < 4; t++) cr_assert_eq(r.ran[t], 2);
    pool_close(&p);
}

static _Atomic uint32_t bound;
static void bind_one(void *arg, uint32_t tid)
{
    cr_assert_eq(arg, &bound);
    atomic_fetch_add(&bound, 1u << tid);
}

static void nothing(void *arg, uint32_t tid, uint32_t n)
{
    (void)arg, (void)tid, (void)n;
}

Test(pool, bind_runs_on_the_new_threads_only)
{
    pool *p;
    err e;
    cr_assert_eq(pool_open(&p, 4, bind_one, &bound, &e), ERR_OK);
    pool_run(p, nothing, NULL);
    cr_assert_eq(atomic_load(&bound), 0xeu);
    pool_close(&p);
}

static void blocked(void *arg, uint32_t tid, uint32_t n)
{
    sigset_t s;
    (void)n;
    pthread_sigmask(SIG_BLOCK, NULL, &s);
    ((int *)arg)[tid] = sigismember(&s, SIGTERM);
}

Test(pool, signals_stay_with_the_caller)
{
    int is[3];
    pool *p = team(3);
    pool_run(p, blocked, is);
    cr_assert(!is[0] && is[1] && is[2]);
    pool_close(&p);
}

Test(pool, parts_cover_all_items_once_in_whole_grains)
{
    for (uint32_t n = 0; n < 200; n++)
        for (uint32_t threads = 1; threads < 9; threads++) {
            uint32_t at = 0, lo, hi;
            for (uint32_t t = 0; t < threads; t++) {
                pool_part(n, 8, t, threads, &lo, &hi);
                cr_assert_eq(lo, at);
                cr_assert(hi >= lo && hi <= n && (lo % 8 == 0 || lo == n));
                at = hi;
            }
            cr_assert_eq(at, n);
        }
    uint32_t lo, hi;
    pool_part(UINT32_MAX, 8, 255, 256, &lo, &hi);
    cr_assert_eq(hi, UINT32_MAX);
    cr_assert(lo < hi);
}

Test(pool, silly_team_sizes_are_refused)
{
    pool *p;
    err e = { 0 };
    cr_assert_eq(pool_open(&p, 0, NULL, NULL, &e), ERR_CONFIG);
    cr_assert_eq(pool_open(&p, 257, NULL, NULL, &e), ERR_CONFIG);
    cr_assert_not_null(strstr(e.text, "257"));
    cr_assert_null(p);
    pool_close(&p);
}
