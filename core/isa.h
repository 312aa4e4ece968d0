#ifndef CORE_ISA_H
#define CORE_ISA_H
/* Which instruction set the kernels use. Every ISA gives the same bits (numerics contract, ARCHITECTURE.md);
 * SLUICE_ISA=plain|avx2|avx512vnni|amx forces one, otherwise the widest that the machine has is taken. */
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>
#define ISA_MAP(X) X(PLAIN, "plain") X(AVX2, "avx2") X(AVX512VNNI, "avx512vnni") X(AMX, "amx")
typedef enum {
#define X(N, n) ISA_##N,
    ISA_MAP(X)
#undef X
    ISA_COUNT
} isa;

const char *isa_name(isa i);
/* Bit i set: this machine can run ISA i. The first call asks the kernel for the tile unit (AMX), so it comes before a sandbox. */
uint32_t isa_supported(void);
/* The tile unit multiplies bf16, too (every one so far does; ISA_AMX alone does not promise it). */
bool isa_has_bf16_tiles(void);
/* The choice: SLUICE_ISA if set (ERR_CONFIG when unknown or not supported here), else the widest. */
err_code isa_pick(isa *out, err *e);
#endif
