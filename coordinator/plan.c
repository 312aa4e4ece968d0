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

/* best[s][l]: smallest possible cost of the dearest of the first s stages when they hold the first l layers */
typedef struct { double *best; uint32_t *from; uint32_t L; } table;
static double *best_at(table *t, uint32_t s, uint32_t l) { return &t->best[s * (t->L + 1) + l]; }
static uint32_t *from_at(table *t, uint32_t s, uint32_t l) { return &t->from[s * (t->L + 1) + l]; }

static void fill(table *t, const double *cost, double head_cost, uint32_t n_stages)
{
    for (uint32_t l = 0; l <= t->L; l++) *best_at(t, 0, l) = l ? 1e300 : 0;
    for (uint32_t s = 1; s <= n_stages; s++)
        for (uint32_t l = s; l <= t->L; l++) {
            double sum = s == n_stages ? head_cost : 0, top = 1e300;
            for (uint32_t from = l; from-- > s - 1;) { /* the stage holds [from, l) */
                sum += cost[from];
                double worst = *best_at(t, s - 1, from) > sum ? *best_at(t, s - 1, from) : sum;
                if (worst < top) top = worst, *from_at(t, s, l) = from;
            }
            *best_at(t, s, l) = top;
        }
}

err_code plan_split(const double *cost, uint32_t n_layers, double head_cost, uint32_t n_stages, plan_part *out, err *e)
{
    if (!n_stages || n_stages > n_layers)
        return err_set(e, ERR_CONFIG, "%u stages for a model of %u layers: want 1 to %u", n_stages, n_layers, n_layers);
    size_t cells = (size_t)(n_stages + 1) * (n_layers + 1);
    table t = { calloc(cells, sizeof(double)), calloc(cells, sizeof(uint32_t)), n_layers };
    err_code rc = t.best && t.from ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a plan of %u stages", n_stages);
    if (!rc) {
        fill(&t, cost, head_cost, n_stages);
        for (uint32_t s = n_stages, l = n_layers; s > 0; s--) {
            out[s - 1] = (plan_part){ *from_at(&t, s, l), l, s == 1, s == n_stages };
            l = out[s - 1].first;
        }
    }
    free(t.best);
    free(t.from);
    return rc;
}
