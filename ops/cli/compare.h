#ifndef CLI_COMPARE_H
#define CLI_COMPARE_H
/* Two answers to the same job, token by token. */
#include "ops/cli/answer.h"

typedef enum { DIFF_NONE, DIFF_TOKEN, DIFF_LOGPROB, DIFF_TOP, DIFF_COUNT, DIFF_TEXT, DIFF_FINISH, DIFF_CHOICES } diff_kind;
typedef struct {
    diff_kind kind;
    uint32_t choice;
    size_t token;            /* the first that differs, of its choice */
    size_t compared;         /* tokens of all choices that are the same */
} answer_diff;

/* The first difference. `part`: `was` stopped before its own end, so `is` may go on where it ends. */
answer_diff answer_compare(const answer *was, const answer *is, bool part);
/* "token", "log-probability", ... */
const char *diff_name(diff_kind k);
#endif
