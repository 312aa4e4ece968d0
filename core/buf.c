#include "core/buf.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool text_reserve(text *t, size_t extra)
{
    if (extra >= SIZE_MAX / 4 || t->len > SIZE_MAX / 4) return false;
    size_t need = t->len + extra + 1;
    if (need <= t->cap) return true;
    size_t cap = t->cap ? t->cap : 64;
    while (cap < need) cap *= 2;
    char *p = realloc(t->ptr, cap);
    if (!p) return false;
    t->ptr = p;
    t->cap = cap;
    t->ptr[t->len] = 0;
    return true;
}

bool text_add(text *t, const void *p, size_t n)
{
    if (!text_reserve(t, n)) return false;
    if (n) memcpy(t->ptr + t->len, p, n);
    t->len += n;
    t->ptr[t->len] = 0;
    return true;
}

bool text_adds(text *t, const char *s) { return text_add(t, s, strlen(s)); }

bool text_addf(text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && text_reserve(t, (size_t)n);
    if (ok) {
        vsnprintf(t->ptr + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
    return ok;
}

void text_clear(text *t)
{
    t->len = 0;
    if (t->ptr) t->ptr[0] = 0;
}

void text_free(text *t)
{
    free(t->ptr);
    *t = (text){ 0 };
}

static err_code read_all(text *out, int fd, const char *path, size_t max, err *e)
{
    for (;;) {
        if (!text_reserve(out, 1 << 16)) return err_set(e, ERR_NOMEM, "%s: out of memory after %zu bytes", path, out->len);
        ssize_t n = read(fd, out->ptr + out->len, 1 << 16);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0) break;
        out->len += (size_t)n;
        if (out->len > max) return err_set(e, ERR_IO, "%s: larger than %zu bytes", path, max);
    }
    out->ptr[out->len] = 0;
    return ERR_OK;
}

err_code text_read_file(text *out, const char *path, size_t max, err *e)
{
    if (!strcmp(path, "-")) return read_all(out, STDIN_FILENO, "standard input", max, e);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    err_code rc = read_all(out, fd, path, max, e);
    close(fd);
    return rc;
}
