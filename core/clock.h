#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H
#include <stdint.h>
/* Monotonic nanoseconds; any thread. Intervals are taken inside one process only. */
uint64_t clock_ns(void);
/* Wall clock, milliseconds since 1970; for people only. */
uint64_t clock_wall_ms(void);
/* Milliseconds left until `deadline_ns` (0 when past), for poll calls. */
int clock_left_ms(uint64_t deadline_ns);
#endif
