/* LoRA adapters: checks a file against the model's shape, loads a shard's part of it, adds it to a product. It refuses to
 * guess: a tensor that belongs to no matrix of the model is an error, never left out. */
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "engine/lora.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lora {
    shard part;
    uint64_t bytes;
    lora_pair *layer; /* [last - first][LORA_LAYER_MATS] */
    lora_pair head;
};

/* A tensor of the file and the matrices it is for, one below the other in its rows: phi3 has some of them fused. */
typedef struct { const char *name; lora_mat first; uint32_t parts; } file_mat;
static const file_mat plain_mats[] = {
#define X(N, n) { n, LORA_##N, 1 },
    LORA_MAT_MAP(X)
#undef X
    { NULL, LORA_Q, 0 },
};
static const file_mat fused_mats[] = {
    { "attn_qkv", LORA_Q, 3 }, { "attn_output", LORA_O, 1 }, { "ffn_up", LORA_GATE, 2 }, { "ffn_down", LORA_DOWN, 1 },
    { NULL, LORA_Q, 0 },
};
static const char *const arch_names[ARCH_COUNT] = {
#define X(N, n) [ARCH_##N] = n,
    ARCH_MAP(X)
#undef X
};

/* ---- keys --------------------------------------------------------------------------------------------------------- */

static err_code want_str(const gguf *g, const char *key, const char *want, const char *whose, err *e)
{
    view v;
    char buf[96];
    if (!gguf_get_str(g, key, &v)) return err_set(e, ERR_MODEL, "%s: key %s is missing: no LoRA adapter", gguf_path(g), key);
    if (v.len == strlen(want) && !memcmp(v.ptr, want, v.len)) return ERR_OK;
    return err_set(e, ERR_MODEL, "%s: key %s is \"%s\", %s \"%s\"", gguf_path(g), key, gguf_printable(buf, v), whose, want);
}

static err_code read_keys(const gguf *g, const model_shape *s, float *alpha, err *e)
{
    double v = 0;
    err_code rc = want_str(g, "general.type", "adapter", "a LoRA adapter says", e);
    if (!rc) rc = want_str(g, "adapter.type", "lora", "this build knows", e);
    if (!rc) rc = want_str(g, "general.architecture", arch_names[s->arch], "the model is", e);
    if (rc) return rc;
    if (gguf_get_f64(g, "adapter.lora.alpha", &v) && !(fabs(v) < 1e6))
        return err_set(e, ERR_MODEL, "%s: key adapter.lora.alpha is %g", gguf_path(g), v);
    *alpha = (float)v;
    return ERR_OK;
}

/* ---- which matrix a tensor is for --------------------------------------------------------------------------------- */

typedef struct { uint32_t layer; lora_mat first; uint32_t parts, n_in, n_out; bool is_b; } place;

static void mat_size(const model_shape *s, lora_mat which, uint32_t *n_in, uint32_t *n_out)
{
    uint32_t hd = s->H * s->d, kd = s->K * s->d;
    const uint32_t size[][2] = { [LORA_Q] = { s->D, hd }, [LORA_K] = { s->D, kd }, [LORA_V] = { s->D, kd }, [LORA_O] = { hd, s->D },
                                 [LORA_GATE] = { s->D, s->F }, [LORA_UP] = { s->D, s->F }, [LORA_DOWN] = { s->F, s->D },
                                 [LORA_HEAD] = { s->D, s->V } };
    *n_in = size[which][0];
    *n_out = size[which][1];
}

/* "blk.N.NAME" or "output", exactly as such a file spells it */
static bool find_mat(const char *stem, const model_shape *s, place *p)
{
    char again[GGUF_NAME_MAX];
    unsigned long l = strncmp(stem, "blk.", 4) ? 0 : strtoul(stem + 4, NULL, 10);
    *p = (place){ .first = LORA_HEAD, .parts = 1, .is_b = p->is_b };
    if (!strcmp(stem, "output")) return !s->tied;
    for (const file_mat *m = s->arch == ARCH_PHI3 ? fused_mats : plain_mats; m->name && l < s->L; m++) {
        snprintf(again, sizeof again, "blk.%lu.%s", l, m->name);
        if (strcmp(again, stem)) continue;
        p->layer = (uint32_t)l;
        p->first = m->first;
        p->parts = m->parts;
        return true;
    }
    return false;
}

static err_code find_place(const gguf *g, const gguf_tensor *t, const model_shape *s, place *p, err *e)
{
    static const char *const ends[] = { ".weight.lora_a", ".weight.lora_b" };
    char stem[GGUF_NAME_MAX];
    size_t n = strlen(t->name), end = strlen(ends[0]);
    *p = (place){ 0 };
    for (int i = 0; i < 2 && n > end; i++) {
        if (strcmp(t->name + n - end, ends[i])) continue;
        snprintf(stem, sizeof stem, "%.*s", (int)(n - end), t->name);
        p->is_b = i == 1;
        if (!find_mat(stem, s, p)) break;
        for (uint32_t k = 0, rows; k < p->parts; k++, p->n_out += rows) mat_size(s, p->first + k, &p->n_in, &rows);
        return ERR_OK;
    }
    return err_set(e, ERR_MODEL, "%s: tensor %s is for no matrix of this model that can be adapted", gguf_path(g), t->name);
}

/* ---- a pair of tensors -------------------------------------------------------------------------------------------- */

static err_code check_tensor(const gguf *g, const gguf_tensor *t, uint64_t d0, uint64_t d1, err *e)
{
    char buf[16];
    wtype type;
    if (t->dim[0] != d0 || t->dim[1] != d1 || t->n_dims > 2)
        return err_set(e, ERR_MODEL, "%s: tensor %s is %" PRIu64 " x %" PRIu64 " (%u dimensions), want %" PRIu64 " x %" PRIu64,
                       gguf_path(g), t->name, t->dim[0], t->dim[1], t->n_dims, d0, d1);
    if (!wtype_from_ggml(t->type, &type) || wtypes[type].quant)
        return err_set(e, ERR_MODEL, "%s: tensor %s has type %s, adapters are F32, F16 or BF16", gguf_path(g), t->name,
                       wtype_ggml_name(t->type, buf));
    if (t->bytes != wtypes[type].bytes * d0 * d1)
        return err_set(e, ERR_MODEL, "%s: tensor %s has %" PRIu64 " bytes", gguf_path(g), t->name, t->bytes);
    return ERR_OK;
}

static err_code load_rows(lora *l, const gguf *g, const gguf_tensor *t, uint64_t row, uint64_t rows, const float **out, err *e)
{
    wtype type = WTYPE_F32;
    gguf_range m;
    size_t n = t->dim[0] * rows;
    float *x = malloc(n * sizeof *x);
    if (!x) return err_set(e, ERR_NOMEM, "%s: out of memory for %s", gguf_path(g), t->name);
    *out = x;
    l->bytes += n * sizeof *x;
    err_code rc = gguf_map(g, t->offset, t->bytes, &m, e);
    if (rc) return err_wrap(e, "tensor %s", t->name);
    wtype_from_ggml(t->type, &type);
    for (uint64_t i = 0; i < rows; i++) /* row by row: a whole tensor may have more elements than a uint32_t */
        wtype_to_f32(type, m.data + (row + i) * t->dim[0] * wtypes[type].bytes, (uint32_t)t->dim[0], x + i * t->dim[0]);
    gguf_unmap(&m);
    return ERR_OK;
}

static lora_pair *pair_of(lora *l, uint32_t layer, lora_mat which)
{
    if (which == LORA_HEAD) return l->part.head ? &l->head : NULL;
    if (layer < l->part.first || layer >= l->part.last) return NULL;
    return &l->layer[(size_t)(layer - l->part.first) * LORA_LAYER_MATS + which];
}

/* Each matrix of a fused tensor has its rows of B, and an A of its own: the same for all, and small. */
static err_code load_parts(lora *l, const gguf *g, const gguf_tensor *const ab[2], const model_shape *s, const place *p,
                           float scale, err *e)
{
    err_code rc = ERR_OK;
    uint64_t r = ab[0]->dim[1];
    for (uint32_t k = 0, row = 0, n_in, n_out; !rc && k < p->parts; k++, row += n_out) {
        lora_pair *to = pair_of(l, p->layer, p->first + k);
        mat_size(s, p->first + k, &n_in, &n_out);
        if (!to) continue;
        *to = (lora_pair){ .r = (uint32_t)r, .n_in = n_in, .n_out = n_out, .scale = scale };
        rc = load_rows(l, g, ab[0], 0, r, &to->a, e);
        if (!rc) rc = load_rows(l, g, ab[1], row, n_out, &to->b, e);
    }
    return rc;
}

/* t is a .lora_a tensor; its partner is looked up. */
static err_code take_pair(lora *l, const gguf *g, const gguf_tensor *t, const model_shape *s, const place *p, float alpha, err *e)
{
    char name[GGUF_NAME_MAX];
    snprintf(name, sizeof name, "%s", t->name);
    name[strlen(name) - 1] = 'b';
    const gguf_tensor *b = gguf_tensor_find(g, name);
    uint64_t r = t->dim[1];
    if (!b) return err_set(e, ERR_MODEL, "%s: tensor %s is missing", gguf_path(g), name);
    if (r < 1 || r > LORA_MAX_RANK)
        return err_set(e, ERR_MODEL, "%s: tensor %s has rank %" PRIu64 ", allowed 1..%u", gguf_path(g), t->name, r, LORA_MAX_RANK);
    err_code rc = check_tensor(g, t, p->n_in, r, e);
    if (!rc) rc = check_tensor(g, b, r, p->n_out, e);
    if (rc) return rc;
    return load_parts(l, g, (const gguf_tensor *const[]){ t, b }, s, p, alpha != 0 ? alpha / (float)r : 1, e);
}

static err_code take_all(lora *l, const gguf *g, const model_shape *s, err *e)
{
    float alpha = 0;
    uint64_t n = gguf_n_tensors(g), as = 0;
    err_code rc = read_keys(g, s, &alpha, e);
    for (uint64_t i = 0; !rc && i < n; i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        place p;
        rc = find_place(g, t, s, &p, e);
        if (rc || p.is_b) continue;
        as++;
        rc = take_pair(l, g, t, s, &p, alpha, e);
    }
    if (rc) return rc;
    if (!as) return err_set(e, ERR_MODEL, "%s: has no .lora_a tensor", gguf_path(g));
    if (n != 2 * as) /* every A has its B, so a B is alone */
        return err_set(e, ERR_MODEL, "%s: %" PRIu64 " .lora_a tensors, %" PRIu64 " .lora_b", gguf_path(g), as, n - as);
    return ERR_OK;
}

/* ---- open, close, look up ----------------------------------------------------------------------------------------- */

err_code lora_open(lora **out, const gguf *g, const model_shape *s, shard part, err *e)
{
    *out = NULL;
    lora *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(g));
    l->part = part;
    l->layer = calloc((size_t)(part.last - part.first) * LORA_LAYER_MATS + 1, sizeof *l->layer);
    err_code rc = l->layer ? take_all(l, g, s, e) : err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(g));
    if (rc) lora_close(&l);
    *out = l;
    return rc;
}

static void pair_free(lora_pair *p)
{
    free((float *)p->a);
    free((float *)p->b);
}

void lora_close(lora **lp)
{
    lora *l = *lp;
    if (!l) return;
    for (size_t i = 0; l->layer && i < (size_t)(l->part.last - l->part.first) * LORA_LAYER_MATS; i++) pair_free(&l->layer[i]);
    pair_free(&l->head);
    free(l->layer);
    free(l);
    *lp = NULL;
}

const lora_pair *lora_find(const lora *l, uint32_t layer, lora_mat which)
{
    const lora_pair *p = pair_of((lora *)l, layer, which);
    return p && p->r ? p : NULL;
}

uint64_t lora_bytes(const lora *l) { return l->bytes; }

/* ---- digest ------------------------------------------------------------------------------------------------------- */

err_code lora_digest(const gguf *g, char out[static 33], err *e)
{
    XXH3_state_t *s = XXH3_createState();
    if (!s) return err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(g));
    XXH3_128bits_reset(s);
    XXH3_128bits_update(s, gguf_digest(g), 32);
    err_code rc = ERR_OK;
    for (uint64_t i = 0; !rc && i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_range m;
        rc = gguf_map(g, t->offset, t->bytes, &m, e);
        if (rc) break;
        XXH3_128bits_update(s, m.data, t->bytes);
        gguf_unmap(&m);
    }
    XXH128_hash_t h = XXH3_128bits_digest(s);
    XXH3_freeState(s);
    snprintf(out, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    return rc;
}

/* ---- apply -------------------------------------------------------------------------------------------------------- */

void lora_apply(const lora_pair *p, const vec_ops *v, float scale, const float *x, float *y, uint32_t o0, uint32_t o1)
{
    enum { PIECE = 256 };
    float u[LORA_MAX_RANK], w[PIECE], s = scale * p->scale;
    if (o0 == o1) return;
    v->dot_rows_f32(x, p->a, p->n_in * sizeof(float), p->r, p->n_in, u);
    for (uint32_t o = o0, n; o < o1; o += n) {
        n = o1 - o < PIECE ? o1 - o : PIECE;
        v->dot_rows_f32(u, p->b + (size_t)o * p->r, p->r * sizeof(float), n, p->r, w);
        v->axpy_rows_f32(&s, w, n * sizeof(float), 1, n, y + o);
    }
}
