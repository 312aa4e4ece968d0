/* The two calls of the compute loop: append and attend. Owns the order in which floats are read; refuses to allocate, and
 * reads a sequence's bookkeeping without changing it, so any number of threads may be inside. */
#include "kvstore/attend_tile.h"
#include "kvstore/lossy.h"
#include <assert.h>
#include <math.h>
#include <string.h>

void attend_rotate(const kv_seq *q, uint32_t layer, uint32_t slot, float *x)
{
    const kv *s = q->store;
    const rope_table *t = s->rope_local.cos && kv_is_local(s, layer) ? &s->rope_local : &s->rope;
    size_t at = (size_t)q->cells.row[slot].pos * t->half;
    s->vec->rope(x, t->cos + at, t->sin + at, s->g.rope.n_rot, s->g.rope.neox);
}

static void store_row(const kv *s, void *to, const float *x)
{
    if (s->g.format == KV_F16) s->vec->to_f16(to, x, s->g.d);
    else memcpy(to, x, s->layout.row);
}

void kv_append(kv_seq *q, uint32_t layer, uint32_t slot, const float *k, const float *v, uint32_t k0, uint32_t k1)
{
    const kv *s = q->store;
    assert(layer >= s->g.first && layer < s->g.last && slot < q->cells.used && k0 <= k1 && k1 <= s->g.K);
    float x[KV_MAX_D];
    for (uint32_t h = k0; h < k1; h++) {
        memcpy(x, k + (size_t)h * s->g.d, s->g.d * sizeof *x);
        attend_rotate(q, layer, slot, x);
        store_row(s, kv_row_at(q, layer, KV_SIDE_K, h, slot - q->base), x);
        store_row(s, kv_row_at(q, layer, KV_SIDE_V, h, slot - q->base), v + (size_t)h * s->g.d);
    }
}

/* The work of one kv head. The g query heads of its group share every row while it is in cache. */
typedef struct {
    const kv_seq *seq;
    uint32_t layer, head, g;
    float *query;              /* [g][d], rotated */
    float *score;              /* [g][stride], dense visible order */
    size_t stride;
    float *sum;                /* [g] */
    float *out;                /* [g][d] */
    float *runs;               /* the rows' runs, last first; see run_put */
    uint32_t n_runs;
} job;

/* Runs are remembered in the caller's scratch, two words each; memcpy keeps its type out of the question. */
static void run_put(job *j, const cell_run *r)
{
    uint32_t w[2] = { r->first, r->n };
    memcpy(j->runs + 2 * (size_t)j->n_runs++, w, sizeof w);
}

static void run_get(const job *j, uint32_t i, uint32_t *first, uint32_t *n)
{
    uint32_t w[2];
    memcpy(w, j->runs + 2 * (size_t)i, sizeof w);
    *first = w[0];
    *n = w[1];
}

/* score[.][at..at+n) = q . k of slots [slot, slot+n), which lie in one page. */
static void dot_page(const job *j, uint32_t slot, uint32_t n, uint32_t at)
{
    const kv *s = j->seq->store;
    const void *k = kv_row_at(j->seq, j->layer, KV_SIDE_K, j->head, slot);
    for (uint32_t i = 0; i < j->g; i++) {
        const float *x = j->query + (size_t)i * s->g.d;
        float *to = j->score + i * j->stride + at;
        if (s->g.format == KV_F16) s->vec->dot_rows_f16(x, k, s->layout.row, n, s->g.d, to);
        else s->vec->dot_rows_f32(x, k, s->layout.row, n, s->g.d, to);
    }
}

static void axpy_page(const job *j, uint32_t slot, uint32_t n, uint32_t at)
{
    const kv *s = j->seq->store;
    const void *v = kv_row_at(j->seq, j->layer, KV_SIDE_V, j->head, slot);
    for (uint32_t i = 0; i < j->g; i++) {
        const float *p = j->score + i * j->stride + at;
        float *acc = j->out + (size_t)i * s->g.d;
        if (s->g.format == KV_F16) s->vec->axpy_rows_f16(p, v, s->layout.row, n, s->g.d, acc);
        else s->vec->axpy_rows_f32(p, v, s->layout.row, n, s->g.d, acc);
    }
}

/* fn on every page of a run. */
static void run_pages(const job *j, uint32_t first, uint32_t n, uint32_t at, void (*fn)(const job *, uint32_t, uint32_t, uint32_t))
{
    for (uint32_t slot = first, end = first + n, m; slot < end; slot += m, at += m) {
        m = kv_layout_run(slot, end);
        fn(j, slot, m, at);
    }
}

/* The part of a run from place `from` of the dense order on, which becomes place 0. */
static cell_run run_from(cell_run r, uint32_t from)
{
    uint32_t cut = r.at < from ? from - r.at : 0;
    return (cell_run){ r.first + cut, r.n - cut, r.at + cut - from, cut ? CELL_NONE : r.prev };
}

/* Dots do not depend on each other, so the walk from the row back to the first fills them in. Returns the rows seen. */
static uint32_t scores(job *j, uint32_t slot)
{
    const cells *c = &j->seq->cells;
    cell_run r = cells_run(c, slot);
    uint32_t seen = r.at + r.n, window = j->seq->store->g.look.window;
    uint32_t from = kv_is_local(j->seq->store, j->layer) && seen > window ? seen - window : 0;
    for (j->n_runs = 0;; r = cells_run(c, r.prev)) {
        cell_run part = run_from(r, from);
        run_pages(j, part.first, part.n, part.at, dot_page);
        run_put(j, &part);
        if (part.prev == CELL_NONE || !part.at) return seen - from;
    }
}

/* The weighted sum is a chain of FMAs in row order: runs first to last. */
static void weighted_sum(const job *j)
{
    memset(j->out, 0, (size_t)j->g * j->seq->store->g.d * sizeof *j->out);
    uint32_t at = 0;
    for (uint32_t i = j->n_runs, first, n; i-- > 0; at += n) {
        run_get(j, i, &first, &n);
        run_pages(j, first, n, at, axpy_page);
    }
}

static void attend_head(job *j, uint32_t slot)
{
    const kv *s = j->seq->store;
    const vec_ops *vec = s->vec;
    uint32_t d = s->g.d, n = scores(j, slot);
    for (uint32_t i = 0; i < j->g; i++) {
        float *x = j->score + i * j->stride;
        vec->scale(x, n, s->g.look.scale > 0 ? s->g.look.scale : 1.0f / sqrtf((float)d));
        if (s->g.look.soft_cap > 0) vec->soft_cap(x, n, s->g.look.soft_cap);
        j->sum[i] = vec->exp_sum(x, n, vec->max(x, n));
    }
    weighted_sum(j);
    for (uint32_t i = 0; i < j->g; i++) vec->scale(j->out + (size_t)i * d, d, 1.0f / j->sum[i]);
}

/* Two words a run. Between two runs lies at least one slot that the row does not see, so they are half the context at most. */
static size_t run_words(const kv *s) { return 2 * (((size_t)s->g.n_ctx + 1) / 2); }

/* Rounded up, so that every part of the scratch begins on a cache line where the scratch does. */
static size_t line(size_t floats) { return (floats + 15) / 16 * 16; }

size_t kv_scratch_floats(const kv *s)
{
    size_t g = s->g.H / s->g.K;
    size_t exact = line(g * s->g.d) + line(g) + g * line(s->g.n_ctx) + run_words(s), packed = lossy_scratch_floats(s);
    size_t tile = attend_tile_floats(s), most = exact > packed ? exact : packed;
    return most > tile ? most : tile;
}

/* A row of a tree: what it sees is several runs. One kv head; query and out are its own. */
static void attend_branch(const kv_seq *q, uint32_t layer, uint32_t slot, uint32_t head, const float *query, float *out, float *scratch)
{
    const kv *s = q->store;
    job j = { .seq = q, .layer = layer, .head = head, .g = s->g.H / s->g.K, .stride = line(s->g.n_ctx), .query = scratch, .out = out };
    j.sum = j.query + line((size_t)j.g * s->g.d);
    j.score = j.sum + line(j.g);
    j.runs = j.score + j.g * j.stride;
    memcpy(j.query, query, (size_t)j.g * s->g.d * sizeof *query);
    for (uint32_t i = 0; i < j.g; i++) attend_rotate(q, layer, slot, j.query + (size_t)i * s->g.d);
    attend_head(&j, slot);
}

void kv_attend_rows(kv_seq *q, uint32_t layer, uint32_t slot, uint32_t n, const float *query, size_t ldq, float *out, size_t ldo,
                    uint32_t k0, uint32_t k1, float *scratch)
{
    const kv *s = q->store;
    assert(layer >= s->g.first && layer < s->g.last && n && slot + n <= q->cells.used && k0 <= k1 && k1 <= s->g.K);
    size_t group = (size_t)(s->g.H / s->g.K) * s->g.d;
    uint32_t together = attend_is_line(q, slot + n - 1) ? n : 1;
    for (uint32_t i = 0; i < n; i += together)
        for (uint32_t h = k0; h < k1; h++) {
            const float *from = query + i * ldq + h * group;
            float *to = out + i * ldo + h * group;
            if (q->lossy) lossy_attend(q, layer, slot + i, together, from, ldq, to, ldo, h, scratch);
            else if (together > 1 || attend_is_line(q, slot + i)) attend_tile(q, layer, h, slot + i, together, from, ldq, to, ldo, scratch);
            else attend_branch(q, layer, slot + i, h, from, to, scratch);
        }
}

void kv_attend(kv_seq *q, uint32_t layer, uint32_t slot, const float *query, float *out, uint32_t k0, uint32_t k1, float *scratch)
{
    kv_attend_rows(q, layer, slot, 1, query, 0, out, 0, k0, k1, scratch);
}
