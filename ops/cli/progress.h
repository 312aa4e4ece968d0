#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H
/* A bar on stderr, only when that is a terminal (and TERM is not "dumb"); anywhere else every call does nothing.
 * No colour, so NO_COLOR changes nothing. */
#include <stdbool.h>
#include <stdint.h>
typedef struct {
    const char *label;
    uint64_t last_ns;
    bool on, drawn;
} progress;
progress progress_open(const char *label);
/* total 0: unknown. Draws ten times a second at most. */
void progress_set(progress *p, uint64_t done, uint64_t total);
/* Wipe the bar. */
void progress_close(progress *p);
#endif
