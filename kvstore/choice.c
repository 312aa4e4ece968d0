#include "kvstore/choice.h"
#include "core/rng.h"
#include "kvstore/lossy.h"
#include <stdlib.h>
#include <string.h>

err_code choices_open(kv_choices **out, const kv_policy *p, err *e)
{
    kv_choices *c = *out = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory for the choices of KV policy %s", p->name);
    c->policy = *p;
    c->most = p->retrieve_rows;
    return ERR_OK;
}

void choices_close(kv_choices **c)
{
    if (!*c) return;
    free((*c)->total);
    free((*c)->row);
    free((*c)->n);
    free(*c);
    *c = NULL;
}

uint64_t choices_bytes(const kv_choices *c)
{
    return c ? sizeof *c + c->lane_cap * ((uint64_t)c->stride * sizeof *c->total + ((uint64_t)c->most + 1) * sizeof *c->row) : 0;
}

static err_code grow(kv_choices *c, uint32_t lanes, uint32_t stride, err *e)
{
    free(c->total);
    free(c->row);
    free(c->n);
    c->lane_cap = 0;
    c->total = malloc((size_t)lanes * stride * sizeof *c->total);
    c->row = malloc((size_t)lanes * c->most * sizeof *c->row);
    c->n = malloc(lanes * sizeof *c->n);
    if (!c->total || !c->row || !c->n) return err_set(e, ERR_NOMEM, "out of memory for what %u rows choose of %u", lanes, stride);
    c->lane_cap = lanes;
    c->stride = stride;
    return ERR_OK;
}

err_code choices_reserve(kv_choices *c, uint32_t lane0, uint32_t used, err *e)
{
    uint32_t lanes = used > lane0 ? used - lane0 : 0, stride = c->stride ? c->stride : 256;
    c->lanes = 0;
    while (stride < used) stride += stride / 2;
    if (lanes && (lanes > c->lane_cap || stride > c->stride) && grow(c, lanes, stride, e)) return e->code;
    c->lane0 = lane0;
    c->lanes = lanes;
    for (uint32_t i = 0; i < lanes; i++) {
        c->n[i] = 0;
        memset(c->total + (size_t)i * c->stride, 0, used * sizeof *c->total);
    }
    return ERR_OK;
}

const uint32_t *choices_of(const kv_choices *c, uint32_t slot, uint32_t *n)
{
    *n = choices_has(c, slot) ? c->n[slot - c->lane0] : 0;
    return *n ? c->row + (size_t)(slot - c->lane0) * c->most : NULL;
}

void choices_add(const kv_choices *c, uint32_t slot, const choice_weights *w)
{
    uint64_t *to = c->total + (size_t)(slot - c->lane0) * c->stride;
    for (uint32_t j = 0; j < w->n; j++) {
        uint64_t s = 0;
        for (uint32_t i = 0; i < w->g; i++) s += kv_fixed(w->x[i * w->ld + j] * w->inv[i]);
        __atomic_fetch_add(&to[j], s, __ATOMIC_RELAXED);
    }
}

/* ---- behind the door ------------------------------------------------------------------------------------------------ */

static kv_choices *choices_in(const kv_seq *q, uint32_t slot)
{
    kv_choices *c = q->lossy ? q->lossy->choices : NULL;
    return choices_has(c, slot) ? c : NULL;
}

static uint32_t seen_by(const kv_seq *q, uint32_t slot)
{
    cell_run r = cells_run(&q->cells, slot);
    return r.at + r.n;
}

/* What a choice by attention has to beat: anew for every row and layer that selects. Rows of a system segment come first, so that
 * an evaluation can name those that an answer needs; by then the prompt is committed. */
static void draw(const kv_seq *q, const kv_policy *p, uint32_t layer, uint32_t n, uint64_t *total)
{
    for (uint32_t j = 0; j < n; j++) {
        bool first = j < q->cells.committed && q->cells.row[j].segment == KV_SEGMENT_SYSTEM;
        total[j] = first ? UINT64_MAX : rng_u64(p->seed + layer, (uint64_t)n << 32 | j) >> 1;
    }
}

void kv_choose(kv_seq *q, uint32_t layer, uint32_t slot)
{
    kv_choices *c = choices_in(q, slot);
    if (!c || kv_role_of(&c->policy, layer, kv_model_layers(q->store)) != KV_LAYER_SELECTS) return;
    uint32_t i = slot - c->lane0, n = seen_by(q, slot);
    uint64_t *total = c->total + (size_t)i * c->stride;
    if (c->policy.retrieve == KV_RETRIEVE_RANDOM) draw(q, &c->policy, layer, n, total);
    kv_select_rows(&c->policy, total, n, c->row + (size_t)i * c->most, &c->n[i]);
    memset(total, 0, n * sizeof *total);
}

const uint32_t *kv_choice(const kv_seq *q, uint32_t slot, uint32_t *n) { return choices_of(choices_in(q, slot), slot, n); }

err_code kv_choice_set(kv_seq *q, uint32_t slot, const void *rows, size_t step, uint32_t n, err *e)
{
    kv_choices *c = choices_in(q, slot);
    const kv *s = q->store;
    if (!n && (!c || kv_role_of(&c->policy, s->g.first, kv_model_layers(s)) != KV_LAYER_SPARSE)) return ERR_OK;
    if (!c || !n || n > c->most) return err_set(e, ERR_INPUT, "%u rows were chosen, KV policy %s reads up to %u", n, c ? c->policy.name : "identity", c ? c->most : 0);
    uint32_t *to = c->row + (size_t)(slot - c->lane0) * c->most, seen = seen_by(q, slot);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&to[i], (const uint8_t *)rows + i * step, sizeof *to);
        if (to[i] >= seen || (i && to[i] <= to[i - 1]))
            return err_set(e, ERR_INPUT, "chosen row %u after %u, of %u rows", to[i], i ? to[i - 1] : 0, seen);
    }
    c->n[slot - c->lane0] = n;
    return ERR_OK;
}
