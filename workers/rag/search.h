#ifndef RAG_SEARCH_H
#define RAG_SEARCH_H
/* Passages for a question: ranked by BM25 (Robertson and Zaragoza 2009, as FTS5's bm25(): k1 1.2, b 0.75) over title and
 * text, best first, ties by chunk number, cut by a token budget. It does not decide when to search. */
#include "workers/rag/corpus.h"
#include "core/passage.h"

typedef struct {
    uint32_t max_passages;      /* 0: 4 */
    uint32_t token_budget;      /* for all passages together; 0: no limit */
    double min_share;           /* leave out passages that score below this share of the best one's (0: none): a small model
                                   is led astray by them sooner than it is helped */
    uint32_t passage_overhead;  /* tokens the prompt spends on a passage besides its text ("[1] ", the line end) */
    double chars_per_token;     /* what a token is worth where `count` is NULL; 0: 3.0 */
    /* Tokens of a text, say from the model's tokenizer; may be NULL. */
    size_t (*count)(void *ctx, view t);
    void *count_ctx;
} search_options;

/* Passages for `query` (any bytes) into *out (appended; give {0} first, passages_free in any case). Passages are whole: one
 * that does not fit what is left of the budget is passed over for the next; only the best one, where it is larger than the
 * whole budget, is cut at a sentence and marked. None found is ERR_OK with none. NULL options: all defaults. */
err_code corpus_search(corpus *c, view query, const search_options *o, passages *out, err *e);
#endif
