/* Attention of a sequence under a policy: packed rows of a head first, then its raw ones. A pane is unpacked into a tile that
 * stays in the nearest cache while all query heads of the group, of several rows that follow each other, use it; from memory come
 * packed bytes only. Owns the order in which floats are read; refuses to allocate or to change what others read. */
#include "core/rope_math.h"
#include "kvstore/attend_tile.h"
#include "kvstore/choice.h"
#include "kvstore/lossy.h"
#include "kvstore/tile.h"
#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct {
    kv_seq *seq;
    const kv *s;
    kv_lossy *y;
    const shelf *shelf;
    uint32_t layer, head, g, d, ld;
    uint32_t slot, n;          /* rows, each the parent of the next */
    uint32_t queries;          /* n * g, query i is head i % g of row i / g */
    float *turned;             /* [queries, rounded up to 4][d] after RoPE */
    float *mixed;              /* [the same][d] times Hadamard */
    float *cut;                /* [the same][d_pruned] kept channels only */
    float *tile;               /* [32][ld] a pane unpacked, or raw rows as f32 */
    float *score;              /* [queries, rounded up][stride] */
    size_t stride;
    float *inv;                /* [queries] 1 / sum of exp */
    float *mixed_out;          /* [queries][d] */
    float *spare;              /* [d] where queries that are not there add up */
    float *out;
    size_t ldo;
    float *runs;               /* see run_put */
    uint32_t n_runs;
    const uint32_t *pick;      /* [picks] places that the row reads, ascending; NULL: all */
    uint32_t picks;
    kv_layer_role role;
    uint64_t read, sparse_read, sparse_seen;
} work;
_Static_assert((int)KV_PAGE_ROWS == (int)PANE_ROWS, "raw rows of a page fit the tile of a pane");

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

static uint32_t fours(uint32_t n) { return (n + TILE_FOUR - 1) / TILE_FOUR * TILE_FOUR; }

/* Queries from i on, four at most. */
static uint32_t four(const work *w, uint32_t i) { return w->queries - i < TILE_FOUR ? w->queries - i : TILE_FOUR; }

/* ---- the queries, as each kind of pane wants them ------------------------------------------------------------------ */

static void mix_queries(const work *w)
{
    memcpy(w->mixed, w->turned, (size_t)fours(w->queries) * w->d * sizeof *w->mixed);
    for (uint32_t i = 0; i < w->queries; i++) pane_hadamard(w->mixed + (size_t)i * w->d, w->d);
}

static void cut_queries(const work *w)
{
    uint32_t n = w->y->d_pruned;
    const uint16_t *channel = w->y->channel + ((size_t)(w->layer - w->s->g.first) * w->s->g.K + w->head) * n;
    for (uint32_t i = 0; i < fours(w->queries); i++)
        for (uint32_t c = 0; c < n; c++) w->cut[(size_t)i * n + c] = w->turned[(size_t)i * w->d + channel[c]];
}

static void queries(const work *w, const float *query, size_t ldq)
{
    for (uint32_t i = 0; i < w->queries; i++) {
        float *x = w->turned + (size_t)i * w->d;
        memcpy(x, query + i / w->g * ldq + (size_t)(i % w->g) * w->d, w->d * sizeof *x);
        rotate(w, w->slot + i / w->g, x);
    }
    memset(w->turned + (size_t)w->queries * w->d, 0, (size_t)(fours(w->queries) - w->queries) * w->d * sizeof *query);
    /* Scores of queries that are not there are never weights, but they are read. */
    for (uint32_t i = w->queries; i < fours(w->queries); i++) memset(w->score + i * w->stride, 0, w->stride * sizeof *w->score);
    if (!w->shelf->panes) return;
    if (w->y->policy.k.hadamard || w->y->policy.k2.hadamard) mix_queries(w);
    if (lossy_prunes(w->y)) cut_queries(w);
}

static const float *query_for(const work *w, const pane_kind *k)
{
    return k->pack.hadamard ? w->mixed : k->d != w->d ? w->cut : w->turned;
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

/* Queries [i0, i0 + 4) with the n rows of the tile, ld floats apart; i0 is a multiple of 4. */
static void dots(const work *w, const float *query, uint32_t i0, uint32_t d, uint32_t ld, uint32_t n, uint32_t at)
{
    float *to = w->score + i0 * w->stride + at;
    const float *x = query + (size_t)i0 * d;
    if (ld == d) w->s->tile->dots(w->s->vec, x, four(w, i0), w->tile, n, d, to, w->stride);
    for (uint32_t i = 0; ld != d && i < four(w, i0); i++)
        w->s->vec->dot_rows_f32(x + (size_t)i * d, w->tile, ld * sizeof *x, n, d, to + i * w->stride);
}

/* Places in front of place `at` that are read: where its score lies. */
static uint32_t rank_of(const work *w, uint32_t at)
{
    uint32_t lo = 0, hi = w->picks;
    if (!w->pick) return at;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (w->pick[mid] < at) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Stretches of places [at, at + n) that are read, one after the other: {0} to begin with; n == 0: there is none any more. */
typedef struct { uint32_t first, n, next; } stretch;

static stretch stretch_next(const work *w, uint32_t at, uint32_t n, stretch s)
{
    if (!w->pick) return (stretch){ 0, s.next ? 0 : n, 1 };
    uint32_t i = s.next ? s.next : rank_of(w, at);
    stretch t = { i < w->picks ? w->pick[i] - at : n, 0, i };
    for (; t.next < w->picks && w->pick[t.next] == at + t.first + t.n && t.first + t.n < n; t.next++) t.n++;
    return t;
}

static void load_exact(const work *w, const void *rows, uint32_t n, uint32_t d, float *to)
{
    if (w->s->g.format == KV_F16) w->s->vec->from_f16(to, rows, n * d);
    else memcpy(to, rows, (size_t)n * d * sizeof *to);
}

/* Exact rows of d elements at places [at, at + n) into the tile; returns how many are read. */
static uint32_t load_rows(const work *w, const void *rows, uint32_t at, uint32_t n, uint32_t d)
{
    size_t row = d * w->s->layout.elem;
    uint32_t got = 0;
    for (stretch s = stretch_next(w, at, n, (stretch){ 0 }); s.n; s = stretch_next(w, at, n, s)) {
        load_exact(w, (const unsigned char *)rows + s.first * row, s.n, d, w->tile + (size_t)got * d);
        got += s.n;
    }
    return got;
}

/* Floats from a row of the tile to the next. */
static uint32_t ld_of(const pane_kind *k) { return k->pack.kind == KV_PACK_RAW ? k->d : pane_ld(k->d); }

/* The rows of a pane at places [at, at + n) into the tile; returns how many are read. */
static uint32_t load_pane(work *w, const pane_kind *k, const unsigned char *in, uint32_t at, uint32_t n)
{
    uint32_t got = 0;
    if (k->pack.kind == KV_PACK_RAW) got = load_rows(w, in, at, n, k->d);
    else
        for (stretch s = stretch_next(w, at, n, (stretch){ 0 }); s.n; s = stretch_next(w, at, n, s)) {
            pane_decode(&w->s->reader, k, in, s.first, s.n, w->tile + (size_t)got * ld_of(k));
            got += s.n;
        }
    w->read += pane_bytes_of(k, got < n ? got : PANE_ROWS);
    return got;
}

/* Four rows are taken at a time: those behind the last one are zeros. */
static void pad_tile(const work *w, uint32_t n, uint32_t ld)
{
    memset(w->tile + (size_t)n * ld, 0, (size_t)(fours(n) - n) * ld * sizeof *w->tile);
}

static void pane_scores(work *w, const pane *p, uint32_t at)
{
    uint32_t to = rank_of(w, at);
    if (w->pick && to == rank_of(w, at + p->n)) return;
    pane_kind k = lossy_kind(w->seq, w->layer, w->head, KV_SIDE_K, p->code);
    uint32_t n = load_pane(w, &k, pane_at(w->seq, p, KV_SIDE_K), at, p->n), ld = ld_of(&k);
    for (uint32_t r = 0; k.pack.kind == KV_PACK_NUQ && r < n; r++)
        rotate(w, shelf_ord(w->shelf, w->pick ? w->pick[to + r] : at + r), w->tile + (size_t)r * ld);
    pad_tile(w, n, ld);
    for (uint32_t i = 0; i < w->queries; i += TILE_FOUR) dots(w, query_for(w, &k), i, k.d, ld, n, to);
}

/* Slots of the table that query i sees lie below this one. */
static uint32_t limit(const work *w, uint32_t i) { return w->slot + i / w->g + 1 - w->seq->base; }

/* Slots [first, end) of the table, whose scores begin at `at`. */
static void run_scores(const work *w, uint32_t first, uint32_t end, uint32_t at)
{
    for (uint32_t slot = first, n; slot < end; slot += n, at += n) {
        n = kv_layout_run(slot, end);
        uint32_t got = load_rows(w, kv_row_at(w->seq, w->layer, KV_SIDE_K, w->head, slot), at, n, w->d);
        pad_tile(w, got, w->d);
        for (uint32_t i = 0; got && i < w->queries; i += TILE_FOUR)
            if (slot < limit(w, i + four(w, i) - 1)) dots(w, w->turned, i, w->d, w->d, got, rank_of(w, at));
    }
}

/* Raw rows that the last row sees: committed ones since the last settlement, and its tentative ancestors. Returns how many rows of
 * the sequence it sees, settled and evicted ones included. */
static uint32_t raw_scores(work *w)
{
    const cells *c = &w->seq->cells;
    uint32_t base = w->seq->base, entry = w->shelf->rows;
    cell_run r = cells_run(c, w->slot + w->n - 1);
    uint32_t seen = r.at + r.n;
    for (w->n_runs = 0;; r = cells_run(c, r.prev)) {
        uint32_t cut = r.at < base ? base - r.at : 0;
        if (cut < r.n) {
            run_scores(w, r.first + cut - base, r.first + r.n - base, entry + r.at + cut - base);
            run_put(w, r.first + cut - base, r.n - cut);
        }
        if (r.prev == CELL_NONE) return seen;
    }
}

/* ---- scores to weights --------------------------------------------------------------------------------------------- */

/* A local layer does not see rows that are further back than its window, wherever they lie. */
static void hide_far(const work *w, uint32_t seen, uint32_t n, float *x)
{
    uint32_t window = w->s->g.look.window, base = w->seq->base;
    if (!kv_is_local(w->s, w->layer) || seen <= window) return;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t at = w->pick ? w->pick[j] : j, ord = at < w->shelf->rows ? shelf_ord(w->shelf, at) : base + at - w->shelf->rows;
        if (ord == ORD_EXTRA || ord < seen - window) x[j] = -INFINITY;
    }
}

static void soften(const work *w, uint32_t seen, uint32_t n, float *x)
{
    const vec_ops *vec = w->s->vec;
    const kv_look *look = &w->s->g.look;
    vec->scale(x, n, look->scale > 0 ? look->scale : 1.0f / sqrtf((float)w->d));
    if (look->soft_cap > 0) vec->soft_cap(x, n, look->soft_cap);
    if (w->shelf->bias) vec->add(x, w->shelf->bias, w->shelf->rows);
    hide_far(w, seen, n, x);
}

/* Entropy of the weights exp(x - m): ln(sum) - sum x exp(x) / sum. */
static float entropy_of(const vec_ops *vec, const float *x, uint32_t n)
{
    float xs, sum = vec->exp_stats(x, n, vec->max(x, n), &xs);
    return (float)(math_log((double)sum) - (double)xs / (double)sum);
}

/* Row t, which sees so many rows. */
static void weigh(work *w, uint32_t t, uint32_t seen)
{
    const vec_ops *vec = w->s->vec;
    uint32_t n = rank_of(w, w->shelf->rows + seen - w->seq->base), slot = w->slot + t;
    uint32_t what = w->y->policy.see;
    float *first = w->score + (size_t)t * w->g * w->stride;
    observed o = { .x = first, .ld = w->stride, .inv = w->inv + t * w->g, .g = w->g, .n = n,
                   .own = w->shelf->rows + slot - w->seq->base };
    for (uint32_t i = 0; i < w->g; i++) {
        float *x = first + i * w->stride;
        soften(w, seen, n, x);
        if (what & KV_SEE_ENTROPY) o.entropy += entropy_of(vec, x, n) / (float)w->g;
        w->inv[t * w->g + i] = 1.0f / vec->exp_sum(x, n, vec->max(x, n));
    }
    if (what & ~(uint32_t)KV_SEE_QUERIES)
        observe_row(&w->y->see, (w->layer - w->s->g.first) * w->s->g.K + w->head, slot, &o);
    if (w->role == KV_LAYER_SELECTS && choices_has(w->y->choices, slot))
        choices_add(w->y->choices, slot, &(choice_weights){ o.x, o.ld, o.inv, o.g, n });
    if (w->role == KV_LAYER_SPARSE && choices_has(w->y->choices, slot)) w->sparse_read += n, w->sparse_seen += seen;
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static float *out_of(const work *w, uint32_t i) { return w->out + i / w->g * w->ldo + (size_t)(i % w->g) * w->d; }

static float *sum_of(const work *w, uint32_t i, bool mixed)
{
    return i >= w->queries ? w->spare : mixed ? w->mixed_out + (size_t)i * w->d : out_of(w, i);
}

/* Rows [r0, r1) of the tile into the sum of query i; the tile's first score is at `at`. */
static void sum_one(const work *w, uint32_t i, uint32_t r0, uint32_t r1, uint32_t ld, uint32_t at, bool mixed)
{
    if (r0 < r1)
        w->s->vec->axpy_rows_f32(w->score + i * w->stride + at + r0, w->tile + (size_t)r0 * ld, ld * sizeof *w->tile, r1 - r0, w->d,
                                 sum_of(w, i, mixed));
}

/* The first n rows of the tile into the sums of queries [i0, i0 + 4). */
static void sum_four(const work *w, uint32_t i0, uint32_t n, uint32_t ld, uint32_t at, bool mixed)
{
    float *acc[TILE_FOUR];
    for (uint32_t i = 0; i < TILE_FOUR; i++) acc[i] = sum_of(w, i0 + i, mixed);
    if (n && ld == w->d)
        w->s->tile->sums(w->s->vec, w->score + i0 * w->stride + at, w->stride, four(w, i0), w->tile, n, w->d, acc);
    for (uint32_t i = 0; ld != w->d && i < four(w, i0); i++) sum_one(w, i0 + i, 0, n, ld, at, mixed);
}

static void pane_sums(work *w, const pane *p, uint32_t at)
{
    uint32_t from = rank_of(w, at);
    if (w->pick && from == rank_of(w, at + p->n)) return;
    pane_kind k = lossy_kind(w->seq, w->layer, w->head, KV_SIDE_V, p->code);
    uint32_t n = load_pane(w, &k, pane_at(w->seq, p, KV_SIDE_V), at, p->n);
    for (uint32_t i = 0; i < w->queries; i += TILE_FOUR) sum_four(w, i, n, ld_of(&k), from, k.pack.hadamard);
}

/* How many of n slots from `slot` on query i sees. */
static uint32_t seen_of(const work *w, uint32_t i, uint32_t slot, uint32_t n)
{
    uint32_t end = limit(w, i);
    return end <= slot ? 0 : end - slot < n ? end - slot : n;
}

/* Four queries together as far as the first of them sees, the others further by themselves. */
static void run_sums(const work *w, uint32_t first, uint32_t end, uint32_t at)
{
    for (uint32_t slot = first, n; slot < end; slot += n, at += n) {
        n = kv_layout_run(slot, end);
        uint32_t got = load_rows(w, kv_row_at(w->seq, w->layer, KV_SIDE_V, w->head, slot), at, n, w->d);
        for (uint32_t i = 0; got && i < w->queries; i += TILE_FOUR) {
            uint32_t all = w->pick ? got : seen_of(w, i, slot, n);
            sum_four(w, i, all, w->d, rank_of(w, at), false);
            for (uint32_t k = 1; !w->pick && k < four(w, i); k++) sum_one(w, i + k, all, seen_of(w, i + k, slot, n), w->d, at, false);
        }
    }
}

/* The weighted sum is a chain of FMAs: packed rows in their order, then raw ones from first to last; rotated values make a sum
 * of their own, which is turned back once. */
static void values(work *w)
{
    bool mixed = w->shelf->panes && (w->y->policy.v.hadamard || w->y->policy.v2.hadamard);
    uint32_t at = 0;
    for (uint32_t i = 0; i < w->queries; i++) memset(out_of(w, i), 0, w->d * sizeof *w->out);
    memset(w->spare, 0, w->d * sizeof *w->spare);
    if (mixed) memset(w->mixed_out, 0, (size_t)w->queries * w->d * sizeof *w->mixed_out);
    for (uint32_t i = 0; i < w->shelf->panes; at += w->shelf->pane[i++].n) pane_sums(w, &w->shelf->pane[i], at);
    for (uint32_t i = w->n_runs, first, n; i-- > 0; at += n) {
        run_get(w, i, &first, &n);
        run_sums(w, first, first + n, at);
    }
    for (uint32_t i = 0; i < w->queries; i++) {
        float *out = out_of(w, i), *turned = w->mixed_out + (size_t)i * w->d;
        if (mixed) {
            pane_hadamard(turned, w->d);
            w->s->vec->add(out, turned, w->d);
        }
        w->s->vec->scale(out, w->d, w->inv[i]);
    }
}

/* ---- the call ------------------------------------------------------------------------------------------------------ */

/* Rounded up, so that every part of the scratch begins on a cache line where the scratch does. */
static size_t line(size_t floats) { return (floats + 15) / 16 * 16; }

/* Scores of a query: four are written at a time, and no two queries share a cache set. */
static size_t stride_of(size_t entries) { return line(entries + TILE_FOUR) + 16; }

/* Entries of a head: rows that live, and at most as many dead ones, which only panes that are more than half alive hold. */
static size_t entries_of(const kv *s) { return 2 * (size_t)s->g.n_ctx + 2 * PANE_ROWS; }

static size_t scores_of(const kv *s)
{
    size_t one = fours(s->g.H / s->g.K) * stride_of(entries_of(s));
    return one > TILE_SCORES ? one : TILE_SCORES;
}

size_t lossy_scratch_floats(const kv *s)
{
    size_t most = fours(TILE_ROWS * (s->g.H / s->g.K));
    return 4 * most * line(s->g.d) + line((size_t)PANE_ROWS * pane_ld(s->g.d)) + line(s->g.d) + line(most) + scores_of(s) + s->g.n_ctx + 2;
}

static void cut_scratch(work *w, float *f)
{
    size_t most = fours(TILE_ROWS * w->g), qd = most * line(w->d);
    w->turned = f;
    w->mixed = f + qd;
    w->cut = f + 2 * qd;
    w->mixed_out = f + 3 * qd;
    w->tile = f + 4 * qd;
    w->spare = w->tile + line((size_t)PANE_ROWS * w->ld);
    w->inv = w->spare + line(w->d);
    w->score = w->inv + line(most);
    w->runs = w->score + scores_of(w->s);
}

/* As many of n rows as their scores have room for. In a sparse layer a row of its own, with what it chose. */
static void set_rows(work *w, uint32_t n)
{
    w->pick = w->role == KV_LAYER_SPARSE ? choices_of(w->y->choices, w->slot, &w->picks) : NULL;
    if (w->role == KV_LAYER_SPARSE) n = 1;
    for (w->n = n < TILE_ROWS ? n : TILE_ROWS;; w->n--) {
        w->queries = w->n * w->g;
        w->stride = stride_of((size_t)w->shelf->rows + w->slot + w->n - w->seq->base);
        if (w->n == 1 || fours(w->queries) * w->stride <= TILE_SCORES) return;
    }
}

static void attend_rows(work *w, const float *query, size_t ldq)
{
    uint32_t at = 0;
    queries(w, query, ldq);
    for (uint32_t i = 0; i < w->shelf->panes; at += w->shelf->pane[i++].n) pane_scores(w, &w->shelf->pane[i], at);
    uint32_t seen = raw_scores(w);
    for (uint32_t t = 0; t < w->n; t++) weigh(w, t, seen - (w->n - 1 - t));
    values(w);
}

void lossy_attend(kv_seq *q, uint32_t layer, uint32_t slot, uint32_t n, const float *query, size_t ldq, float *out, size_t ldo,
                  uint32_t head, float *scratch)
{
    kv *s = q->store;
    work w = { .seq = q, .s = s, .y = q->lossy, .layer = layer, .head = head, .g = s->g.H / s->g.K, .d = s->g.d, .ld = pane_ld(s->g.d),
               .ldo = ldo, .role = q->lossy->choices ? kv_role_of(&q->lossy->policy, layer, kv_model_layers(s)) : KV_LAYER_FULL };
    cut_scratch(&w, scratch);
    w.shelf = shelf_of(q, layer, head);
    for (uint32_t t = 0; t < n; t++)
        observe_query(&w.y->see, layer - s->g.first, slot + t, query + t * ldq, head * w.g * w.d, w.g * w.d);
    for (uint32_t t = 0; t < n; t += w.n) {
        w.slot = slot + t;
        set_rows(&w, n - t);
        w.out = out + t * ldo;
        attend_rows(&w, query + t * ldq, ldq);
    }
    __atomic_fetch_add(&s->read, w.read, __ATOMIC_RELAXED);
    if (!w.sparse_seen) return;
    __atomic_fetch_add(&s->sparse_read, w.sparse_read, __ATOMIC_RELAXED);
    __atomic_fetch_add(&s->sparse_seen, w.sparse_seen, __ATOMIC_RELAXED);
}
