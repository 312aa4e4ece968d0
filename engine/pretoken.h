#ifndef ENGINE_PRETOKEN_H
#define ENGINE_PRETOKEN_H
/* Cuts text into words before byte-level BPE. One table row per pre-tokenizer (tokenizer.ggml.pre): adding one is adding a
 * row in pretoken.c. Any bytes are taken: where they are not UTF-8 they are cut as U+FFFD would be, and stay as they are. */
#include "core/buf.h"
#include "core/err.h"

typedef struct {
    const char *names;            /* values of tokenizer.ggml.pre, a blank between and around */
    const char *pattern[6];       /* applied one after the other, each to the pieces of the one before */
    bool ignore_merges;           /* a word that is a token as a whole stays whole */
    bool add_bos;                 /* when the file does not say */
} pretoken_row;

typedef struct pretoken pretoken;
typedef struct { uint32_t *end; size_t n, cap; } word_list;   /* ends of the words, ascending; {0} to start */
void word_list_free(word_list *w);

/* NULL when the name is unknown. */
const pretoken_row *pretoken_find(view name);
/* A name of every row, for messages. */
void pretoken_names(text *out);
err_code pretoken_open(pretoken **out, const pretoken_row *row, err *e);
void pretoken_close(pretoken **p);
/* *words is overwritten. Any thread. in.len < 2^30. ERR_NOMEM; ERR_STATE with PCRE2's words (should not happen). */
err_code pretoken_split(const pretoken *p, view in, word_list *words, err *e);
#endif
