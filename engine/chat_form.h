#ifndef ENGINE_CHAT_FORM_H
#define ENGINE_CHAT_FORM_H
/* How a form is written down; only chat.c and chat_form.c include this. A spec is text with signs in it: */
#include "engine/chat.h"

enum { SIGN_MARK = 1, SIGN_END, SIGN_TEXT, SIGN_EOS, SIGN_BOS, SIGN_BLANK };
#define M(name) "\1" name "\2"      /* a role marker: a control token where the vocabulary has it, else text */
#define TEXT    "\3"                /* what somebody wrote */
#define EOS     "\4"
#define BOS     "\5"                /* left out directly behind another one */
#define BLANK   "\6"                /* a blank, which SentencePiece puts by itself behind a control token */

enum { TRIM_SYSTEM = 1 << CHAT_SYSTEM, TRIM_USER = 1 << CHAT_USER, TRIM_ASSISTANT = 1 << CHAT_ASSISTANT, TRIM_ALL = 7 };

struct chat_form {
    const char *name;
    const char *turn[3];            /* spec of a turn by chat_role; no system: see merge */
    const char *open;               /* what opens the answer */
    const char *merge;              /* the system turn goes, so written, in front of a user's text */
    const char *stop;               /* marker that ends an answer; NULL: EOS does */
    uint8_t trim;                   /* roles whose text loses white space at both ends */
    bool bos;                       /* BOS in front even when the tokenizer does not ask for it */
    bool merge_last;                /* into the last user's turn, not the first */
    bool merge_whole;               /* merged text is trimmed as one: the user's text keeps its white space in front */
    bool eats_blanks;               /* white space behind a marker is dropped (token attribute rstrip of the model's files) */
};

const chat_form *chat_forms(size_t *n);
#endif
