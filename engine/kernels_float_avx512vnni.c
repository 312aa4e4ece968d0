/* The f32 path of engine/kernels_float_avx2.c with 16 outputs in one register; panels are unpacked there. Quantises nothing. */
#if defined(__AVX512F__) && defined(__AVX512VL__)
#include "engine/kernels_float.h"

enum { TOGETHER = 8 };   /* rows of x that share a loaded column: their sums are what two units with four cycles each wait for */

INLINE void fma_panel(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t nt)
{
    __m512 s[TOGETHER];
    UNROLL for (uint32_t t = 0; t < nt; t++) s[t] = _mm512_loadu_ps(&acc[t]);
    for (uint32_t k = 0; k < n; k++) {
        __m512 w = _mm512_loadu_ps(&p->w[k]);
        UNROLL for (uint32_t t = 0; t < nt; t++) s[t] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[t * ld + k]), s[t]);
    }
    UNROLL for (uint32_t t = 0; t < nt; t++) _mm512_storeu_ps(&acc[t], s[t]);
}

/* Eight outputs leave half of a register empty, and what stands there is dropped. */
static void add_products(const fpanel *p, const float *x, size_t ld, uint32_t n, fsums *acc, uint32_t T, uint32_t nv)
{
    (void)nv;
    uint32_t t = 0;
    for (; t + TOGETHER <= T; t += TOGETHER) fma_panel(p, x + t * ld, ld, n, acc + t, TOGETHER);
    for (; t + 2 <= T; t += 2) fma_panel(p, x + t * ld, ld, n, acc + t, 2);
    for (; t < T; t++) fma_panel(p, x + t * ld, ld, n, acc + t, 1);
}

void kernels_float_avx512vnni(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_float_by(add_products, w, a, T, y, ldy, o0, o1);
}
#else
typedef int kernels_float_avx512vnni_absent;   /* a translation unit may not be empty */
#endif
