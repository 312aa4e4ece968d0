/* One step over a batch of rows, run by all threads of a pool together: each layer is a few phases with a barrier between.
 * Phases split either rows (norms, quantising, appending), outputs (matrices) or rows x kv heads (attention); a result
 * never depends on the split. This file refuses to know sockets, sessions or sampling. */
#include "engine/forward.h"
#include "engine/packed.h"
#include "engine/row_sets.h"
#include <stdlib.h>
#include <string.h>

typedef struct { uint32_t layer; lora_mat which; } place;    /* a matrix, as adapters name it */

enum { ATTEND_ROWS = 16 };                                   /* rows whose attention shares a load of K and V */

struct runner {
    const model *m;
    kv *store;
    pool *pool;
    const kernels *k;
    uint32_t max_rows;
    act in;            /* normed input          [T][ld >= D]     */
    act att;           /* attention output      [T][ld >= H*d]   */
    act ffn;           /* silu or gelu of gate, * up       [T][ld >= F]     */
    float *x_in, *x_att, *x_ffn;                /* their writable floats */
    float *q, *key, *val;                       /* [T][H*d], [T][K*d], [T][K*d] */
    float *up;                                  /* [T][F] */
    float *out;                                 /* [T][D] a block's output before the residual */
    float *logits;                              /* [RUNNER_HEAD_ROWS][V] */
    float *scratch;                             /* [threads][kv_scratch_floats] */
    size_t n_scratch;
    runner_tap tap;
    row_sets sets;                              /* who runs what */
    bool pooled;                                /* some row's layer inputs are added up */
    float *ones, *unit;                         /* [D] each, for that */
    const forward_row *rows;                    /* of the step under way */
    uint32_t T;
    float *h;                                   /* [T][D] */
    struct { const uint32_t *pick; uint32_t n; row_stats *stats; const float *h; } head;
    const stand_ins *stand;                     /* NULL: none */
    forward_watch *watch;                       /* NULL: nobody */
    void *watch_arg;
};

kv_geometry forward_kv(const model_shape *s, uint32_t first, uint32_t last)
{
    return (kv_geometry){ .first = first, .last = last, .H = s->H, .K = s->K, .d = s->d, .rope = s->rope, .look = s->look,
                          .n_layers = s->L };
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static size_t pad32(size_t n) { return (n + 31) / 32 * 32; }

static bool act_alloc(act *a, float **x, uint32_t n, uint32_t rows)
{
    a->n_in = n;
    a->ld = pad32(n);
    *x = aligned_alloc(64, (rows * a->ld * sizeof(float) + 63) / 64 * 64);
    a->x = *x;
    a->q = malloc(rows * a->ld);
    a->d = malloc(rows * a->ld / 32 * sizeof *a->d);
    a->s = malloc(rows * a->ld / 16 * sizeof *a->s);
    a->z = aligned_alloc(64, (rows * a->ld / 32 * sizeof *a->z + 63) / 64 * 64);
    a->h = aligned_alloc(64, rows * act_bytes_bf16(a->ld)); /* pages that no path uses are never touched */
    if (*x) memset(*x, 0, rows * a->ld * sizeof(float)); /* the padding is read, never written */
    return *x && a->q && a->d && a->s && a->z && a->h;
}

static void act_free(act *a, float *x)
{
    free(x);
    free(a->q);
    free(a->d);
    free(a->s);
    free(a->z);
    free(a->h);
}

static bool alloc_f(float **p, size_t n)
{
    *p = aligned_alloc(64, (n * sizeof(float) + 64) / 64 * 64);
    return *p != NULL;
}

static bool pooling_alloc(runner *r)
{
    uint32_t D = r->m->shape.D;
    r->ones = malloc(2 * D * sizeof *r->ones);
    if (!r->ones) return false;
    r->unit = r->ones + D;
    for (uint32_t i = 0; i < D; i++) r->ones[i] = 1;
    return true;
}

static bool runner_alloc(runner *r, uint32_t n)
{
    const model_shape *s = &r->m->shape;
    size_t hd = (size_t)s->H * s->d, kd = (size_t)s->K * s->d;
    bool ok = act_alloc(&r->in, &r->x_in, s->D, n < RUNNER_HEAD_ROWS ? RUNNER_HEAD_ROWS : n);
    if (r->m->part.last > r->m->part.first) {
        r->n_scratch = kv_scratch_floats(r->store);
        ok = ok && act_alloc(&r->att, &r->x_att, (uint32_t)hd, n) && act_alloc(&r->ffn, &r->x_ffn, s->F, n)
             && alloc_f(&r->q, n * hd) && alloc_f(&r->key, n * kd) && alloc_f(&r->val, n * kd) && alloc_f(&r->up, (size_t)n * s->F)
             && alloc_f(&r->out, (size_t)n * s->D) && alloc_f(&r->scratch, pool_threads(r->pool) * r->n_scratch);
    }
    if (r->m->part.head) ok = ok && alloc_f(&r->logits, (size_t)RUNNER_HEAD_ROWS * s->V);
    return row_sets_open(&r->sets, r->m->part.first, r->m->part.last, n < RUNNER_HEAD_ROWS ? RUNNER_HEAD_ROWS : n) && pooling_alloc(r) && ok;
}

err_code runner_open(runner **out, const model *m, kv *store, pool *p, isa i, uint32_t max_rows, err *e)
{
    *out = NULL;
    runner *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory for the scratch of a step");
    r->m = m;
    r->store = store;
    r->pool = p;
    r->k = kernels_for(i);
    r->max_rows = max_rows;
    if (!runner_alloc(r, max_rows)) {
        runner_close(&r);
        return err_set(e, ERR_NOMEM, "out of memory for the scratch of a step of %u rows", max_rows);
    }
    *out = r;
    return ERR_OK;
}

void runner_close(runner **rp)
{
    runner *r = *rp;
    if (!r) return;
    act_free(&r->in, r->x_in);
    act_free(&r->att, r->x_att);
    act_free(&r->ffn, r->x_ffn);
    float *f[] = { r->q, r->key, r->val, r->up, r->out, r->logits, r->scratch };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) free(f[i]);
    row_sets_close(&r->sets);
    free(r->ones);
    free(r);
    *rp = NULL;
}

/* ---- pieces every phase is made of ------------------------------------------------------------------------------- */

/* What a row's adapter adds to a product, whatever the row's path. Every thread computes u = A x for itself: that is less
 * work than a barrier and scratch for all rows. */
static void adapt(const runner *r, const row_set *s, const place *p, uint32_t t, const act *a, float *y, uint32_t o0, uint32_t o1)
{
    const forward_row *row = &r->rows[s->at[t]];
    const lora_pair *pair = row->adapter ? lora_find(row->adapter, p->layer, p->which) : NULL;
    if (pair) lora_apply(pair, r->k->vec, row->adapter_scale, a->x + t * a->ld, y, o0, o1);
}

/* y [n][ldy], outputs [o0,o1): one product for each run of rows with the same path. */
static void multiply(const runner *r, const row_set *s, const mat *w, const act *a, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    for (uint32_t i = 0; o0 < o1 && i < s->n_runs; i++) {
        const row_run *u = &s->run[i];
        act b = *a;
        b.x += u->lo * a->ld;
        b.q += u->lo * a->ld;
        b.d += u->lo * (a->ld / 32);
        b.s += u->lo * (a->ld / 16);
        b.z += u->lo * (a->ld / 32);
        b.h = act_row_bf16(a, u->lo);
        kernels_matmul(r->k, u->path, w, &b, u->hi - u->lo, y + u->lo * ldy, ldy, o0, o1);
    }
}

/* The same, and then what adapters add. The weights are read once for rows with different adapters. */
static void product(const runner *r, const row_set *s, place p, const mat *w, const act *a, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    multiply(r, s, w, a, y, ldy, o0, o1);
    for (uint32_t t = 0; o0 < o1 && t < s->n; t++) adapt(r, s, &p, t, a, y + t * ldy, o0, o1);
}

/* Rows [t0, t1) of the set in the form that their path wants for quantised weights. */
static void quantize(const runner *r, const row_set *s, const act *a, bool quant, uint32_t t0, uint32_t t1)
{
    for (uint32_t i = 0; quant && a->n_in % 32 == 0 && i < s->n_runs; i++) {
        const row_run *u = &s->run[i];
        uint32_t lo = u->lo > t0 ? u->lo : t0, hi = u->hi < t1 ? u->hi : t1;
        if (lo >= hi) continue;
        if (u->path == PATH_I8B32) r->k->quantize(a, lo, hi);
        if (u->path == PATH_BF16AMX) r->k->round_bf16(a, lo, hi);
    }
}

static bool any_quant(const mat *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (wtypes[w[i].type].quant) return true;
    return false;
}

/* ---- one layer, phase by phase ----------------------------------------------------------------------------------- */

/* One thread's place in it: rows [t0, t1) of the set s are its own where rows are dealt out. Of an attention's rows those of the set
 * `on` want more than K and V: the first ones of s. */
typedef struct { runner *r; uint32_t l, tid, n, t0, t1; const layer_weights *w; const row_set *s, *on; } worker;

static void phase_norm(const worker *k, const float *weight, bool quant)
{
    runner *r = k->r;
    uint32_t D = r->m->shape.D;
    for (uint32_t t = k->t0; t < k->t1; t++)
        r->k->vec->rms_norm(r->x_in + t * r->in.ld, r->h + (size_t)k->s->at[t] * D, weight, D, r->m->shape.rms_eps);
    quantize(r, k->s, &r->in, quant, k->t0, k->t1);
}

static void phase_qkv(const worker *k)
{
    runner *r = k->r;
    const layer_weights *w = k->w;
    const struct { const row_set *s; const mat *w; float *y; lora_mat which; } out[] = {
        { k->on, &w->wq, r->q, LORA_Q }, { k->s, &w->wk, r->key, LORA_K }, { k->s, &w->wv, r->val, LORA_V },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t lo, hi, n = out[i].w->n_out;
        pool_part(n, KERNELS_GRAIN, k->tid, k->n, &lo, &hi);
        product(r, out[i].s, (place){ k->l, out[i].which }, out[i].w, &r->in, out[i].y, n, lo, hi);
    }
}

static void head_norms(const runner *r, float *x, uint32_t heads, const float *w)
{
    uint32_t d = r->m->shape.d;
    for (uint32_t h = 0; w && h < heads; h++) r->k->vec->rms_norm(x + h * d, x + h * d, w, d, r->m->shape.rms_eps);
}

static void listen(const worker *k, uint32_t t, const float *key, const float *val)
{
    const runner *r = k->r;
    uint32_t kd = r->m->shape.K * r->m->shape.d, D = r->m->shape.D;
    size_t at = (size_t)(k->l - r->m->part.first) * r->max_rows + t;
    if (r->tap.k) memcpy(r->tap.k + at * kd, key, kd * sizeof *key);
    if (r->tap.v) memcpy(r->tap.v + at * kd, val, kd * sizeof *val);
    if (r->tap.h) memcpy(r->tap.h + at * D, r->h + (size_t)t * D, D * sizeof *r->h);
}

static void phase_append(const worker *k)
{
    runner *r = k->r;
    const layer_weights *w = k->w;
    const model_shape *s = &r->m->shape;
    uint32_t hd = s->H * s->d, kd = s->K * s->d;
    for (uint32_t t = k->t0; t < k->t1; t++) {
        float *q = r->q + (size_t)t * hd, *key = r->key + (size_t)t * kd, *val = r->val + (size_t)t * kd;
        if (w->bq && t < k->on->n) r->k->vec->add(q, w->bq, hd);
        if (w->bk) r->k->vec->add(key, w->bk, kd);
        if (w->bv) r->k->vec->add(val, w->bv, kd);
        listen(k, k->s->at[t], key, val);
        if (t < k->on->n) head_norms(r, q, s->H, w->q_norm);
        head_norms(r, key, s->K, w->k_norm);
        const forward_row *row = &r->rows[k->s->at[t]];
        kv_append(row->seq, k->l, row->slot, key, val, 0, s->K);
    }
}

/* Rows of the set from t on, below hi, that follow each other in one sequence. */
static uint32_t line_of_rows(const worker *k, uint32_t t, uint32_t hi)
{
    const forward_row *rows = k->r->rows, *first = &rows[k->s->at[t]];
    uint32_t n = 1;
    for (; t + n < hi; n++) {
        const forward_row *next = &rows[k->s->at[t + n]];
        if (next->seq != first->seq || next->slot != first->slot + n) break;
    }
    return n;
}

/* A few rows and a kv head at a time, dealt out to the threads in turn: later rows of a prompt see more and cost more. */
static void phase_attend(const worker *k)
{
    runner *r = k->r;
    const model_shape *s = &r->m->shape;
    uint32_t hd = s->H * s->d, T = k->s->n, parts = (T + ATTEND_ROWS - 1) / ATTEND_ROWS;
    for (uint32_t i = k->tid; i < parts * s->K; i += k->n) {
        uint32_t h = i % s->K, t = i / s->K * ATTEND_ROWS, hi = t + ATTEND_ROWS < T ? t + ATTEND_ROWS : T;
        for (uint32_t n; t < hi; t += n) {
            n = line_of_rows(k, t, hi);
            const forward_row *row = &r->rows[k->s->at[t]];
            kv_attend_rows(row->seq, k->l, row->slot, n, r->q + (size_t)t * hd, hd, r->x_att + t * r->att.ld, r->att.ld,
                           h, h + 1, r->scratch + k->tid * r->n_scratch);
        }
    }
}

/* h += W a, each thread its own outputs; h += norm(W a) needs all outputs of a row, so a barrier lies between. */
static void phase_project(const worker *k, lora_mat which, const mat *w, const act *a, const float *post)
{
    runner *r = k->r;
    const vec_ops *v = r->k->vec;
    uint32_t lo, hi, D = r->m->shape.D;
    pool_part(D, KERNELS_GRAIN, k->tid, k->n, &lo, &hi);
    product(r, k->s, (place){ k->l, which }, w, a, r->out, D, lo, hi);
    if (post) pool_barrier(r->pool);
    for (uint32_t t = 0; !post && t < k->s->n; t++) v->add(r->h + (size_t)k->s->at[t] * D + lo, r->out + (size_t)t * D + lo, hi - lo);
    for (uint32_t t = k->t0; post && t < k->t1; t++) {
        float *y = r->out + (size_t)t * D;
        v->rms_norm(y, y, post, D, r->m->shape.rms_eps);
        v->add(r->h + (size_t)k->s->at[t] * D, y, D);
    }
}

static void phase_gate_up(const worker *k)
{
    runner *r = k->r;
    void (*gate)(float *, const float *, const float *, uint32_t) = r->m->shape.gelu ? r->k->vec->gelu_mul : r->k->vec->silu_mul;
    uint32_t lo, hi, F = r->m->shape.F;
    pool_part(F, KERNELS_GRAIN, k->tid, k->n, &lo, &hi);
    product(r, k->s, (place){ k->l, LORA_GATE }, &k->w->gate, &r->in, r->x_ffn, r->ffn.ld, lo, hi);
    product(r, k->s, (place){ k->l, LORA_UP }, &k->w->up, &r->in, r->up, F, lo, hi);
    for (uint32_t t = 0; t < k->s->n; t++) {
        float *g = r->x_ffn + t * r->ffn.ld + lo;
        gate(g, g, r->up + (size_t)t * F + lo, hi - lo);
    }
}

void runner_watch(runner *r, forward_watch *fn, void *arg)
{
    r->watch = fn;
    r->watch_arg = arg;
}

/* Between two barriers: until the next one nobody writes what is shown. */
static void show(const worker *k, forward_place at)
{
    const runner *r = k->r;
    if (!r->watch || k->tid || r->sets.masked) return;
    r->watch(r->watch_arg, at, &(forward_view){ .layer = k->l, .T = r->T, .rows = r->rows, .h = r->h, .q = r->q, .k = r->key,
                                                .v = r->val, .att = r->x_att, .ld_att = r->att.ld });
}

/* What comes of K and V, for the rows that want it. */
static void attend(const worker *k)
{
    runner *r = k->r;
    const layer_weights *w = k->w;
    phase_attend(k);
    pool_barrier(r->pool);
    show(k, FORWARD_ATTENDED);
    for (uint32_t t = k->t0; t < k->t1; t++) kv_choose(r->rows[k->s->at[t]].seq, k->l, r->rows[k->s->at[t]].slot);
    quantize(r, k->s, &r->att, any_quant(&w->wo, 1), k->t0, k->t1);
    pool_barrier(r->pool);
    phase_project(k, LORA_O, &w->wo, &r->att, w->attn_post);
    pool_barrier(r->pool);
}

static void deal_rows(worker *k, const row_set *s)
{
    k->s = s;
    pool_part(s->n, 1, k->tid, k->n, &k->t0, &k->t1);
}

static void attention(worker *k)
{
    runner *r = k->r;
    const layer_weights *w = k->w;
    k->on = row_sets_on(&r->sets, k->l);
    show(k, FORWARD_IN);
    phase_norm(k, w->attn_norm, any_quant((mat[]){ w->wq, w->wk, w->wv }, 3));
    pool_barrier(r->pool);
    phase_qkv(k);
    pool_barrier(r->pool);
    phase_append(k);
    pool_barrier(r->pool);
    show(k, FORWARD_QKV);
    deal_rows(k, k->on);
    if (k->s->n) attend(k);
}

static void feed_forward(const worker *k)
{
    runner *r = k->r;
    const layer_weights *w = k->w;
    show(k, FORWARD_MIDDLE);
    phase_norm(k, w->ffn_norm, any_quant((mat[]){ w->gate, w->up }, 2));
    pool_barrier(r->pool);
    phase_gate_up(k);
    pool_barrier(r->pool);
    quantize(r, k->s, &r->ffn, any_quant(&w->down, 1), k->t0, k->t1);
    pool_barrier(r->pool);
    phase_project(k, LORA_DOWN, &w->down, &r->ffn, w->ffn_post);
    pool_barrier(r->pool);
}

/* h += B (A x) + b in place of an FFN: engine/stand_in.h. Adapters are of the FFN's own matrices, so none is added here. */
static void low_rank_ffn(const worker *k, const low_rank *f)
{
    runner *r = k->r;
    uint32_t lo, hi, D = r->m->shape.D;
    act u = r->ffn;
    u.n_in = f->a.n_out;
    phase_norm(k, k->w->ffn_norm, any_quant(&f->a, 1));
    pool_barrier(r->pool);
    pool_part(f->a.n_out, KERNELS_GRAIN, k->tid, k->n, &lo, &hi);
    multiply(r, k->s, &f->a, &r->in, r->x_ffn, r->ffn.ld, lo, hi);
    pool_barrier(r->pool);
    quantize(r, k->s, &u, any_quant(&f->b, 1), k->t0, k->t1);
    pool_barrier(r->pool);
    pool_part(D, KERNELS_GRAIN, k->tid, k->n, &lo, &hi);
    multiply(r, k->s, &f->b, &u, r->out, D, lo, hi);
    for (uint32_t t = 0; lo < hi && t < k->s->n; t++) {
        float *y = r->out + (size_t)t * D + lo;
        r->k->vec->add(y, f->bias + lo, hi - lo);
        r->k->vec->add(r->h + (size_t)k->s->at[t] * D + lo, y, hi - lo);
    }
    pool_barrier(r->pool);
}

/* h *= s in place of a half: each thread its part of the step's rows. */
static void scale_rows(const worker *k, int half)
{
    runner *r = k->r;
    uint32_t lo, hi, D = r->m->shape.D;
    if (!r->sets.scaled) return;
    pool_part(r->T, 1, k->tid, k->n, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++)
        if (row_sets_scales(&r->sets, k->l, half, t)) r->k->vec->scale(r->h + (size_t)t * D, D, stand_in_scale(r->stand, k->l, half == HALF_FFN));
    pool_barrier(r->pool);
}

/* The rows of this half, and this thread's part of them; false: nobody runs it. Every thread sees the same. */
static bool take_set(worker *k, int half)
{
    deal_rows(k, row_sets_of(&k->r->sets, k->l, half));
    return k->s->n > 0;
}

/* Rows in their order, whatever the chunks: one thread adds, and the others wait for it at the next barrier. */
static void add_inputs(const worker *k)
{
    const runner *r = k->r;
    uint32_t D = r->m->shape.D;
    for (uint32_t t = 0; r->pooled && !k->tid && t < r->T; t++) {
        if (!r->rows[t].pool) continue;
        r->k->vec->rms_norm(r->unit, r->h + (size_t)t * D, r->ones, D, r->m->shape.rms_eps);
        r->k->vec->add(r->rows[t].pool + (size_t)(k->l - r->m->part.first) * D, r->unit, D);
    }
    if (r->pooled) pool_barrier(r->pool);
}

/* Who runs the FFN depends on what those before it did: one thread says so, and the others wait for it. */
static void settle_ffn(const worker *k)
{
    runner *r = k->r;
    if (!r->sets.calm) return;
    pool_barrier(r->pool);
    if (!k->tid) row_sets_settle(&r->sets, k->l);
    pool_barrier(r->pool);
}

static void look_at_ffn(const worker *k)
{
    runner *r = k->r;
    uint32_t D = r->m->shape.D;
    for (uint32_t t = k->t0; r->sets.calm && t < k->t1; t++)
        row_sets_saw(&r->sets, r->k->vec, k->l, k->s->at[t], r->h + (size_t)k->s->at[t] * D, r->out + (size_t)t * D, D);
}

static void all_layers(void *arg, uint32_t tid, uint32_t n)
{
    runner *r = arg;
    worker k = { .r = r, .tid = tid, .n = n };
    for (k.l = r->m->part.first; k.l < r->m->part.last; k.l++) {
        k.w = &r->m->layer[k.l - r->m->part.first];
        add_inputs(&k);
        if (take_set(&k, HALF_ATTN)) attention(&k);
        scale_rows(&k, HALF_ATTN);
        settle_ffn(&k);
        if (take_set(&k, HALF_FFN)) feed_forward(&k), look_at_ffn(&k);
        scale_rows(&k, HALF_FFN);
        const low_rank *f = stand_in_ffn(r->stand, k.l);
        if (f && r->sets.masked && take_set(&k, HALF_LOW_RANK)) low_rank_ffn(&k, f);
    }
}

void runner_stand_ins(runner *r, const stand_ins *s) { r->stand = s; }

void runner_listen(runner *r, const runner_tap *to)
{
    r->tap = to ? *to : (runner_tap){ 0 };
}

void runner_layers(runner *r, const forward_row *rows, uint32_t T, float *h)
{
    r->sets.calm = false;
    if (!T || r->m->part.first == r->m->part.last) return;
    r->rows = rows;
    r->T = T;
    r->h = h;
    r->pooled = false;
    for (uint32_t t = 0; t < T && !r->pooled; t++) r->pooled = rows[t].pool != NULL;
    row_sets_find(&r->sets, rows, T);
    if (r->watch) r->sets.ends = false;
    pool_run(r->pool, all_layers, r);
}

const mask_row *runner_calm(const runner *r) { return r->sets.calm ? r->sets.carried : NULL; }

/* ---- the two ends ------------------------------------------------------------------------------------------------ */

void runner_embed(runner *r, const uint32_t *ids, uint32_t T, float *h)
{
    const mat *w = &r->m->embed;
    float scale = r->m->shape.embed_scale;
    for (uint32_t t = 0; t < T; t++) mat_row_f32(w, ids[t], 0, w->n_in, h + (size_t)t * w->n_in);
    for (uint32_t t = 0; scale > 0 && t < T; t++) r->k->vec->scale(h + (size_t)t * w->n_in, w->n_in, scale);
}

static void head_rows(void *arg, uint32_t tid, uint32_t n)
{
    runner *r = arg;
    const model_shape *s = &r->m->shape;
    uint32_t lo, hi;
    pool_part(r->head.n, 1, tid, n, &lo, &hi);
    for (uint32_t i = lo; i < hi; i++)
        r->k->vec->rms_norm(r->x_in + i * r->in.ld, r->head.h + (size_t)r->head.pick[i] * s->D, r->m->out_norm, s->D, s->rms_eps);
    quantize(r, &r->sets.all, &r->in, any_quant(&r->m->head, 1), lo, hi);
    pool_barrier(r->pool);
    uint32_t o0, o1;
    pool_part(s->V, KERNELS_GRAIN, tid, n, &o0, &o1);
    product(r, &r->sets.all, (place){ 0, LORA_HEAD }, &r->m->head, &r->in, r->logits, s->V, o0, o1);
    for (uint32_t i = 0; s->final_cap > 0 && i < r->head.n; i++)
        r->k->vec->soft_cap(r->logits + (size_t)i * s->V + o0, o1 - o0, s->final_cap);
    pool_barrier(r->pool);
    for (uint32_t i = lo; i < hi; i++) r->head.stats[i] = row_stats_of(r->k->vec, r->logits + (size_t)i * s->V, s->V);
}

const float *runner_head(runner *r, const float *h, const uint32_t *pick, const forward_row *rows, uint32_t n, row_stats *stats)
{
    if (n > RUNNER_HEAD_ROWS) n = RUNNER_HEAD_ROWS;
    r->rows = rows;
    row_sets_all(&r->sets, rows, n);
    r->head.pick = pick;
    r->head.n = n;
    r->head.stats = stats;
    r->head.h = h;
    if (n) pool_run(r->pool, head_rows, r);
    return r->logits;
}
