#ifndef ENGINE_KERNELS_IMPL_H
#define ENGINE_KERNELS_IMPL_H
/* What the ISA files give to engine/kernels.c, and the counters they raise. Private to engine/kernels*.c. */
#include "core/vec_impl.h"
#include "engine/kernels.h"

enum {
    KERNELS_BLOCK = 32,      /* of a quantised activation */
    KERNELS_MANY = 4,        /* rows from which the multi-row kernels run: unpacked weights serve all of them */
};

typedef enum {
#define X(n) KERNEL_##n,
    KERNEL_COUNTERS(X)
#undef X
    KERNEL_COUNTER_COUNT
} kernel_counter;

static inline act_sums kernels_sums_of(const int16_t s[2])
{
    return (act_sums){ -8 * (s[0] + s[1]), { -8 * s[0], -8 * s[1] }, (float)-(s[0] + s[1]) };
}

/* One more call; any thread. */
void kernels_count(kernel_counter c);

extern const kernels kernels_plain, kernels_avx2, kernels_avx512vnni, kernels_amx;   /* but the first: x86-64 only */

/* Products of the tables that have a file of their own. */
#define KERNELS_BF16(name) \
    void kernels_bf16_round_##name(const act *a, uint32_t t0, uint32_t t1); \
    void kernels_bf16_##name(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
KERNELS_BF16(plain) KERNELS_BF16(avx2) KERNELS_BF16(avx512bf16) KERNELS_BF16(amx)
void kernels_float_avx2(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
void kernels_float_avx512vnni(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
void kernels_packed_avx2(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
void kernels_packed_amx(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
void kernels_packed_avx512vnni(const mat *w, const act *a, uint32_t T, float *y, size_t ldy, uint32_t o0, uint32_t o1);
#endif
