#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H
/* A conversation as token ids, in the form that a model was trained on. The forms are built in; a model's own template
 * (`tokenizer.chat_template`, Jinja) is untrusted text: it is searched for marks, within bounds, and never executed.
 *
 * What people write cannot forge a role: role markers are put in by id, the text between is tokenized without control
 * tokens, and where a vocabulary knows a marker only as plain text (Llama 2's [INST]) a marker in somebody's text is broken
 * by a blank after its first character. Everything here is immutable or the caller's: any thread. */
#include "engine/tokenizer.h"

typedef enum { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT } chat_role;
typedef struct { chat_role role; view text; } chat_turn;

typedef struct chat_form chat_form;            /* one row of engine/chat_form.c */
typedef struct {
    const chat_form *form;
    const char *system;                        /* the system text a conversation without one gets, or NULL */
    bool drops_thoughts;                       /* earlier answers go without what stands before </think> */
} chat_style;

/* Names of the forms, in turn; NULL behind the last one. */
const char *chat_form_name(size_t i);
const char *chat_style_name(const chat_style *s);
/* By the marks in a template's first 256 KiB; false when no form is known by them. */
bool chat_detect(view template_text, chat_style *out);
/* The form called `name`, or, with NULL, that of the file's template. ERR_INPUT (no such name) and ERR_MODEL (the file has no
 * template, or an unknown one) list the names. */
err_code chat_style_of(chat_style *out, const char *name, const gguf *g, err *e);

/* Append the ids of the turns and of the words that open the assistant's answer. One BOS stands in front when the tokenizer
 * or the form asks for it. ERR_INPUT: no turn, a system turn that is not the first, or nothing of the user's at the end.
 * *broken (may be NULL): markers in the turns' texts that had to be broken. */
err_code chat_render(const chat_style *s, const tokenizer *t, const chat_turn *turn, size_t n, token_list *out, size_t *broken,
                     err *e);
/* The text that ends an answer where the vocabulary has no end-of-generation token for it; else NULL. */
const char *chat_stop(const chat_style *s, const tokenizer *t);
#endif
