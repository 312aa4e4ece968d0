#include "engine/predictor.h"
#include "engine/packed.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUX_SEQ = 1 };          /* the one sequence of the auxiliary's store */

struct predictor {
    auxiliary *aux;
    profile *profile;
    predictor_place at;
    path_id path;
    kvmap map;
    profile_data data[KVMAP_SIDES][MODEL_MAX_LAYERS];   /* mapped weights of the maps */
    uint8_t *packed[KVMAP_SIDES][MODEL_MAX_LAYERS];     /* or a copy of them in the kernels' layout */
    float *bias;               /* [L][KVMAP_SIDES][out] */
    kv *store;
    kv_seq *seq;
    runner *runner;
    kvmap_work *work;
    runner_tap tap;            /* [A][max_rows][..] */
    float *h;                  /* [max_rows][D] of the auxiliary */
    float *key, *val;          /* [max_rows][out] of the base */
    kv_row *rows;
    forward_row *fwd;
    uint32_t *slots;
    struct { kv_seq *base; const uint32_t *off; uint32_t first, had, T; } now; /* of T rows from `first` the base had some */
};

/* ---- what the profile says ------------------------------------------------------------------------------------------------ */

static err_code number_of(const profile *p, const char *name, uint32_t want, err *e)
{
    double x;
    if (!profile_number(p, PROFILE_PREDICT, name, &x)) return err_set(e, ERR_MODEL, "%s: predict.%s is missing", profile_file(p), name);
    if (x == (double)want) return ERR_OK;
    return err_set(e, ERR_CONFIG, "%s: predict.%s is %g, the auxiliary's is %u", profile_file(p), name, x, want);
}

static err_code read_sources(kvmap_shape *s, const profile *p, err *e)
{
    double source[MODEL_MAX_LAYERS];
    if (profile_layers(p) != s->L) return err_set(e, ERR_CONFIG, "%s: of %u layers, the base has %u", profile_file(p), profile_layers(p), s->L);
    if (!profile_numbers(p, PROFILE_PREDICT, "source", source, s->L))
        return err_set(e, ERR_MODEL, "%s: predict.source does not name a layer of the auxiliary for each of %u", profile_file(p), s->L);
    for (uint32_t i = 0; i < s->L; i++) {
        if (!(source[i] >= 0 && source[i] < s->A))
            return err_set(e, ERR_MODEL, "%s: predict.source of layer %u is %g, the auxiliary has %u layers", profile_file(p), i, source[i], s->A);
        s->source[i] = (uint32_t)source[i];
    }
    return ERR_OK;
}

static err_code read_shape(kvmap_shape *s, const profile *p, const model_shape *base, const model_shape *aux, err *e)
{
    view inputs;
    char name[16];
    *s = (kvmap_shape){ .L = base->L, .out = base->K * base->d, .A = aux->L, .kv = aux->K * aux->d, .D = aux->D };
    err_code rc = profile_need(p, PROFILE_PREDICT, e);
    if (!rc && !profile_text(p, PROFILE_PREDICT, "inputs", &inputs)) rc = err_set(e, ERR_MODEL, "%s: predict.inputs is missing", profile_file(p));
    if (rc) return rc;
    snprintf(name, sizeof name, "%.*s", (int)(inputs.len < sizeof name ? inputs.len : sizeof name - 1), (const char *)inputs.ptr);
    rc = kvmap_inputs_parse(name, &s->inputs, e);
    if (!rc) rc = number_of(p, "aux_layers", s->A, e);
    if (!rc) rc = number_of(p, "aux_kv", s->kv, e);
    if (!rc) rc = number_of(p, "aux_width", s->D, e);
    return rc ? rc : read_sources(s, p, e);
}

/* The profile of this base, auxiliary and path, and the shape of the maps in it. */
static err_code open_profile(profile **out, const predictor_source *s, const auxiliary *a, kvmap_shape *shape, err *e)
{
    text beside = { 0 };
    model_shape base;
    if (!s->profile && !profile_beside(gguf_path(s->base), &beside)) return err_set(e, ERR_NOMEM, "out of memory");
    const profile_binding want = { gguf_digest(s->base), a->digest, path_name(s->path) };
    err_code rc = model_shape_read(&base, s->base, e);
    if (!rc) rc = profile_open(out, s->profile ? s->profile : beside.ptr, &want, e);
    if (!rc) rc = read_shape(shape, *out, &base, &a->shape, e);
    text_free(&beside);
    return rc ? err_wrap(e, "KV prediction by %s", a->name) : ERR_OK;
}

/* A layer that is predicted no better than by its mean explains nothing. */
static double explained(const profile *p, uint32_t L)
{
    static const char *const names[KVMAP_SIDES] = { "error_k", "error_v" };
    double x[MODEL_MAX_LAYERS], sum = 0;
    for (int side = 0; side < KVMAP_SIDES; side++) {
        if (!profile_numbers(p, PROFILE_PREDICT, names[side], x, L)) return 0;
        for (uint32_t l = 0; l < L; l++) sum += x[l] >= 0 && x[l] < 1 ? 1 - x[l] : 0;
    }
    return sum / (KVMAP_SIDES * L);
}

err_code predictor_look(const predictor_source *s, predictor_facts *out, err *e)
{
    auxiliary *a;
    profile *p = NULL;
    kvmap_shape shape;
    err_code rc = auxiliary_open(&a, s->aux, s->base, e);
    if (rc) return rc;
    rc = open_profile(&p, s, a, &shape, e);
    if (!rc) {
        snprintf(out->aux, sizeof out->aux, "%s", a->name);
        snprintf(out->aux_digest, sizeof out->aux_digest, "%s", a->digest);
        snprintf(out->profile, sizeof out->profile, "%s", profile_digest(p));
        out->explained = explained(p, shape.L);
    }
    profile_close(&p);
    auxiliary_close(&a);
    return rc;
}

/* ---- maps ------------------------------------------------------------------------------------------------------------------- */

static const char *const map_name[] = { "k", "v" }, *const bias_name[] = { "kb", "vb" };

/* Integer products are faster from the packed layout, float ones are not. */
static err_code pack_map(predictor *p, uint32_t l, int side, err *e)
{
    mat *w = &p->map.layer[l].w[side];
    if (!kernels_wants_q(p->path, w->type)) return ERR_OK;
    uint8_t *to = aligned_alloc(64, (packed_bytes(w->type, w->n_out, w->n_in) + 63) / 64 * 64);
    if (!to) return err_set(e, ERR_NOMEM, "out of memory for the maps");
    packed_make(w, 0, (w->n_out + PACKED_GROUP - 1) / PACKED_GROUP, to);
    p->packed[side][l] = to;
    w->data = to;
    w->packed = true;
    profile_unmap(&p->data[side][l]);
    p->data[side][l].data = NULL;
    return ERR_OK;
}

static err_code take_map(predictor *p, uint32_t l, int side, err *e)
{
    const kvmap_shape *s = &p->map.shape;
    profile_data *d = &p->data[side][l];
    uint32_t in = kvmap_width(s, l);
    err_code rc = profile_map(p->profile, PROFILE_PREDICT, l, map_name[side], d, e);
    if (rc) return rc;
    if (d->n0 != in || d->n1 != s->out)
        return err_set(e, ERR_MODEL, "%s: the map of layer %u (%s) is %llu x %llu, want %u x %u", profile_file(p->profile), l, map_name[side],
                       (unsigned long long)d->n0, (unsigned long long)d->n1, in, s->out);
    float *b = p->bias + ((size_t)l * KVMAP_SIDES + (size_t)side) * s->out;
    p->map.layer[l].w[side] = (mat){ .type = d->type, .n_out = s->out, .n_in = in, .row_bytes = wtype_row_bytes(d->type, in), .data = d->data };
    p->map.layer[l].b[side] = b;
    rc = profile_floats(p->profile, PROFILE_PREDICT, l, bias_name[side], s->out, 1, b, e);
    return rc ? rc : pack_map(p, l, side, e);
}

static err_code take_maps(predictor *p, err *e)
{
    const kvmap_shape *s = &p->map.shape;
    p->bias = malloc((size_t)s->L * KVMAP_SIDES * s->out * sizeof *p->bias);
    err_code rc = p->bias ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the maps");
    for (uint32_t l = 0; !rc && l < s->L; l++)
        for (int side = 0; !rc && side < KVMAP_SIDES; side++) rc = take_map(p, l, side, e);
    return rc;
}

void predictor_put_map(profile_writer *w, const kvmap_shape *s, uint32_t layer, int side, wtype type, const float *map, const float *b)
{
    profile_put_floats(w, PROFILE_PREDICT, layer, map_name[side], type, kvmap_width(s, layer), s->out, map);
    profile_put_floats(w, PROFILE_PREDICT, layer, bias_name[side], WTYPE_F32, s->out, 1, b);
}

void predictor_put_head(profile_writer *w, const kvmap_shape *s, const predictor_notes *n)
{
    double x[MODEL_MAX_LAYERS];
    profile_put_text(w, PROFILE_PREDICT, "inputs", kvmap_inputs_name(s->inputs));
    profile_put_number(w, PROFILE_PREDICT, "aux_layers", s->A);
    profile_put_number(w, PROFILE_PREDICT, "aux_kv", s->kv);
    profile_put_number(w, PROFILE_PREDICT, "aux_width", s->D);
    for (uint32_t l = 0; l < s->L; l++) x[l] = s->source[l];
    profile_put_numbers(w, PROFILE_PREDICT, "source", x, s->L);
    for (int side = 0; side < KVMAP_SIDES; side++) {
        for (uint32_t l = 0; l < s->L; l++) x[l] = n->note[side][l].lambda;
        profile_put_numbers(w, PROFILE_PREDICT, side ? "lambda_v" : "lambda_k", x, s->L);
        for (uint32_t l = 0; l < s->L; l++) x[l] = n->note[side][l].error;
        profile_put_numbers(w, PROFILE_PREDICT, side ? "error_v" : "error_k", x, s->L);
    }
}

/* ---- open and close ------------------------------------------------------------------------------------------------------------ */

static bool floats(float **p, size_t n) { return (*p = malloc(n * sizeof **p)) != NULL; }

static err_code scratch(predictor *p, err *e)
{
    size_t n = p->at.max_rows;
    const kvmap_shape *s = &p->map.shape;
    bool ok = floats(&p->tap.k, s->A * n * s->kv) && floats(&p->tap.v, s->A * n * s->kv) && floats(&p->h, n * s->D)
              && floats(&p->key, n * s->out) && floats(&p->val, n * s->out)
              && (s->inputs != KVMAP_WIDE || floats(&p->tap.h, s->A * n * s->D));
    p->rows = malloc(n * sizeof *p->rows);
    p->fwd = malloc(n * sizeof *p->fwd);
    p->slots = malloc(n * sizeof *p->slots);
    return ok && p->rows && p->fwd && p->slots ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for predicting %zu rows", n);
}

static err_code open_runner(predictor *p, err *e)
{
    const predictor_place *at = &p->at;
    kv_geometry g = forward_kv(&p->aux->m->shape, 0, p->aux->m->shape.L);
    g.format = at->format;
    g.n_ctx = at->n_ctx;
    g.isa = at->isa;
    err_code rc = kv_open(&p->store, &g, e);
    if (!rc) rc = runner_open(&p->runner, p->aux->m, p->store, at->pool, at->isa, at->max_rows, e);
    if (!rc) runner_listen(p->runner, &p->tap);
    return rc;
}

err_code predictor_open(predictor **out, const predictor_source *s, const predictor_place *at, err *e)
{
    predictor *p = *out = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory for KV prediction");
    p->at = *at;
    p->path = s->path;
    err_code rc = auxiliary_open(&p->aux, s->aux, s->base, e);
    if (!rc) rc = open_profile(&p->profile, s, p->aux, &p->map.shape, e);
    if (!rc) rc = take_maps(p, e);
    if (!rc) rc = auxiliary_load(p->aux, at->base, &at->pack, pool_threads(at->pool), e);
    if (!rc) rc = scratch(p, e);
    if (!rc) rc = open_runner(p, e);
    if (!rc) rc = kvmap_work_open(&p->work, &p->map.shape, at->max_rows, e);
    if (rc) predictor_close(out);
    return rc;
}

void predictor_close(predictor **pp)
{
    predictor *p = *pp;
    if (!p) return;
    runner_close(&p->runner);
    if (p->store) kv_close(&p->store);
    kvmap_work_close(&p->work);
    for (int side = 0; side < KVMAP_SIDES; side++)
        for (uint32_t l = 0; l < MODEL_MAX_LAYERS; l++) {
            if (p->data[side][l].data) profile_unmap(&p->data[side][l]);
            free(p->packed[side][l]);
        }
    profile_close(&p->profile);
    auxiliary_close(&p->aux);
    float *f[] = { p->bias, p->tap.k, p->tap.v, p->tap.h, p->h, p->key, p->val };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) free(f[i]);
    free(p->rows);
    free(p->fwd);
    free(p->slots);
    free(p);
    *pp = NULL;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------------- */

err_code predictor_begin(predictor *p, err *e)
{
    kv_seq_close(p->store, AUX_SEQ);
    return kv_seq_open(p->store, AUX_SEQ, &p->seq, e);
}

static err_code reserve(predictor *p, kv_seq *q, uint32_t first, uint32_t n, uint8_t provenance, err *e)
{
    for (uint32_t i = 0; i < n; i++)
        p->rows[i] = (kv_row){ .row = first + i, .pos = first + i, .parent = i ? first + i - 1 : KV_ROW_NONE, .provenance = provenance,
                               .path = (uint8_t)p->path };
    return kv_reserve(q, p->rows, n, p->slots, e);
}

static err_code run_auxiliary(predictor *p, const uint32_t *tokens, uint32_t first, uint32_t n, err *e)
{
    err_code rc = reserve(p, p->seq, first, n, KV_EXACT, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n; i++) p->fwd[i] = (forward_row){ .seq = p->seq, .slot = p->slots[i], .path = p->path, .ends = true };
    runner_embed(p->runner, tokens, n, p->h);
    runner_layers(p->runner, p->fwd, n, p->h);
    return kv_commit(p->seq, first + n - 1, e);
}

/* A layer's rows are appended by the threads that will gather them next: kvmap_apply's barriers keep both apart. */
static void predict(void *arg, uint32_t tid, uint32_t n)
{
    predictor *p = arg;
    const model *m = p->at.base;
    const kernels *k = kernels_for(p->at.isa);
    kvmap_run run = { &p->map, k, p->path, p->at.pool, p->work, &p->tap, p->at.max_rows, p->now.T };
    uint32_t lo, hi, K = m->shape.K, d = m->shape.d;
    pool_part(p->now.T, 1, tid, n, &lo, &hi);
    if (lo < p->now.had) lo = p->now.had;
    for (uint32_t l = 0; l < p->map.shape.L; l++) {
        const float *norm = m->layer[l].k_norm;
        uint32_t end = p->now.off && p->now.off[l] < p->now.first + p->now.T ? p->now.off[l] : UINT32_MAX; /* rows from here on are not kept */
        if (end <= p->now.first) continue;
        kvmap_apply(&run, l, p->key, p->val, tid, n);
        for (uint32_t t = lo; t < hi && p->now.first + t < end; t++) {
            float *key = p->key + (size_t)t * K * d;
            for (uint32_t h = 0; norm && h < K; h++) k->vec->rms_norm(key + h * d, key + h * d, norm, d, m->shape.rms_eps);
            kv_append(p->now.base, l, p->slots[t - p->now.had], key, p->val + (size_t)t * K * d, 0, K);
        }
    }
}

err_code predictor_rows(predictor *p, kv_seq *base, const uint32_t *off, const uint32_t *tokens, uint32_t first, uint32_t n, err *e)
{
    err_code rc = run_auxiliary(p, tokens, first, n, e);
    uint32_t has = base ? kv_last_row(base) + 1 : 0; /* KV_ROW_NONE: none */
    if (rc || !base || has >= first + n) return rc;
    rc = reserve(p, base, has, first + n - has, KV_PREDICTED, e);
    if (rc) return rc;
    p->now.base = base;
    p->now.off = off;
    p->now.first = first;
    p->now.had = has - first;
    p->now.T = n;
    pool_run(p->at.pool, predict, p);
    return kv_commit(base, first + n - 1, e);
}
