#ifndef RAG_CHUNK_H
#define RAG_CHUNK_H
/* Cuts a text into chunks of at most so many characters, at the best border near the end: between paragraphs, else between
 * sentences, else between words, else between characters (never inside a grapheme). It knows neither files nor databases.
 * Any thread. */
#include "core/utf8.h"

/* 800 characters are about 250 tokens of English: four passages fit a 1,024-token budget. Where a paragraph had to be
 * cut, the next chunk repeats up to `overlap` characters (whole sentences, else words), so a fact on the border is whole in one. */
enum { CHUNK_CHARS = 800, CHUNK_OVERLAP = 120, CHUNK_CHARS_MIN = 64, CHUNK_CHARS_MAX = 1 << 20 };

typedef struct { uint32_t chars, overlap; } chunk_size;     /* overlap <= chars / 4 */
typedef struct { size_t begin, end; } chunk_span;           /* bytes of the text, no white space at either end */

/* The next chunk from byte *at on (start with 0), which moves on; false when only white space is left. */
bool chunk_next(view t, chunk_size size, size_t *at, chunk_span *out);
/* Bytes of the longest beginning of `t` of at most `chars` characters that ends with a sentence (or, where none ends in
 * its second half, with a word, else anywhere), white space at its end left off. t.len when all of it fits. */
size_t chunk_head(view t, size_t chars);
#endif
