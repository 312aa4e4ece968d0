#ifndef ENGINE_CONVERSATION_H
#define ENGINE_CONVERSATION_H
/* A conversation that owns its texts, and its JSON: {"role": "system"|"user"|"assistant", "content": TEXT} a message, as
 * OpenAI's API has them ("developer" counts as system; content may be a list of {"type": "text"} parts). One thread. */
#include "engine/chat.h"
#include <jansson.h>

typedef struct { chat_turn *turn; size_t n, cap; } conversation;   /* {0} to start */
void conversation_free(conversation *c);

err_code conversation_add(conversation *c, chat_role role, const void *p, size_t n, err *e);
/* Keep the first n turns. */
void conversation_cut(conversation *c, size_t n);
/* The system turn becomes this; none when p is NULL. */
err_code conversation_set_system(conversation *c, const void *p, size_t n, err *e);
/* Keep the system turn only. */
void conversation_clear(conversation *c);

/* One message, or an array of them, appended. ERR_INPUT names the message and the field; then what was appended before the
 * bad one stays. */
err_code conversation_take(conversation *c, const json_t *message, err *e);
err_code conversation_take_all(conversation *c, const json_t *messages, err *e);
/* One line of a JSONL file. */
err_code conversation_line(conversation *c, view line, err *e);
/* Turn i as a message; a new reference, NULL when out of memory. What is no UTF-8 becomes U+FFFD. */
json_t *conversation_message(const conversation *c, size_t i);
#endif
