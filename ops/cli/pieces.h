#ifndef CLI_PIECES_H
#define CLI_PIECES_H
/* Tokens as text in JSON, by the tokenizer of the model that the cluster runs. */
#include "engine/tokenizer.h"
#include <jansson.h>

/* NULL, and a line in the log, when the file cannot be read: an answer goes out without the text of its tokens rather than
 * not at all. Close with tokenizer_close. */
tokenizer *pieces_open(const char *model_file);
/* o[key] = the token's text; where that is no UTF-8 (a piece of a character) also o["bytes"] = its bytes. t NULL: nothing. */
void pieces_put(json_t *o, const char *key, const tokenizer *t, uint32_t id);
#endif
