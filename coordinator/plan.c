#include "coordinator/plan.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

err_code plan_costs(const gguf *g, const model_shape *s, double *cost, double *head_cost, err *e)
{
    memset(cost, 0, s->L * sizeof *cost);
    *head_cost = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        unsigned l;
        if (sscanf(t->name, "blk.%u.", &l) == 1 && l < s->L) cost[l] += (double)t->bytes;
        else if (!strcmp(t->name, s->tied ? "token_embd.weight" : "output.weight")) *head_cost = (double)t->bytes;
    }
    for (uint32_t l = 0; l < s->L; l++)
        if (!(cost[l] > 0)) return err_set(e, ERR_MODEL, "%s: layer %u has no tensors", gguf_path(g), l);
    return ERR_OK;
}

/* best[s][l]: smallest possible time of the slowest of the first s seats when they hold the first l layers. from[s][l]: where
 * seat s begins then; l itself when it stays empty. */
typedef struct { const plan_work *w; const plan_seat *seat; double *best; uint32_t *from; } table;
#define NEVER 1e300

static size_t cell(const table *t, uint32_t s, uint32_t l) { return (size_t)s * (t->w->L + 1) + l; }

/* Seat s (from 1) ends at layer l: the best place for it to begin. */
static void fill_cell(table *t, uint32_t s, uint32_t l, bool all)
{
    const plan_work *w = t->w;
    const plan_seat *seat = &t->seat[s - 1];
    double sum = l == w->L ? w->head : 0, top = all ? NEVER : t->best[cell(t, s - 1, l)];
    uint64_t bytes = l == w->L ? w->head_bytes : 0;
    uint32_t at = l;
    for (uint32_t from = l; from-- > 0;) {
        sum += w->layer[from];
        if (w->layer_bytes) bytes += w->layer_bytes[from];
        if (seat->memory && bytes + (from ? 0 : w->embed_bytes) > seat->memory) break; /* more layers are no smaller */
        double own = (sum + (from ? 0 : w->embed)) / seat->speed + w->hop, before = t->best[cell(t, s - 1, from)];
        double worst = before > own ? before : own;
        if (worst < top) top = worst, at = from;
    }
    t->best[cell(t, s, l)] = top;
    t->from[cell(t, s, l)] = at;
}

static err_code trace_back(const table *t, uint32_t n, plan_part *out, err *e)
{
    uint32_t l = t->w->L;
    if (t->best[cell(t, n, l)] >= NEVER) return err_set(e, ERR_CONFIG, "%u layers do not fit into the memory of %u stages", l, n);
    for (uint32_t s = n; s > 0; s--) {
        uint32_t from = t->from[cell(t, s, l)];
        out[s - 1] = (plan_part){ from, l, from == 0 && l > 0, l == t->w->L && from < l };
        l = from;
    }
    return ERR_OK;
}

err_code plan_seats(const plan_work *w, const plan_seat *seat, uint32_t n, bool all, plan_part *out, double *slowest, err *e)
{
    if (!n || (all && n > w->L)) return err_set(e, ERR_CONFIG, "%u stages for a model of %u layers: want 1 to %u", n, w->L, w->L);
    size_t cells = (size_t)(n + 1) * (w->L + 1);
    table t = { w, seat, calloc(cells, sizeof(double)), calloc(cells, sizeof(uint32_t)) };
    err_code rc = t.best && t.from ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a plan of %u stages", n);
    for (uint32_t l = 1; !rc && l <= w->L; l++) t.best[cell(&t, 0, l)] = NEVER;
    for (uint32_t s = 1; !rc && s <= n; s++) {
        t.best[cell(&t, s, 0)] = all ? NEVER : 0;
        for (uint32_t l = 1; l <= w->L; l++) fill_cell(&t, s, l, all);
    }
    if (!rc) rc = trace_back(&t, n, out, e);
    if (!rc && slowest) *slowest = t.best[cell(&t, n, w->L)];
    free(t.best);
    free(t.from);
    return rc;
}

err_code plan_split(const double *cost, uint32_t n_layers, double head_cost, uint32_t n_stages, plan_part *out, err *e)
{
    const plan_work w = { .L = n_layers, .layer = cost, .head = head_cost };
    plan_seat *seat = calloc(n_stages + 1u, sizeof *seat);
    if (!seat) return err_set(e, ERR_NOMEM, "out of memory for a plan of %u stages", n_stages);
    for (uint32_t i = 0; i < n_stages; i++) seat[i].speed = 1;
    err_code rc = plan_seats(&w, seat, n_stages, true, out, NULL, e);
    free(seat);
    return rc;
}
