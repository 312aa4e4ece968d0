/* Weights of one shard: reads the shape, checks every tensor against it, maps exactly the tensors it holds.
 * It refuses to guess: a tensor that is missing or has another shape is an error that names it. */
#include "engine/model.h"
#include "engine/packed.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- mappings and widened vectors that a model owns ------------------------------------------------------------- */

struct model_maps {
    const pack_file *packed;          /* while the model is being opened */
    gguf_range *range;
    size_t n, cap;
    float **vec;
    size_t n_vec, cap_vec;
};

static bool grow(void **p, size_t *cap, size_t n, size_t size)
{
    if (n < *cap) return true;
    size_t c = *cap ? *cap * 2 : 16;
    void *q = realloc(*p, c * size);
    if (!q) return false;
    *p = q;
    *cap = c;
    return true;
}

static err_code map_tensor(model *m, const gguf *g, const gguf_tensor *t, mat *w, err *e)
{
    struct model_maps *o = m->maps;
    if (!grow((void **)&o->range, &o->cap, o->n, sizeof *o->range)) return err_set(e, ERR_NOMEM, "%s: out of memory", t->name);
    m->bytes += t->bytes;
    if (pack_find(o->packed, t->name, w->type, w->n_out, w->n_in, w, &o->range[o->n])) {
        o->n++;
        return ERR_OK;
    }
    err_code rc = gguf_map(g, t->offset, t->bytes, &o->range[o->n], e);
    if (rc) return err_wrap(e, "tensor %s", t->name);
    w->data = o->range[o->n++].data;
    return ERR_OK;
}

/* ---- one tensor -------------------------------------------------------------------------------------------------- */

static err_code want_tensor(const gguf *g, const char *name, uint64_t d0, uint64_t d1, const gguf_tensor **out, err *e)
{
    const gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t) return err_set(e, ERR_MODEL, "%s: tensor %s is missing", gguf_path(g), name);
    if (t->dim[0] != d0 || t->dim[1] != d1 || t->n_dims > 2)
        return err_set(e, ERR_MODEL, "%s: tensor %s is %" PRIu64 " x %" PRIu64 " (%u dimensions), want %" PRIu64 " x %" PRIu64,
                       gguf_path(g), name, t->dim[0], t->dim[1], t->n_dims, d0, d1);
    *out = t;
    return ERR_OK;
}

static err_code load_mat(model *m, const gguf *g, mat *out, uint64_t n_out, uint64_t n_in, const char *name, err *e)
{
    const gguf_tensor *t = NULL;
    err_code rc = want_tensor(g, name, n_in, n_out, &t, e);
    if (rc) return rc;
    char buf[16];
    wtype type;
    if (!wtype_from_ggml(t->type, &type))
        return err_set(e, ERR_MODEL, "%s: tensor %s has type %s, which this build cannot compute with", gguf_path(g), name,
                       wtype_ggml_name(t->type, buf));
    if (n_in % wtypes[type].block)
        return err_set(e, ERR_MODEL, "%s: tensor %s: rows of %" PRIu64 " do not divide into blocks of %u", gguf_path(g), name,
                       n_in, wtypes[type].block);
    *out = (mat){ .type = type, .n_out = (uint32_t)n_out, .n_in = (uint32_t)n_in, .row_bytes = wtype_row_bytes(type, (uint32_t)n_in) };
    if (t->bytes != out->row_bytes * n_out)
        return err_set(e, ERR_MODEL, "%s: tensor %s has %" PRIu64 " bytes, want %" PRIu64, gguf_path(g), name, t->bytes,
                       (uint64_t)out->row_bytes * n_out);
    return map_tensor(m, g, t, out, e);
}

/* Norm weights and biases: f32 in almost every file; f16 and bf16 are widened once into owned memory. */
static err_code load_vec(model *m, const gguf *g, const float **out, uint32_t n, const char *name, err *e)
{
    mat w;
    err_code rc = load_mat(m, g, &w, 1, n, name, e);
    if (rc) return rc;
    if (wtypes[w.type].quant) return err_set(e, ERR_MODEL, "%s: tensor %s is quantised, want a float type", gguf_path(g), name);
    struct model_maps *o = m->maps;
    float *v = malloc((n + 16) * sizeof *v);
    if (!v || !grow((void **)&o->vec, &o->cap_vec, o->n_vec, sizeof *o->vec)) {
        free(v);
        return err_set(e, ERR_NOMEM, "%s: out of memory", name);
    }
    mat_row_f32(&w, 0, 0, n, v);
    o->vec[o->n_vec++] = v;
    *out = v;
    return ERR_OK;
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

typedef struct { const char *name; mat *to; uint32_t n_out, n_in; } mat_want;

static err_code load_mats(model *m, const gguf *g, uint32_t l, const mat_want *want, size_t n, err *e)
{
    char name[GGUF_NAME_MAX];
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < n; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, want[i].name);
        rc = load_mat(m, g, want[i].to, want[i].n_out, want[i].n_in, name, e);
    }
    return rc;
}

/* The next n rows of a fused matrix. */
static mat cut(const mat *w, uint32_t *at, uint32_t n)
{
    mat part = *w;
    part.n_out = n;
    part.data = w->data + *at * w->row_bytes;
    *at += n;
    return part;
}

/* phi3: attn_qkv holds the rows of Q, K, V, ffn_up those of the gate and of up. */
static err_code load_fused(model *m, const gguf *g, uint32_t l, layer_weights *w, err *e)
{
    const model_shape *s = &m->shape;
    uint32_t q = s->H * s->d, kv = s->K * s->d, at = 0;
    mat qkv, gate_up;
    const mat_want want[] = { { "attn_qkv", &qkv, q + 2 * kv, s->D }, { "ffn_up", &gate_up, 2 * s->F, s->D } };
    const pack_file *p = m->maps->packed;
    if ((q | kv | s->F) % PACKED_GROUP) m->maps->packed = NULL;      /* a group cannot be cut */
    err_code rc = load_mats(m, g, l, want, sizeof want / sizeof *want, e);
    m->maps->packed = p;
    if (rc) return rc;
    w->wq = cut(&qkv, &at, q);
    w->wk = cut(&qkv, &at, kv);
    w->wv = cut(&qkv, &at, kv);
    at = 0;
    w->gate = cut(&gate_up, &at, s->F);
    w->up = cut(&gate_up, &at, s->F);
    return ERR_OK;
}

static err_code load_split(model *m, const gguf *g, uint32_t l, layer_weights *w, err *e)
{
    const model_shape *s = &m->shape;
    uint32_t q = s->H * s->d, kv = s->K * s->d;
    const mat_want want[] = {
        { "attn_q", &w->wq, q, s->D }, { "attn_k", &w->wk, kv, s->D }, { "attn_v", &w->wv, kv, s->D },
        { "ffn_gate", &w->gate, s->F, s->D }, { "ffn_up", &w->up, s->F, s->D },
    };
    return load_mats(m, g, l, want, sizeof want / sizeof *want, e);
}

static err_code load_vecs(model *m, const gguf *g, uint32_t l, layer_weights *w, err *e)
{
    const model_shape *s = &m->shape;
    uint32_t q = s->H * s->d, kv = s->K * s->d;
    bool gemma = s->arch == ARCH_GEMMA2 || s->arch == ARCH_GEMMA3, bias = s->arch == ARCH_QWEN2;
    bool norm_qk = s->arch == ARCH_QWEN3 || s->arch == ARCH_GEMMA3;
    const struct { const char *name; const float **to; uint32_t n; bool want; } vecs[] = {
        { "attn_norm.weight", &w->attn_norm, s->D, true },             { "ffn_norm.weight", &w->ffn_norm, s->D, true },
        { "attn_q.bias", &w->bq, q, bias },                            { "attn_k.bias", &w->bk, kv, bias },
        { "attn_v.bias", &w->bv, kv, bias },                           { "attn_qkv.bias", &w->bq, q, false },
        { "attn_q_norm.weight", &w->q_norm, s->d, norm_qk },           { "attn_k_norm.weight", &w->k_norm, s->d, norm_qk },
        { "post_attention_norm.weight", &w->attn_post, s->D, gemma },  { "post_ffw_norm.weight", &w->ffn_post, s->D, gemma },
    };
    char name[GGUF_NAME_MAX];
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < sizeof vecs / sizeof *vecs; i++) {
        snprintf(name, sizeof name, "blk.%u.%s", l, vecs[i].name);
        if (vecs[i].want) rc = load_vec(m, g, vecs[i].to, vecs[i].n, name, e);
        else if (gguf_tensor_find(g, name)) /* a llama file with QKV biases would be computed wrongly in silence */
            rc = err_set(e, ERR_MODEL, "%s: tensor %s does not belong to this architecture", gguf_path(g), name);
    }
    return rc;
}

static err_code load_layer(model *m, const gguf *g, uint32_t l, err *e)
{
    const model_shape *s = &m->shape;
    layer_weights *w = &m->layer[l - m->part.first];
    const mat_want both[] = { { "attn_output", &w->wo, s->D, s->H * s->d }, { "ffn_down", &w->down, s->D, s->F } };
    err_code rc = s->arch == ARCH_PHI3 ? load_fused(m, g, l, w, e) : load_split(m, g, l, w, e);
    if (!rc) rc = load_mats(m, g, l, both, sizeof both / sizeof *both, e);
    return rc ? rc : load_vecs(m, g, l, w, e);
}

static err_code load_ends(model *m, const gguf *g, err *e)
{
    const model_shape *s = &m->shape;
    err_code rc = ERR_OK;
    if (m->part.embed) rc = load_mat(m, g, &m->embed, s->V, s->D, "token_embd.weight", e);
    if (rc || !m->part.head) return rc;
    if (s->tied && m->part.embed) m->head = m->embed;
    else rc = load_mat(m, g, &m->head, s->V, s->D, s->tied ? "token_embd.weight" : "output.weight", e);
    return rc ? rc : load_vec(m, g, &m->out_norm, s->D, "output_norm.weight", e);
}

err_code model_open(model **out, const gguf *g, shard part, err *e) { return model_open_packed(out, g, NULL, part, e); }

err_code model_open_packed(model **out, const gguf *g, const pack_file *p, shard part, err *e)
{
    *out = NULL;
    model *m = calloc(1, sizeof *m);
    if (!m || !(m->maps = calloc(1, sizeof *m->maps))) {
        free(m);
        return err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(g));
    }
    m->part = part;
    m->maps->packed = p;
    err_code rc = model_shape_read(&m->shape, g, e);
    if (!rc && (part.first > part.last || part.last > m->shape.L))
        rc = err_set(e, ERR_MODEL, "%s: layers [%u, %u) of a model with %u", gguf_path(g), part.first, part.last, m->shape.L);
    if (!rc && !(m->layer = calloc(part.last - part.first + 1, sizeof *m->layer))) rc = err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t l = part.first; !rc && l < part.last; l++) rc = load_layer(m, g, l, e);
    if (!rc) rc = load_ends(m, g, e);
    m->maps->packed = NULL;
    if (rc) model_close(&m);
    *out = m;
    return rc;
}

void model_close(model **mp)
{
    model *m = *mp;
    if (!m) return;
    for (size_t i = 0; i < m->maps->n; i++) gguf_unmap(&m->maps->range[i]);
    for (size_t i = 0; i < m->maps->n_vec; i++) free(m->maps->vec[i]);
    free(m->maps->range);
    free(m->maps->vec);
    free(m->maps);
    free(m->layer);
    free(m);
    *mp = NULL;
}
