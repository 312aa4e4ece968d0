#include "core/utf8.h"
#include <utf8proc.h>

int32_t utf8_at(view t, size_t at, size_t *size)
{
    const uint8_t *p = (const uint8_t *)t.ptr + at;
    size_t left = t.len - at;
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(p, left < 4 ? (utf8proc_ssize_t)left : 4, &c);
    bool ok = n > 0 && c > 0;
    *size = ok ? (size_t)n : 1;
    return ok ? c : UTF8_BAD;
}

size_t utf8_count(view t)
{
    size_t chars = 0, size;
    for (size_t i = 0; i < t.len; i += size, chars++) utf8_at(t, i, &size);
    return chars;
}

bool utf8_clean(text *out, view t, uint64_t *bad)
{
    const char *p = t.ptr;
    size_t good = 0, size;                      /* start of the valid run not yet copied */
    for (size_t i = 0; i < t.len; i += size) {
        if (utf8_at(t, i, &size) != UTF8_BAD || size != 1) continue;    /* a real U+FFFD is three bytes */
        if (!text_add(out, p + good, i - good) || !text_add(out, "\xEF\xBF\xBD", 3)) return false;
        good = i + 1;
        if (bad) ++*bad;
    }
    return !t.len || text_add(out, p + good, t.len - good);
}

bool utf8_is_space(int32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    utf8proc_category_t k = utf8proc_category(c);
    return c == 0x85 || k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

bool utf8_is_word(int32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO: case UTF8PROC_CATEGORY_CO: return true;
    default: return false;
    }
}
