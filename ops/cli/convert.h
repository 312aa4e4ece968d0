#ifndef CLI_CONVERT_H
#define CLI_CONVERT_H
/* sluice model quantize, split and merge: a GGUF file from another one. args[0] is the word itself. */
#include "core/settings.h"
#include <stddef.h>

/* The i-th word and what follows it, NULL behind the last. */
const char *convert_word(size_t i, const char **usage);
/* Run `word`; it is one of convert_word. */
err_code convert_run(const char *word, settings *s, err *e);
#endif
