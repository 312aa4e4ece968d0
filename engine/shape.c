/* The shape of a model from its GGUF keys: every key's kind and range is checked here, so that the rest may trust it. */
#include "engine/model.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const arch_names[ARCH_COUNT] = {
#define X(N, n) [ARCH_##N] = n,
    ARCH_MAP(X)
#undef X
};

typedef struct { const gguf *g; const char *arch; char key[128]; } keys;

static const char *key(keys *k, const char *name)
{
    snprintf(k->key, sizeof k->key, "%s.%s", k->arch, name);
    return k->key;
}

static err_code need_u32(keys *k, const char *name, uint64_t lo, uint64_t hi, uint32_t *out, err *e)
{
    uint64_t v;
    if (!gguf_get_u64(k->g, key(k, name), &v)) return err_set(e, ERR_MODEL, "%s: key %s is missing or no integer", gguf_path(k->g), k->key);
    if (v < lo || v > hi)
        return err_set(e, ERR_MODEL, "%s: key %s is %" PRIu64 ", allowed %" PRIu64 "..%" PRIu64, gguf_path(k->g), k->key, v, lo, hi);
    *out = (uint32_t)v;
    return ERR_OK;
}

static err_code opt_u32(keys *k, const char *name, uint64_t lo, uint64_t hi, uint32_t *io, err *e)
{
    gguf_kind kind;
    uint64_t v, n;
    if (gguf_get_arr(k->g, key(k, name), &kind, &n))
        return err_set(e, ERR_MODEL, "%s: key %s is an array (differs by layer), which this build cannot run", gguf_path(k->g), k->key);
    return gguf_get_u64(k->g, k->key, &v) ? need_u32(k, name, lo, hi, io, e) : ERR_OK;
}

static err_code opt_f32(keys *k, const char *name, double lo, double hi, float *io, err *e)
{
    double v;
    if (!gguf_get_f64(k->g, key(k, name), &v)) return ERR_OK;
    if (!(v >= lo && v <= hi)) return err_set(e, ERR_MODEL, "%s: key %s is %g, allowed %g..%g", gguf_path(k->g), k->key, v, lo, hi);
    *io = (float)v;
    return ERR_OK;
}

static err_code read_arch(model_shape *s, keys *k, char *buf, size_t cap, err *e)
{
    view v;
    if (!gguf_get_str(k->g, "general.architecture", &v))
        return err_set(e, ERR_MODEL, "%s: key general.architecture is missing", gguf_path(k->g));
    snprintf(buf, cap, "%.*s", (int)(v.len < 40 ? v.len : 40), (const char *)v.ptr);
    k->arch = buf;
    for (int a = 0; a < ARCH_COUNT; a++)
        if (!strcmp(buf, arch_names[a])) return s->arch = (model_arch)a, ERR_OK;
#define X(N, n) " " n
    return err_set(e, ERR_MODEL, "%s: architecture \"%s\" is not one of" ARCH_MAP(X), gguf_path(k->g), buf);
#undef X
}

static err_code read_sizes(model_shape *s, keys *k, err *e)
{
    err_code rc;
    if ((rc = need_u32(k, "block_count", 1, MODEL_MAX_LAYERS, &s->L, e))) return rc;
    if ((rc = need_u32(k, "embedding_length", 1, 65536, &s->D, e))) return rc;
    if ((rc = need_u32(k, "context_length", 1, 1u << 24, &s->n_ctx, e))) return rc;
    if ((rc = opt_u32(k, "attention.head_count", 1, 1024, &s->H, e))) return rc;
    if (!s->H) return err_set(e, ERR_MODEL, "%s: key %s is missing", gguf_path(k->g), key(k, "attention.head_count"));
    s->K = s->H;
    if ((rc = opt_u32(k, "attention.head_count_kv", 1, 1024, &s->K, e))) return rc;
    if ((rc = opt_u32(k, "feed_forward_length", 1, 1u << 20, &s->F, e))) return rc;
    if (!s->F) return err_set(e, ERR_MODEL, "%s: key %s is missing", gguf_path(k->g), key(k, "feed_forward_length"));
    s->d = s->D / s->H;
    uint32_t dv;
    if ((rc = opt_u32(k, "attention.key_length", 1, 512, &s->d, e))) return rc;
    dv = s->d;
    if ((rc = opt_u32(k, "attention.value_length", 1, 512, &dv, e))) return rc;
    if (dv != s->d) return err_set(e, ERR_MODEL, "%s: value_length %u differs from key_length %u", gguf_path(k->g), dv, s->d);
    if (s->d < 1 || s->d > 512 || s->H % s->K)
        return err_set(e, ERR_MODEL, "%s: %u query heads, %u kv heads, head size %u do not fit together", gguf_path(k->g), s->H, s->K, s->d);
    if ((rc = opt_f32(k, "attention.layer_norm_rms_epsilon", 1e-12, 1, &s->rms_eps, e))) return rc;
    if (!(s->rms_eps > 0)) return err_set(e, ERR_MODEL, "%s: key %s is missing", gguf_path(k->g), key(k, "attention.layer_norm_rms_epsilon"));
    return ERR_OK;
}

static err_code read_vocab(model_shape *s, const gguf *g, err *e)
{
    const gguf_tensor *t = gguf_tensor_find(g, "token_embd.weight");
    if (!t) return err_set(e, ERR_MODEL, "%s: tensor token_embd.weight is missing (a vocabulary-only file?)", gguf_path(g));
    if (t->dim[1] < 1 || t->dim[1] > 1u << 24) return err_set(e, ERR_MODEL, "%s: vocabulary of %" PRIu64, gguf_path(g), t->dim[1]);
    s->V = (uint32_t)t->dim[1];
    gguf_kind kind;
    uint64_t n;
    if (gguf_get_arr(g, "tokenizer.ggml.tokens", &kind, &n) && n != s->V)
        return err_set(e, ERR_MODEL, "%s: %" PRIu64 " tokens for an embedding of %u rows", gguf_path(g), n, s->V);
    s->tied = !gguf_tensor_find(g, "output.weight");
    return ERR_OK;
}

static err_code read_scaling(rope_config *r, keys *k, err *e)
{
    static const struct { const char *name; rope_scaling s; } kinds[] = {
        { "none", ROPE_NONE }, { "linear", ROPE_LINEAR }, { "llama3", ROPE_LLAMA3 }, { "yarn", ROPE_YARN },
        { "longrope", ROPE_LONG },
    };
    view v;
    err_code rc;
    float old = 0;
    if ((rc = opt_f32(k, "rope.scale_linear", 1, 1e6, &old, e))) return rc; /* the key of early files */
    if ((rc = opt_f32(k, "rope.scaling.factor", 0, 1e6, &old, e))) return rc; /* linear, where no type is named, as in llama.cpp */
    if (old > 0 && old != 1) r->scaling = ROPE_LINEAR, r->factor = old;
    if (!gguf_get_str(k->g, key(k, "rope.scaling.type"), &v)) return ERR_OK;
    size_t i = 0, n = sizeof kinds / sizeof *kinds;
    while (i < n && (strlen(kinds[i].name) != v.len || memcmp(kinds[i].name, v.ptr, v.len))) i++;
    if (i == n)
        return err_set(e, ERR_MODEL, "%s: key %s is \"%.*s\", want none, linear, llama3, yarn or longrope", gguf_path(k->g), k->key,
                       (int)(v.len < 40 ? v.len : 40), (const char *)v.ptr);
    r->scaling = kinds[i].s;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->attn_factor = 1;
    r->ext_factor = 1;
    r->low_freq = 1;
    r->high_freq = 4;
    const struct { const char *name; double lo, hi; float *to; } f[] = {
        { "rope.scaling.factor", 1, 1e6, &r->factor },           { "rope.scaling.attn_factor", 1e-6, 1e6, &r->attn_factor },
        { "rope.scaling.yarn_ext_factor", 0, 1e6, &r->ext_factor }, { "rope.scaling.yarn_attn_factor", 1e-6, 1e6, &r->attn_factor },
        { "rope.scaling.yarn_beta_fast", 1e-6, 1e6, &r->beta_fast }, { "rope.scaling.yarn_beta_slow", 1e-6, 1e6, &r->beta_slow },
        { "rope.scaling.low_freq_factor", 1e-6, 1e6, &r->low_freq }, { "rope.scaling.high_freq_factor", 1e-6, 1e6, &r->high_freq },
    };
    for (size_t j = 0; j < sizeof f / sizeof *f; j++)
        if ((rc = opt_f32(k, f[j].name, f[j].lo, f[j].hi, f[j].to, e))) return rc;
    return opt_u32(k, "rope.scaling.original_context_length", 1, 1u << 24, &r->orig_ctx, e);
}

/* A tensor of n frequency factors. */
static err_code read_freqs(float *out, uint32_t n, const gguf *g, const char *name, err *e)
{
    const gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t || t->type != 0 || t->dim[0] != n || t->dim[1] != 1)
        return err_set(e, ERR_MODEL, "%s: tensor %s is %s f32 [%u]", gguf_path(g), name, t ? "not" : "missing, want", n);
    gguf_range m;
    err_code rc = gguf_map(g, t->offset, t->bytes, &m, e);
    if (rc) return rc;
    memcpy(out, m.data, t->bytes);
    gguf_unmap(&m);
    for (uint32_t i = 0; i < n; i++)
        if (!(out[i] > 0 && out[i] < 1e9f)) return err_set(e, ERR_MODEL, "%s: %s[%u] is %g", gguf_path(g), name, i, (double)out[i]);
    return ERR_OK;
}

/* rope_freqs.weight [n_rot/2]: how llama 3.1 files carry their bands. rope_factors_short/long.weight: two sets, one for
 * contexts up to the trained one; their files need not name the scaling type. */
static err_code read_factors(rope_config *r, keys *k, err *e)
{
    const gguf *g = k->g;
    err_code rc = ERR_OK;
    uint32_t n = r->n_rot / 2;
    if (gguf_tensor_find(g, "rope_factors_long.weight") || gguf_tensor_find(g, "rope_factors_short.weight")) {
        r->scaling = ROPE_LONG;
        r->attn_factor = 1;
        r->has_freqs = true;
        if ((rc = read_freqs(r->freqs, n, g, "rope_factors_short.weight", e))) return rc;
        if ((rc = read_freqs(r->freqs_long, n, g, "rope_factors_long.weight", e))) return rc;
        if ((rc = opt_f32(k, "rope.scaling.attn_factor", 1e-6, 1e6, &r->attn_factor, e))) return rc;
        return opt_u32(k, "rope.scaling.original_context_length", 1, 1u << 24, &r->orig_ctx, e);
    }
    if (!gguf_tensor_find(g, "rope_freqs.weight")) return ERR_OK;
    r->has_freqs = true;
    return read_freqs(r->freqs, n, g, "rope_freqs.weight", e);
}

static err_code read_rope(model_shape *s, keys *k, err *e)
{
    rope_config *r = &s->rope;
    *r = (rope_config){ .n_rot = s->d, .neox = s->arch != ARCH_LLAMA, .base = 10000, .factor = 1, .orig_ctx = s->n_ctx };
    err_code rc;
    if ((rc = opt_u32(k, "rope.dimension_count", 2, s->d, &r->n_rot, e))) return rc;
    if (r->n_rot % 2) return err_set(e, ERR_MODEL, "%s: rope.dimension_count is %u, want an even number", gguf_path(k->g), r->n_rot);
    if ((rc = opt_f32(k, "rope.freq_base", 1, 1e12, &r->base, e))) return rc;
    if ((rc = read_scaling(r, k, e))) return rc;
    return read_factors(r, k, e);
}

/* Early phi3 files do not state the window; llama.cpp's rule for them. 0: the file must. */
static uint32_t phi3_window(const model_shape *s)
{
    if ((s->L == 32 || s->L == 40) && s->n_ctx == 4096) return 2047;
    if (s->L == 32 && s->K == 32 && s->n_ctx == 131072) return 262144;
    return s->L == 40 && s->n_ctx == 131072 ? 131072 : 0;
}

/* Windows, caps and scales. Only these architectures have any: llama files of Mistral models carry a window too, but
 * llama.cpp attends to all rows there, and so does this. What no key states is a constant of the architecture, as in
 * llama.cpp; `wide`: the number of layers of its 27B model, whose queries are scaled by 1/sqrt(D/H) instead of 1/sqrt(d). */
static err_code read_look(model_shape *s, keys *k, err *e)
{
    static const struct { uint32_t window, every, wide; float cap, final_cap, local_base; } of[ARCH_COUNT] = {
        [ARCH_GEMMA2] = { .window = 4096, .every = 2, .wide = 46, .cap = 50, .final_cap = 30 },
        [ARCH_GEMMA3] = { .every = 6, .wide = 62, .local_base = 10000 },
    };
    kv_look *a = &s->look;
    bool gemma = s->arch == ARCH_GEMMA2 || s->arch == ARCH_GEMMA3;
    err_code rc;
    if (!gemma && s->arch != ARCH_PHI3) return ERR_OK;
    *a = (kv_look){ .window = gemma ? of[s->arch].window : phi3_window(s), .global_every = of[s->arch].every,
                    .soft_cap = of[s->arch].cap, .local_base = of[s->arch].local_base };
    uint64_t v;
    if (!a->window && !gguf_get_u64(k->g, key(k, "attention.sliding_window"), &v))
        return err_set(e, ERR_MODEL, "%s: key %s is missing or no integer", gguf_path(k->g), k->key);
    if ((rc = opt_u32(k, "attention.sliding_window", 0, 1u << 30, &a->window, e)) || !gemma) return rc;
    s->gelu = true;
    s->embed_scale = sqrtf((float)s->D);
    s->final_cap = of[s->arch].final_cap;
    if (s->L == of[s->arch].wide) a->scale = 1 / sqrtf((float)(s->D / s->H));
    if (s->arch == ARCH_GEMMA2 && (rc = opt_f32(k, "attn_logit_softcapping", 0, 1e6, &a->soft_cap, e))) return rc;
    return opt_f32(k, "final_logit_softcapping", 0, 1e6, &s->final_cap, e);
}

err_code model_shape_read(model_shape *out, const gguf *g, err *e)
{
    model_shape s = { 0 };
    keys k = { .g = g };
    char arch[48];
    view v;
    err_code rc;
    if ((rc = read_arch(&s, &k, arch, sizeof arch, e))) return rc;
    if ((rc = read_sizes(&s, &k, e))) return rc;
    if ((rc = read_vocab(&s, g, e))) return rc;
    if ((rc = read_rope(&s, &k, e))) return rc;
    if ((rc = read_look(&s, &k, e))) return rc;
    if (gguf_get_str(g, "general.name", &v)) snprintf(s.name, sizeof s.name, "%.*s", (int)(v.len < 63 ? v.len : 63), (const char *)v.ptr);
    snprintf(s.digest, sizeof s.digest, "%s", gguf_digest(g));
    *out = s;
    return ERR_OK;
}
