#ifndef CLI_DOCUMENTS_H
#define CLI_DOCUMENTS_H
/* A text as documents, each a prompt and what comes behind it: parted by blank lines; a form feed ends the prompt, and where there is none
 * the first half of the tokens is the prompt. A pure function of text and tokenizer; refuses to choose among documents. One thread. */
#include "engine/tokenizer.h"

typedef struct { uint32_t at, n, prompt; } document;     /* tokens [at, at + n) of the list; the first `prompt` are the prompt */
typedef struct {
    token_list tokens;          /* of all documents, the beginning token in front of each where the model has one */
    document *doc;
    uint32_t n;
} documents;

/* At most `most` documents of least to longest tokens: longer ones are cut, those that are shorter, or whose prompt leaves less than
 * two tokens behind it, are left out. ERR_NOMEM; ERR_INPUT as the tokenizer's. */
typedef struct { uint32_t least, longest, most; } documents_limits;
err_code documents_read(documents *out, const tokenizer *t, view all, const documents_limits *limit, err *e);
void documents_free(documents *d);
#endif
