#ifndef CLI_IDS_H
#define CLI_IDS_H
/* Token ids written by people: "1,2 3". */
#include "engine/tokenizer.h"
/* Ids with commas or white space between, appended; ERR_INPUT quotes what is none. */
err_code ids_parse(const char *words, token_list *out, err *e);
#endif
