#ifndef CORE_BUF_H
#define CORE_BUF_H
/* A view borrows, a text owns. A view is valid as long as the thing it was taken from. */
#include "core/err.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { const void *ptr; size_t len; } view;

/* Growable bytes, always NUL-terminated when ptr is not NULL. Start with {0}; give back with text_free. */
typedef struct { char *ptr; size_t len, cap; } text;

/* All return false only when memory is out, and then leave *t as it was. */
bool text_reserve(text *t, size_t extra);
bool text_add(text *t, const void *p, size_t n);
bool text_adds(text *t, const char *s);
bool text_addf(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_clear(text *t);
void text_free(text *t);
/* Whole file into *out (appended). Refuses more than `max` bytes. "-" reads standard input. */
err_code text_read_file(text *out, const char *path, size_t max, err *e);
#endif
