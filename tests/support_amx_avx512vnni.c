/* The AMX kernels as they are, over tiles in plain C (engine/amx.h): a machine without the unit can test them. */
#define AMX_EMULATED 1
#define kernels_packed_amx support_packed_amx
#include "engine/kernels_packed_amx.c"
#include "tests/support_amx.h"

bool support_amx(kernels *out)
{
#if defined(__AVX512VNNI__)
    *out = *kernels_for(ISA_AVX512VNNI);
    out->name = "amx, emulated";
    out->packed_quant = support_packed_amx;
    return isa_supported() >> ISA_AVX512VNNI & 1;
#else
    (void)out;
    return false;
#endif
}
