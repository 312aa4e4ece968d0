#ifndef RAG_CORPUS_H
#define RAG_CORPUS_H
/* A corpus: documents of a folder, cut into chunks and indexed for full-text search in one SQLite file (FTS5). Built once
 * and then only read; it is never changed in place. One thread at a time may use a corpus. */
#include "core/buf.h"

typedef struct corpus corpus;

typedef struct {
    uint32_t chunk_chars;       /* characters a chunk, 64 to 1048576; 0: 800 */
    uint32_t overlap;           /* characters repeated where a paragraph is cut, at most a quarter of chunk_chars */
    bool no_overlap;            /* overlap 0 means the default (15 % of chunk_chars) unless this is set */
    bool skip_bad;              /* pass over unreadable files and bad JSON lines instead of failing */
} corpus_options;

typedef struct {
    uint64_t files, documents, chunks, bytes;           /* bytes: of text in chunks' sources, overlap not counted twice */
    uint64_t bad_files, bad_lines, binary_files;        /* passed over */
    uint64_t replaced;                                  /* bytes that were no UTF-8, shown as U+FFFD */
} corpus_stats;

typedef struct { uint64_t documents, chunks, bytes; uint32_t chunk_chars, overlap; } corpus_size;

/* Called before each file, and once more with done == total. False ends the build with ERR_CANCELLED. */
typedef bool (*corpus_progress)(void *ctx, const char *source, uint64_t done, uint64_t total);

/* Index `folder` (.txt .md .jsonl, recursively; or one such file) into `out_db`: written beside it, then renamed, so a
 * reader sees the old file or the new one. The same files give the same database. NULL options: all defaults; progress and
 * stats may be NULL. ERR_IO, ERR_INPUT (file:line), ERR_STATE when out_db is there and is no corpus, ERR_CANCELLED. */
err_code corpus_build(const char *folder, const char *out_db, const corpus_options *o, corpus_progress progress, void *ctx,
                      corpus_stats *stats, err *e);
/* Open a corpus file read-only; a folder (or .txt, .md, .jsonl file) is indexed with default options into a private
 * temporary database that is gone after corpus_close. ERR_INPUT "FILE: not a Sluice corpus", ERR_IO for a damaged one. */
err_code corpus_open(corpus **out, const char *db_or_folder, err *e);
corpus_size corpus_info(const corpus *c);
/* NULL is fine. */
void corpus_close(corpus *c);
#endif
