#ifndef CORE_PASSAGE_H
#define CORE_PASSAGE_H
/* What retrieval found: texts with where they come from. Owns its strings; knows neither how they were found nor how
 * they are shown to a model. */
#include "core/buf.h"

typedef struct {
    text body, title, source, name;     /* valid UTF-8; source: path below the corpus folder; name: the document's id or "" */
    uint64_t begin, end;                /* bytes of the source file (a jsonl document: its whole line) */
    uint64_t chunk;                     /* its number in the corpus, from 1 */
    uint32_t line;                      /* 1-based line of the source where it begins */
    uint32_t tokens;                    /* as the search's budget counted it, overhead included */
    double score;                       /* BM25, larger is better */
    bool cut;                           /* longer than the whole budget: only its beginning is here */
} passage;

typedef struct {
    passage *at;
    size_t count, cap;
} passages;                             /* best first; start with {0} */

/* A new zeroed passage at the end, or NULL when memory is out. */
passage *passages_add(passages *p);
/* Takes the last one off again. */
void passages_drop(passages *p);
void passages_free(passages *p);
#endif
