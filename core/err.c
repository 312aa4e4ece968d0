#include "core/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct { const char *text; int status; } map[ERR_COUNT] = {
#define X(name, status, text) [ERR_##name] = { text, status },
    ERR_MAP(X)
#undef X
};

const char *err_name(err_code c)
{
    return (unsigned)c < ERR_COUNT ? map[c].text : "unknown error";
}

int err_exit_status(err_code c)
{
    return (unsigned)c < ERR_COUNT ? map[c].status : 1;
}

err_code err_set(err *e, err_code c, const char *fmt, ...)
{
    if (!e) return c;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    e->code = c;
    return c;
}

err_code err_wrap(err *e, const char *fmt, ...)
{
    if (!e) return ERR_IO;
    char old[sizeof e->text];
    memcpy(old, e->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->text) snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", old);
    return e->code;
}
