#ifndef CLI_CHAT_MODEL_H
#define CLI_CHAT_MODEL_H
/* What turns conversations into requests: the tokenizer and the chat form of the model that a cluster runs. */
#include "engine/conversation.h"
#include "ops/cli/client.h"
#include "ops/cli/request.h"

typedef struct { tokenizer *tok; chat_style style; } chat_model;

/* name: --chat-template, or NULL for what the file says. */
err_code chat_model_open(chat_model *m, const char *file, const char *name, err *e);
void chat_model_close(chat_model *m);
/* Path of the model file that the cluster behind `c` runs; for connections with nothing else going on. */
err_code chat_model_file(text *out, client *c, err *e);
/* The conversation becomes the request's tokens, and its form's end a stop string where no token is one. Markers broken in
 * somebody's text are warned of in the log. */
err_code chat_model_request(const chat_model *m, const conversation *c, request *r, err *e);

/* A file of messages, one JSON object a line, appended; ERR_INPUT names the line. `may_lack`: no such file is an empty one. */
err_code chat_load(conversation *c, const char *path, bool may_lack, err *e);
/* Write such a file; it has its name only when it is whole. */
err_code chat_store(const conversation *c, const char *path, err *e);
#endif
