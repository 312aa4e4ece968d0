/* Looks at the CPU once asked and at SLUICE_ISA. Refuses to guess: an ISA that the machine lacks is an error. */
#include "core/isa.h"
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[ISA_COUNT] = {
#define X(N, n) [ISA_##N] = n,
    ISA_MAP(X)
#undef X
};

const char *isa_name(isa i)
{
    return (unsigned)i < ISA_COUNT ? names[i] : "unknown";
}

#if defined(__x86_64__)
/* Tiles of bytes, and the kernel's leave to use their 8 KiB of state (Documentation/arch/x86/xstate.rst). */
static bool ask_for_tiles(void)
{
    enum { LEAF = 7, TILES = 1 << 24, BYTES = 1 << 25, REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(LEAF, 0, &a, &b, &c, &d) || !(d & TILES) || !(d & BYTES)) return false;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

static bool has_tiles(void)
{
    static _Atomic int known;                  /* 1: no, 2: yes; asked once, since a worker in its sandbox may not */
    if (!known) known = ask_for_tiles() ? 2 : 1;
    return known == 2;
}
#endif

bool isa_has_bf16_tiles(void)
{
#if defined(__x86_64__)
    enum { LEAF = 7, BF16_TILES = 1 << 22 };
    unsigned a, b, c, d;
    return has_tiles() && __get_cpuid_count(LEAF, 0, &a, &b, &c, &d) && d & BF16_TILES;
#else
    return false;
#endif
}

/* On x86 the plain files are compiled with scalar FMA too: without the instruction every multiply-add would be a libm
 * call, and a machine that old is too slow to be a member anyway. */
uint32_t isa_supported(void)
{
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;   /* asks the OS about YMM as well */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C)) return 0;
    uint32_t have = 1u << ISA_PLAIN | 1u << ISA_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vnni"))
        have |= 1u << ISA_AVX512VNNI;
    if (have >> ISA_AVX512VNNI & 1 && has_tiles()) have |= 1u << ISA_AMX;
    return have;
#else
    return 1u << ISA_PLAIN;
#endif
}

static err_code isa_named(const char *s, uint32_t have, isa *out, err *e)
{
    for (unsigned i = 0; i < ISA_COUNT; i++) {
        if (strcmp(s, names[i])) continue;
        if (!(have >> i & 1)) return err_set(e, ERR_CONFIG, "SLUICE_ISA=%s: this machine does not have it", s);
        *out = (isa)i;
        return ERR_OK;
    }
    return err_set(e, ERR_CONFIG, "SLUICE_ISA: unknown instruction set \"%.32s\" (plain, avx2, avx512vnni, amx)", s);
}

err_code isa_pick(isa *out, err *e)
{
    uint32_t have = isa_supported();
    if (!have) return err_set(e, ERR_CONFIG, "this CPU cannot run the kernels: an x86-64 CPU needs AVX2+FMA (and F16C)");
    const char *s = getenv("SLUICE_ISA");
    if (s && *s) return isa_named(s, have, out, e);
    for (unsigned i = 0; i < ISA_COUNT; i++)
        if (have >> i & 1) *out = (isa)i;
    return ERR_OK;
}
