/* What meeting costs a team of threads: nanoseconds a barrier, and a whole pool_run around an empty function, for teams up to
 * twice the cpus (there nobody may spin). Prints a table; checks nothing. */
#include "core/clock.h"
#include "core/pool.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MEETINGS = 20000, RUNS = 5 };

typedef struct { pool *p; int meetings; } work;

static void meet(void *arg, uint32_t tid, uint32_t n)
{
    const work *w = arg;
    (void)tid;
    (void)n;
    for (int i = 0; i < w->meetings; i++) pool_barrier(w->p);
}

/* Best of a few: what others on the machine do must not count. */
static double best(pool *p, int meetings, int calls)
{
    double ns = 1e18;
    work w = { p, meetings };
    for (int r = 0; r < RUNS; r++) {
        uint64_t t = clock_ns();
        for (int i = 0; i < calls; i++) pool_run(p, meet, &w);
        double took = (double)(clock_ns() - t) / calls;
        if (took < ns) ns = took;
    }
    return ns;
}

int main(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    printf("%-8s %12s %12s\n", "threads", "barrier ns", "run ns");
    for (uint32_t n = 1; n <= 2 * (uint32_t)cpus; n *= 2) {
        err e;
        pool *p;
        if (pool_open(&p, n, NULL, NULL, &e)) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
        double run = best(p, 0, 2000), all = best(p, MEETINGS / (n > (uint32_t)cpus ? 20 : 1), 1);
        printf("%-8u %12.0f %12.0f\n", n, (all - run) / (MEETINGS / (n > (uint32_t)cpus ? 20 : 1)), run);
        pool_close(&p);
    }
    return 0;
}
