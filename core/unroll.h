#ifndef CORE_UNROLL_H
#define CORE_UNROLL_H
/* For files of one ISA: functions that are always inlined, so that a constant argument makes another function, and loops over arrays
 * that are meant to be registers: -O2 alone would keep them in memory. */
#define INLINE static inline __attribute__((always_inline))
#if !defined(__OPTIMIZE__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#endif
