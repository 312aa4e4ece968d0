#ifndef CLI_BENCH_H
#define CLI_BENCH_H
/* What the shapes of `sluice bench` share: a cluster, a load on it, and a table that says in its head what was measured
 * where. One thread. */
#include "ops/cli/evaluation.h"
#include "ops/cli/load.h"
#include "ops/cli/progress.h"

#define BENCH_LIST_MAX 64u
typedef struct { uint32_t at[BENCH_LIST_MAX]; size_t n; } bench_list;

typedef struct {
    settings *s;
    evaluation v;
    load load;
    progress bar;
    uint64_t steps, done;    /* of the progress bar */
    json_t *rows;            /* the table: objects with the same keys in the same order */
} bench;

/* "512,1024", or `usual` when the text is NULL. ERR_USAGE names the option. */
err_code bench_list_read(bench_list *l, const char *given, const char *usual, const char *option, err *e);
/* Cluster, client, load. bench_close in any case; rc comes back from there. */
err_code bench_open(bench *b, settings *s, const char *label, err *e);
err_code bench_close(bench *b, err_code rc, err *e);
/* One more of b->steps is done. */
void bench_step(bench *b);
/* ERR_INPUT when a session of so many rows does not fit the context. */
err_code bench_fits(const bench *b, uint64_t rows, err *e);
/* Add a row, whose reference is taken; NULL: out of memory. */
err_code bench_row(bench *b, json_t *row, err *e);
/* Head and table on stdout in the form of -o (or --json). Keys that end in "_sd" are shown behind the one before as
 * "mean ± sd" in md. `more`: an object whose values are further tables, by name; the reference is taken; or NULL. */
err_code bench_print(bench *b, json_t *more, err *e);

/* The chart of --plot, if one is wanted. */
err_code bench_draw(const bench *b, const json_t *about, err *e);

err_code bench_single(settings *s, err *e);
err_code bench_batch(settings *s, err *e);
err_code bench_serve(settings *s, err *e);
err_code bench_footprint(settings *s, err *e);
#endif
