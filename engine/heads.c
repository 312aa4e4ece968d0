#include "engine/heads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct heads {
    model_shape s;
    const vec_ops *vec;
    rope_table rope, rope_local;   /* local: closed unless local layers turn otherwise */
    uint32_t n_ctx, layer, T;
    float *q, *k, *v;              /* [H][n_ctx][d], [K][n_ctx][d] twice */
    float *a, *dots, *out;         /* [n_ctx], [n_ctx], [d] */
    float *norm;                   /* [n_ctx] |v_j|^2 */
};

static bool is_local(const heads *h)
{
    const kv_look *a = &h->s.look;
    return a->window && (!a->global_every || (h->layer + 1) % a->global_every);
}

err_code heads_open(heads **out, const model_shape *s, isa i, uint32_t n_ctx, err *e)
{
    *out = NULL;
    heads *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_NOMEM, "out of memory");
    h->s = *s;
    h->vec = vec_for(i);
    h->n_ctx = n_ctx;
    size_t rows = n_ctx, d = s->d;
    h->q = malloc(s->H * rows * d * sizeof(float));
    h->k = malloc(s->K * rows * d * sizeof(float));
    h->v = malloc(s->K * rows * d * sizeof(float));
    h->a = malloc(rows * sizeof(float));
    h->dots = malloc(rows * sizeof(float));
    h->norm = malloc(rows * sizeof(float));
    h->out = malloc(d * sizeof(float));
    bool ok = h->q && h->k && h->v && h->a && h->dots && h->norm && h->out;
    err_code rc = ok ? rope_table_open(&h->rope, &s->rope, n_ctx, e) : err_set(e, ERR_NOMEM, "out of memory for the heads of %u rows", n_ctx);
    if (!rc && s->look.window && s->look.local_base > 0) {
        rope_config local = { .n_rot = s->rope.n_rot, .neox = s->rope.neox, .base = s->look.local_base };
        rc = rope_table_open(&h->rope_local, &local, n_ctx, e);
    }
    if (rc) heads_close(&h);
    else *out = h;
    return rc;
}

void heads_close(heads **hp)
{
    heads *h = *hp;
    if (!h) return;
    float *f[] = { h->q, h->k, h->v, h->a, h->dots, h->norm, h->out };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) free(f[i]);
    rope_table_close(&h->rope);
    rope_table_close(&h->rope_local);
    free(h);
    *hp = NULL;
}

/* Head after head: to [heads][n_ctx][d] from x [T][heads*d], turned if t. */
static void spread(const heads *h, float *to, const float *x, uint32_t heads_n, const rope_table *t)
{
    uint32_t d = h->s.d;
    for (uint32_t n = 0; n < heads_n; n++)
        for (uint32_t i = 0; i < h->T; i++) {
            float *row = to + ((size_t)n * h->n_ctx + i) * d;
            memcpy(row, x + ((size_t)i * heads_n + n) * d, d * sizeof *row);
            if (t) h->vec->rope(row, t->cos + (size_t)i * t->half, t->sin + (size_t)i * t->half, h->s.rope.n_rot, h->s.rope.neox);
        }
}

void heads_load(heads *h, uint32_t layer, uint32_t T, const float *q, const float *k, const float *v)
{
    h->layer = layer;
    h->T = T < h->n_ctx ? T : h->n_ctx;
    const rope_table *t = h->rope_local.cos && is_local(h) ? &h->rope_local : &h->rope;
    spread(h, h->q, q, h->s.H, t);
    spread(h, h->k, k, h->s.K, t);
    spread(h, h->v, v, h->s.K, NULL);
}

uint32_t heads_rows(const heads *h) { return h->T; }

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static const float *query_row(const heads *h, uint32_t head, uint32_t i) { return h->q + ((size_t)head * h->n_ctx + i) * h->s.d; }
static const float *kv_rows_of(const heads *h, const float *x, uint32_t head)
{
    return x + (size_t)(head / (h->s.H / h->s.K)) * h->n_ctx * h->s.d;
}

/* Logits of row i over [0, i]; the first row it looks at. */
static uint32_t logits(const heads *h, uint32_t head, uint32_t i, float *a)
{
    const kv_look *look = &h->s.look;
    float scale = look->scale > 0 ? look->scale : 1 / sqrtf((float)h->s.d);
    uint32_t first = is_local(h) && i + 1 > look->window ? i + 1 - look->window : 0, n = i + 1 - first;
    h->vec->dot_rows_f32(query_row(h, head, i), kv_rows_of(h, h->k, head) + (size_t)first * h->s.d, h->s.d * sizeof(float), n, h->s.d, a + first);
    h->vec->scale(a + first, n, scale);
    if (look->soft_cap > 0) h->vec->soft_cap(a + first, n, look->soft_cap);
    memset(a, 0, first * sizeof *a);
    return first;
}

static void softmax(const heads *h, float *a, uint32_t first, uint32_t end)
{
    float top = h->vec->max(a + first, end - first), sum = h->vec->exp_sum(a + first, end - first, top);
    h->vec->scale(a + first, end - first, 1 / sum);
}

void heads_row(heads *h, uint32_t head, uint32_t i, float *a)
{
    uint32_t first = logits(h, head, i, a);
    softmax(h, a, first, i + 1);
}

void heads_row_kept(heads *h, uint32_t head, uint32_t i, const uint8_t *keep, uint32_t from, float *a)
{
    uint32_t first = logits(h, head, i, a);
    for (uint32_t j = first; j < from && j <= i; j++)
        if (!keep[j]) a[j] = -INFINITY;
    softmax(h, a, first, i + 1);
}

void heads_mix(const heads *h, uint32_t head, uint32_t n, const float *a, float *out)
{
    memset(out, 0, h->s.d * sizeof *out);
    h->vec->axpy_rows_f32(a, kv_rows_of(h, h->v, head), h->s.d * sizeof(float), n, h->s.d, out);
}

/* ---- what they are for --------------------------------------------------------------------------------------------- */

static void copy_scores_of(heads *h, uint32_t head, uint32_t period, double *echo, double *induction)
{
    uint32_t first = 1 + period, rows = 0;
    *echo = *induction = 0;
    for (uint32_t i = first; i < h->T; i++, rows++) {
        heads_row(h, head, i, h->a);
        for (uint32_t j = i; j >= first; ) {
            j -= period;
            *echo += (double)h->a[j];
            *induction += (double)h->a[j + 1];
        }
    }
    if (!rows) return;
    *echo /= rows;
    *induction /= rows;
}

void heads_copy_scores(heads *h, uint32_t period, float *echo, float *induction)
{
    uint32_t g = h->s.H / h->s.K;
    memset(echo, 0, h->s.K * sizeof *echo);
    memset(induction, 0, h->s.K * sizeof *induction);
    for (uint32_t head = 0; head < h->s.H; head++) {
        double e, n;
        copy_scores_of(h, head, period, &e, &n);
        if (e > (double)echo[head / g]) echo[head / g] = (float)e;
        if (n > (double)induction[head / g]) induction[head / g] = (float)n;
    }
}

void heads_received(heads *h, double *of)
{
    memset(of, 0, h->T * sizeof *of);
    for (uint32_t head = 0; head < h->s.H; head++)
        for (uint32_t i = 1; i < h->T; i++) {
            heads_row(h, head, i, h->a);
            for (uint32_t j = 0; j < i; j++) of[j] += (double)h->a[j];
        }
}

void heads_sensitivity(heads *h, uint32_t kv_head, double *of_k, double *of_v)
{
    uint32_t g = h->s.H / h->s.K, d = h->s.d;
    const float *v = h->v + (size_t)kv_head * h->n_ctx * d;
    for (uint32_t j = 0; j < h->T; j++) h->norm[j] = h->vec->sum_sq(v + (size_t)j * d, d);
    for (uint32_t head = kv_head * g; head < (kv_head + 1) * g; head++)
        for (uint32_t i = 0; i < h->T; i++) {
            heads_row(h, head, i, h->a);
            heads_mix(h, head, i + 1, h->a, h->out);
            h->vec->dot_rows_f32(h->out, v, d * sizeof(float), i + 1, d, h->dots);
            float own = h->vec->sum_sq(h->out, d);
            for (uint32_t j = 0; j <= i; j++) {
                double a2 = (double)h->a[j] * (double)h->a[j], apart = (double)(h->norm[j] - 2 * h->dots[j] + own);
                of_v[j] += a2;
                of_k[j] += apart > 0 ? a2 * apart : 0;
            }
        }
}
