#ifndef CORE_ROPE_H
#define CORE_ROPE_H
/* Rotary position tables, computed by our own sin/cos/pow in double (libm differs between hosts), so that two hosts
 * hold the same bits. Scaling: linear (position interpolation), llama3 (frequency bands, also as explicit factors
 * from rope_freqs.weight), yarn (arXiv:2309.00071 section 3.2-3.4), long (two sets of factors, arXiv:2402.13753: one for
 * contexts up to the trained one, the other for longer ones). */
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum { ROPE_NONE, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_LONG } rope_scaling;

typedef struct {
    uint32_t n_rot;              /* rotated dimensions of a head, even, <= 512 */
    bool neox;                   /* pairs (i, i+n_rot/2) instead of (2i, 2i+1) */
    float base;                  /* theta: frequency i is base^(-2i/n_rot) */
    rope_scaling scaling;
    float factor;                /* >= 1 */
    uint32_t orig_ctx;           /* yarn, llama3, long: context the model was trained at */
    float low_freq, high_freq;   /* llama3: band factors (1 and 4 when the file does not say) */
    float ext_factor, attn_factor, beta_fast, beta_slow;  /* yarn; attn_factor: long too */
    bool has_freqs;              /* rope_freqs.weight, rope_factors_short.weight: frequency i is divided by freqs[i] ... */
    float freqs[256];
    float freqs_long[256];       /* ... long, in a context of more than orig_ctx: by this one */
} rope_config;

typedef struct {
    uint32_t n_ctx, half;        /* half = n_rot / 2 */
    float *cos, *sin;            /* [n_ctx][half], magnitude scaling of yarn and long included */
} rope_table;

/* Owns its arrays; read-only afterwards, so any thread may read. ERR_NOMEM, ERR_MODEL (n_rot odd or 0, base <= 0, ...). */
err_code rope_table_open(rope_table *out, const rope_config *c, uint32_t n_ctx, err *e);
void rope_table_close(rope_table *t);
#endif
