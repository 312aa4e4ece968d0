#ifndef CLI_QA_H
#define CLI_QA_H
/* Questions with one right answer each: reading a line, and when two answers are the same. Pure functions. */
#include "core/buf.h"
#include <stdbool.h>

typedef struct {
    char *id, *answer;       /* owned; id "" when the line has none */
    text prompt;
    bool retrieve;           /* the prompt is a bare question: passages go in front of it */
} question;

/* A JSON object with "answer" and "prompt" or "question". rag: a question goes through retrieval as it stands and comes
 * before a prompt; without, it is written as "Question: Q\nAnswer:". ERR_INPUT names what is missing. */
err_code question_read(question *q, view line, bool rag, err *e);
void question_free(question *q);
/* The part of a model's text that is the answer: up to the first newline, no white space around. */
view qa_answer(view generated);
/* The same without case (Unicode), outer white space and one final full stop. */
bool qa_same(view a, view b);
#endif
