#ifndef CORE_POOL_H
#define CORE_POOL_H
/* A fixed team of threads that runs one function at a time, all together (SPMD), with a cheap barrier inside it.
 * The caller is member 0. Waiting spins briefly, then sleeps in the kernel (futex), so that an idle team uses no CPU
 * and two teams may share a core. With one thread nothing waits. */
#include "core/err.h"
#include <stdint.h>
typedef struct pool pool;
typedef void pool_fn(void *arg, uint32_t tid, uint32_t n_threads);

/* bind(bind_arg, tid) runs first on every new thread (tid 1..n-1); may be NULL. 1 <= n_threads <= 256. */
err_code pool_open(pool **out, uint32_t n_threads, void (*bind)(void *, uint32_t), void *bind_arg, err *e);
void pool_close(pool **p);
uint32_t pool_threads(const pool *p);
/* Run fn on every member; returns when all have returned. Only the thread that opened the pool calls this. */
void pool_run(pool *p, pool_fn *fn, void *arg);
/* Inside fn: all members meet here. */
void pool_barrier(pool *p);
/* Member `tid`'s part [*lo, *hi) of n items in multiples of `grain`. */
void pool_part(uint32_t n, uint32_t grain, uint32_t tid, uint32_t n_threads, uint32_t *lo, uint32_t *hi);
#endif
