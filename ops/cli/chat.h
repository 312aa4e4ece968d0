#ifndef CLI_CHAT_H
#define CLI_CHAT_H
/* sluice run --chat: one turn, or a talk at the terminal. The whole conversation is sent again with every turn. */
#include "core/settings.h"
#include "ops/cli/chat_model.h"
#include "ops/cli/show.h"

typedef struct {
    const settings *s;
    client *c;
    const char *dir;         /* run directory of the cluster */
    chat_model model;
    conversation said;
    text heard;              /* of the answer, as far as it has come */
    err job;                 /* how the last job ended, when badly */
    request next;            /* sent by the flight */
    show show;               /* for one turn alone */
    bool ready, clean;       /* next is to be sent; stdout is a terminal, so control characters stay out of it */
} chat;

/* Everything that run does with --chat. */
err_code chat_run(settings *s, err *e);
/* ERR_USAGE for chat options without --chat, or for options that make no sense with it. */
err_code chat_check(const settings *s, err *e);

/* chat_talk.c: ask, answer, ask, until Ctrl-D. */
err_code chat_talk(chat *t, err *e);
/* Make t->next of the conversation. */
err_code chat_prepare(chat *t, err *e);
#endif
