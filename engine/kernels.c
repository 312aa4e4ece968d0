/* The door of engine/kernels.h: which table, which product, and what ran. Multiplies nothing itself. */
#include "engine/kernels.h"
#include "engine/kernels_impl.h"
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

static _Atomic uint64_t counted[KERNEL_COUNTER_COUNT];

const char *path_name(path_id p)
{
    static const char *const names[PATH_COUNT] = {
#define X(N, id, name) [PATH_##N] = name,
        PATH_MAP(X)
#undef X
    };
    return (unsigned)p < PATH_COUNT ? names[p] : "unknown";
}

bool path_named(const char *name, path_id *out)
{
    for (uint32_t p = 0; p < PATH_COUNT; p++)
        if (!strcmp(name, path_name((path_id)p))) return *out = (path_id)p, true;
    return false;
}

const kernels *kernels_for(isa i)
{
    assert(i < ISA_COUNT);
#if defined(__x86_64__)
    if (i == ISA_AMX) return &kernels_amx;
    if (i == ISA_AVX512VNNI) return &kernels_avx512vnni;
    if (i == ISA_AVX2) return &kernels_avx2;
#endif
    return &kernels_plain;
}

void kernels_count(kernel_counter c)
{
    atomic_fetch_add_explicit(&counted[c], 1, memory_order_relaxed);
}

kernel_counts kernels_counted(void)
{
    return (kernel_counts){
#define X(n) .n = atomic_load_explicit(&counted[KERNEL_##n], memory_order_relaxed),
        KERNEL_COUNTERS(X)
#undef X
    };
}

void kernels_matmul(const kernels *k, path_id p, const mat *w, const act *a, uint32_t T, float *y, size_t ldy,
                    uint32_t o0, uint32_t o1)
{
    assert(o0 <= o1 && o1 <= w->n_out && a->n_in == w->n_in && o0 % KERNELS_GRAIN == 0);
    assert(o1 % KERNELS_GRAIN == 0 || o1 == w->n_out);
    if (o0 == o1 || T == 0) return;
    atomic_fetch_add_explicit(&counted[KERNEL_weights_read], (uint64_t)(o1 - o0) * w->row_bytes, memory_order_relaxed);
    if (kernels_wants_bf16(p, w->type)) {
        k->matmul_bf16(w, a, T, y, ldy, o0, o1);
        return;
    }
    bool quant = kernels_wants_q(p, w->type);
    if (w->packed) (quant ? k->packed_quant : k->packed_float)(w, a, T, y, ldy, o0, o1);
    else (quant ? k->matmul_quant : k->matmul_float)(w, a, T, y, ldy, o0, o1);
}
