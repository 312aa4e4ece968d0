/* Random models, streamed tensor by tensor through one buffer. It refuses to quantise: blocks are drawn as they are. */
#include "engine/model_random.h"
#include "core/rng.h"
#include "core/vec.h"
#include "engine/wtype.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)1 << 20)

/* L layers, D width, H query heads, K kv heads, d head size, F ffn width, V vocabulary (engine/model.h). */
typedef struct {
    const char *name, *arch, *pre, *about;        /* pre NULL: SPM */
    uint32_t L, D, H, K, d, F, V, n_ctx;
    float eps, rope_base;
    float rope_factor;                            /* > 0: rope_freqs.weight after llama 3's rule, trained at 8192 */
    uint32_t has;
} shape;
enum { TIED = 1, BIAS_QKV = 2, NORM_QK = 4, NORM_POST = 8, FUSED = 16, LONG_ROPE = 32 };

static const shape shapes[] = {
    { "tinyllama-1.1b", "llama", NULL, "TinyLlama 1.1B", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 1e-5f, 1e4f, 0, 0 },
    { "tinyllama-aux", "llama", NULL, "an auxiliary of TinyLlama, a quarter of its weights", 22, 1024, 16, 4, 64, 2816, 32000, 2048, 1e-5f, 1e4f, 0, 0 },
    { "tinyllama-short", "llama", NULL, "the same, with fewer layers: less attention too", 10, 1536, 24, 4, 64, 4224, 32000, 2048, 1e-5f, 1e4f, 0, 0 },
    { "tinyllama-shallow", "llama", NULL, "the same weights in layers as wide as the base's", 5, 2048, 32, 4, 64, 6144, 32000, 2048, 1e-5f, 1e4f, 0, 0 },
    { "llama3-8b", "llama", "llama-bpe", "Llama 3 8B", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 1e-5f, 5e5f, 0, 0 },
    { "llama3.2-1b", "llama", "llama-bpe", "Llama 3.2 1B", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 1e-5f, 5e5f, 32, TIED },
    { "qwen2.5-0.5b", "qwen2", "qwen2", "Qwen 2.5 0.5B", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e-6f, 1e6f, 0, TIED | BIAS_QKV },
    { "qwen3-0.6b", "qwen3", "qwen2", "Qwen 3 0.6B", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e-6f, 1e6f, 0, TIED | NORM_QK },
    { "tiny", "llama", NULL, "tests: every block type fits", 4, 256, 8, 2, 32, 512, 512, 2048, 1e-5f, 1e4f, 0, TIED },
    { "aux-tiny", "llama", NULL, "tests: auxiliary of tiny", 2, 128, 4, 4, 32, 256, 512, 2048, 1e-5f, 1e4f, 0, TIED },
    { "micro", "llama", NULL, "tests: head size 16, ragged ffn", 2, 64, 4, 2, 16, 172, 384, 256, 1e-5f, 1e4f, 0, 0 },
    { "micro-llama3", "llama", "llama-bpe", "tests: rope_freqs, BPE", 2, 128, 4, 2, 32, 256, 512, 4096, 1e-5f, 5e5f, 8, TIED },
    { "micro-qwen2", "qwen2", "qwen2", "tests: biases", 2, 128, 4, 2, 32, 256, 512, 512, 1e-6f, 1e6f, 0, TIED | BIAS_QKV },
    { "micro-qwen3", "qwen3", "qwen2", "tests: head norms, wide heads", 2, 128, 4, 2, 64, 256, 512, 512, 1e-6f, 1e6f, 0,
      TIED | NORM_QK },
    { "gemma2-2b", "gemma2", NULL, "Gemma 2 2B", 26, 2304, 8, 4, 256, 9216, 256000, 8192, 1e-6f, 1e4f, 0, TIED | NORM_POST },
    { "gemma3-1b", "gemma3", NULL, "Gemma 3 1B", 26, 1152, 4, 1, 256, 6912, 262144, 32768, 1e-6f, 1e6f, 0,
      TIED | NORM_POST | NORM_QK },
    { "phi-mini", "phi3", NULL, "Phi 3 mini 4k", 32, 3072, 32, 32, 96, 8192, 32064, 4096, 1e-5f, 1e4f, 0, FUSED },
    { "micro-gemma2", "gemma2", NULL, "tests: windows, caps", 4, 64, 4, 2, 32, 128, 384, 512, 1e-6f, 1e4f, 0, TIED | NORM_POST },
    { "deep-gemma2", "gemma2", NULL, "tests: layers of the 2B model", 26, 64, 4, 2, 32, 128, 384, 512, 1e-6f, 1e4f, 0,
      TIED | NORM_POST },
    { "deeper-gemma2", "gemma2", NULL, "tests: layers and scale of 27B", 46, 64, 4, 2, 32, 128, 384, 512, 1e-6f, 1e4f, 0,
      TIED | NORM_POST },
    { "micro-gemma3", "gemma3", NULL, "tests: two rope bases", 7, 64, 4, 2, 32, 128, 384, 512, 1e-6f, 1e6f, 0,
      TIED | NORM_POST | NORM_QK },
    { "deep-gemma3", "gemma3", NULL, "tests: layers and scale of 27B", 62, 64, 4, 2, 32, 128, 384, 512, 1e-6f, 1e6f, 0,
      TIED | NORM_POST | NORM_QK },
    { "micro-phi", "phi3", NULL, "tests: fused matrices, long rope", 3, 128, 4, 2, 32, 256, 384, 1024, 1e-5f, 1e4f, 0,
      FUSED | LONG_ROPE },
    { "micro-mistral", "llama", NULL, "tests: a window in a llama file", 2, 64, 4, 2, 16, 128, 384, 512, 1e-5f, 1e4f, 0, 0 },
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* Keys that only some shapes have; `name` is a shape's. Small windows, so that short tests leave them. */
static const struct { const char *name, *key; bool is_float; float v; } more_keys[] = {
    { "gemma2-2b", "attention.sliding_window", false, 4096 }, { "gemma3-1b", "attention.sliding_window", false, 512 },
    { "phi-mini", "attention.sliding_window", false, 2047 }, { "micro-gemma2", "attention.sliding_window", false, 12 },
    { "deep-gemma2", "attention.sliding_window", false, 12 }, { "deeper-gemma2", "attention.sliding_window", false, 12 },
    { "micro-gemma3", "attention.sliding_window", false, 10 }, { "deep-gemma3", "attention.sliding_window", false, 10 },
    { "micro-phi", "attention.sliding_window", false, 14 },  { "micro-mistral", "attention.sliding_window", false, 8 },
    { "gemma2-2b", "attn_logit_softcapping", true, 50 },      { "gemma2-2b", "final_logit_softcapping", true, 30 },
    /* caps that bind: random weights make smaller scores and logits than trained ones */
    { "micro-gemma2", "attn_logit_softcapping", true, 2 },    { "micro-gemma2", "final_logit_softcapping", true, 3 },
    { "deep-gemma2", "attn_logit_softcapping", true, 2 },     { "deep-gemma2", "final_logit_softcapping", true, 3 },
    { "deeper-gemma2", "attn_logit_softcapping", true, 2 },   { "deeper-gemma2", "final_logit_softcapping", true, 3 },
    { "micro-gemma3", "rope.scaling.factor", true, 8 },       { "deep-gemma3", "rope.scaling.factor", true, 8 },
    { "micro-phi", "rope.scaling.attn_factor", true, 1.19f }, { "micro-phi", "rope.scaling.original_context_length", false, 256 },
};

/* file_type: the numbers of llama.cpp's general.file_type. */
static const struct { const char *name; wtype type; uint32_t file_type; } quants[] = {
    { "F32", WTYPE_F32, 0 }, { "F16", WTYPE_F16, 1 }, { "Q4_0", WTYPE_Q4_0, 2 },
    { "Q8_0", WTYPE_Q8_0, 7 }, { "Q4_K", WTYPE_Q4_K, 14 }, { "Q6_K", WTYPE_Q6_K, 18 },
};
#define N_QUANTS (sizeof quants / sizeof *quants)

const char *model_random_shape(size_t i, const char **about)
{
    if (i >= N_SHAPES) return NULL;
    if (about) *about = shapes[i].about;
    return shapes[i].name;
}

/* ---- blocks: n of them to p, element deviation `sd`, draws from (seed, at ascending) ---- */

typedef struct { uint64_t seed, at; float sd; } draw;
typedef void fill_fn(draw *r, uint8_t *p, size_t n);

static uint64_t next(draw *r) { return rng_u64(r->seed, r->at++); }

static void random_bytes(draw *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t x = next(r);
        memcpy(p + i, &x, n - i < 8 ? n - i : 8);
    }
}

static void put_f16(uint8_t *p, float x)
{
    f16 h = vec_f16(x);
    memcpy(p, &h, 2);
}

static void fill_f32(draw *r, uint8_t *p, size_t n)
{
    const float step = r->sd * 1.7320508f * 0x1p-31f;      /* uniform in +-sd*sqrt(3) has the deviation sd */
    for (size_t i = 0; i < n; i += 2) {
        uint64_t x = next(r);
        float two[2] = { (float)(int32_t)x * step, (float)(int32_t)(x >> 32) * step };
        memcpy(p + 4 * i, two, n - i < 2 ? 4 : 8);
    }
}

static void fill_f16(draw *r, uint8_t *p, size_t n)
{
    const float step = r->sd * 1.7320508f * 0x1p-15f;
    for (size_t i = 0; i < n; i += 4) {
        uint64_t x = next(r);
        for (size_t k = 0; k < 4 && i + k < n; k++) put_f16(p + 2 * (i + k), (float)(int16_t)(x >> 16 * k) * step);
    }
}

/* d and q[32]; -128 does not occur in real files, and kernels may count on that. */
static void fill_q8_0(draw *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++, p += 34) {
        put_f16(p, r->sd / 73.6f);                         /* deviation of a uniform byte */
        random_bytes(r, p + 2, 32);
        for (int k = 2; k < 34; k++)
            if (p[k] == 0x80) p[k] = 0;
    }
}

/* d and 32 nibbles q: d*(q-8). Their mean is -d/2, so the sign of d is drawn too. */
static void fill_q4_0(draw *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++, p += 18) {
        random_bytes(r, p + 2, 16);
        put_f16(p, (next(r) & 1 ? r->sd : -r->sd) / 4.61f);
    }
}

/* d, dmin, eight 6-bit scales and minima, 256 nibbles: d*sc*q - dmin*m. With m = sc and dmin = 7.5*d the mean is 0. */
static void fill_q4_k(draw *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++, p += 144) {
        uint64_t x = next(r);
        uint8_t sc[8];
        for (int j = 0; j < 8; j++) sc[j] = (uint8_t)(32 + (x >> 8 * j & 31));
        const float d = r->sd / (48.4f * 4.61f);           /* root mean square of the scales, deviation of a nibble */
        put_f16(p, d);
        put_f16(p + 2, 7.5f * d);
        for (int j = 0; j < 4; j++) {
            uint8_t low = sc[j + 4] & 15, high = (uint8_t)(sc[j + 4] >> 4 << 6);
            p[4 + j] = p[8 + j] = sc[j] | high;
            p[12 + j] = (uint8_t)(low | low << 4);
        }
        random_bytes(r, p + 16, 128);
    }
}

/* 256 6-bit values in ql[128] and qh[64], sixteen signed scales, d: d*sc*(q-32). */
static void fill_q6_k(draw *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++, p += 210) {
        random_bytes(r, p, 208);
        for (int k = 192; k < 208; k++) p[k] = (uint8_t)(p[k] & 0x80 ? -(64 + (p[k] & 63)) : 64 + (p[k] & 63));
        put_f16(p + 208, r->sd / (97.3f * 18.5f));         /* root mean square of the scales, deviation of 0..63 */
    }
}

static fill_fn *const fills[WTYPE_COUNT] = { [WTYPE_F32] = fill_f32, [WTYPE_F16] = fill_f16, [WTYPE_Q8_0] = fill_q8_0,
                                             [WTYPE_Q4_0] = fill_q4_0, [WTYPE_Q4_K] = fill_q4_k, [WTYPE_Q6_K] = fill_q6_k };

/* ---- the tensors of a shape ---- */

typedef enum { MATRIX, NORM, BIAS, FREQS, FREQS_SHORT, FREQS_LONG } role;
typedef struct { role role; wtype type; uint32_t row; } plan;    /* row: dim[0] */

typedef struct {
    const shape *s;
    wtype type;
    uint64_t seed;
    gguf_writer *w;
    plan *tensor;                                 /* [n], cap reserved */
    uint64_t n, cap, done, total;
    uint8_t *buf;                                 /* BUFFER_BYTES */
    model_random_progress *progress;
    void *arg;
    err *e;
} job;

static wtype fitting(wtype t, uint32_t row)
{
    if (row % wtypes[t].block == 0) return t;
    return row % wtypes[WTYPE_Q8_0].block == 0 ? WTYPE_Q8_0 : WTYPE_F16;
}

/* rows 0: a vector. `layer` < 0: not of a layer. */
static void tensor(job *j, int layer, const char *name, role r, uint32_t row, uint32_t rows)
{
    char full[GGUF_NAME_MAX];
    if (layer < 0) snprintf(full, sizeof full, "%s", name);
    else snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    wtype t = r == MATRIX ? fitting(j->type, row) : WTYPE_F32;
    gguf_writer_tensor(j->w, full, wtypes[t].ggml_id, rows ? 2 : 1, (uint64_t[]){ row, rows });
    if (j->n < j->cap) j->tensor[j->n] = (plan){ r, t, row };
    j->n++;
}

static void qkv_tensors(job *j, int i)
{
    const shape *s = j->s;
    uint32_t q = s->H * s->d, kv = s->K * s->d;
    if (s->has & FUSED) {
        tensor(j, i, "attn_qkv.weight", MATRIX, s->D, q + 2 * kv);
        return;
    }
    tensor(j, i, "attn_q.weight", MATRIX, s->D, q);
    tensor(j, i, "attn_k.weight", MATRIX, s->D, kv);
    tensor(j, i, "attn_v.weight", MATRIX, s->D, kv);
    if (s->has & BIAS_QKV) {
        tensor(j, i, "attn_q.bias", BIAS, q, 0);
        tensor(j, i, "attn_k.bias", BIAS, kv, 0);
        tensor(j, i, "attn_v.bias", BIAS, kv, 0);
    }
    if (s->has & NORM_QK) {
        tensor(j, i, "attn_q_norm.weight", NORM, s->d, 0);
        tensor(j, i, "attn_k_norm.weight", NORM, s->d, 0);
    }
}

static void layer_tensors(job *j, int i)
{
    const shape *s = j->s;
    bool fused = s->has & FUSED;
    tensor(j, i, "attn_norm.weight", NORM, s->D, 0);
    qkv_tensors(j, i);
    tensor(j, i, "attn_output.weight", MATRIX, s->H * s->d, s->D);
    if (s->has & NORM_POST) tensor(j, i, "post_attention_norm.weight", NORM, s->D, 0);
    tensor(j, i, "ffn_norm.weight", NORM, s->D, 0);
    if (!fused) tensor(j, i, "ffn_gate.weight", MATRIX, s->D, s->F);
    tensor(j, i, "ffn_up.weight", MATRIX, s->D, fused ? 2 * s->F : s->F);
    tensor(j, i, "ffn_down.weight", MATRIX, s->F, s->D);
    if (s->has & NORM_POST) tensor(j, i, "post_ffw_norm.weight", NORM, s->D, 0);
}

static void all_tensors(job *j)
{
    const shape *s = j->s;
    tensor(j, -1, "token_embd.weight", MATRIX, s->D, s->V);
    if (s->rope_factor > 0) tensor(j, -1, "rope_freqs.weight", FREQS, s->d / 2, 0);
    if (s->has & LONG_ROPE) {
        tensor(j, -1, "rope_factors_long.weight", FREQS_LONG, s->d / 2, 0);
        tensor(j, -1, "rope_factors_short.weight", FREQS_SHORT, s->d / 2, 0);
    }
    for (uint32_t i = 0; i < s->L; i++) layer_tensors(j, (int)i);
    tensor(j, -1, "output_norm.weight", NORM, s->D, 0);
    if (!(s->has & TIED)) tensor(j, -1, "output.weight", MATRIX, s->D, s->V);
}

/* ---- data ---- */

/* Llama 3's bands (low 1, high 4, trained at 8192) as factors of each frequency. base^(1/half) is a chain of square
 * roots, since half is a power of two: no libm, the same bytes on every host. */
static void fill_freqs(const shape *s, float *out, uint32_t half)
{
    const double trained = 8192, pi = 3.14159265358979323846;
    double step = s->rope_base, wave = 2 * pi;
    for (uint32_t h = half; h > 1; h /= 2) step = sqrt(step);
    for (uint32_t i = 0; i < half; i++, wave *= step) {
        double smooth = (trained / wave - 1) / 3;
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        out[i] = (float)(1 / ((1 - smooth) / (double)s->rope_factor + smooth));
    }
}

/* Phi 3's factors grow with i, from 1 up to 1.5 or so and to some tens. */
static void fill_long(float *out, uint32_t half, float last)
{
    for (uint32_t i = 0; i < half; i++) out[i] = 1 + (last - 1) * (float)i / (float)half;
}

static void fill_chunk(job *j, const plan *p, draw *r, size_t blocks)
{
    float *f = (float *)(void *)j->buf;
    if (p->role == FREQS) fill_freqs(j->s, f, p->row);
    else if (p->role == FREQS_SHORT) fill_long(f, p->row, 1.5f);
    else if (p->role == FREQS_LONG) fill_long(f, p->row, 40);
    else fills[p->type](r, j->buf, blocks);
    for (size_t i = 0; p->role == NORM && i < blocks; i++) {
        float x;
        memcpy(&x, j->buf + 4 * i, 4);
        x += 1;
        memcpy(j->buf + 4 * i, &x, 4);
    }
}

/* Matrices: 1/sqrt(inputs), so what is normalised stays of its size. Norms 1 +- 0.1, biases 0.1. */
static err_code write_tensor(job *j, uint64_t i)
{
    const plan *p = &j->tensor[i];
    draw r = { rng_u64(j->seed, i), 0, p->role == MATRIX ? 1 / sqrtf((float)p->row) : 0.1f };
    size_t size = wtypes[p->type].bytes, most = BUFFER_BYTES / size;
    uint64_t bytes = gguf_writer_bytes(j->w, i);
    for (uint64_t at = 0; at < bytes;) {
        size_t blocks = (bytes - at) / size < most ? (size_t)((bytes - at) / size) : most;
        fill_chunk(j, p, &r, blocks);
        err_code rc = gguf_writer_data(j->w, i, at, j->buf, blocks * size, j->e);
        if (rc) return rc;
        at += blocks * size;
        j->done += blocks * size;
        if (j->progress) j->progress(j->arg, j->done, j->total);
    }
    return ERR_OK;
}

/* ---- keys ---- */

static void write_more_keys(job *j)
{
    char key[96];
    const shape *s = j->s;
    for (size_t i = 0; i < sizeof more_keys / sizeof *more_keys; i++) {
        if (strcmp(more_keys[i].name, s->name)) continue;
        snprintf(key, sizeof key, "%s.%s", s->arch, more_keys[i].key);
        if (more_keys[i].is_float) gguf_writer_f32(j->w, key, more_keys[i].v);
        else gguf_writer_u32(j->w, key, (uint32_t)more_keys[i].v);
        if (strcmp(more_keys[i].key, "rope.scaling.factor")) continue;
        snprintf(key, sizeof key, "%s.rope.scaling.type", s->arch);
        gguf_writer_str(j->w, key, (view){ "linear", 6 });
    }
}

static void write_keys(job *j, uint32_t file_type)
{
    const shape *s = j->s;
    char name[96], key[96];
    snprintf(name, sizeof name, "random %s", s->name);
    gguf_writer_str(j->w, "general.architecture", (view){ s->arch, strlen(s->arch) });
    gguf_writer_str(j->w, "general.name", (view){ name, strlen(name) });
    gguf_writer_u32(j->w, "general.file_type", file_type);
    gguf_writer_u32(j->w, "general.quantization_version", 2);
    gguf_writer_u64(j->w, "sluice.random_seed", j->seed);  /* also makes the digest differ between seeds */
    const struct { const char *key; uint32_t v; } u[] = {
        { "block_count", s->L }, { "context_length", s->n_ctx }, { "embedding_length", s->D }, { "feed_forward_length", s->F },
        { "attention.head_count", s->H }, { "attention.head_count_kv", s->K }, { "attention.key_length", s->d },
        { "attention.value_length", s->d }, { "rope.dimension_count", s->d }, { "vocab_size", s->V },
    };
    for (size_t i = 0; i < sizeof u / sizeof *u; i++) {
        snprintf(key, sizeof key, "%s.%s", s->arch, u[i].key);
        gguf_writer_u32(j->w, key, u[i].v);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", s->arch);
    gguf_writer_f32(j->w, key, s->eps);
    snprintf(key, sizeof key, "%s.rope.freq_base", s->arch);
    gguf_writer_f32(j->w, key, s->rope_base);
    write_more_keys(j);
}

/* ---- the door ---- */

static err_code pick(const char *name, const char *quant, job *j, uint32_t *file_type)
{
    for (size_t i = 0; i < N_SHAPES; i++)
        if (!strcmp(shapes[i].name, name)) j->s = &shapes[i];
    if (!j->s) {
        text all = { 0 };
        for (size_t i = 0; i < N_SHAPES; i++) (void)text_addf(&all, "%s%s", i ? " " : "", shapes[i].name);
        err_set(j->e, ERR_INPUT, "no shape '%.60s' (%s)", name, all.ptr ? all.ptr : "");
        text_free(&all);
        return ERR_INPUT;
    }
    for (size_t i = 0; i < N_QUANTS; i++)
        if (!strcmp(quants[i].name, quant)) {
            j->type = quants[i].type;
            *file_type = quants[i].file_type;
            return ERR_OK;
        }
    return err_set(j->e, ERR_INPUT, "no quant '%.20s' for random models (F32 F16 Q8_0 Q4_0 Q4_K Q6_K)", quant);
}

const char *model_random_quant(size_t i) { return i < N_QUANTS ? quants[i].name : NULL; }

static err_code write_file(job *j, uint32_t file_type)
{
    write_keys(j, file_type);
    err_code rc = random_vocab_write(j->w, j->s->pre, j->s->V, j->e);
    if (rc) return rc;
    all_tensors(j);
    if ((rc = gguf_writer_begin(j->w, j->e))) return rc;
    for (uint64_t i = 0; i < j->n; i++) j->total += gguf_writer_bytes(j->w, i);
    for (uint64_t i = 0; !rc && i < j->n; i++) rc = write_tensor(j, i);
    return rc ? rc : gguf_writer_commit(j->w, j->e);
}

err_code model_random_write(const char *name, const char *quant, uint64_t seed, const char *path, model_random_progress *progress,
                            void *arg, err *e)
{
    job j = { .seed = seed, .progress = progress, .arg = arg, .e = e };
    uint32_t file_type = 0;
    err_code rc = pick(name, quant, &j, &file_type);
    if (rc) return rc;
    j.cap = 8 + 16 * (uint64_t)j.s->L;                     /* a layer has at most 14 tensors */
    j.tensor = calloc(j.cap, sizeof *j.tensor);
    j.buf = malloc(BUFFER_BYTES);
    rc = j.tensor && j.buf ? gguf_writer_open(&j.w, path, e) : err_set(e, ERR_NOMEM, "%s: out of memory", path);
    if (!rc) rc = write_file(&j, file_type);
    gguf_writer_close(&j.w);
    free(j.tensor);
    free(j.buf);
    return rc;
}
