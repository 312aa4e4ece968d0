#ifndef CLI_IDS_H
#define CLI_IDS_H
/* Numbers written by people: token ids ("1,2 3"), the id of a job. */
#include "core/settings.h"
#include "engine/tokenizer.h"
/* Ids with commas or white space between, appended; ERR_INPUT quotes what is none. */
err_code ids_parse(const char *words, token_list *out, err *e);
/* The one word of a command that is about one job. ERR_USAGE. */
err_code job_id_of(const settings *s, uint64_t *out, err *e);
#endif
