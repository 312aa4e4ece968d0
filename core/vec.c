/* The choice of a vec_ops table and the scalar functions. Owns no arithmetic of its own (core/vec_impl.h has it). */
#include "core/vec.h"
#include "core/vec_impl.h"
#include <assert.h>

const vec_ops *vec_for(isa i)
{
    assert(i < ISA_COUNT);
#if defined(__x86_64__)
    if (i >= ISA_AVX512VNNI) return &vec_avx512vnni_ops;   /* tiles bring kernels, not another vector arithmetic */
    if (i == ISA_AVX2) return &vec_avx2_ops;
#endif
    return &vec_plain_ops;
}

float vec_exp(float x)
{
    return vec_exp_inline(x);
}

float vec_tanh(float x)
{
    return vec_tanh_inline(x);
}

f16 vec_f16(float x)
{
    return vec_f16_inline(x);
}

float vec_f32(f16 h)
{
    return vec_f32_inline(h);
}
