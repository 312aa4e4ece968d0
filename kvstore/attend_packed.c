/* Attention of a sequence under a policy: packed rows of a head first, then its raw ones. A pane is unpacked into a tile that
 * stays in the nearest cache while all query heads of the group use it; from memory come packed bytes only. Owns the order in
 * which floats are read; refuses to allocate or to change what others read. */
#include "core/rope_math.h"
#include "kvstore/lossy.h"
#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct {
    kv_seq *seq;
    const kv *s;
    kv_lossy *y;
    const shelf *shelf;
    uint32_t layer, head, slot, g, d, ld;
    float *turned;             /* [g][d] query after RoPE */
    float *mixed;              /* [g][d] the same, times Hadamard */
    float *cut;                /* [g][d_pruned] the same, kept channels only */
    bool has_mixed;
    float *tile;               /* [32][ld] a pane unpacked */
    float *score;              /* [g][stride] */
    size_t stride;
    float *inv;                /* [g] 1 / sum of exp */
    float *mixed_out;          /* [g][d] */
    float *out;                /* [g][d] */
    float *runs;               /* see run_put */
    uint32_t n_runs;
    uint64_t read;
} work;

/* Two words a run of raw rows, last first; memcpy keeps their type out of the question. */
static void run_put(work *w, uint32_t first, uint32_t n)
{
    uint32_t x[2] = { first, n };
    memcpy(w->runs + 2 * (size_t)w->n_runs++, x, sizeof x);
}

static void run_get(const work *w, uint32_t i, uint32_t *first, uint32_t *n)
{
    uint32_t x[2];
    memcpy(x, w->runs + 2 * (size_t)i, sizeof x);
    *first = x[0];
    *n = x[1];
}

static const rope_table *rope_of(const work *w)
{
    return w->s->rope_local.cos && kv_is_local(w->s, w->layer) ? &w->s->rope_local : &w->s->rope;
}

static void rotate(const work *w, uint32_t ord, float *x)
{
    const rope_table *t = rope_of(w);
    size_t at = (size_t)w->seq->cells.row[ord].pos * t->half;
    w->s->vec->rope(x, t->cos + at, t->sin + at, w->s->g.rope.n_rot, w->s->g.rope.neox);
}

/* ---- the query, as each kind of pane wants it ---------------------------------------------------------------------- */

static void queries(work *w, const float *query)
{
    memcpy(w->turned, query, (size_t)w->g * w->d * sizeof *query);
    for (uint32_t i = 0; i < w->g; i++) rotate(w, w->slot, w->turned + (size_t)i * w->d);
    if (!w->shelf->panes) return;
    const kv_pack k = w->y->policy.k, k2 = w->y->policy.k2;
    w->has_mixed = k.hadamard || k2.hadamard;
    if (w->has_mixed) {
        memcpy(w->mixed, w->turned, (size_t)w->g * w->d * sizeof *query);
        for (uint32_t i = 0; i < w->g; i++) pane_hadamard(w->mixed + (size_t)i * w->d, w->d);
    }
    if (!lossy_prunes(w->y)) return;
    uint32_t n = w->y->d_pruned;
    const uint16_t *channel = w->y->channel + ((size_t)(w->layer - w->s->g.first) * w->s->g.K + w->head) * n;
    for (uint32_t i = 0; i < w->g; i++)
        for (uint32_t c = 0; c < n; c++) w->cut[(size_t)i * n + c] = w->turned[(size_t)i * w->d + channel[c]];
}

static const float *query_for(const work *w, const pane_kind *k)
{
    return k->pack.hadamard ? w->mixed : k->d != w->d ? w->cut : w->turned;
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

static void dots(const work *w, const float *query, uint32_t d, const void *rows, size_t stride, bool half, uint32_t n, uint32_t at)
{
    for (uint32_t i = 0; i < w->g; i++) {
        const float *x = query + (size_t)i * d;
        float *to = w->score + i * w->stride + at;
        if (half) w->s->vec->dot_rows_f16(x, rows, stride, n, d, to);
        else w->s->vec->dot_rows_f32(x, rows, stride, n, d, to);
    }
}

static void pane_scores(work *w, const pane *p, uint32_t at)
{
    pane_kind k = lossy_kind(w->seq, w->layer, w->head, KV_SIDE_K, p->code);
    const unsigned char *in = pane_at(w->seq, p, KV_SIDE_K);
    w->read += pane_bytes(&k);
    if (k.pack.kind == KV_PACK_RAW) {
        size_t row = k.d * (k.exact == KV_F16 ? sizeof(f16) : sizeof(float));
        dots(w, query_for(w, &k), k.d, in, row, k.exact == KV_F16, p->n, at);
        return;
    }
    uint32_t ld = pane_ld(k.d);
    pane_decode(&w->s->reader, &k, in, 0, p->n, w->tile);
    for (uint32_t r = 0; k.pack.kind == KV_PACK_NUQ && r < p->n; r++)
        rotate(w, shelf_ord(w->shelf, at + r), w->tile + (size_t)r * ld);
    dots(w, query_for(w, &k), k.d, w->tile, ld * sizeof(float), false, p->n, at);
}

/* Raw rows that the row sees: committed ones since the last settlement, and its tentative ancestors. Returns how many rows of
 * the sequence it sees, settled and evicted ones included. */
static uint32_t raw_scores(work *w)
{
    const cells *c = &w->seq->cells;
    uint32_t base = w->seq->base, entry = w->shelf->rows;
    cell_run r = cells_run(c, w->slot);
    uint32_t seen = r.at + r.n;
    for (w->n_runs = 0;; r = cells_run(c, r.prev)) {
        uint32_t cut = r.at < base ? base - r.at : 0;
        for (uint32_t i = cut, n; i < r.n; i += n) {
            uint32_t slot = r.first + i - base;
            n = kv_layout_run(slot, r.first + r.n - base);
            dots(w, w->turned, w->d, kv_row_at(w->seq, w->layer, KV_SIDE_K, w->head, slot), w->s->layout.row,
                 w->s->g.format == KV_F16, n, entry + r.at + i - base);
        }
        if (cut < r.n) run_put(w, r.first + cut - base, r.n - cut);
        if (r.prev == CELL_NONE) return seen;
    }
}

/* ---- scores to weights --------------------------------------------------------------------------------------------- */

/* A local layer does not see rows that are further back than its window, wherever they lie. */
static void hide_far(const work *w, uint32_t seen, uint32_t n)
{
    uint32_t window = w->s->g.look.window, base = w->seq->base;
    if (!kv_is_local(w->s, w->layer) || seen <= window) return;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t ord = j < w->shelf->rows ? shelf_ord(w->shelf, j) : base + j - w->shelf->rows;
        if (ord != ORD_EXTRA && ord >= seen - window) continue;
        for (uint32_t i = 0; i < w->g; i++) w->score[i * w->stride + j] = -INFINITY;
    }
}

static void soften(work *w, uint32_t seen, uint32_t n)
{
    const vec_ops *vec = w->s->vec;
    const kv_look *look = &w->s->g.look;
    for (uint32_t i = 0; i < w->g; i++) {
        float *x = w->score + i * w->stride;
        vec->scale(x, n, look->scale > 0 ? look->scale : 1.0f / sqrtf((float)w->d));
        if (look->soft_cap > 0) vec->soft_cap(x, n, look->soft_cap);
        if (w->shelf->bias) vec->add(x, w->shelf->bias, w->shelf->rows);
    }
    hide_far(w, seen, n);
}

/* Entropy of the weights exp(x - m): ln(sum) - sum x exp(x) / sum. */
static float entropy_of(const vec_ops *vec, const float *x, uint32_t n)
{
    float xs, sum = vec->exp_stats(x, n, vec->max(x, n), &xs);
    return (float)(math_log((double)sum) - (double)xs / (double)sum);
}

static void weigh(work *w, uint32_t seen)
{
    const vec_ops *vec = w->s->vec;
    uint32_t n = w->shelf->rows + seen - w->seq->base;
    uint32_t what = w->y->policy.see;
    observed o = { .x = w->score, .ld = w->stride, .inv = w->inv, .g = w->g, .n = n,
                   .own = w->shelf->rows + w->slot - w->seq->base };
    soften(w, seen, n);
    for (uint32_t i = 0; i < w->g; i++) {
        float *x = w->score + i * w->stride;
        if (what & KV_SEE_ENTROPY) o.entropy += entropy_of(vec, x, n) / (float)w->g;
        w->inv[i] = 1.0f / vec->exp_sum(x, n, vec->max(x, n));
    }
    if (what & ~(uint32_t)KV_SEE_QUERIES)
        observe_row(&w->y->see, (w->layer - w->s->g.first) * w->s->g.K + w->head, w->slot, &o);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static void sums(const work *w, const void *rows, size_t stride, bool half, uint32_t n, uint32_t at, float *out)
{
    for (uint32_t i = 0; i < w->g; i++) {
        const float *p = w->score + i * w->stride + at;
        float *acc = out + (size_t)i * w->d;
        if (half) w->s->vec->axpy_rows_f16(p, rows, stride, n, w->d, acc);
        else w->s->vec->axpy_rows_f32(p, rows, stride, n, w->d, acc);
    }
}

static void pane_sums(work *w, const pane *p, uint32_t at)
{
    pane_kind k = lossy_kind(w->seq, w->layer, w->head, KV_SIDE_V, p->code);
    const unsigned char *in = pane_at(w->seq, p, KV_SIDE_V);
    w->read += pane_bytes(&k);
    if (k.pack.kind == KV_PACK_RAW) {
        sums(w, in, w->s->layout.row, k.exact == KV_F16, p->n, at, w->out);
        return;
    }
    pane_decode(&w->s->reader, &k, in, 0, p->n, w->tile);
    sums(w, w->tile, w->ld * sizeof(float), false, p->n, at, k.pack.hadamard ? w->mixed_out : w->out);
}

/* The weighted sum is a chain of FMAs: packed rows in their order, then raw ones from first to last; rotated values make a sum
 * of their own, which is turned back once. */
static void values(work *w)
{
    bool mixed = w->y->policy.v.hadamard || w->y->policy.v2.hadamard;
    size_t size = (size_t)w->g * w->d * sizeof *w->out;
    uint32_t at = 0;
    memset(w->out, 0, size);
    if (mixed) memset(w->mixed_out, 0, size);
    for (uint32_t i = 0; i < w->shelf->panes; at += w->shelf->pane[i++].n) pane_sums(w, &w->shelf->pane[i], at);
    for (uint32_t i = w->n_runs, first, n; i-- > 0;) {
        run_get(w, i, &first, &n);
        for (uint32_t slot = first, end = first + n, m; slot < end; slot += m, at += m) {
            m = kv_layout_run(slot, end);
            const void *rows = kv_row_at(w->seq, w->layer, KV_SIDE_V, w->head, slot);
            sums(w, rows, w->s->layout.row, w->s->g.format == KV_F16, m, at, w->out);
        }
    }
    for (uint32_t i = 0; i < w->g; i++) {
        float *out = w->out + (size_t)i * w->d;
        if (mixed && w->shelf->panes) {
            pane_hadamard(w->mixed_out + (size_t)i * w->d, w->d);
            w->s->vec->add(out, w->mixed_out + (size_t)i * w->d, w->d);
        }
        w->s->vec->scale(out, w->d, w->inv[i]);
    }
}

/* ---- the call ------------------------------------------------------------------------------------------------------ */

/* Rounded up, so that every part of the scratch begins on a cache line where the scratch does. */
static size_t line(size_t floats) { return (floats + 15) / 16 * 16; }

/* Entries of a head: rows that live, and at most as many dead ones, which only panes that are more than half alive hold. */
static size_t entries_of(const kv *s) { return line(2 * (size_t)s->g.n_ctx + 2 * PANE_ROWS); }

size_t lossy_scratch_floats(const kv *s)
{
    size_t g = s->g.H / s->g.K, gd = line(g * s->g.d);
    return 4 * gd + line((size_t)PANE_ROWS * pane_ld(s->g.d)) + line(g) + g * entries_of(s) + s->g.n_ctx + 2;
}

static void cut_scratch(work *w, float *f)
{
    size_t gd = line((size_t)w->g * w->d);
    w->stride = entries_of(w->s);
    w->turned = f;
    w->mixed = f + gd;
    w->cut = f + 2 * gd;
    w->mixed_out = f + 3 * gd;
    w->tile = f + 4 * gd;
    w->inv = w->tile + line((size_t)PANE_ROWS * w->ld);
    w->score = w->inv + line(w->g);
    w->runs = w->score + w->g * w->stride;
}

static void attend_head(work *w, const float *query)
{
    uint32_t at = 0;
    queries(w, query);
    for (uint32_t i = 0; i < w->shelf->panes; at += w->shelf->pane[i++].n) pane_scores(w, &w->shelf->pane[i], at);
    weigh(w, raw_scores(w));
    values(w);
}

void lossy_attend(kv_seq *q, uint32_t layer, uint32_t slot, const float *query, float *out, uint32_t k0, uint32_t k1,
                  float *scratch)
{
    kv *s = q->store;
    work w = { .seq = q, .s = s, .y = q->lossy, .layer = layer, .slot = slot, .g = s->g.H / s->g.K, .d = s->g.d,
               .ld = pane_ld(s->g.d) };
    cut_scratch(&w, scratch);
    for (w.head = k0; w.head < k1; w.head++) {
        size_t at = (size_t)w.head * w.g * w.d;
        w.shelf = shelf_of(q, layer, w.head);
        w.out = out + at;
        observe_query(&w.y->see, layer - s->g.first, slot, query, (uint32_t)at, w.g * w.d);
        attend_head(&w, query + at);
    }
    __atomic_fetch_add(&s->read, w.read, __ATOMIC_RELAXED);
}
