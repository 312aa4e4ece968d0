#ifndef CLI_ANSWER_OPENAI_H
#define CLI_ANSWER_OPENAI_H
/* Answers as lines of OpenAI's batch output: {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}. */
#include "ops/cli/answer.h"
#include "engine/tokenizer.h"
#include "ops/cli/request.h"

typedef struct { const char *custom_id, *model; request_shape shape; } openai_line;

/* A new reference; NULL when out of memory. The body is a chat.completion or a text_completion. names: for the text of tokens
 * in logprobs, or NULL. */
json_t *openai_answer(const openai_line *l, const answer *a, bool logprobs, const tokenizer *names);
/* status_code 400 for what was wrong with the line, 500 for what went wrong here. */
json_t *openai_failure(const openai_line *l, uint64_t job, const err *why);
#endif
