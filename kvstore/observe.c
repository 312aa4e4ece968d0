#include "kvstore/observe.h"
#include "kvstore/policy.h"
#include <stdlib.h>
#include <string.h>

static size_t units_of(const observe *o) { return (size_t)o->layers * o->heads; }
static bool wants_lanes(const observe *o) { return o->what & (KV_SEE_SUMS | KV_SEE_LAST); }

void observe_open(observe *o, uint32_t what, uint32_t window, uint32_t layers, uint32_t heads, uint32_t width, uint32_t n_prompt)
{
    *o = (observe){ .what = what, .window = window, .layers = layers, .heads = heads, .width = width,
                    .shared = n_prompt ? n_prompt - 1 : 0 };
}

void observe_close(observe *o)
{
    void *all[] = { o->sum, o->pend, o->last, o->entropy, o->lane, o->query };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    o->sum = o->pend = o->last = o->lane = NULL;
    o->entropy = o->query = NULL;
    o->stride = o->lanes = o->queries = 0;
}

void observe_clear(observe *o, uint32_t n_prompt)
{
    observe_close(o);
    o->shared = n_prompt ? n_prompt - 1 : 0;
    o->lane0 = o->query0 = 0;
}

uint64_t observe_bytes(const observe *o)
{
    uint64_t entries = (uint64_t)units_of(o) * o->stride, n = 0;
    n += ((o->sum != NULL) + (o->pend != NULL) + (o->last != NULL)) * entries * sizeof *o->sum;
    n += (o->entropy != NULL) * entries * sizeof *o->entropy + o->lanes * entries * sizeof *o->lane;
    return n + (uint64_t)o->layers * o->queries * o->width * sizeof *o->query;
}

/* [had][old] -> [units][stride], the new entries zero. */
static bool widen(void **p, size_t had, size_t units, uint32_t old, uint32_t stride, size_t size)
{
    unsigned char *q = calloc(units * stride, size);
    if (!q) return false;
    for (size_t u = 0; *p && u < had; u++) memcpy(q + u * stride * size, (unsigned char *)*p + u * old * size, old * size);
    free(*p);
    *p = q;
    return true;
}

/* All arrays of entries together, so that one stride holds for them. */
static bool grow(observe *o, uint32_t entries, uint32_t lanes)
{
    uint32_t stride = o->stride ? o->stride : 64;
    while (stride < entries) stride += stride / 2;
    if (stride > o->stride) {
        const struct { bool want; void **p; size_t size; } all[] = {
            { o->what & KV_SEE_SUMS, (void **)&o->sum, sizeof *o->sum },
            { o->what & KV_SEE_SUMS, (void **)&o->pend, sizeof *o->pend },
            { o->what & KV_SEE_LAST, (void **)&o->last, sizeof *o->last },
            { o->what & KV_SEE_ENTROPY, (void **)&o->entropy, sizeof *o->entropy },
        };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i].want && !widen(all[i].p, units_of(o), units_of(o), o->stride, stride, all[i].size)) return false;
    }
    if (wants_lanes(o) && (stride > o->stride || lanes > o->lanes)) {
        if (lanes < o->lanes) lanes = o->lanes;
        void *lane = o->lane;
        if (!widen(&lane, o->lanes * units_of(o), lanes * units_of(o), o->stride, stride, sizeof *o->lane)) return false;
        o->lane = lane;
        o->lanes = lanes;
    }
    o->stride = stride;
    return true;
}

/* Rows of the window before the boundary, and whatever branches lie above. */
static bool grow_queries(observe *o, uint32_t used, uint32_t boundary)
{
    uint32_t from = boundary > o->window ? boundary - o->window : 0;
    if (!(o->what & KV_SEE_QUERIES) || used <= from) return true;
    if (!o->queries) o->query0 = from;
    uint32_t want = used - o->query0;
    if (want <= o->queries) return true;
    if (want < o->window) want = o->window;
    void *q = o->query;
    if (!widen(&q, o->layers, o->layers, o->queries, want, o->width * sizeof *o->query)) return false;
    o->query = q;
    o->queries = want;
    return true;
}

err_code observe_reserve(observe *o, uint32_t committed, uint32_t used, uint32_t entries, uint32_t boundary, err *e)
{
    if (!o->what) return ERR_OK;
    uint32_t lane0 = committed > o->shared ? committed : o->shared, lanes = used > lane0 ? used - lane0 : 0;
    if (!grow(o, entries, lanes) || !grow_queries(o, used, boundary))
        return err_set(e, ERR_NOMEM, "out of memory for what %u rows see", entries);
    o->lane0 = lane0;
    return ERR_OK;
}

/* ---- a row has attended -------------------------------------------------------------------------------------------- */

static uint64_t *lane_of(const observe *o, uint32_t slot, uint32_t unit)
{
    return o->lane + ((size_t)(slot - o->lane0) * units_of(o) + unit) * o->stride;
}

static uint64_t entry_weight(const observed *w, uint32_t j)
{
    uint64_t s = 0;
    for (uint32_t i = 0; i < w->g; i++) s += kv_fixed(w->x[i * w->ld + j] * w->inv[i]);
    return s;
}

void observe_row(const observe *o, uint32_t unit, uint32_t slot, const observed *w)
{
    if (o->entropy) o->entropy[(size_t)unit * o->stride + w->own] = w->entropy;
    if (!wants_lanes(o)) return;
    if (slot < o->shared) {
        uint64_t *to = o->pend ? o->pend + (size_t)unit * o->stride : NULL;
        for (uint32_t j = 0; to && j < w->n; j++) __atomic_fetch_add(&to[j], entry_weight(w, j), __ATOMIC_RELAXED);
        return;
    }
    uint64_t *to = lane_of(o, slot, unit);
    for (uint32_t j = 0; j < w->n; j++) to[j] = entry_weight(w, j);
    memset(to + w->n, 0, (o->stride - w->n) * sizeof *to);
}

static float *query_at(const observe *o, uint32_t layer, uint32_t slot)
{
    if (slot < o->query0 || slot - o->query0 >= o->queries) return NULL;
    return o->query + ((size_t)layer * o->queries + slot - o->query0) * o->width;
}

void observe_query(const observe *o, uint32_t layer, uint32_t slot, const float *query, uint32_t from, uint32_t n)
{
    float *to = query_at(o, layer, slot);
    if (to) memcpy(to + from, query, n * sizeof *to);
}

const float *observe_query_of(const observe *o, uint32_t layer, uint32_t slot) { return query_at(o, layer, slot); }

/* ---- commits ------------------------------------------------------------------------------------------------------- */

void observe_commit(observe *o, uint32_t slot, bool last)
{
    if (!wants_lanes(o) || slot < o->lane0 || slot - o->lane0 >= o->lanes) return;
    const uint64_t *from = lane_of(o, slot, 0);
    size_t n = units_of(o) * o->stride;
    for (size_t i = 0; o->sum && i < n; i++) o->sum[i] += from[i];
    if (o->last && last) memcpy(o->last, from, n * sizeof *from);
}

void observe_forget_shared(observe *o)
{
    if (o->pend) memset(o->pend, 0, units_of(o) * o->stride * sizeof *o->pend);
}

void observe_commit_shared(observe *o)
{
    for (size_t i = 0; o->pend && i < units_of(o) * o->stride; i++) o->sum[i] += o->pend[i];
    observe_forget_shared(o);
}

void observe_move(observe *o, uint32_t from, uint32_t to)
{
    for (uint32_t l = 0; l < o->layers; l++) {
        float *a = query_at(o, l, from), *b = query_at(o, l, to);
        if (a && b) memcpy(b, a, o->width * sizeof *a);
    }
}

void observe_move_entry(observe *o, uint32_t unit, uint32_t from, uint32_t to)
{
    if (o->entropy) o->entropy[(size_t)unit * o->stride + to] = o->entropy[(size_t)unit * o->stride + from];
}

/* ---- settlements --------------------------------------------------------------------------------------------------- */

static void remap(void *array, size_t size, const uint32_t *from, uint32_t n, uint32_t stride, void *tmp)
{
    unsigned char *x = array, *t = tmp;
    memcpy(t, x, stride * size);
    memset(x, 0, stride * size);
    for (uint32_t j = 0; j < n; j++)
        if (from[j] != UINT32_MAX) memcpy(x + j * size, t + from[j] * size, size);
}

void observe_remap(observe *o, uint32_t unit, const uint32_t *from, uint32_t n, uint64_t *tmp)
{
    size_t at = (size_t)unit * o->stride;
    if (o->sum) remap(o->sum + at, sizeof *o->sum, from, n, o->stride, tmp);
    if (o->last) remap(o->last + at, sizeof *o->last, from, n, o->stride, tmp);
    if (o->entropy) remap(o->entropy + at, sizeof *o->entropy, from, n, o->stride, tmp);
}

void observe_settled(observe *o, uint32_t boundary)
{
    uint32_t from = boundary > o->window ? boundary - o->window : 0;
    if (!o->queries || from <= o->query0) return;
    uint32_t cut = from - o->query0 < o->queries ? from - o->query0 : o->queries;
    for (uint32_t l = 0; l < o->layers; l++) {
        float *x = o->query + (size_t)l * o->queries * o->width;
        memmove(x, x + (size_t)cut * o->width, (size_t)(o->queries - cut) * o->width * sizeof *x);
    }
    o->query0 = from;
}

static bool copy_array(void **to, const void *from, size_t bytes)
{
    if (!(*to = malloc(bytes + 1))) return false;
    memcpy(*to, from, bytes);
    return true;
}

/* The newest `window` queries. */
static bool take_queries(observe *to, const observe *o, uint32_t n)
{
    uint32_t from = n > to->window ? n - to->window : 0;
    if (from < o->query0) from = o->query0;
    to->query0 = from;
    to->queries = n - from;
    size_t row = o->width * sizeof *o->query, mine = to->queries * row;
    if (!(to->query = malloc(o->layers * mine + 1))) return false;
    for (uint32_t l = 0; l < o->layers; l++)
        memcpy((char *)to->query + l * mine, (const char *)o->query + ((size_t)l * o->queries + from - o->query0) * row, mine);
    return true;
}

err_code observe_take(observe *to, const observe *o, uint32_t n, err *e)
{
    size_t entries = units_of(o) * o->stride;
    bool ok = true;
    if (!to->what) return ERR_OK;
    to->stride = o->stride;
    if (to->what & KV_SEE_SUMS) ok = copy_array((void **)&to->sum, o->sum, entries * sizeof *o->sum);
    if (ok && (to->what & KV_SEE_SUMS)) ok = (to->pend = calloc(entries + 1, sizeof *to->pend)) != NULL;
    if (ok && (to->what & KV_SEE_LAST)) ok = copy_array((void **)&to->last, o->last, entries * sizeof *o->last);
    if (ok && (to->what & KV_SEE_ENTROPY)) ok = copy_array((void **)&to->entropy, o->entropy, entries * sizeof *o->entropy);
    if (ok && (to->what & KV_SEE_QUERIES)) ok = take_queries(to, o, n);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for what a fork has seen");
}

err_code observe_fork(observe *child, const observe *o, err *e)
{
    *child = *o;
    child->sum = child->pend = child->last = child->lane = NULL;
    child->entropy = child->query = NULL;
    child->lanes = 0;
    size_t n = units_of(o) * o->stride;
    const struct { const void *from; void **to; size_t bytes; } all[] = {
        { o->sum, (void **)&child->sum, n * sizeof *o->sum }, { o->pend, (void **)&child->pend, n * sizeof *o->pend },
        { o->last, (void **)&child->last, n * sizeof *o->last }, { o->entropy, (void **)&child->entropy, n * sizeof *o->entropy },
        { o->query, (void **)&child->query, (size_t)o->layers * o->queries * o->width * sizeof *o->query },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i].from) continue;
        if (!(*all[i].to = malloc(all[i].bytes + 1))) {
            observe_close(child);
            return err_set(e, ERR_NOMEM, "out of memory for what a fork has seen");
        }
        memcpy(*all[i].to, all[i].from, all[i].bytes);
    }
    observe_forget_shared(child); /* tentative rows stay with the parent */
    return ERR_OK;
}
