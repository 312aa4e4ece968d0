#include "kvstore/attend_tile.h"
#include "kvstore/tile.h"
#include <math.h>
#include <string.h>

typedef struct {
    const kv_seq *seq;
    const tile_ops *ops;
    uint32_t layer, head, g, d;
    uint32_t slot, n;          /* rows */
    uint32_t from, end;        /* slots that any of them sees; from is a page's first */
    uint32_t queries;          /* n * g, query i is head i % g of row i / g */
    float *query;              /* [queries, rounded up to 4][d] */
    float *score;              /* [the same][stride], from `from` on */
    size_t stride;
    float *page;               /* [KV_PAGE_ROWS][d] */
    float *spare;              /* [d] where queries that are not there add up */
    float *out;
    size_t ldo;
} tile;

bool attend_is_line(const kv_seq *q, uint32_t slot)
{
    cell_run r = cells_run(&q->cells, slot);
    return r.first == 0 && r.at == 0 && r.prev == CELL_NONE;
}

static size_t line(size_t floats) { return (floats + 15) / 16 * 16; }
static uint32_t fours(uint32_t n) { return (n + TILE_FOUR - 1) / TILE_FOUR * TILE_FOUR; }

/* Scores of a row: whole pages from the first on, and none that two rows share a cache set with. */
static size_t stride_of(size_t rows) { return line(rows + KV_PAGE_ROWS) + 16; }

size_t attend_tile_floats(const kv *s)
{
    uint32_t g = s->g.H / s->g.K;
    size_t one = fours(g) * stride_of(s->g.n_ctx);
    return fours(TILE_ROWS * g) * line(s->g.d) + (one > TILE_SCORES ? one : TILE_SCORES) + KV_PAGE_ROWS * line(s->g.d) + line(s->g.d);
}

/* Queries from i on, four at most. */
static uint32_t four(const tile *t, uint32_t i) { return t->queries - i < TILE_FOUR ? t->queries - i : TILE_FOUR; }

static uint32_t window_start(const tile *t, uint32_t slot)
{
    const kv *s = t->seq->store;
    return kv_is_local(s, t->layer) && slot + 1 > s->g.look.window ? slot + 1 - s->g.look.window : 0;
}

/* Rows [first, first + n) of a side, which lie in one page, to f32; zeros up to a multiple of 4. */
static void load_page(const tile *t, int side, uint32_t first, uint32_t n)
{
    const kv *s = t->seq->store;
    const void *rows = kv_row_at(t->seq, t->layer, side, t->head, first);
    if (s->g.format == KV_F16) s->vec->from_f16(t->page, rows, n * t->d);
    else memcpy(t->page, rows, (size_t)n * t->d * sizeof(float));
    memset(t->page + (size_t)n * t->d, 0, (size_t)(fours(n) - n) * t->d * sizeof(float));
}

static void all_scores(const tile *t)
{
    const vec_ops *vec = t->seq->store->vec;
    for (uint32_t at = t->from, n; at < t->end; at += n) {
        n = kv_layout_run(at, t->end);
        load_page(t, KV_SIDE_K, at, n);
        for (uint32_t i = 0; i < t->queries; i += TILE_FOUR) {
            if (at > t->slot + (i + TILE_FOUR - 1) / t->g) continue;         /* in front of all four */
            float *to = t->score + i * t->stride + (at - t->from);
            t->ops->dots(vec, t->query + (size_t)i * t->d, four(t, i), t->page, n, t->d, to, t->stride);
        }
    }
}

typedef struct { uint32_t from, end; } range;

/* Slots that query i sees. */
static range seen_by(const tile *t, uint32_t i)
{
    uint32_t slot = t->slot + i / t->g;
    return (range){ window_start(t, slot), slot + 1 };
}

static range both(range a, range b)
{
    range r = { a.from > b.from ? a.from : b.from, a.end < b.end ? a.end : b.end };
    if (r.end < r.from) r.end = r.from;
    return r;
}

static float *out_of(const tile *t, uint32_t i) { return t->out + i / t->g * t->ldo + (size_t)(i % t->g) * t->d; }

/* Weights of query i, and what its sum must be divided by. */
static float softmax(const tile *t, uint32_t i)
{
    const kv *s = t->seq->store;
    range r = seen_by(t, i);
    float *x = t->score + i * t->stride + (r.from - t->from);
    uint32_t n = r.end - r.from;
    s->vec->scale(x, n, s->g.look.scale > 0 ? s->g.look.scale : 1.0f / sqrtf((float)t->d));
    if (s->g.look.soft_cap > 0) s->vec->soft_cap(x, n, s->g.look.soft_cap);
    return s->vec->exp_sum(x, n, s->vec->max(x, n));
}

/* Rows [part.from, part.end) of the page that begins at slot `at`, for one query. */
static void sum_one(const tile *t, uint32_t i, uint32_t at, range part)
{
    if (part.from == part.end) return;
    const float *p = t->score + i * t->stride + (part.from - t->from), *rows = t->page + (size_t)(part.from - at) * t->d;
    t->seq->store->vec->axpy_rows_f32(p, rows, t->d * sizeof *rows, part.end - part.from, t->d, out_of(t, i));
}

/* Four queries: what they all see together, what only some see before and after it by itself. */
static void sum_four(const tile *t, uint32_t i, range page)
{
    range all = page, part[TILE_FOUR];
    float *acc[TILE_FOUR];
    for (uint32_t k = 0; k < TILE_FOUR; k++) {
        bool there = i + k < t->queries;
        part[k] = both(page, seen_by(t, there ? i + k : t->queries - 1));
        acc[k] = there ? out_of(t, i + k) : t->spare;
        all = both(all, part[k]);
    }
    if (all.from == all.end) {
        for (uint32_t k = 0; k < TILE_FOUR && i + k < t->queries; k++) sum_one(t, i + k, page.from, part[k]);
        return;
    }
    for (uint32_t k = 0; k < TILE_FOUR && i + k < t->queries; k++) sum_one(t, i + k, page.from, (range){ part[k].from, all.from });
    t->ops->sums(t->seq->store->vec, t->score + i * t->stride + (all.from - t->from), t->stride, four(t, i),
                 t->page + (size_t)(all.from - page.from) * t->d, all.end - all.from, t->d, acc);
    for (uint32_t k = 0; k < TILE_FOUR && i + k < t->queries; k++) sum_one(t, i + k, page.from, (range){ all.end, part[k].end });
}

static void all_sums(const tile *t)
{
    memset(t->spare, 0, t->d * sizeof *t->spare);
    for (uint32_t i = 0; i < t->queries; i++) memset(out_of(t, i), 0, t->d * sizeof *t->out);
    for (uint32_t at = t->from, n; at < t->end; at += n) {
        n = kv_layout_run(at, t->end);
        load_page(t, KV_SIDE_V, at, n);
        for (uint32_t i = 0; i < t->queries; i += TILE_FOUR) sum_four(t, i, (range){ at, at + n });
    }
}

static void set_queries(tile *t, const float *query, size_t ldq)
{
    for (uint32_t i = 0; i < t->queries; i++) {
        float *x = t->query + (size_t)i * t->d;
        memcpy(x, query + i / t->g * ldq + (size_t)(i % t->g) * t->d, t->d * sizeof *x);
        attend_rotate(t->seq, t->layer, t->slot + i / t->g, x);
    }
    memset(t->query + (size_t)t->queries * t->d, 0, (size_t)(fours(t->queries) - t->queries) * t->d * sizeof *query);
    /* Their scores are never weights, but they are read. */
    for (uint32_t i = t->queries; i < fours(t->queries); i++) memset(t->score + i * t->stride, 0, t->stride * sizeof *t->score);
}

/* What a query's sum is divided by waits behind its scores. */
static float *divisor(const tile *t, uint32_t i) { return t->score + (i + 1) * t->stride - 1; }

static void run_tile(tile *t, const float *query, size_t ldq)
{
    set_queries(t, query, ldq);
    all_scores(t);
    for (uint32_t i = 0; i < t->queries; i++) *divisor(t, i) = softmax(t, i);
    all_sums(t);
    for (uint32_t i = 0; i < t->queries; i++) t->seq->store->vec->scale(out_of(t, i), t->d, 1.0f / *divisor(t, i));
}

void attend_tile(const kv_seq *q, uint32_t layer, uint32_t head, uint32_t slot, uint32_t n, const float *query, size_t ldq,
                 float *out, size_t ldo, float *scratch)
{
    const kv *s = q->store;
    tile t = { .seq = q, .ops = s->tile, .layer = layer, .head = head, .g = s->g.H / s->g.K, .d = s->g.d, .ldo = ldo };
    t.query = scratch;
    t.page = t.query + fours(TILE_ROWS * t.g) * line(t.d);
    t.spare = t.page + KV_PAGE_ROWS * line(t.d);
    t.score = t.spare + line(t.d);
    for (uint32_t i = 0; i < n; i += t.n) {
        t.slot = slot + i;
        t.from = window_start(&t, t.slot) / KV_PAGE_ROWS * KV_PAGE_ROWS;
        t.n = n - i < TILE_ROWS ? n - i : TILE_ROWS;
        while (t.n > 1 && fours(t.n * t.g) * stride_of(t.slot + t.n - t.from) > TILE_SCORES) t.n--;
        t.end = t.slot + t.n;
        t.queries = t.n * t.g;
        t.stride = stride_of(t.end - t.from);
        t.out = out + i * ldo;
        run_tile(&t, query + i * ldq, ldq);
    }
}
