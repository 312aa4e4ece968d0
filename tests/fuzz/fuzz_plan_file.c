/* Any bytes as a plan that a coordinator is given. What is taken can be split for any number of stages, without holes.
 * Parser: coordinator/plan_file.c coordinator/costs.c */
#include "coordinator/plan_file.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static const char digest[] = "0123456789abcdef0123456789abcdef";

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    costs c = { .D = 8, .cpus = 2, .L = 4, .n_rows = 2, .rows = { 1, 64 }, .n_teams = 1, .hop_us = 1, .kv_row_bytes = 16 };
    memcpy(c.digest, digest, sizeof c.digest);
    c.team[0].threads = c.team[0].crowd = 1;
    cost_line line = { .n = 2, .at = { 1, 10 } };
    c.team[0].layer = c.team[0].head = c.team[0].layer_crowded = c.team[0].head_crowded = line;
    for (uint32_t l = 0; l < c.L; l++) c.layer_bytes[l] = 100 + l * pick % 7, c.weight[l] = 1;
    uint32_t cut = 1 + pick % 3;
    json_t *stages = json_pack("[{s:i,s:i},{s:i,s:i}]", "first", 0, "last", (int)cut, "first", (int)cut, "last", 4);
    json_t *o = json_pack("{s:o,s:o}", "costs", costs_json(&c), "stages", stages);
    char *s = o ? json_dumps(o, JSON_COMPACT) : NULL;
    size_t n = s ? strlen(s) : 0;
    if (n > max) n = 0;
    if (n) memcpy(out, s, n);
    free(s);
    json_decref(o);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

/* Whatever is asked of a table that was taken has an answer. */
static void ask(const costs *c)
{
    static const double rows[] = { 0, 0.5, 1, 2, 17.5, 64, 4096, 1e6 };
    for (uint32_t threads = 1; threads <= 8; threads *= 2) {
        const cost_team *t = cost_team_of(c, threads);
        const cost_line *line[] = { &t->layer, &t->head, &t->layer_crowded, &t->head_crowded };
        for (size_t i = 0; i < sizeof line / sizeof *line; i++)
            for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
                if (!(cost_at(c, line[i], rows[k]) >= 0)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static plan_file p;
    plan_part part[512];
    err e = { 0 };
    err_code rc = plan_file_read(&p, kit_file(0, data, size), digest, &e);
    kit_said(rc, &e);
    if (rc) return 0;
    costs again;
    ask(&p.costs);
    json_t *said = costs_json(&p.costs);
    kit_must(costs_read(&again, said, &e), &e); /* what is taken is written as something that is taken */
    json_decref(said);
    if (p.costs.L > MODEL_MAX_LAYERS || !p.n || p.n > 512) abort();
    for (uint32_t n = 1; n <= p.costs.L && n < 6; n++) {
        kit_must(plan_file_split(&p, n, part, &e), &e);
        for (uint32_t i = 0; i < n; i++)
            if (part[i].first > part[i].last || part[i].first != (i ? part[i - 1].last : 0)) abort();
        if (part[n - 1].last != p.costs.L) abort();
    }
    return 0;
}
