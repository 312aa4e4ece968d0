#ifndef ENGINE_PROFILE_KV_H
#define ENGINE_PROFILE_KV_H
/* Section kv of a profile as the KV store takes it (kvstore/tables.h). The section, for layer L of a model with K kv heads of size d:
 *   kv.L.k_lo, k_hi          [K][d] thresholds of K channels before RoPE (KVQuant)
 *   kv.L.lut_k2 .. lut_v4    [2^bits] codebooks, ascending, of values in [-1, 1]
 *   kv.L.qnorm_k2, qnorm_v2  [2] scale, offset (also for 3 and 4 bits, if there)
 *   kv.L.echo, induction     [K] scores of RazorAttention; kv.L.local [K] 1: not for retrieval
 *   kv.L.alpha               [K] role scores in [0, 1]
 *   kv.L.semantic            [4] query heads, best first; 255: there is none
 *   kv.layer_error           [layers of the model], to sum 1
 * What a profile leaves out the tables leave out; what it has is checked whole. Owns the arrays; refuses to choose a policy.
 * Immutable once open: any thread. */
#include "engine/model.h"
#include "engine/profile.h"
#include "kvstore/tables.h"

typedef struct profile_kv profile_kv;
/* Layers [first, last) of the model. *out is NULL when the profile has no such section. ERR_MODEL: a tensor does not fit the model or
 * has values that make no sense; ERR_CONFIG: the section is of another version. */
err_code profile_kv_open(profile_kv **out, const profile *p, const model_shape *s, uint32_t first, uint32_t last, err *e);
void profile_kv_close(profile_kv **t);
/* NULL for NULL. */
const kv_tables *profile_kv_tables(const profile_kv *t);
#endif
