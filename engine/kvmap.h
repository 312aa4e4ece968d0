#ifndef ENGINE_KVMAP_H
#define ENGINE_KVMAP_H
/* KV prediction, arXiv:2410.08391: the K and V of every layer of a base model as affine functions of what a smaller auxiliary
 * model made of the same tokens, heads merged (section 3, CoreNet's kv_prediction.py):
 *     K^_i = W^K_i x_i + b^K_i,   V^_i = W^V_i x_i + b^V_i
 * K before RoPE and before the base's own K norm, which follow when the row is appended. What x_i is, kvmap_inputs says.
 * Owns the maps' shapes and how they are applied; refuses to run either model or to read files.
 *
 * The product is the engine's on the path of the auxiliary's rows (engine/kernels.h), so its bits depend on neither ISA, threads nor
 * batch: float maps multiply in f32 order, Q8_0 ones on i8b32 take x in blocks of 32 integers, four times as fast. Maps are immutable
 * once they are there: any thread. */
#include "engine/forward.h"

/* What predicts a layer. source j: its auxiliary layer (kvmap_source).
 *   own    K from K of j, V from V of j: the paper's
 *   both   K and V of j, for either
 *   near   K and V of j - 1, j, j + 1
 *   wide   the same, and the inputs of these layers */
#define KVMAP_INPUTS_MAP(X) X(OWN, "own") X(BOTH, "both") X(NEAR, "near") X(WIDE, "wide")
typedef enum {
#define X(N, name) KVMAP_##N,
    KVMAP_INPUTS_MAP(X)
#undef X
    KVMAP_INPUTS_COUNT
} kvmap_inputs;
const char *kvmap_inputs_name(kvmap_inputs f);
err_code kvmap_inputs_parse(const char *name, kvmap_inputs *out, err *e);

enum { KVMAP_K, KVMAP_V, KVMAP_SIDES };

typedef struct {
    uint32_t L, out;              /* layers of the base, and its K*d */
    uint32_t A, kv, D;            /* layers of the auxiliary, its K*d and its width */
    kvmap_inputs inputs;
    uint32_t source[MODEL_MAX_LAYERS];  /* [L] */
} kvmap_shape;

/* The paper's map of layers: every auxiliary layer serves L / A layers of the base in order, the first L % A one more. kept
 * [A] (NULL: the auxiliary is another model): the auxiliary is these layers of the base, ascending, and a layer follows the
 * last one kept at or before it. */
void kvmap_sources(kvmap_shape *s, const uint32_t *kept);
/* Length of x for a layer of the base. */
uint32_t kvmap_width(const kvmap_shape *s, uint32_t layer);
/* x for row t of what the auxiliary's runner laid down (max_rows: the runner's). x [kvmap_width]. */
void kvmap_gather(const kvmap_shape *s, uint32_t layer, int side, const runner_tap *aux, uint32_t max_rows, uint32_t t, float *x);

typedef struct {
    mat w[KVMAP_SIDES];           /* [out][kvmap_width], F32, F16 or Q8_0 */
    const float *b[KVMAP_SIDES];  /* [out] */
} kvmap_layer;

typedef struct {
    kvmap_shape shape;
    kvmap_layer layer[MODEL_MAX_LAYERS]; /* [shape.L]; the numbers belong to whoever made the map */
} kvmap;

typedef struct kvmap_work kvmap_work; /* scratch for applying, for so many rows; one user at a time */
err_code kvmap_work_open(kvmap_work **out, const kvmap_shape *s, uint32_t max_rows, err *e);
void kvmap_work_close(kvmap_work **w);

/* Inside a pool's function, all members together: K and V of a layer for rows [0, T) -> key, val [T][out]. They meet at the
 * pool's barrier, the last time behind the last store. */
typedef struct { const kvmap *map; const kernels *k; path_id path; pool *pool; kvmap_work *work; const runner_tap *aux; uint32_t max_rows, T; } kvmap_run;
void kvmap_apply(const kvmap_run *r, uint32_t layer, float *key, float *val, uint32_t tid, uint32_t n);
#endif
