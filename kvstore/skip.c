#include "kvstore/skip.h"
#include "kvstore/lossy.h"
#include <stdlib.h>
#include <string.h>

static bool skips_any(const uint32_t *from, uint32_t n)
{
    for (uint32_t l = 0; l < n; l++)
        if (from[l] != UINT32_MAX) return true;
    return false;
}

static void fill(kv_skips *k, const uint32_t *from)
{
    memcpy(k->from, from, k->n * sizeof *from);
    k->active = 0;
    for (uint32_t l = 0; l < k->n; l++) k->active += from[l] > 0;
}

err_code skips_open(kv_seq *q, const uint32_t *from, err *e)
{
    uint32_t n = kv_model_layers(q->store), here = kv_layers(q->store);
    if (!skips_any(from, n)) return ERR_OK;
    kv_skips *k = calloc(1, sizeof *k + n * sizeof *from + 2 * (size_t)here);
    if (!k) return err_set(e, ERR_NOMEM, "out of memory for the layers that a sequence leaves out");
    k->n = n;
    k->off = (uint8_t *)(k->from + n);
    k->gone = k->off + here;
    fill(k, from);
    q->skips = k;
    return ERR_OK;
}

void skips_close(kv_seq *q)
{
    free(q->skips);
    q->skips = NULL;
}

err_code skips_fork(kv_seq *child, const kv_seq *q, err *e)
{
    if (!q->skips) return ERR_OK;
    err_code rc = skips_open(child, q->skips->from, e);
    if (!rc && child->skips) memcpy(child->skips->gone, q->skips->gone, kv_layers(q->store));
    return rc;
}

uint64_t skips_bytes(const kv_seq *q)
{
    return q->skips ? sizeof *q->skips + q->skips->n * sizeof *q->skips->from + 2 * (uint64_t)kv_layers(q->store) : 0;
}

static uint32_t from_of(const kv_seq *q, uint32_t layer) { return q->skips ? q->skips->from[layer] : UINT32_MAX; }

const uint8_t *skips_off(const kv_seq *q, uint32_t row)
{
    const kv *s = q->store;
    if (!q->skips) return NULL;
    for (uint32_t l = s->g.first; l < s->g.last; l++) q->skips->off[l - s->g.first] = from_of(q, l) <= row;
    return q->skips->off;
}

bool skips_absent(const kv_seq *q, uint32_t layer)
{
    return q->skips && (!q->skips->from[layer] || q->skips->gone[layer - q->store->g.first]);
}

void skips_release(kv_seq *q, uint32_t row)
{
    kv *s = q->store;
    for (uint32_t l = s->g.first; q->skips && l < s->g.last; l++) {
        uint8_t *gone = &q->skips->gone[l - s->g.first];
        if (*gone || !from_of(q, l) || from_of(q, l) > row) continue;
        table_drop_layer(&q->table, &s->pages, l - s->g.first);
        for (uint32_t k = 0; q->lossy && k < s->g.K; k++) shelf_free(q, shelf_of(q, l, k));
        *gone = 1;
    }
}

err_code skips_truncate(kv_seq *q, uint32_t row, err *e)
{
    const kv *s = q->store;
    for (uint32_t l = s->g.first; q->skips && row && l < s->g.last; l++)
        if (q->skips->gone[l - s->g.first] && from_of(q, l) > row)
            return err_set(e, ERR_STATE, "row %u needs layer %u, whose rows were given back at row %u", row, l, from_of(q, l));
    if (q->skips && !row) memset(q->skips->gone, 0, kv_layers(s));
    return ERR_OK;
}

err_code kv_skip(kv_seq *q, const uint32_t *from, err *e)
{
    const kv *s = q->store;
    if (q->lossy && q->lossy->choices && skips_any(from, kv_model_layers(s)))
        return err_set(e, ERR_STATE, "KV policy %s: layers choose rows for others, none may be left out", q->lossy->policy.name);
    uint32_t rows = q->cells.used ? q->cells.row[q->cells.used - 1].row + 1 : 0;
    for (uint32_t l = s->g.first; l < s->g.last; l++) {
        uint32_t is = from_of(q, l);
        if (is != from[l] && (is < rows || from[l] < rows))
            return err_set(e, ERR_STATE, "layer %u: rows up to %u are here, which would %s it", l, rows - 1,
                           from[l] > is ? "need" : "not have");
    }
    if (!q->skips) return skips_open(q, from, e);
    fill(q->skips, from);
    return ERR_OK;
}

void kv_release(kv_seq *q, uint32_t row) { skips_release(q, row); }
