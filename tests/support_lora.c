#include "tests/support_lora.h"
#include "engine/wtype.h"
#include "tests/support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { F32 = 0, F16 = 1, BF16 = 30 };   /* ggml's ids */

static bool say(const err *e) { return printf("# %s\n", e->text), false; }

/* ---- an adapter ---------------------------------------------------------------------------------------------------- */

static void add_pair(adapter_file *f, const char *stem, uint32_t n_in, uint32_t n_out, uint32_t rank, bool mixed)
{
    static const uint32_t turn[] = { F32, F16, BF16 };
    adapter_tensor *a = &f->t[f->n], *b = &f->t[f->n + 1];
    *a = (adapter_tensor){ .type = turn[mixed ? f->n % 3 : 0], .n_in = n_in, .n_rows = rank };
    *b = (adapter_tensor){ .type = turn[mixed ? (f->n + 1) % 3 : 0], .n_in = rank, .n_rows = n_out };
    snprintf(a->name, sizeof a->name, "%s.weight.lora_a", stem);
    snprintf(b->name, sizeof b->name, "%s.weight.lora_b", stem);
    f->n += 2;
}

bool adapter_for(adapter_file *f, const char *file, uint32_t rank, bool mixed, uint64_t seed)
{
    static const char *const archs[] = {
#define X(N, n) [ARCH_##N] = n,
        ARCH_MAP(X)
#undef X
    };
    gguf *g;
    model_shape s;
    err e;
    if (gguf_open(&g, file, &e)) return say(&e);
    err_code rc = model_shape_read(&s, g, &e);
    gguf_close(&g);
    if (rc) return say(&e);
    *f = (adapter_file){ .type = "adapter", .kind = "lora", .arch = archs[s.arch],
                         .alpha = 2 * (float)rank, .size = 0.25f, .seed = seed };
    uint32_t hd = s.H * s.d, kd = s.K * s.d;
    const struct { const char *name; uint32_t n_in, n_out; } fused[] = {
        { "attn_qkv", s.D, hd + 2 * kd }, { "attn_output", hd, s.D }, { "ffn_up", s.D, 2 * s.F }, { "ffn_down", s.F, s.D },
    }, plain[] = {
        { "attn_q", s.D, hd }, { "attn_k", s.D, kd }, { "attn_v", s.D, kd }, { "attn_output", hd, s.D },
        { "ffn_gate", s.D, s.F }, { "ffn_up", s.D, s.F }, { "ffn_down", s.F, s.D },
    };
    bool phi = s.arch == ARCH_PHI3;
    for (uint32_t l = 0; l < s.L && f->n + 16 < sizeof f->t / sizeof *f->t; l++)
        for (size_t i = 0; i < (phi ? sizeof fused / sizeof *fused : sizeof plain / sizeof *plain); i++) {
            char stem[40];
            snprintf(stem, sizeof stem, "blk.%u.%s", l, phi ? fused[i].name : plain[i].name);
            add_pair(f, stem, phi ? fused[i].n_in : plain[i].n_in, phi ? fused[i].n_out : plain[i].n_out, rank, mixed);
        }
    if (!s.tied) add_pair(f, "output", s.D, s.V, rank, mixed);
    return true;
}

static void *encode(const adapter_tensor *t, const float *x, size_t n)
{
    uint16_t *h = malloc(n * sizeof *x);
    if (h && t->type != F16 && t->type != BF16) memcpy(h, x, n * sizeof *x);
    for (size_t i = 0; h && i < n && t->type == F16; i++) h[i] = vec_f16(x[i]);
    for (size_t i = 0; h && i < n && t->type == BF16; i++) memcpy(&h[i], (const char *)&x[i] + 2, 2);   /* cut off: little-endian */
    return h;
}

/* The numbers as drawn, and as the type can hold them. */
static float *draw(const adapter_file *f, uint32_t i, void **coded)
{
    const adapter_tensor *t = &f->t[i];
    size_t n = t->n_in * t->n_rows;
    float *x = malloc(n * sizeof *x);
    if (x) support_fill(x, n, f->seed + i, -f->size, f->size);
    *coded = x ? encode(t, x, n) : NULL;
    return x;
}

float *adapter_items(const adapter_file *f, uint32_t i)
{
    void *coded;
    wtype type;
    float *x = draw(f, i, &coded);
    if (x && coded && wtype_from_ggml(f->t[i].type, &type) && !wtypes[type].quant)
        wtype_to_f32(type, coded, (uint32_t)(f->t[i].n_in * f->t[i].n_rows), x);
    free(coded);
    return x;
}

static void put_keys(const adapter_file *f, gguf_writer *w)
{
    const struct { const char *key, *value; } keys[] = {
        { "general.type", f->type }, { "general.architecture", f->arch }, { "adapter.type", f->kind },
    };
    for (int i = 0; i < 3; i++)
        if (keys[i].value) gguf_writer_str(w, keys[i].key, (view){ keys[i].value, strlen(keys[i].value) });
    if (f->alpha != 0) gguf_writer_f32(w, "adapter.lora.alpha", f->alpha);
}

static err_code put_tensors(const adapter_file *f, gguf_writer *w, err *e)
{
    for (uint32_t i = 0; i < f->n; i++)
        gguf_writer_tensor(w, f->t[i].name, f->t[i].type, 2, (uint64_t[]){ f->t[i].n_in, f->t[i].n_rows });
    err_code rc = gguf_writer_begin(w, e);
    for (uint32_t i = 0; !rc && i < f->n; i++) {
        void *coded;
        float *x = draw(f, i, &coded);
        rc = coded ? gguf_writer_data(w, i, 0, coded, gguf_writer_bytes(w, i), e) : err_set(e, ERR_NOMEM, "out of memory");
        free(x);
        free(coded);
    }
    return rc ? rc : gguf_writer_commit(w, e);
}

bool adapter_write(const adapter_file *f, const char *path)
{
    gguf_writer *w;
    err e;
    if (gguf_writer_open(&w, path, &e)) return say(&e);
    put_keys(f, w);
    err_code rc = put_tensors(f, w, &e);
    gguf_writer_close(&w);
    return rc ? say(&e) : true;
}

/* ---- merged -------------------------------------------------------------------------------------------------------- */

/* A whole float tensor, widened. */
static float *read_all(const gguf *g, const gguf_tensor *t)
{
    gguf_range m;
    err e;
    wtype type;
    size_t n = t->dim[0] * t->dim[1];
    float *x = malloc(n * sizeof *x);
    if (!x || !wtype_from_ggml(t->type, &type) || gguf_map(g, t->offset, t->bytes, &m, &e)) return free(x), NULL;
    for (uint64_t i = 0; i < t->dim[1]; i++)
        wtype_to_f32(type, m.data + i * wtype_row_bytes(type, (uint32_t)t->dim[0]), (uint32_t)t->dim[0], x + i * t->dim[0]);
    gguf_unmap(&m);
    return x;
}

static const gguf_tensor *part(const gguf *g, const char *name, char end)
{
    char full[2 * GGUF_NAME_MAX];
    snprintf(full, sizeof full, "%s.lora_%c", name, end);
    return gguf_tensor_find(g, full);
}

static void add_to(float *w, const float *a, const float *b, size_t n_in, size_t n_out, size_t r, double s)
{
    for (size_t o = 0; o < n_out; o++)
        for (size_t i = 0; i < n_in; i++) {
            double sum = 0;
            for (size_t k = 0; k < r; k++) sum += (double)b[o * r + k] * (double)a[k * n_in + i];
            w[o * n_in + i] = (float)((double)w[o * n_in + i] + s * sum);
        }
}

typedef struct { gguf *base, *adapter; gguf_writer *w; double scale, alpha; } merge_work;

static err_code merge_tensor(merge_work *m, uint64_t i, err *e)
{
    const gguf_tensor *t = gguf_tensor_at(m->base, i), *ta = part(m->adapter, t->name, 'a'), *tb = part(m->adapter, t->name, 'b');
    if (!ta || !tb) {
        gguf_range all;
        err_code rc = gguf_map(m->base, t->offset, t->bytes, &all, e);
        if (!rc) rc = gguf_writer_data(m->w, i, 0, all.data, t->bytes, e);
        gguf_unmap(&all);
        return rc;
    }
    if (t->type != F32) return err_set(e, ERR_INPUT, "%s is not F32", t->name);
    float *w = read_all(m->base, t), *a = read_all(m->adapter, ta), *b = read_all(m->adapter, tb);
    double r = (double)ta->dim[1];
    if (w && a && b) add_to(w, a, b, t->dim[0], t->dim[1], ta->dim[1], m->scale * (m->alpha != 0 ? m->alpha / r : 1));
    err_code rc = w && a && b ? gguf_writer_data(m->w, i, 0, w, t->bytes, e) : err_set(e, ERR_NOMEM, "out of memory");
    free(w);
    free(a);
    free(b);
    return rc;
}

static err_code merge_all(merge_work *m, const char *out, err *e)
{
    err_code rc = gguf_writer_open(&m->w, out, e);
    if (rc) return rc;
    gguf_get_f64(m->adapter, "adapter.lora.alpha", &m->alpha);
    for (uint64_t i = 0; i < gguf_n_keys(m->base); i++) {
        gguf_kind kind;
        const char *key = gguf_key(m->base, i, &kind);
        gguf_writer_raw(m->w, key, kind, gguf_raw(m->base, i));
    }
    for (uint64_t i = 0; i < gguf_n_tensors(m->base); i++) {
        const gguf_tensor *t = gguf_tensor_at(m->base, i);
        gguf_writer_tensor(m->w, t->name, t->type, t->n_dims, t->dim);
    }
    rc = gguf_writer_begin(m->w, e);
    for (uint64_t i = 0; !rc && i < gguf_n_tensors(m->base); i++) rc = merge_tensor(m, i, e);
    return rc ? rc : gguf_writer_commit(m->w, e);
}

bool adapter_merge(const char *base, const char *adapter, double scale, const char *out)
{
    err e;
    merge_work m = { .scale = scale };
    err_code rc = gguf_open(&m.base, base, &e);
    if (!rc) rc = gguf_open(&m.adapter, adapter, &e);
    if (!rc) rc = merge_all(&m, out, &e);
    gguf_writer_close(&m.w);
    gguf_close(&m.adapter);
    gguf_close(&m.base);
    return rc ? say(&e) : true;
}
