/* What a hop costs beyond compute: a STEP with one decode row goes to another process and on to us, as between stages, which
 * look at a message, copy its row out, and lend a row to the next message. Half of the way round is one hop, microseconds.
 * Prints a table; checks nothing. */
#include "core/clock.h"
#include "ops/cli/samples.h"
#include "proto/link.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARM = 200, ROUNDS = 3000, WAIT_MS = 10000, LOANS = 3 };

typedef struct { const char *name, *there, *back; uint32_t dim, rows, spin_us; } way;

static void must(err_code rc, const err *e)
{
    if (!rc) return;
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

typedef struct { link_t *in, *out; loan *lent[LOANS]; step_row rows[512]; packet p; float *h; } end;

/* What a stage does between two messages, the layers aside. */
static void pass(end *d, const way *w, uint64_t step)
{
    err e;
    const hop_rec hops[2] = { { 0 }, { 1 } };
    message m = msg_init(MSG_STEP);
    m.step = (msg_step){ .epoch = 1, .step = step, .n_rows = w->rows, .n_hops = 2, .n_hidden = w->rows, .dim = w->dim, .top = 64 };
    loan *l = d->lent[0], *lent[MSG_FRAMES_MAX] = { 0 };
    for (int i = 1; i < LOANS && !loan_is_back(l); i++) l = d->lent[i];
    float *h = loan_is_back(l) ? loan_data(l) : d->h;
    size_t bytes = (size_t)w->rows * w->dim * 4;
    lent[STEP_HIDDEN] = h == d->h ? NULL : l;
    if (d->p.n_frames) memcpy(h, d->p.frame[STEP_HIDDEN].ptr, bytes);
    const view f[MSG_FRAMES_MAX] = { [STEP_ROWS] = { d->rows, w->rows * sizeof *d->rows }, [STEP_HOPS] = { hops, sizeof hops },
                                     [STEP_HIDDEN] = { h, bytes } };
    packet_done(&d->p);
    must(link_send_lent(d->out, NULL, &m, f, lent, WAIT_MS, &e), &e);
}

static void take(end *d, const way *w)
{
    err e;
    bool ready = false;
    while (!ready) must(link_poll(&d->in, 1, &ready, WAIT_MS, w->spin_us, &e), &e);
    must(link_recv(d->in, &d->p, 0, &e), &e);
}

static void end_open(end *d, hub *h, const char *in, const char *out, const way *w)
{
    err e;
    *d = (end){ .h = calloc((size_t)w->rows * w->dim, 4) };
    for (int i = 0; i < LOANS; i++) d->lent[i] = loan_new((size_t)w->rows * w->dim * 4);
    must(link_bind(&d->in, h, LINK_PULL, LINK_DATA, in, &e), &e);
    must(link_connect(&d->out, h, LINK_PUSH, LINK_DATA, out, &e), &e);
}

/* The other process: it ends when we do. */
static _Noreturn void echo(const way *w)
{
    err e;
    hub *h;
    end *d = malloc(sizeof *d);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    must(hub_open(&h, &e), &e);
    end_open(d, h, w->there, w->back, w);
    for (uint64_t i = 0;; i++) {
        take(d, w);
        pass(d, w, d->p.head.step.step);
    }
}

static void measure(const way *w)
{
    err e;
    hub *h;
    end *d = malloc(sizeof *d);
    samples us = { 0 };
    pid_t pid = fork();
    if (!pid) echo(w);
    must(hub_open(&h, &e), &e);
    end_open(d, h, w->back, w->there, w);
    for (uint64_t i = 1; i <= WARM + ROUNDS; i++) {
        uint64_t t = clock_ns();
        pass(d, w, i);
        take(d, w);
        if (i > WARM) samples_add(&us, (double)(clock_ns() - t) / 2000);
    }
    printf("%-5s %6u %6u %8u %10.1f %10.1f %10.1f\n", w->name, w->rows, w->dim, w->spin_us, samples_quantile(&us, 0.5),
           samples_quantile(&us, 0.9), samples_quantile(&us, 0.99));
    fflush(stdout);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    packet_done(&d->p);
    link_close(&d->in);
    link_close(&d->out);
    hub_close(&h);
    samples_free(&us);
    for (int i = 0; i < LOANS; i++) loan_drop(d->lent[i]);
    free(d->h);
    free(d);
}

int main(void)
{
    char dir[] = "/tmp/hopXXXXXX", a[64], b[64], ta[64], tb[64];
    if (!mkdtemp(dir)) return 1;
    snprintf(a, sizeof a, "ipc://%s/a", dir);
    snprintf(b, sizeof b, "ipc://%s/b", dir);
    unsigned port = 20000 + (unsigned)getpid() % 20000;
    snprintf(ta, sizeof ta, "tcp://127.0.0.1:%u", port);
    snprintf(tb, sizeof tb, "tcp://127.0.0.1:%u", port + 1);
    printf("%-5s %6s %6s %8s %10s %10s %10s\n", "hop", "rows", "dim", "spin us", "p50 us", "p90 us", "p99 us");
    const uint32_t rows[] = { 1, 16, 512 };
    for (int r = 0; r < 3; r++)
        for (uint32_t spin = 0; spin <= 30; spin += 30) {
            measure(&(way){ "ipc", a, b, 2048, rows[r], spin });
            measure(&(way){ "tcp", ta, tb, 2048, rows[r], spin });
        }
    unlink(a + 6);
    unlink(b + 6);
    return rmdir(dir) != 0;
}
