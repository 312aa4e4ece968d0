#include "core/log.h"
#include "core/clock.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic int max_level = LOG_WARN;
static char process_role[16] = "sluice";
static _Thread_local char thread_role[16];
static const char *const names[] = { "error", "warn", "info", "debug" };

void log_role(const char *role, bool thread_only)
{
    snprintf(thread_only ? thread_role : process_role, sizeof process_role, "%s", role);
}

void log_set_level(log_level max) { atomic_store_explicit(&max_level, max, memory_order_relaxed); }
log_level log_get_level(void) { return (log_level)atomic_load_explicit(&max_level, memory_order_relaxed); }

bool log_level_parse(const char *s, log_level *out)
{
    for (int i = 0; i < 4; i++)
        if (!strcmp(s, names[i])) return *out = (log_level)i, true;
    return false;
}

void log_write(log_level l, const char *id, const char *fmt, ...)
{
    char line[1024];
    uint64_t t = clock_wall_ms();
    int n = snprintf(line, sizeof line, "%llu.%03llu %-5s %s %s ", (unsigned long long)(t / 1000), (unsigned long long)(t % 1000),
                     names[l], thread_role[0] ? thread_role : process_role, id);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : n + m;
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    line[n++] = '\n';
    ssize_t w = write(STDERR_FILENO, line, (size_t)n); /* one write: lines of several processes do not mix */
    (void)w;
}
