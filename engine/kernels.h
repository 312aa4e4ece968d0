#ifndef ENGINE_KERNELS_H
#define ENGINE_KERNELS_H
/* Matrix kernels behind one table per ISA, all giving the same bits (numerics contract, ARCHITECTURE.md).
 *
 * y[t][o] = sum_k W[o][k] * x[t][k], for rows t < T and outputs o in [o0, o1).
 *
 * Path f32: acc = +0; for k ascending acc = fma(W[o][k], x[t][k], acc). Every weight type is turned to f32 first
 * (exactly; where a type has a minimum, the difference is rounded once). SIMD lanes lie across outputs, so the order
 * of k is the plain one.
 *
 * Path i8b32: float weights use f32 arithmetic as above. For quantised ones x is quantised in blocks of 32:
 *   d = max|x| / 127, id = d >= 2^-126 ? 1/d : 0 (so that id is finite), q = rint(x * id) (nearest even), clamped to
 *   [-127, 127], d kept as f32. A NaN in the block makes d NaN, so that it shows in y; an inf makes d inf.
 * A block's integer dot is exact, sub-scales inside a block of 32 are folded in integers, and blocks go ascending:
 *   Q8_0, Q4_0, Q5_0, IQ4_NL:  acc = fma((float)I, dw*dx, acc),
 *                I = sum w_k q_k  (w in [-128,127], [-8,7], [-16,15]; IQ4_NL: of the 16 values of its table)
 *   Q4_1, Q5_1:  I = sum w_k q_k, w in [0,15], [0,31]; acc = fma((float)I, dw*dx, acc);
 *                then acc = fma((float)sum(q), m*dx, acc)
 *   Q3_K, Q6_K:  I = s0*sum16(w q) + s1*sum16(w q), w in [-4,3], [-32,31];  acc = fma((float)I, dw*dx, acc)
 *   Q4_K, Q5_K:  I = sc*sum(w q), w in [0,15], [0,31]; acc = fma((float)I, dw*dx, acc);
 *                then acc = fma((float)(-m*sum(q)), dmin*dx, acc)
 *   Q2_K:        I = s0*sum16(w q) + s1*sum16(w q), w in [0,3]; acc = fma((float)I, dw*dx, acc);
 *                then acc = fma((float)(-(m0*sum16(q) + m1*sum16(q))), dmin*dx, acc)
 * dw*dx is one rounded f32 product; dw is the exact f32 of the stored half.
 *
 * Path bf16amx, of prompts only: float weights use f32 arithmetic as above. Quantised ones are turned to f32 as on path f32 and then
 * to bf16, x is rounded to bf16, and sums of products are those of one TDPBF16PS for each block of 32; engine/bf16.h has every rounding.
 *
 * The same bits for T = 1 or 1000: a (t, o) pair never depends on its neighbours.
 * Any thread; no state but the counters. Disjoint [o0,o1) ranges may run at the same time. */
#include "core/isa.h"
#include "core/vec.h"
#include "engine/wtype.h"

#define PATH_MAP(X) X(F32, 0, "f32") X(I8B32, 1, "i8b32") X(BF16AMX, 2, "bf16amx")
typedef enum {
#define X(N, id, name) PATH_##N = id,
    PATH_MAP(X)
#undef X
    PATH_COUNT
} path_id;
const char *path_name(path_id p);
bool path_named(const char *name, path_id *out);   /* false: no path has it */

/* W [n_out][n_in]: rows as in the file, row_bytes apart, or packed (engine/packed.h; groups of 16 rows, row_bytes a row). */
typedef struct { wtype type; uint32_t n_out, n_in; size_t row_bytes; const uint8_t *data; bool packed; } mat;

/* What kernels subtract or add for a block of 32 q, ready to be broadcast: -8 sum(q), the same of each half block, and
 * -sum(q) as a float. */
typedef struct { int32_t all, half[2]; float minus; } act_sums;

/* A batch of input rows, and its quantised form when the path and the weight need it. Arrays belong to the caller. */
typedef struct {
    uint32_t n_in;
    size_t ld;            /* elements between rows, multiple of 32, >= n_in */
    const float *x;       /* [T][ld] */
    int8_t *q;            /* [T][ld]      */
    float *d;             /* [T][ld/32]   */
    int16_t *s;           /* [T][ld/16]   sums of q over each half block */
    act_sums *z;          /* [T][ld/32] */
    void *h;              /* [T] of act_bytes_bf16(ld): rounded to bf16, in the form of the table that did it */
} act;
/* Of a row of h: four for each number, and a line of the cache more, so that a column of many rows does not fall into one set of it. */
static inline size_t act_bytes_bf16(size_t ld) { return 4 * ld + 64; }
static inline void *act_row_bf16(const act *a, size_t t) { return (uint8_t *)a->h + t * act_bytes_bf16(a->ld); }

#define KERNEL_COUNTERS(X) X(float_few) X(float_many) X(quant_few) X(quant_many) X(bf16_few) X(bf16_many) X(weights_read)
/* Calls since start, per kind ("many": a multi-row kernel ran), and bytes of weights that products went over; for tests and
 * --json; relaxed atomics. */
typedef struct {
#define X(n) uint64_t n;
    KERNEL_COUNTERS(X)
#undef X
} kernel_counts;

typedef struct {
    isa isa;
    const char *name;
    const vec_ops *vec;
    /* Quantise rows [t0,t1) of a->x; n_in is a multiple of 32. */
    void (*quantize)(const act *a, uint32_t t0, uint32_t t1);
    /* Round rows [t0,t1) of a->x to bf16, for this table's own product; n_in is a multiple of 32. */
    void (*round_bf16)(const act *a, uint32_t t0, uint32_t t1);
    void (*matmul_float)(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
    void (*matmul_quant)(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
    void (*packed_float)(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
    void (*packed_quant)(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
    void (*matmul_bf16)(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
} kernels;

const kernels *kernels_for(isa i);
kernel_counts kernels_counted(void);
/* True when path p needs the quantised form of the input for this weight. */
static inline bool kernels_wants_q(path_id p, wtype t) { return p == PATH_I8B32 && wtypes[t].quant; }
/* And when it needs the input rounded to bf16. */
static inline bool kernels_wants_bf16(path_id p, wtype t) { return p == PATH_BF16AMX && wtypes[t].quant; }
/* Outputs that a thread takes at least (pool_part's grain): a group of packed weights. */
#define KERNELS_GRAIN 16u
/* The product on path p. o0 is a multiple of KERNELS_GRAIN, and so is o1 unless it is w->n_out. */
void kernels_matmul(const kernels *k, path_id p, const mat *w, const act *a, uint32_t T, float *y, size_t ldy,
                    uint32_t o0, uint32_t o1);
#endif
