#ifndef ENGINE_KERNELS_FLOAT_H
#define ENGINE_KERNELS_FLOAT_H
/* The f32 path's panel of 16 unpacked outputs, and the one step of it that has a form for wider registers. Every output adds up its
 * columns in the plain order, so that all forms give the same bits. Private to engine/kernels_float_*.c. */
#include "engine/kernels_avx2.h"

typedef struct { __m256 w[CHUNK][2]; } fpanel;       /* column k of 16 outputs */
typedef struct { __m256 v[2]; } fsums;               /* of a row of x: 16 outputs */

/* acc[t] += panel * x[t] for T rows of x, n columns; nv: vectors of 8 outputs that count. */
typedef void float_products(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t T, uint32_t nv);
void kernels_float_by(float_products *add, const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
#endif
