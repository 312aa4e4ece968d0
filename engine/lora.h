#ifndef ENGINE_LORA_H
#define ENGINE_LORA_H
/* A LoRA adapter as llama.cpp's GGUF files hold it: for some matrices W [n_out][n_in] of a model two thin ones, A and B, so
 * that y = W x + scale * B (A x). arXiv:2106.09685 eq. 3; scale = user's * alpha / r (the user's alone where alpha is 0). Where
 * the model's file has matrices fused (phi3: attn_qkv, and gate over up in ffn_up), so has the adapter's: cut as the model's are.
 *
 * The arithmetic, the same on every path, ISA, thread count and batch: u[k] = dot(A row k, x) and v[o] = dot(B row o, u) in the
 * fixed order of core/vec.h, x the f32 input of the matrix; then y[o] = fma(s, v[o], y[o]), s = the user's scale * the pair's,
 * one rounded f32 product. Immutable after open: any thread may read. */
#include "engine/model.h"

#define LORA_MAX_RANK 1024u /* u of one row lies on a thread's stack: 4 KiB. Files people share have 4 to 256 */

#define LORA_MAT_MAP(X) \
    X(Q, "attn_q") X(K, "attn_k") X(V, "attn_v") X(O, "attn_output") X(GATE, "ffn_gate") X(UP, "ffn_up") X(DOWN, "ffn_down")
typedef enum {
#define X(N, n) LORA_##N,
    LORA_MAT_MAP(X)
#undef X
    LORA_LAYER_MATS,
    LORA_HEAD = LORA_LAYER_MATS /* output.weight; belongs to no layer */
} lora_mat;

typedef struct {
    uint32_t r, n_in, n_out;
    float scale;      /* alpha / r, or 1 */
    const float *a;   /* [r][n_in] */
    const float *b;   /* [n_out][r] */
} lora_pair;

typedef struct lora lora;

/* Check all of the file against the model's shape, and load (widened to f32, owned) what `part` holds; a part without layers
 * and head only checks. ERR_MODEL names the key or tensor and quotes the bad value; ERR_IO; ERR_NOMEM. g may be closed then. */
err_code lora_open(lora **out, const gguf *g, const model_shape *s, shard part, err *e);
void lora_close(lora **a);
/* NULL: this matrix is not adapted, or not of the shard. `layer` is absolute; any for LORA_HEAD. */
const lora_pair *lora_find(const lora *a, uint32_t layer, lora_mat which);
uint64_t lora_bytes(const lora *a);

/* Digest of all of an adapter, data included (gguf_digest leaves data out, and adapters of one training set-up have equal
 * headers): 32 hex digits of XXH3-128 over gguf_digest and every tensor's bytes. Reads the whole file. */
err_code lora_digest(const gguf *g, char out[static 33], err *e);

/* y [n_out] += scale * B (A x), outputs [o0, o1) only. x [n_in]. Any thread. */
void lora_apply(const lora_pair *p, const vec_ops *v, float scale, const float *x, float *y, uint32_t o0, uint32_t o1);
#endif
