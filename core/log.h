#ifndef CORE_LOG_H
#define CORE_LOG_H
/* One line an event on stderr: `time level role ID key=value ...`. ID is stable (STAGE-READY, PEER-GONE), so tests
 * and people can look for it. The macro tests the level before it evaluates its arguments. Any thread may log. */
#include <stdbool.h>
typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;

/* Name this process (or, with thread_only, this thread) in every line; `role` is copied (15 bytes). */
void log_role(const char *role, bool thread_only);
/* Lines above `max` are dropped. Default LOG_WARN. */
void log_set_level(log_level max);
log_level log_get_level(void);
/* "error", "warn", "info", "debug" -> level; false for anything else. */
bool log_level_parse(const char *s, log_level *out);
void log_write(log_level l, const char *id, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define LOG(l, id, ...) do { if ((l) <= log_get_level()) log_write((l), (id), __VA_ARGS__); } while (0)
#endif
