/* The choice of a tile kernel, and the one that goes query by query. */
#include "kvstore/tile.h"

static void dots(const vec_ops *v, const float *q, uint32_t nq, const float *k, uint32_t n, uint32_t d, float *score, size_t stride)
{
    for (uint32_t i = 0; i < nq; i++) v->dot_rows_f32(q + i * d, k, d * sizeof *k, n, d, score + i * stride);
}

static void sums(const vec_ops *v, const float *p, size_t stride, uint32_t nq, const float *rows, uint32_t n, uint32_t d,
                 float *const acc[4])
{
    for (uint32_t i = 0; i < nq; i++) v->axpy_rows_f32(p + i * stride, rows, d * sizeof *rows, n, d, acc[i]);
}

const tile_ops tile_any = { dots, sums };

const tile_ops *tile_for(isa i, uint32_t d)
{
#if defined(__x86_64__)
    if (i >= ISA_AVX512VNNI && d % 16 == 0) return &tile_avx512vnni;
#endif
    (void)i, (void)d;
    return &tile_any;
}
