#ifndef COORDINATOR_RAG_PROMPT_H
#define COORDINATOR_RAG_PROMPT_H
/* Passages and a question as the text a model reads. Templates hold {placeholders}; "{{" and "}}" are braces. What is put in
 * is never read as a template again, so a passage that contains "{question}" stays as it is. It does not choose passages. */
#include "core/passage.h"

/* What the bundled models were trained on (ops/train/world.py, doc_context). */
#define RAG_PROMPT "Context:\n{passages}Question: {question}\nAnswer:"
#define RAG_PASSAGE "[{n}] {text}\n"
#define RAG_PROMPT_BARE "Question: {question}\nAnswer:"

typedef struct {
    const char *prompt;         /* {passages} {question}; NULL: RAG_PROMPT, or RAG_PROMPT_BARE where there is no passage */
    const char *passage;        /* {n} (from 1) {title} {text} {source}; NULL: RAG_PASSAGE */
    bool keep_lines;            /* false: runs of white space in titles and texts become one space, as in training */
} rag_template;

/* ERR_CONFIG quotes an unknown placeholder, a brace without partner, or names {question} or {text} where it is missing;
 * NULL for t means the defaults. Check templates with this when they are read from a configuration. */
err_code rag_template_check(const rag_template *t, err *e);
/* Append the prompt to *out, which stays as it was on an error. The question loses outer white space. */
err_code rag_prompt(text *out, const rag_template *t, const passages *p, view question, err *e);
#endif
