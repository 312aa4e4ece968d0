#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H
/* A model's shape, and the weights of one shard of it. Axis letters used everywhere:
 * T rows of the batch, D model width, H query heads, K kv heads, d head size, F ffn width, V vocabulary, L layers. */
#include "core/rope.h"
#include "engine/gguf.h"
#include "engine/kernels.h"
#include "engine/pack.h"
#include "kvstore/look.h"

#define MODEL_MAX_LAYERS 512
#define ARCH_MAP(X) X(LLAMA, "llama") X(QWEN2, "qwen2") X(QWEN3, "qwen3") X(GEMMA2, "gemma2") X(GEMMA3, "gemma3") X(PHI3, "phi3")
typedef enum {
#define X(N, n) ARCH_##N,
    ARCH_MAP(X)
#undef X
    ARCH_COUNT
} model_arch;

typedef struct {
    model_arch arch;
    char name[64];
    char digest[33];                     /* gguf_digest */
    uint32_t L, D, H, K, d, F, V, n_ctx; /* n_ctx: context the file states */
    float rms_eps;
    bool tied;                           /* head is token_embd */
    bool gelu;                           /* the gate is GELU (tanh form), not SiLU */
    float embed_scale, final_cap;        /* of embedding rows; soft cap of logits (arXiv:2408.00118 section 2). 0: none */
    rope_config rope;
    kv_look look;                        /* windows, soft cap and scale of attention */
} model_shape;

/* What one stage holds. Layers [first, last), and the units in front of and behind them. */
typedef struct { uint32_t first, last; bool embed, head; } shard;

typedef struct {                         /* weights of one layer; a NULL data means "this architecture has none" */
    mat wq, wk, wv, wo;                  /* [H*d][D], [K*d][D], [K*d][D], [D][H*d] */
    mat gate, up, down;                  /* [F][D], [F][D], [D][F]; phi3's fused tensors are cut into these */
    const float *attn_norm, *ffn_norm;   /* [D] */
    const float *attn_post, *ffn_post;   /* [D] or NULL: norms of a block's output before the residual (gemma2, gemma3) */
    const float *bq, *bk, *bv;           /* [H*d], [K*d], [K*d] or NULL (qwen2) */
    const float *q_norm, *k_norm;        /* [d] or NULL (qwen3, gemma3) */
} layer_weights;

typedef struct {
    model_shape shape;
    shard part;
    mat embed;                           /* [V][D], data NULL unless part.embed */
    mat head;                            /* [V][D], data NULL unless part.head */
    const float *out_norm;               /* [D], NULL unless part.head */
    layer_weights *layer;                /* [last - first] */
    uint64_t bytes;                      /* of the tensors held */
    struct model_maps *maps;
} model;

/* Read and check the shape only (every key's kind and range, head counts that divide, F and D against tensors). */
err_code model_shape_read(model_shape *out, const gguf *g, err *e);
/* Map exactly the tensors of `part` (page rounding aside) and check every shape and type. Norms and biases are
 * float in the file; F16/BF16 ones are widened into owned memory. Immutable afterwards: any thread. */
err_code model_open(model **out, const gguf *g, shard part, err *e);
/* The same with packed matrices where p (may be NULL) has them; p may be closed afterwards. */
err_code model_open_packed(model **out, const gguf *g, const pack_file *p, shard part, err *e);
void model_close(model **m);
#endif
