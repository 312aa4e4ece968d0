/* How fast the matrix kernels are: GB/s of weights for one row of x beside the roofline, which is measured here (the same
 * threads sum the same bytes), and 10^9 operations a second (two a multiply-add) for 4, 16, 64 and 512 rows. Packed weights
 * and those in file order on path i8b32, and packed ones on path bf16amx. Prints a table; checks nothing.
 *
 * Usage: bench_kernels [THREADS [TYPE...]]; without arguments all processors and all types. */
#include "core/pool.h"
#include "core/rng.h"
#include "engine/kernels.h"
#include "engine/packed.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_IN = 2048, T_MOST = 512, OUT_MANY = 1024, RUNS = 5 };
static const size_t STREAM = (size_t)192 << 20;          /* larger than any last-level cache share */
static const uint32_t row_counts[] = { 4, 8, 16, 64, 512 };
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

typedef struct {
    pool *team;
    const kernels *k;
    path_id path;
    mat w;
    act a;
    uint32_t T;
    float *y;
    uint64_t *sum;             /* [threads] */
    double *took;              /* [threads] CPU seconds */
    uint8_t *bytes;            /* [STREAM] */
    double loop;               /* bytes a second that the read loop reaches */
} rig;

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fputs("no memory\n", stderr);
        exit(1);
    }
    return memset(p, 0x11, bytes);
}

/* CPU seconds of this thread: what other processes take does not count, what they do to memory does. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void inputs(act *a)
{
    size_t n = (size_t)T_MOST * N_IN;
    float *x = room(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_unit(1, i) - 0.5f;
    *a = (act){ N_IN, N_IN, x, room(n), room(n / 32 * sizeof(float)), room(n / 16 * sizeof(int16_t)),
                room(n / 32 * sizeof(act_sums)), room(T_MOST * act_bytes_bf16(N_IN)) };
    kernels_for(ISA_PLAIN)->quantize(a, 0, T_MOST);
}

static void multiply(void *arg, uint32_t tid, uint32_t n)
{
    rig *r = arg;
    uint32_t lo, hi;
    double at = now();
    pool_part(r->w.n_out, KERNELS_GRAIN, tid, n, &lo, &hi);
    kernels_matmul(r->k, r->path, &r->w, &r->a, r->T, r->y, r->w.n_out, lo, hi);
    r->took[tid] = now() - at;
}

/* Touches every cache line once, which is as fast as memory goes. */
static void sum_bytes(void *arg, uint32_t tid, uint32_t n)
{
    rig *r = arg;
    size_t lo = STREAM / 256 * tid / n * 256, hi = STREAM / 256 * (tid + 1) / n * 256;
    uint64_t s[4] = { 0 }, v;
    double at = now();
    for (size_t i = lo; i < hi; i += 256)
        for (size_t j = 0; j < 4; j++) {
            memcpy(&v, r->bytes + i + 64 * j, sizeof v);
            s[j] += v;
        }
    r->sum[tid] = s[0] + s[1] + s[2] + s[3];
    r->took[tid] = now() - at;
}

/* Best of a few runs, seconds of the slowest thread. */
static double timed(rig *r, pool_fn *fn, int runs)
{
    double best = 1e9;
    for (int i = 0; i < runs; i++) {
        double s = 0;
        pool_run(r->team, fn, r);
        for (uint32_t j = 0; j < pool_threads(r->team); j++) s = r->took[j] > s ? r->took[j] : s;
        if (s < best) best = s;
    }
    return best;
}

/* The loop and the kernel take turns, so that what else the machine does meets both. */
static double share_of_loop(rig *r, double *gb)
{
    double kernel = 1e9, loop = 1e9;
    for (int i = 0; i < RUNS; i++) {
        double k = timed(r, multiply, 1), l = timed(r, sum_bytes, 1);
        if (k < kernel) kernel = k;
        if (l < loop) loop = l;
    }
    double rate = (double)r->w.row_bytes * r->w.n_out / kernel;
    *gb = rate * 1e-9;
    return rate / ((double)STREAM / loop);
}

static void bench_one(rig *r, const kernels *k, wtype t, path_id path, bool packed)
{
    bool slow = k->isa == ISA_PLAIN;                     /* the reference gets fewer outputs: it is only a yardstick */
    size_t row = wtype_row_bytes(t, N_IN), stream = slow ? STREAM / 32 : STREAM;
    uint32_t threads = pool_threads(r->team);
    double gb;
    r->k = k;
    r->path = path;
    if (path == PATH_BF16AMX) k->round_bf16(&r->a, 0, T_MOST);
    r->w = (mat){ t, (uint32_t)(stream / row) / 64 * 64, N_IN, row, r->bytes, packed };
    r->T = 1;
    double share = share_of_loop(r, &gb);
    printf("%-10s  %-6s  %-6s  %7.2f  %5.0f%%", k->name, path == PATH_BF16AMX ? "bf16" : packed ? "packed" : "file", wtypes[t].name, gb, 100 * share);
    r->w.n_out = slow ? OUT_MANY / 8 : OUT_MANY;
    for (int i = 0; i < ROW_COUNTS; i++) {
        r->T = slow && row_counts[i] > 64 ? 64 : row_counts[i];
        double s = timed(r, multiply, slow ? 1 : RUNS);
        printf("  %8.1f", 2e-9 * r->w.n_out * N_IN * r->T / s / threads);
    }
    putchar('\n');
    fflush(stdout);
}

static bool wanted(wtype t, int argc, char **argv)
{
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], wtypes[t].name)) return true;
    return argc <= 2;
}

int main(int argc, char **argv)
{
    err e;
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    rig r = { .bytes = room(STREAM), .y = room(sizeof(float) * T_MOST * (STREAM / 2 / N_IN)) };
    if (pool_open(&r.team, threads, NULL, NULL, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    r.sum = room(threads * sizeof *r.sum);
    r.took = room(threads * sizeof *r.took);
    inputs(&r.a);
    printf("%u threads, read loop %.2f GB/s; T=1: GB/s of weights and its share of the loop; else GOPS a thread\n", threads,
           (double)STREAM / timed(&r, sum_bytes, RUNS) * 1e-9);
    printf("%-10s  %-6s  %-6s  %7s  %6s  %8s  %8s  %8s  %8s  %8s\n", "isa", "layout", "type", "T=1", "loop", "T=4", "T=8",
           "T=16", "T=64", "T=512");
    for (isa i = 0; i < ISA_COUNT; i++)
        for (wtype t = 0; isa_supported() >> i & 1 && t < WTYPE_COUNT; t++) {
            for (int packed = 1; packed >= 0 && wanted(t, argc, argv); packed--) bench_one(&r, kernels_for(i), t, PATH_I8B32, packed);
            if (wanted(t, argc, argv) && wtypes[t].quant) bench_one(&r, kernels_for(i), t, PATH_BF16AMX, true); /* packed, on that path */
        }
    pool_close(&r.team);
    return 0;
}
