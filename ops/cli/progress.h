#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H
/* A bar on stderr, only when that is a terminal (and TERM is not "dumb"); anywhere else every call does nothing. What is
 * done is green, unless NO_COLOR is set (no-color.org). One thread. */
#include <stdbool.h>
#include <stdint.h>
typedef struct {
    const char *label;
    uint64_t t_start, last_ns;   /* first and last drawing */
    bool on, drawn, colour;
} progress;
progress progress_open(const char *label);
/* total 0: unknown. Draws ten times a second at most; shows what is left, in time, once that can be said: the clock starts
 * with the first call, so a bar that should be exact begins with 0 done. */
void progress_set(progress *p, uint64_t done, uint64_t total);
/* The same with a rate: `passed` of what is done cost no time, so it does not count as speed. */
void progress_rate(progress *p, uint64_t done, uint64_t total, uint64_t passed);
/* Wipe the bar. */
void progress_close(progress *p);
/* The numbers behind a bar: things a second, and seconds left (-1: unknown). Pure. */
double progress_speed(uint64_t worked, uint64_t ns);
double progress_left(uint64_t worked, uint64_t left, uint64_t ns);
#endif
