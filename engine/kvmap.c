/* Which auxiliary layer stands for which, what is gathered of it, and the product. Learns nothing: engine/kvfit.c does. */
#include "engine/kvmap.h"
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define X(N, name) [KVMAP_##N] = name,
    KVMAP_INPUTS_MAP(X)
#undef X
};

const char *kvmap_inputs_name(kvmap_inputs f) { return (unsigned)f < KVMAP_INPUTS_COUNT ? names[f] : "unknown"; }

err_code kvmap_inputs_parse(const char *name, kvmap_inputs *out, err *e)
{
    for (uint32_t i = 0; i < KVMAP_INPUTS_COUNT; i++)
        if (!strcmp(name, names[i])) return *out = (kvmap_inputs)i, ERR_OK;
    return err_set(e, ERR_CONFIG, "inputs of KV prediction are own, both, near or wide, not \"%.40s\"", name);
}

/* ---- layers ------------------------------------------------------------------------------------------------------- */

static uint32_t last_kept(const uint32_t *kept, uint32_t n, uint32_t layer)
{
    uint32_t j = 0;
    while (j + 1 < n && kept[j + 1] <= layer) j++;
    return j;
}

void kvmap_sources(kvmap_shape *s, const uint32_t *kept)
{
    uint32_t each = s->L / s->A, more = s->L % s->A;
    for (uint32_t i = 0; i < s->L; i++) {
        if (kept) s->source[i] = last_kept(kept, s->A, i);
        else if (!each) s->source[i] = i * s->A / s->L;
        else s->source[i] = i < more * (each + 1) ? i / (each + 1) : more + (i - more * (each + 1)) / each;
    }
}

typedef struct { uint32_t lo, hi; } span;

static span sources_of(const kvmap_shape *s, uint32_t layer)
{
    uint32_t j = s->source[layer];
    if (s->inputs < KVMAP_NEAR) return (span){ j, j + 1 };
    return (span){ j ? j - 1 : 0, j + 2 < s->A ? j + 2 : s->A };
}

uint32_t kvmap_width(const kvmap_shape *s, uint32_t layer)
{
    span p = sources_of(s, layer);
    if (s->inputs == KVMAP_OWN) return s->kv;
    return (p.hi - p.lo) * (2 * s->kv + (s->inputs == KVMAP_WIDE ? s->D : 0));
}

static float *put(float *x, const float *from, size_t row, uint32_t n)
{
    memcpy(x, from + row * n, n * sizeof *x);
    return x + n;
}

void kvmap_gather(const kvmap_shape *s, uint32_t layer, int side, const runner_tap *aux, uint32_t max_rows, uint32_t t, float *x)
{
    span p = sources_of(s, layer);
    for (uint32_t j = p.lo; j < p.hi; j++) {
        size_t row = (size_t)j * max_rows + t;
        if (s->inputs != KVMAP_OWN || side == KVMAP_K) x = put(x, aux->k, row, s->kv);
        if (s->inputs != KVMAP_OWN || side == KVMAP_V) x = put(x, aux->v, row, s->kv);
        if (s->inputs == KVMAP_WIDE) x = put(x, aux->h, row, s->D);
    }
}

/* ---- the product --------------------------------------------------------------------------------------------------- */

struct kvmap_work {
    act in[KVMAP_SIDES];   /* [max_rows][ld]; with shared inputs only the first is filled */
    float *x[KVMAP_SIDES];
};

static bool act_open(act *a, float **x, size_t rows, size_t ld)
{
    size_t bytes = (rows * ld * sizeof **x + 63) / 64 * 64;
    *x = aligned_alloc(64, bytes);
    *a = (act){ .ld = ld, .x = *x, .q = malloc(rows * ld), .d = malloc(rows * ld / 32 * sizeof *a->d), .s = malloc(rows * ld / 16 * sizeof *a->s),
                .z = aligned_alloc(64, (rows * ld / 32 * sizeof *a->z + 63) / 64 * 64) };
    if (*x) memset(*x, 0, bytes); /* the padding is read, never written */
    return *x && a->q && a->d && a->s && a->z;
}

static void act_close(act *a, float *x)
{
    free(x);
    free(a->q);
    free(a->d);
    free(a->s);
    free(a->z);
}

static uint32_t widest(const kvmap_shape *s)
{
    uint32_t most = 0;
    for (uint32_t l = 0; l < s->L; l++) most = kvmap_width(s, l) > most ? kvmap_width(s, l) : most;
    return (most + 31) / 32 * 32;
}

err_code kvmap_work_open(kvmap_work **out, const kvmap_shape *s, uint32_t max_rows, err *e)
{
    kvmap_work *w = *out = calloc(1, sizeof *w);
    bool ok = w != NULL;
    for (int i = 0; ok && i < KVMAP_SIDES; i++) ok = act_open(&w->in[i], &w->x[i], max_rows, widest(s));
    if (ok) return ERR_OK;
    kvmap_work_close(out);
    return err_set(e, ERR_NOMEM, "out of memory for predicting %u rows", max_rows);
}

void kvmap_work_close(kvmap_work **wp)
{
    kvmap_work *w = *wp;
    if (!w) return;
    for (int i = 0; i < KVMAP_SIDES; i++) act_close(&w->in[i], w->x[i]);
    free(w);
    *wp = NULL;
}

/* This thread's rows of x, as the product wants them. A map of a side is stored like the other. */
static void gather(const kvmap_run *r, uint32_t layer, uint32_t sides, uint32_t lo, uint32_t hi)
{
    const kvmap_shape *s = &r->map->shape;
    for (uint32_t i = 0; i < sides; i++) {
        const mat *w = &r->map->layer[layer].w[i];
        act in = r->work->in[i];
        in.n_in = w->n_in;
        for (uint32_t t = lo; t < hi; t++) kvmap_gather(s, layer, (int)i, r->aux, r->max_rows, t, r->work->x[i] + t * in.ld);
        if (lo < hi && kernels_wants_q(r->path, w->type)) r->k->quantize(&in, lo, hi);
    }
}

void kvmap_apply(const kvmap_run *r, uint32_t layer, float *key, float *val, uint32_t tid, uint32_t n)
{
    const kvmap_shape *s = &r->map->shape;
    const kvmap_layer *m = &r->map->layer[layer];
    uint32_t lo, hi, sides = s->inputs == KVMAP_OWN ? KVMAP_SIDES : 1;
    pool_part(r->T, 1, tid, n, &lo, &hi);
    gather(r, layer, sides, lo, hi);
    pool_barrier(r->pool);
    uint32_t o0, o1;
    pool_part(s->out, KERNELS_GRAIN, tid, n, &o0, &o1);
    for (uint32_t i = 0; i < KVMAP_SIDES; i++) {
        act in = r->work->in[sides == 1 ? 0 : i];
        float *y = i ? val : key;
        in.n_in = m->w[i].n_in;
        kernels_matmul(r->k, r->path, &m->w[i], &in, r->T, y, s->out, o0, o1);
        for (uint32_t t = 0; t < r->T; t++) r->k->vec->add(y + (size_t)t * s->out + o0, m->b[i] + o0, o1 - o0);
    }
    pool_barrier(r->pool);
}
