#ifndef ENGINE_UTF8_H
#define ENGINE_UTF8_H
/* Looks at the front of a byte string as UTF-8 (Unicode 15, table 3-7: no surrogates, no overlong forms). Pure. */
#include <stddef.h>
#include <stdint.h>

typedef enum { UTF8_OK, UTF8_PARTIAL, UTF8_BAD } utf8_state;
typedef struct { utf8_state state; uint32_t len; } utf8_step;

/* n >= 1. OK: one character of len bytes. PARTIAL: all n bytes are a right beginning, the rest is missing (len = n).
 * BAD: the first len bytes are a maximal ill-formed part (>= 1), for which one U+FFFD stands. */
static inline utf8_step utf8_look(const uint8_t *p, size_t n)
{
    uint8_t b = p[0], lo = 0x80, hi = 0xBF;
    if (b < 0x80) return (utf8_step){ UTF8_OK, 1 };
    if (b < 0xC2 || b > 0xF4) return (utf8_step){ UTF8_BAD, 1 };
    uint32_t len = b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
    if (b == 0xE0) lo = 0xA0;
    if (b == 0xED) hi = 0x9F;
    if (b == 0xF0) lo = 0x90;
    if (b == 0xF4) hi = 0x8F;
    for (uint32_t i = 1; i < len; i++, lo = 0x80, hi = 0xBF) {
        if (i == n) return (utf8_step){ UTF8_PARTIAL, i };
        if (p[i] < lo || p[i] > hi) return (utf8_step){ UTF8_BAD, i };
    }
    return (utf8_step){ UTF8_OK, len };
}

/* Bytes of the unit at the front: a whole character, or one byte that is not part of any. n >= 1. */
static inline uint32_t utf8_unit(const uint8_t *p, size_t n)
{
    utf8_step s = utf8_look(p, n);
    return s.state == UTF8_OK ? s.len : 1;
}
#endif
