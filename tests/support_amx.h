#ifndef TESTS_SUPPORT_AMX_H
#define TESTS_SUPPORT_AMX_H
#include "engine/kernels.h"
/* The AMX kernels over emulated tiles. They need AVX-512 VNNI; where that is missing, false. */
bool support_amx(kernels *out);
/* The products of path bf16amx likewise, into a table; they need AVX-512 BF16. */
bool support_amx_bf16(kernels *out);
#endif
