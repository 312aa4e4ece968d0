#ifndef TESTS_SUPPORT_AMX_H
#define TESTS_SUPPORT_AMX_H
#include "engine/kernels.h"
/* The AMX kernels over emulated tiles. They need AVX-512 VNNI; where that is missing, false. */
bool support_amx(kernels *out);
#endif
