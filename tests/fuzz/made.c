#include "tests/fuzz/made.h"
#include "engine/wtype.h"
#include "tests/fuzz/kit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L = 2, D = 8, H = 2, K = 1, HEAD = 4, F = 8, V = 16, RANK = 2, VARIANTS = 12 };

model_shape made_shape(void)
{
    return (model_shape){ .arch = ARCH_LLAMA, .L = L, .D = D, .H = H, .K = K, .d = HEAD, .F = F, .V = V, .n_ctx = 32, .rms_eps = 1e-5f };
}

static void add(gguf_writer *w, const char *name, uint32_t type, uint64_t d0, uint64_t d1)
{
    gguf_writer_tensor(w, name, type, d1 > 1 ? 2 : 1, (uint64_t[]){ d0, d1 });
}

static void str(gguf_writer *w, const char *key, const char *v)
{
    gguf_writer_str(w, key, (view){ v, strlen(v) });
}

/* ---- every kind of key, a few tensors ---- */

static uint32_t write_plain(gguf_writer *w, uint32_t pick)
{
    static const uint8_t some[8] = { 1, 0, 1, 0, 1, 1, 0, 0 };
    char key[32];
    for (int k = 0; k < GGUF_KIND_COUNT; k++) {
        if (k == GGUF_STR || k == GGUF_ARR) continue;
        snprintf(key, sizeof key, "a.%d", k);
        gguf_writer_num(w, key, (gguf_kind)k, some);
        snprintf(key, sizeof key, "l.%d", k);
        if (pick % 2) gguf_writer_arr(w, key, (gguf_kind)k, some, 1);
    }
    str(w, "general.name", "some");
    gguf_writer_strs(w, "s", (view[]){ { "x", 1 }, { "", 0 }, { "yz", 2 } }, pick % 4);
    gguf_writer_u32(w, "general.alignment", 32);
    if (pick % 3 == 1) gguf_writer_u32(w, "split.no", pick % 2), gguf_writer_u32(w, "split.count", 2), gguf_writer_u32(w, "split.tensors.count", 2);
    if (pick % 3 == 1) str(w, "split.source_digest", "0123");
    add(w, pick % 3 == 1 && pick % 2 ? "y" : "x", 0, 8, 1);
    if (pick % 3 == 1) return 1;
    add(w, "q", 8, 32, 2);
    add(w, "h", 1, 4, 3);
    return 3;
}

/* ---- adapters ---- */

static uint32_t write_lora(gguf_writer *w, uint32_t pick)
{
    static const struct { const char *stem; uint32_t in, out; } mats[] = {
        { "blk.0.attn_q", D, H * HEAD }, { "blk.1.attn_k", D, K * HEAD }, { "blk.0.attn_v", D, K * HEAD }, { "blk.1.attn_output", H * HEAD, D },
        { "blk.0.ffn_gate", D, F },      { "blk.0.ffn_up", D, F },        { "blk.1.ffn_down", F, D },      { "output", D, V },
    };
    static const uint32_t types[] = { 0, 1, 30 }; /* F32, F16, BF16 */
    char name[64];
    uint32_t n = 0;
    str(w, "general.type", "adapter");
    str(w, "adapter.type", "lora");
    str(w, "general.architecture", "llama");
    if (pick % 2) gguf_writer_f32(w, "adapter.lora.alpha", 4);
    for (uint32_t i = pick % 3; i < 8; i += 3, n += 2) {
        snprintf(name, sizeof name, "%s.weight.lora_a", mats[i].stem);
        add(w, name, types[i % 3], mats[i].in, RANK);
        snprintf(name, sizeof name, "%s.weight.lora_b", mats[i].stem);
        add(w, name, types[(i + 1) % 3], RANK, mats[i].out);
    }
    return n;
}

/* ---- models: every architecture, with what only it has ---- */

static const char *const archs[] = {
#define X(N, n) n,
    ARCH_MAP(X)
#undef X
};

static void model_key(gguf_writer *w, const char *arch, const char *name, uint32_t v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_writer_u32(w, key, v);
}

static void model_real(gguf_writer *w, const char *arch, const char *name, float v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_writer_f32(w, key, v);
}

static void write_scaling(gguf_writer *w, const char *arch, uint32_t pick)
{
    static const char *const kinds[] = { "none", "linear", "llama3", "yarn", "longrope" };
    static const char *const factors[] = { "factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
                                           "low_freq_factor", "high_freq_factor", "attn_factor" };
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    str(w, key, kinds[pick % 5]);
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "%s.rope.scaling.%s", arch, factors[i]);
        gguf_writer_f32(w, key, i == 6 ? 4 : 1);
    }
    model_key(w, arch, "rope.scaling.original_context_length", 16);
}

static uint32_t add_layer(gguf_writer *w, model_arch arch, uint32_t l)
{
    bool gemma = arch == ARCH_GEMMA2 || arch == ARCH_GEMMA3, bias = arch == ARCH_QWEN2, phi = arch == ARCH_PHI3;
    bool norm_qk = arch == ARCH_QWEN3 || arch == ARCH_GEMMA3;
    const struct { const char *name; uint64_t d0, d1; bool has; } t[] = {
        { "attn_q.weight", D, H * HEAD, !phi }, { "attn_k.weight", D, K * HEAD, !phi }, { "attn_v.weight", D, K * HEAD, !phi },
        { "ffn_gate.weight", D, F, !phi },      { "ffn_up.weight", D, F, !phi },        { "attn_qkv.weight", D, (H + 2 * K) * HEAD, phi },
        { "ffn_up.weight", D, 2 * F, phi },     { "attn_output.weight", H * HEAD, D, true }, { "ffn_down.weight", F, D, true },
        { "attn_norm.weight", D, 1, true },     { "ffn_norm.weight", D, 1, true },      { "attn_q.bias", H * HEAD, 1, bias },
        { "attn_k.bias", K * HEAD, 1, bias },   { "attn_v.bias", K * HEAD, 1, bias },   { "attn_q_norm.weight", HEAD, 1, norm_qk },
        { "attn_k_norm.weight", HEAD, 1, norm_qk }, { "post_attention_norm.weight", D, 1, gemma }, { "post_ffw_norm.weight", D, 1, gemma },
    };
    char name[64];
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if (!t[i].has) continue;
        snprintf(name, sizeof name, "blk.%u.%s", l, t[i].name);
        add(w, name, (i + l) % 4 == 3 ? 1 : 0, t[i].d0, t[i].d1);
        n++;
    }
    return n;
}

static uint32_t write_model(gguf_writer *w, uint32_t pick)
{
    model_arch arch = (model_arch)(pick % ARCH_COUNT);
    const char *a = archs[arch];
    str(w, "general.architecture", a);
    str(w, "general.name", "made");
    model_key(w, a, "block_count", L);
    model_key(w, a, "embedding_length", D);
    model_key(w, a, "context_length", 32);
    model_key(w, a, "attention.head_count", H);
    model_key(w, a, "attention.head_count_kv", K);
    model_key(w, a, "feed_forward_length", F);
    model_key(w, a, "attention.key_length", HEAD);
    model_key(w, a, "attention.value_length", HEAD);
    model_key(w, a, "rope.dimension_count", HEAD);
    model_real(w, a, "attention.layer_norm_rms_epsilon", 1e-5f);
    model_real(w, a, "rope.freq_base", 10000);
    if (arch >= ARCH_GEMMA2) model_key(w, a, "attention.sliding_window", 4);
    if (arch == ARCH_GEMMA2) model_real(w, a, "attn_logit_softcapping", 50), model_real(w, a, "final_logit_softcapping", 30);
    if (pick >= ARCH_COUNT) write_scaling(w, a, pick);
    uint32_t n = 2;
    add(w, "token_embd.weight", 0, D, V);
    add(w, "output_norm.weight", 0, D, 1);
    if (pick % 3 == 0) add(w, "output.weight", 0, D, V), n++;
    if (pick == ARCH_COUNT) add(w, "rope_freqs.weight", 0, HEAD / 2, 1), n++;
    if (arch == ARCH_PHI3) add(w, "rope_factors_long.weight", 0, HEAD / 2, 1), add(w, "rope_factors_short.weight", 0, HEAD / 2, 1), n += 2;
    for (uint32_t l = 0; l < L; l++) n += add_layer(w, arch, l);
    return n;
}

/* ---- vocabularies ---- */

typedef struct { const char *text; int32_t type; float score; } piece;

static void write_pieces(gguf_writer *w, const piece *p, uint32_t n)
{
    view word[32];
    int32_t type[32];
    float score[32];
    for (uint32_t i = 0; i < n; i++) word[i] = (view){ p[i].text, strlen(p[i].text) }, type[i] = p[i].type, score[i] = p[i].score;
    gguf_writer_strs(w, "tokenizer.ggml.tokens", word, n);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, type, n);
    gguf_writer_arr(w, "tokenizer.ggml.scores", GGUF_F32, score, n);
}

static void write_spm(gguf_writer *w)
{
    static const piece p[] = { { "<unk>", 2, 0 }, { "<s>", 3, 0 }, { "</s>", 3, 0 }, { "<0x0A>", 6, 0 }, { "<0x41>", 6, 0 }, { "▁", 1, -1 },
                               { "a", 1, -2 }, { "b", 1, -3 }, { "ab", 1, -4 }, { "▁a", 1, -5 }, { "<|end|>", 4, 0 }, { "▁▁", 4, 0 }, { "x", 5, 0 } };
    str(w, "tokenizer.ggml.model", "llama");
    write_pieces(w, p, sizeof p / sizeof *p);
    gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", true);
    gguf_writer_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true);
    str(w, "tokenizer.chat_template", "{{ '<|user|>' }}");
}

static void write_bpe(gguf_writer *w, const char *pre)
{
    static const piece p[] = { { "a", 1, 0 }, { "b", 1, 0 }, { "Ġ", 1, 0 }, { "ab", 1, 0 }, { "Ġab", 1, 0 }, { "é", 1, 0 }, { "<|im_end|>", 3, 0 },
                               { "<|endoftext|>", 3, 0 }, { "字", 1, 0 } };
    str(w, "tokenizer.ggml.model", "gpt2");
    str(w, "tokenizer.ggml.pre", pre);
    write_pieces(w, p, sizeof p / sizeof *p);
    gguf_writer_strs(w, "tokenizer.ggml.merges", (view[]){ { "a b", 3 }, { "Ġ ab", 5 } }, 2);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", true);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 7);
    gguf_writer_u32(w, "tokenizer.ggml.eot_token_id", 6);
}

static void write_bert(gguf_writer *w)
{
    static const piece p[] = { { "[UNK]", 3, 0 }, { "[CLS]", 3, 0 }, { "[SEP]", 3, 0 }, { "▁the", 1, 0 }, { "ing", 1, 0 }, { "▁中", 1, 0 }, { "▁.", 1, 0 } };
    str(w, "tokenizer.ggml.model", "bert");
    write_pieces(w, p, sizeof p / sizeof *p);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_writer_u32(w, "tokenizer.ggml.cls_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.seperator_token_id", 2);
}

static uint32_t write_vocab(gguf_writer *w, uint32_t pick)
{
    static const char *const pres[] = { "llama-bpe", "qwen2", "gpt-2", "tekken", "deepseek-v3" };
    str(w, "general.architecture", pick % 2 ? "llama" : "phi3");
    str(w, "general.name", "phi-3");
    if (pick % 4 == 0) write_bert(w);
    else if (pick % 4 == 1) write_spm(w);
    else write_bpe(w, pres[pick / 2 % 5]);
    return 0;
}

/* ---- files ---- */

static view make(made_kind kind, uint32_t pick)
{
    static uint32_t (*const write[])(gguf_writer *, uint32_t) = { write_plain, write_lora, write_model, write_vocab };
    static const float ones[2 * D * F] = { 1, 1, 1, 1, 0.5f, 0.25f, 1, 1, 1 };
    const char *path = kit_path("made.gguf");
    text bytes = { 0 };
    err e;
    gguf_writer *w;
    kit_must(gguf_writer_open(&w, path, &e), &e);
    uint32_t n = write[kind](w, pick);
    kit_must(gguf_writer_begin(w, &e), &e);
    for (uint32_t i = 0; i < n; i++) kit_must(gguf_writer_data(w, i, 0, ones, gguf_writer_bytes(w, i), &e), &e);
    kit_must(gguf_writer_commit(w, &e), &e);
    gguf_writer_close(&w);
    kit_must(text_read_file(&bytes, path, 1 << 20, &e), &e);
    return (view){ bytes.ptr, bytes.len };
}

view made_file(made_kind kind, uint32_t pick)
{
    static view kept[4][VARIANTS];
    view *v = &kept[kind][pick % VARIANTS];
    if (!v->ptr) *v = make(kind, pick % VARIANTS);
    return *v;
}
