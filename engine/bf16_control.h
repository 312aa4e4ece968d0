#ifndef ENGINE_BF16_CONTROL_H
#define ENGINE_BF16_CONTROL_H
/* The control word (MXCSR) under which FMA and addition are those of engine/bf16.h: to nearest even, denormal inputs are zeros,
 * tiny results too, nothing traps. Only what runs between the two calls: they are fences for memory, not for values in registers,
 * so the arithmetic stands in a function of its own that is not inlined. A thread's own state. Private to engine/kernels_bf16_*.c. */
#include <immintrin.h>
#include <stdint.h>

static inline uint32_t bf16_control(void)
{
    enum { NO_TRAPS = 0x1f80, ZEROS_IN = 0x40, ZEROS_OUT = 0x8000 };
    uint32_t before = _mm_getcsr();
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(NO_TRAPS | ZEROS_IN | ZEROS_OUT);
    __asm__ volatile("" ::: "memory");
    return before;
}

static inline void bf16_control_back(uint32_t before)
{
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(before);
    __asm__ volatile("" ::: "memory");
}
#endif
