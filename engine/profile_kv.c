#include "engine/profile_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct profile_kv {
    kv_tables t;
    void *mem[32];
    uint32_t n_mem;
};

typedef struct { profile_kv *to; const profile *p; const model_shape *s; uint32_t first, last; err *e; err_code rc; } reading;

static float *room(reading *r, size_t n)
{
    float *x = calloc(n ? n : 1, sizeof *x);
    if (!x) r->rc = err_set(r->e, ERR_NOMEM, "%s: out of memory", profile_file(r->p));
    else r->to->mem[r->to->n_mem++] = x;
    return x;
}

/* Is the tensor there for every layer? For some only: that is no whole section. */
static bool is_there(reading *r, const char *name)
{
    uint32_t n = 0;
    for (uint32_t l = r->first; l < r->last; l++) n += profile_find(r->p, PROFILE_KV, l, name) != NULL;
    if (n && n != r->last - r->first)
        r->rc = err_set(r->e, ERR_MODEL, "%s: kv.*.%s is there for %u of the layers %u to %u", profile_file(r->p), name, n, r->first, r->last - 1);
    return n && !r->rc;
}

typedef bool fine(const float *x, size_t n, float most);

/* [layers][n1][n0] of all layers, NULL: absent, or r->rc. */
static float *layers_of(reading *r, const char *name, uint32_t n0, uint32_t n1, fine *ok, float most)
{
    size_t n = (size_t)n0 * n1;
    if (r->rc || !is_there(r, name)) return NULL;
    float *x = room(r, n * (r->last - r->first));
    for (uint32_t l = r->first; !r->rc && l < r->last; l++) {
        float *at = x + n * (l - r->first);
        r->rc = profile_floats(r->p, PROFILE_KV, l, name, n0, n1, at, r->e);
        if (!r->rc && !ok(at, n, most))
            r->rc = err_set(r->e, ERR_MODEL, "%s: kv.%u.%s has values that cannot be", profile_file(r->p), l, name);
    }
    return r->rc ? NULL : x;
}

static bool small(const float *x, size_t n, float most)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= most)) return false;
    return true;
}

static bool ascending(const float *x, size_t n, float most)
{
    for (size_t i = 1; i < n; i++)
        if (!(x[i] >= x[i - 1])) return false;
    return small(x, n, most);
}

static bool share(const float *x, size_t n, float most)
{
    for (size_t i = 0; i < n; i++)
        if (!(x[i] >= 0)) return false;
    return small(x, n, most);
}

static bool whole(const float *x, size_t n, float most)
{
    for (size_t i = 0; i < n; i++)
        if (!(x[i] >= 0 && x[i] <= most) || x[i] != floorf(x[i])) return false;
    return true;
}

/* Scale, then offset. */
static bool norm(const float *x, size_t n, float most) { return n == 2 && x[0] > 0 && small(x, n, most); }

static void take_books(reading *r)
{
    kv_tables *t = &r->to->t;
    for (uint32_t i = 0; i < 6; i++) {
        char name[16];
        uint32_t bits = 2 + i / 2;
        snprintf(name, sizeof name, "lut_%c%u", i % 2 ? 'v' : 'k', bits);
        (i % 2 ? t->lut_v : t->lut_k)[bits] = layers_of(r, name, 1u << bits, 1, ascending, 1.5f);
        snprintf(name, sizeof name, "qnorm_%c%u", i % 2 ? 'v' : 'k', bits);
        (i % 2 ? t->qnorm_v : t->qnorm_k)[bits] = layers_of(r, name, 2, 1, norm, 16);
    }
}

static void check_thresholds(reading *r)
{
    const kv_tables *t = &r->to->t;
    size_t n = (size_t)(r->last - r->first) * r->s->K * r->s->d;
    for (size_t i = 0; !r->rc && t->k_lo && t->k_hi && i < n; i++)
        if (!(t->k_lo[i] <= t->k_hi[i])) r->rc = err_set(r->e, ERR_MODEL, "%s: a key channel's k_lo is above its k_hi", profile_file(r->p));
}

/* Floats that are whole numbers, as bytes in the same place. */
static const uint8_t *bytes_of(float *x, size_t n)
{
    uint8_t *b = (uint8_t *)x;
    for (size_t i = 0; x && i < n; i++) {
        uint8_t v = (uint8_t)x[i];
        memcpy(b + i, &v, 1);
    }
    return b;
}

static void take_error(reading *r)
{
    uint32_t L = r->s->L;
    if (r->rc || !profile_find(r->p, PROFILE_KV, PROFILE_WHOLE, "layer_error")) return;
    float *x = room(r, L);
    if (!r->rc) r->rc = profile_floats(r->p, PROFILE_KV, PROFILE_WHOLE, "layer_error", L, 1, x, r->e);
    if (!r->rc && !share(x, L, 1)) r->rc = err_set(r->e, ERR_MODEL, "%s: kv.layer_error has values that cannot be", profile_file(r->p));
    if (!r->rc) r->to->t.layer_error = x;
}

err_code profile_kv_open(profile_kv **out, const profile *p, const model_shape *s, uint32_t first, uint32_t last, err *e)
{
    *out = NULL;
    if (!profile_version(p, PROFILE_KV)) return ERR_OK;
    err_code rc = profile_need(p, PROFILE_KV, e);
    if (rc) return rc;
    profile_kv *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "%s: out of memory", profile_file(p));
    t->t = (kv_tables){ .first = first, .last = last };
    reading r = { .to = t, .p = p, .s = s, .first = first, .last = last, .e = e };
    size_t layers = last - first;
    t->t.k_lo = layers_of(&r, "k_lo", s->d, s->K, small, 65504);      /* an f16 must hold what lies between them */
    t->t.k_hi = layers_of(&r, "k_hi", s->d, s->K, small, 65504);
    check_thresholds(&r);
    take_books(&r);
    t->t.local = bytes_of(layers_of(&r, "local", s->K, 1, whole, 1), layers * s->K);
    t->t.alpha = layers_of(&r, "alpha", s->K, 1, share, 1);
    t->t.semantic = bytes_of(layers_of(&r, "semantic", 4, 1, whole, 255), layers * 4);
    take_error(&r);
    if (r.rc) profile_kv_close(&t);
    *out = t;
    return r.rc;
}

void profile_kv_close(profile_kv **tp)
{
    profile_kv *t = *tp;
    if (!t) return;
    for (uint32_t i = 0; i < t->n_mem; i++) free(t->mem[i]);
    free(t);
    *tp = NULL;
}

const kv_tables *profile_kv_tables(const profile_kv *t) { return t ? &t->t : NULL; }
