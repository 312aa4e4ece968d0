#ifndef KVSTORE_TABLES_H
#define KVSTORE_TABLES_H
/* What a model's profile tells the cache, for the layers of one store: read-only, owned by whoever opened the store, and longer
 * alive than it. Any pointer may be NULL: policies that need it are refused for the session, with its name. */
#include <stdint.h>

typedef struct kv_tables {
    uint32_t first, last;      /* layers that the arrays below cover; layer l is at [l - first] */
    /* KVQuant, arXiv:2401.18079: thresholds of each K channel before RoPE, and codebooks of normalised values in [-1, 1],
     * ascending, for 2, 3 and 4 bits. qnorm {scale, offset} replaces lut by lut*scale + offset (1, 0: none). */
    const float *k_lo, *k_hi;              /* [layers][K][d] */
    const float *lut_k[5], *lut_v[5];      /* [bits] -> [layers][1 << bits] */
    const float *qnorm_k[5], *qnorm_v[5];  /* [bits] -> [layers][2] */
    const uint8_t *local;                  /* [layers][K] Razor: 1 where the head is none for retrieval */
    const float *alpha;                    /* [layers][K] role scores (RLKV's file, or a stand-in) */
    const uint8_t *semantic;               /* [layers][4] query heads, best first */
    const float *layer_error;              /* [layers_of_the_model], normalised to sum 1 */
} kv_tables;

/* What policy p needs for layers [first, last) that t (NULL: no profile) does not have, in words; NULL: nothing. */
struct kv_policy;
const char *kv_tables_lack(const kv_tables *t, uint32_t first, uint32_t last, const struct kv_policy *p);
#endif
