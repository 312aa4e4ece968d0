#ifndef CLI_REQUEST_H
#define CLI_REQUEST_H
/* One SUBMIT with its payload, made from options or from a line of a batch file. It is not sent from here. */
#include "core/settings.h"
#include "engine/conversation.h"
#include "proto/message.h"

/* How a line of a batch file was written, and so how its answer is. */
typedef enum { SHAPE_OWN, SHAPE_OPENAI_CHAT, SHAPE_OPENAI_TEXT } request_shape;

typedef struct {
    message m;             /* MSG_SUBMIT; counts of the tables below included */
    text prompt, stop;
    id_rec *tokens;        /* [m.submit.n_tokens] */
    bias_rec *bias;        /* [m.submit.n_bias] */
    bool has_prompt;
    conversation chat;     /* messages instead of a prompt; whoever has the model turns them into tokens before it is sent */
    request_shape shape;
    text model;            /* the model that a line in OpenAI's shape names; not looked at */
} request;

/* The options of run and submit (ERR_INPUT quotes a bad --logit-bias or --stop); defaults for other commands. No prompt. */
err_code request_init(request *r, const settings *s, err *e);
void request_free(request *r);
/* Text from -p, -f or "-" among the words. ERR_USAGE when none, or more than one, is given. */
err_code request_prompt(request *r, const settings *s, err *e);
err_code request_set_prompt(request *r, const void *p, size_t n, err *e);
/* Copies ids. */
err_code request_set_tokens(request *r, const uint32_t *ids, size_t n, err *e);
err_code request_add_stop(request *r, const char *s, err *e);
err_code request_add_bias(request *r, uint32_t id, float bias, err *e);
/* "FILE[:SCALE]": the file as an absolute path (ERR_INPUT when it is not there), the scale when what follows the last colon is
 * a number. */
err_code request_set_lora(request *r, const char *word, err *e);
/* A file of --prompt-cache, as an absolute path; it need not be there. */
/* A KV policy by name or file (kvstore/preset.h); "f16" and "f32" are none. */
err_code request_set_kv(request *r, const char *name, err *e);
err_code request_set_cache(request *r, const char *path, err *e);
/* The four payload frames; they borrow from r. */
void request_frames(const request *r, view out[static 4]);

/* One line of a batch file over what `r` already holds: a JSON object with custom_id and prompt, tokens or messages, or the
 * shape of OpenAI's batch files: {"custom_id", "method": "POST", "url", "body"}, where temperature and max_tokens that are not
 * said are those of the options. Unknown and doubled fields, wrong kinds and values out of range are ERR_INPUT and name the field. custom_id lands in
 * r->m.submit.custom_id even when another field is wrong. */
err_code request_line(request *r, view line, err *e);
#endif
