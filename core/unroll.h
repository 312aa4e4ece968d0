#ifndef CORE_UNROLL_H
#define CORE_UNROLL_H
/* For files of one ISA: functions that are always inlined, so that a constant argument makes another function, and loops over arrays
 * that are meant to be registers: -O2 alone would keep them in memory. */
#define INLINE static inline __attribute__((always_inline))
/* Under a sanitizer the arrays stay in memory whatever is unrolled, and every access of every copy would be watched: minutes a file. */
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#endif
