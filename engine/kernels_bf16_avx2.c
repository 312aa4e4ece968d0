/* Path bf16amx (engine/bf16.h) in AVX2: bf16 numbers as floats, lanes across 8 outputs, and FMA under a control word that rounds
 * to nearest and takes and gives no denormals, which is the arithmetic of the path. Up to 256 columns of 16 outputs are rounded
 * into a panel. Rounded activations are floats. For machines without a unit for bf16: it is slower than i8b32. Allocates nothing. */
#ifdef __AVX2__
#include "engine/bf16_control.h"
#include "engine/kernels_avx2.h"
#include "engine/packed.h"

enum { PASS = 256 };                     /* rows of x that share a panel, whose unpacking is not vectorised: 16 KiB of sums */
typedef struct { _Alignas(32) float w[CHUNK][PACKED_GROUP]; } panel;

/* To bf16 and back, as engine/bf16.h says it. */
INLINE __m256 rounded(__m256 v)
{
    __m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), _mm256_castps_si256(size));
    up = _mm256_blendv_epi8(up, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    up = _mm256_blendv_epi8(up, _mm256_and_si256(u, _mm256_set1_epi32(INT32_MIN)), tiny);
    return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int32_t)0xffff0000u)));
}

void kernels_bf16_round_avx2(const act *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++) {
        const float *x = a->x + t * a->ld;
        float *to = act_row_bf16(a, t);
        for (uint32_t k = 0; k < a->n_in; k += TILE) _mm256_storeu_ps(to + k, rounded(_mm256_loadu_ps(x + k)));
    }
}

static void unpack_rows(const mat *w, uint32_t o, uint32_t k0, uint32_t n, panel *p)
{
    float buf[CHUNK];
    for (uint32_t r = 0; r < PACKED_GROUP; r++) {
        mat_row_f32(w, min_u32(o + r, w->n_out - 1), k0, n, buf);
        for (uint32_t k = 0; k < n; k += TILE) {
            _Alignas(32) float eight[TILE];
            _mm256_store_ps(eight, rounded(_mm256_add_ps(_mm256_loadu_ps(buf + k), _mm256_setzero_ps())));
            UNROLL for (uint32_t i = 0; i < TILE; i++) p->w[k + i][r] = eight[i];
        }
    }
}

/* The columns of a block that are even (from = 0) or odd. */
INLINE void half_block(const panel *p, uint32_t k0, const float *x, size_t ld, uint32_t from, __m256 s[GROUP][2], uint32_t nr)
{
    UNROLL for (uint32_t r = 0; r < nr; r++) s[r][0] = s[r][1] = _mm256_setzero_ps();
    for (uint32_t k = k0 + from; k < k0 + KERNELS_BLOCK; k += 2)
        UNROLL for (uint32_t r = 0; r < nr; r++) {
            __m256 b = _mm256_broadcast_ss(x + r * ld + k);
            UNROLL for (uint32_t v = 0; v < 2; v++) s[r][v] = _mm256_fmadd_ps(_mm256_load_ps(p->w[k] + TILE * v), b, s[r][v]);
        }
}

INLINE void rows_step(const panel *p, uint32_t n, const float *x, size_t ld, __m256 acc[][2], uint32_t nr)
{
    for (uint32_t k = 0; k < n; k += KERNELS_BLOCK) {
        __m256 even[GROUP][2], odd[GROUP][2];
        half_block(p, k, x, ld, 0, even, nr);
        half_block(p, k, x, ld, 1, odd, nr);
        UNROLL for (uint32_t r = 0; r < nr; r++)
            UNROLL for (uint32_t v = 0; v < 2; v++) acc[r][v] = _mm256_add_ps(acc[r][v], _mm256_add_ps(even[r][v], odd[r][v]));
    }
}

/* The group at o against T <= PASS rows. */
static void group_rows(const mat *w, const act *a, uint32_t t0, uint32_t T, float *y, size_t ldy, uint32_t o, uint32_t o1)
{
    __m256 acc[PASS][2];
    panel p;
    for (uint32_t t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < w->n_in; k += CHUNK) {
        uint32_t n = min_u32(CHUNK, w->n_in - k), t = 0;
        const float *x = (const float *)act_row_bf16(a, t0) + k;
        const size_t ld = act_bytes_bf16(a->ld) / sizeof *x;
        unpack_rows(w, o, k, n, &p);
        for (; t + GROUP <= T; t += GROUP) rows_step(&p, n, x + t * ld, ld, acc + t, GROUP);
        for (; t < T; t++) rows_step(&p, n, x + t * ld, ld, acc + t, 1);
    }
    for (uint32_t t = 0; t < T; t++)
        UNROLL for (uint32_t v = 0; v < 2; v++)
            if (o + v * TILE < o1) store_few(y + (t0 + t) * ldy + o + v * TILE, acc[t][v], o1 - o - v * TILE);
}

static __attribute__((noinline))
void all_groups(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    for (uint32_t o = o0; o < o1; o += PACKED_GROUP)
        for (uint32_t t = 0; t < T; t += PASS) group_rows(w, a, t, min_u32(PASS, T - t), y, ldy, o, o1);
}

void kernels_bf16_avx2(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1)
{
    kernels_count(T < KERNELS_MANY ? KERNEL_bf16_few : KERNEL_bf16_many);
    uint32_t before = bf16_control();
    all_groups(w, a, T, y, ldy, o0, o1);
    bf16_control_back(before);
}
#else
typedef int kernels_bf16_avx2_absent;   /* a translation unit may not be empty */
#endif
