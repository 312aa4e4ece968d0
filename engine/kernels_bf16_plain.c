/* The reference of path bf16amx (engine/bf16.h, engine/kernels.h), for weights in file order and packed ones: one product at a
 * time, word by word. Rounded activations are floats. Not tuned. */
#include "engine/bf16.h"
#include "engine/kernels_impl.h"
#include "engine/packed.h"

enum { CHUNK = 256 };                   /* weights unpacked at a time: a multiple of every block length */

void kernels_bf16_round_plain(const act *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++) {
        float *to = act_row_bf16(a, t);
        for (uint32_t k = 0; k < a->n_in; k++) to[k] = bf16_float(bf16_round(a->x[t * a->ld + k]));
    }
}

/* w, x [32] */
static float block_step(const float *w, const float *x, float acc)
{
    float even = 0, odd = 0;
    for (uint32_t k = 0; k < KERNELS_BLOCK; k += 2) {
        even = bf16_fma(w[k], x[k], even);
        odd = bf16_fma(w[k + 1], x[k + 1], odd);
    }
    return bf16_add(acc, bf16_add(even, odd));
}

void kernels_bf16_plain(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_bf16_few : KERNEL_bf16_many);
    float buf[CHUNK];
    for (uint32_t o = o0; o < o1; o++) {
        for (uint32_t t = 0; t < T; t++) y[t * ldy + o] = 0;
        for (uint32_t k0 = 0, n; k0 < w->n_in; k0 += n) {
            n = w->n_in - k0 < CHUNK ? w->n_in - k0 : CHUNK;
            mat_row_f32(w, o, k0, n, buf);
            for (uint32_t k = 0; k < n; k++) buf[k] = bf16_float(bf16_weight(buf[k]));
            for (uint32_t t = 0; t < T; t++)
                for (uint32_t k = 0; k < n; k += KERNELS_BLOCK)
                    y[t * ldy + o] = block_step(buf + k, (const float *)act_row_bf16(a, t) + k0 + k, y[t * ldy + o]);
        }
    }
}
