/* The thread team of core/pool.h: one kind of gate (a number that only goes up, with sleepers behind it) serves both
 * "work is here" and the barrier. Starts no thread later than pool_open and allocates nothing later either. */
#include "core/pool.h"
#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    MAX_THREADS = 256,
    SPIN = 2000,         /* pauses before sleeping: a few tens of microseconds, about what a futex round trip costs */
    LINE = 64,           /* the gates and the arrival count are written by all: a cache line each */
};

typedef struct {
    _Alignas(LINE) _Atomic uint32_t value;      /* the futex word */
    _Atomic uint32_t sleepers;
} gate;

typedef struct { pool *p; uint32_t tid; pthread_t thread; } member;

struct pool {
    gate work;                                  /* goes up by one a pool_run */
    gate met;                                   /* goes up by one a barrier */
    _Alignas(LINE) _Atomic uint32_t arrived;    /* at the barrier under way */
    _Alignas(LINE) pool_fn *fn;                 /* written before `work` goes up, read after */
    void *arg;
    bool stop;
    uint32_t n, spin;
    void (*bind)(void *, uint32_t);
    void *bind_arg;
    member *members;                            /* [n]; 0 is the caller */
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Sleepers count themselves before they look again, the opener raises the value before it looks for sleepers; both
 * sequentially consistent, so one of the two sees the other. */
static void gate_open(gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers)) futex(&g->value, FUTEX_WAKE, INT32_MAX);
}

static void gate_wait(gate *g, uint32_t old, uint32_t spin)
{
    for (uint32_t i = 0; i < spin; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
        cpu_relax();
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old) futex(&g->value, FUTEX_WAIT, old);
    atomic_fetch_sub(&g->sleepers, 1);
}

void pool_barrier(pool *p)
{
    if (p->n == 1) return;
    uint32_t old = atomic_load_explicit(&p->met.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 < p->n) {
        gate_wait(&p->met, old, p->spin);
        return;
    }
    atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
    gate_open(&p->met);
}

static void *member_main(void *arg)
{
    member *m = arg;
    pool *p = m->p;
    if (p->bind) p->bind(p->bind_arg, m->tid);
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&p->work, seen, p->spin);
        if (p->stop) return NULL;
        p->fn(p->arg, m->tid, p->n);
        pool_barrier(p);
    }
}

/* Spinning only helps when every member has a CPU to itself. */
static uint32_t spin_for(uint32_t n)
{
    cpu_set_t set;
    long have = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    return have >= (long)n ? SPIN : 0;
}

/* Signals are for the thread that opened the pool: members start with all of them blocked. */
static err_code members_start(pool *p, uint32_t *started, err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (*started = 1; *started < p->n; ++*started) {
        member *m = &p->members[*started];
        *m = (member){ .p = p, .tid = *started };
        rc = pthread_create(&m->thread, NULL, member_main, m);
        if (rc) break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) return err_set(e, ERR_FULL, "thread %u of %u does not start: %s", *started, p->n, strerror(rc));
    return ERR_OK;
}

static void pool_end(pool *p, uint32_t started)
{
    p->stop = true;
    gate_open(&p->work);
    for (uint32_t i = 1; i < started; i++) pthread_join(p->members[i].thread, NULL);
    free(p->members);
    free(p);
}

err_code pool_open(pool **out, uint32_t n_threads, void (*bind)(void *, uint32_t), void *bind_arg, err *e)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return err_set(e, ERR_CONFIG, "%u threads: a team has 1 to %d", n_threads, MAX_THREADS);
    pool *p = aligned_alloc(LINE, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "no memory for a thread team");
    *p = (pool){ .n = n_threads, .spin = spin_for(n_threads), .bind = bind, .bind_arg = bind_arg };
    p->members = calloc(n_threads, sizeof *p->members);
    uint32_t started = 1;
    err_code c = p->members ? members_start(p, &started, e) : err_set(e, ERR_NOMEM, "no memory for a thread team");
    if (c) {
        pool_end(p, started);
        return c;
    }
    *out = p;
    return ERR_OK;
}

void pool_close(pool **p)
{
    if (!*p) return;
    pool_end(*p, (*p)->n);
    *p = NULL;
}

uint32_t pool_threads(const pool *p)
{
    return p->n;
}

void pool_run(pool *p, pool_fn *fn, void *arg)
{
    if (p->n > 1) {
        p->fn = fn;
        p->arg = arg;
        gate_open(&p->work);
    }
    fn(arg, 0, p->n);
    pool_barrier(p);
}

void pool_part(uint32_t n, uint32_t grain, uint32_t tid, uint32_t n_threads, uint32_t *lo, uint32_t *hi)
{
    assert(grain > 0 && tid < n_threads);
    uint64_t units = n / grain + (n % grain != 0);
    uint64_t a = units * tid / n_threads * grain, b = units * (tid + 1) / n_threads * grain;
    *lo = (uint32_t)(a < n ? a : n);
    *hi = (uint32_t)(b < n ? b : n);
}
