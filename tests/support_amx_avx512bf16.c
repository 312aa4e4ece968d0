/* The AMX kernel of path bf16amx as it is, over tiles in plain C (engine/amx.h): a machine without the unit can test it. */
#define AMX_EMULATED 1
#define kernels_bf16_amx support_bf16_amx
#define kernels_bf16_round_amx support_bf16_round_amx
#include "engine/kernels_bf16_amx.c"
#include "tests/support_amx.h"

bool support_amx_bf16(kernels *out)
{
#if defined(__AVX512BF16__)
    out->round_bf16 = support_bf16_round_amx;
    out->matmul_bf16 = support_bf16_amx;
    return __builtin_cpu_supports("avx512bf16");
#else
    (void)out;
    return false;
#endif
}
