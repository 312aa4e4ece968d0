/* How fast the matrix kernels are on one core: GB/s of weights for one row of x (beside a plain read loop, the most that
 * memory gives), and 10^9 multiply-adds times two per second for 64 rows. Prints a table; checks nothing. */
#include "core/rng.h"
#include "engine/kernels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_IN = 4096, T_MANY = 64, OUT_MANY = 512 };
static const size_t STREAM = (size_t)160 << 20;          /* larger than any last-level cache share */

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fputs("no memory\n", stderr);
        exit(1);
    }
    return p;
}

static act inputs(uint32_t T)
{
    size_t n = (size_t)T * N_IN;
    float *x = room(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_unit(1, i) - 0.5f;
    return (act){ N_IN, N_IN, x, room(n), room(n / 32 * sizeof(float)), room(n / 16 * sizeof(int16_t)) };
}

static mat weights(wtype t, uint32_t n_out, uint8_t *bytes)
{
    return (mat){ t, n_out, N_IN, wtype_row_bytes(t, N_IN), bytes };
}

/* CPU seconds of this thread: what other processes take does not count, what they do to memory does. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best of a few runs, seconds. */
static double timed(const kernels *k, path_id p, const mat *w, const act *a, uint32_t T, float *y, int runs)
{
    double best = 1e9;
    for (int i = 0; i < runs; i++) {
        double at = now();
        kernels_matmul(k, p, w, a, T, y, w->n_out, 0, w->n_out);
        double s = now() - at;
        if (s < best) best = s;
    }
    return best;
}

/* GB/s of a loop that touches every cache line once. */
static double read_loop(const uint8_t *p, size_t n)
{
    double best = 1e9;
    volatile uint64_t keep = 0;
    for (int i = 0; i < 6; i++) {
        double at = now();
        uint64_t sum = 0, v;
        for (size_t k = 0; k + 64 <= n; k += 64) {
            memcpy(&v, p + k, sizeof v);
            sum += v;
        }
        keep += sum;
        double s = now() - at;
        if (s < best) best = s;
    }
    return (double)n / best * 1e-9;
}

static void bench_one(const kernels *k, path_id p, wtype t, uint8_t *bytes, const act *a, float *y, double loop)
{
    bool slow = k->isa == ISA_PLAIN;                     /* the reference gets fewer outputs: it is only a yardstick */
    size_t row = wtype_row_bytes(t, N_IN);
    mat few = weights(t, (uint32_t)((slow ? STREAM / 16 : STREAM) / row), bytes);
    mat many = weights(t, slow ? OUT_MANY / 8 : OUT_MANY, bytes);
    k->quantize(a, 0, T_MANY);
    double gb = (double)(row * few.n_out) * 1e-9 / timed(k, p, &few, a, 1, y, slow ? 1 : 6);
    double gops = 2e-9 * many.n_out * N_IN * T_MANY / timed(k, p, &many, a, T_MANY, y, slow ? 1 : 6);
    double few_gops = 2e-9 * many.n_out * N_IN * 4 / timed(k, p, &many, a, 4, y, slow ? 1 : 6);
    printf("%-6s %-6s %-6s %9.2f %8.0f%% %10.1f %10.1f\n", k->name, path_name(p), wtypes[t].name, gb, 100 * gb / loop,
           few_gops, gops);
}

int main(void)
{
    uint8_t *bytes = room(STREAM);
    memset(bytes, 0x11, STREAM);
    act a = inputs(T_MANY);
    float *y = room(STREAM / 64 * sizeof *y);
    double loop = read_loop(bytes, STREAM);
    printf("read loop: %.2f GB/s\n%-6s %-6s %-6s %9s %9s %10s %10s\n", loop, "isa", "path", "type", "T=1 GB/s", "of loop",
           "T=4 GOPS", "T=64 GOPS");
    for (isa i = 0; i < ISA_COUNT; i++)
        for (wtype t = 0; isa_supported() >> i & 1 && t < WTYPE_COUNT; t++)
            bench_one(kernels_for(i), PATH_I8B32, t, bytes, &a, y, loop);
    return 0;
}
