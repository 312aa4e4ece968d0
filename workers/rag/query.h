#ifndef RAG_QUERY_H
#define RAG_QUERY_H
/* A question as an FTS5 expression: its distinct words, each quoted, joined by OR. User text never reaches FTS5's syntax:
 * only letters, digits and marks are copied, always between quotes. It does not rank and knows no database. */
#include "core/buf.h"

/* Distinct words taken from one query; more make the search slower, not better: beyond, the last ones (a question
 * comes after what was pasted) are kept. */
enum { QUERY_WORDS = 192, QUERY_WORD_BYTES = 128 };

/* Append the expression to *out; nothing when there is no word in `query`. Words of grammar ("what", "the") are left out
 * where another word is left. False: out of memory. Any thread. */
bool query_terms(text *out, view query);
#endif
