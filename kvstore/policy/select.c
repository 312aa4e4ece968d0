/* From scores and quotas to a keep list, and which tier a kept row goes to. Changes no row. */
#include "kvstore/policy/steps.h"
#include <math.h>

uint32_t held_count(const uint8_t *held, uint32_t n)
{
    uint32_t c = 0;
    for (uint32_t i = 0; i < n; i++) c += held[i];
    return c;
}

void hold_newest(const kv_head_view *v, uint32_t n, uint8_t *held)
{
    for (uint32_t i = v->n; i-- && n;)
        if (v->weight[i] == 1) held[i] = 1, n--;
}

static uint32_t take_best(const float *s, uint8_t *held, uint32_t n, uint32_t room)
{
    uint32_t took = 0;
    top_cut cut = top_find(s, held, n, room);
    for (uint32_t i = 0; i < n; i++)
        if (!held[i] && top_takes(&cut, s[i])) held[i] = 1, took++;
    return took;
}

/* CriticalKV, arXiv:2502.03805: half of the room by score alone, the rest by score * |v|_1. Variant: the paper takes |W_o v|_1,
 * but the cache has no weights. */
static void take_two_stage(const kv_work *w, const kv_head_view *v, const float *s, uint8_t *held, uint32_t room)
{
    room -= take_best(s, held, v->n, room / 2);
    for (uint32_t i = 0; i < v->n; i++) {
        float norm = 0;
        for (uint32_t c = 0; c < v->d; c++) norm += fabsf(v->v[(size_t)i * v->d + c]);
        w->tmp[i] = s[i] * norm;
    }
    take_best(w->tmp, held, v->n, room);
}

/* With a second tier nothing is evicted: what does not fit goes there (ZipVL, first version). */
static void write_keep(const kv_work *w, const kv_head_view *v, const uint8_t *held, kv_keep *out)
{
    bool tiers = w->view->policy->k2.kind != KV_PACK_RAW || w->view->policy->v2.kind != KV_PACK_RAW;
    out->n_keep = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        out->tier[i] = !held[i];
        if (held[i] || tiers) out->keep[out->n_keep++] = i;
    }
}

void kv_select_head(const kv_work *w, uint32_t h, kv_keep *out)
{
    const kv_head_view *v = &w->view->head[h];
    uint8_t *held = work_held(w, h);
    uint32_t already = held_count(held, v->n), room = w->quota[h] > already ? w->quota[h] - already : 0;
    if (room > v->n - already) room = v->n - already;
    if (w->view->policy->select == KV_SELECT_TWO_STAGE) take_two_stage(w, v, work_score(w, h), held, room);
    else take_best(work_score(w, h), held, v->n, room);
    write_keep(w, v, held, out);
}
