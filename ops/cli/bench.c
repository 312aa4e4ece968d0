#include "ops/cli/bench.h"
#include "ops/cli/command.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Owns the cluster and the load of a measurement, and the choice among its shapes. What is measured is theirs. */

err_code bench_list_read(bench_list *l, const char *given, const char *usual, const char *option, err *e)
{
    const char *at = given ? given : usual;
    for (l->n = 0; l->n < BENCH_LIST_MAX; at++) {
        char *end;
        unsigned long v = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : ULONG_MAX;
        if (v > 1u << 24 || (*end && *end != ',')) break;
        l->at[l->n++] = (uint32_t)v;
        if (!*end) return ERR_OK;
        at = end;
    }
    return err_set(e, ERR_USAGE, "%s wants at most %u numbers with commas between, not \"%.80s\"", option, BENCH_LIST_MAX, given ? given : usual);
}

err_code bench_open(bench *b, settings *s, const char *label, err *e)
{
    *b = (bench){ .s = s, .rows = json_array() };
    err_code rc = b->rows ? evaluation_open(&b->v, s, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (rc) return rc;
    json_int_t V = json_integer_value(json_object_get(json_object_get(b->v.status, "model"), "vocab"));
    if (V < 1) return err_set(e, ERR_PROTO, "the coordinator does not say how large the vocabulary is");
    load_open(&b->load, b->v.c, (uint32_t)V, s->seed);
    b->bar = progress_open(label);
    return ERR_OK;
}

err_code bench_close(bench *b, err_code rc, err *e)
{
    progress_close(&b->bar);
    load_close(&b->load);
    json_decref(b->rows);
    return evaluation_close(&b->v, rc, e);
}

void bench_step(bench *b) { progress_set(&b->bar, ++b->done, b->steps); }

err_code bench_fits(const bench *b, uint64_t rows, err *e)
{
    if (rows <= b->v.n_ctx) return ERR_OK;
    return err_set(e, ERR_INPUT, "a session of %llu tokens does not fit the context of %llu (--ctx)", (unsigned long long)rows,
                   (unsigned long long)b->v.n_ctx);
}

err_code bench_row(bench *b, json_t *row, err *e)
{
    return row && !json_array_append_new(b->rows, row) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

err_code cmd_bench(settings *s, err *e)
{
    static const char *const words[] = { "pp/tg", "batch", "serve", "footprint" };
    static err_code (*const run[])(settings *, err *) = { bench_single, bench_batch, bench_serve, bench_footprint };
    const char *w = s->args.n ? s->args.at[0] : "pp/tg";
    if (s->args.n > 1) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[1]);
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(w, words[i])) return run[i](s, e);
    const char *near = nearest_word(w, words, 4);
    return err_set(e, ERR_USAGE, "bench pp/tg, batch, serve or footprint, not \"%.60s\"%s%s%s", w, near ? " (did you mean " : "",
                   near ? near : "", near ? "?)" : "");
}
