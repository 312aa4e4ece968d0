#ifndef CORE_UTF8_H
#define CORE_UTF8_H
/* Bytes as characters. Whatever the bytes are, they read as a sequence of code points: a byte that is no part of valid
 * UTF-8, and NUL, reads as U+FFFD. Nothing here normalises or folds case. Any thread. */
#include "core/buf.h"

enum { UTF8_BAD = 0xFFFD };

/* The code point at byte `at` (at < t.len); *size is its length in bytes, 1 for a bad one. */
int32_t utf8_at(view t, size_t at, size_t *size);
/* Number of characters. */
size_t utf8_count(view t);
/* Append `t` to *out with every bad byte as U+FFFD. *bad (may be NULL) grows by their number. False: out of memory. */
bool utf8_clean(text *out, view t, uint64_t *bad);
/* White space in any script, line ends included. */
bool utf8_is_space(int32_t c);
/* A letter, digit or mark: what words are made of (as FTS5's unicode61 sees it: categories L*, N*, Co, and marks). */
bool utf8_is_word(int32_t c);
#endif
