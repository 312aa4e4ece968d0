#include "ops/cli/progress.h"
#include "core/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Owns one line of the terminal while something runs. It never writes to a file or a pipe. */

enum { BAR = 30, PERIOD_NS = 100000000 };

progress progress_open(const char *label)
{
    const char *term = getenv("TERM");
    return (progress){ .label = label, .on = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") };
}

void progress_set(progress *p, uint64_t done, uint64_t total)
{
    static const char full[] = "##############################", empty[] = "..............................";
    uint64_t now = p->on ? clock_ns() : 0;
    if (!p->on || now - p->last_ns < PERIOD_NS) return;
    int n = total ? (int)((double)done / (double)total * BAR) : 0;
    n = n > BAR ? BAR : n;
    if (total)
        fprintf(stderr, "\r%s [%.*s%.*s] %llu/%llu", p->label, n, full, BAR - n, empty, (unsigned long long)done,
                (unsigned long long)total);
    else fprintf(stderr, "\r%s %llu", p->label, (unsigned long long)done);
    p->last_ns = now;
    p->drawn = true;
}

void progress_close(progress *p)
{
    if (p->drawn) fprintf(stderr, "\r%*s\r", 78, "");
    p->drawn = false;
}
