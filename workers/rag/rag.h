#ifndef WORKERS_RAG_RAG_H
#define WORKERS_RAG_RAG_H
/* The retrieval worker: opens one corpus, joins a coordinator, answers each QUERY with PASSAGES. One thread. */
#include "core/sandbox.h"
#include "proto/link.h"
#include <stdatomic.h>

typedef struct {
    hub *hub;
    const char *connect, *corpus, *name;
    double min_share;           /* workers/rag/search.h */
    uint64_t cookie;
    const sandbox_want *sandbox; /* entered when the corpus is open, for the whole process; NULL: not */
    atomic_bool *stop;
} rag_options;

/* Returns when told BYE, when *stop is set, or when the corpus cannot be opened. */
err_code rag_run(const rag_options *o, err *e);
#endif
