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
    const char *term = getenv("TERM"), *plain = getenv("NO_COLOR");
    return (progress){ .label = label, .on = isatty(STDERR_FILENO) && term && strcmp(term, "dumb"),
                       .colour = !plain || !*plain };
}

double progress_speed(uint64_t worked, uint64_t ns) { return ns ? (double)worked * 1e9 / (double)ns : 0; }

double progress_left(uint64_t worked, uint64_t left, uint64_t ns)
{
    double speed = progress_speed(worked, ns);
    return speed > 0 ? (double)left / speed : -1;
}

static int put_left(char *out, size_t n, double s)
{
    if (s < 0) return 0;
    if (s < 120) return snprintf(out, n, "  %.0f s left", s);
    if (s < 7200) return snprintf(out, n, "  %.0f min left", s / 60);
    return snprintf(out, n, "  %.1f h left", s / 3600);
}

static void draw(progress *p, uint64_t done, uint64_t total, uint64_t worked, bool rate)
{
    static const char full[] = "##############################", empty[] = "..............................";
    uint64_t now = p->on ? clock_ns() : 0;
    if (!p->on || (p->drawn && now - p->last_ns < PERIOD_NS)) return;
    if (!p->t_start) p->t_start = now;
    uint64_t ns = now - p->t_start;
    char tail[100];
    int n = 0, bar = total ? (int)((double)done / (double)total * BAR) : 0;
    bar = bar > BAR ? BAR : bar;
    n = snprintf(tail, sizeof tail, total ? "%llu/%llu" : "%llu", (unsigned long long)done, (unsigned long long)total);
    if (rate && worked && ns) n += snprintf(tail + n, sizeof tail - (size_t)n, "  %.2f/s", progress_speed(worked, ns));
    if (total >= done && total) put_left(tail + n, sizeof tail - (size_t)n, progress_left(worked, total - done, ns));
    if (total)
        fprintf(stderr, "\r%s [%s%.*s%s%.*s] %-*s", p->label, p->colour ? "\033[32m" : "", bar, full, p->colour ? "\033[0m" : "",
                BAR - bar, empty, 36, tail);
    else fprintf(stderr, "\r%s %-40s", p->label, tail);
    fflush(stderr);
    p->last_ns = now;
    p->drawn = true;
}

void progress_set(progress *p, uint64_t done, uint64_t total) { draw(p, done, total, done, false); }

void progress_rate(progress *p, uint64_t done, uint64_t total, uint64_t passed)
{
    draw(p, done, total, done > passed ? done - passed : 0, true);
}

void progress_close(progress *p)
{
    if (p->drawn) fprintf(stderr, "\r%*s\r", 79, "");
    p->drawn = false;
}
