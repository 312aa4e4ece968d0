#ifndef RAG_STORE_H
#define RAG_STORE_H
/* The corpus as SQLite tables: schema, writing, opening with suspicion. The only place that knows SQL, next to search.c.
 *
 *   meta(key, value)                          documents, chunks, bytes, chunk_chars, overlap
 *   document(id, source, name)                one row a document, in path order
 *   chunk(id, document, title, body, begin_byte, end_byte, line)
 *   find                                      FTS5 over chunk(title, body), external content: the text is stored once
 *
 * application_id is "SLRC", user_version the schema's version. */
#include "workers/rag/chunk.h"
#include "workers/rag/corpus.h"
#include "workers/rag/source.h"
#include <sqlite3.h>

struct corpus {
    sqlite3 *db;
    sqlite3_stmt *search;       /* made by search.c when first needed */
    char *path;                 /* for messages */
    corpus_size size;
};

/* "PATH: what: SQLite's text"; ERR_NOMEM, ERR_INPUT (no database) or ERR_IO. */
err_code store_fail(sqlite3 *db, const char *path, const char *what, err *e);

typedef struct {
    sqlite3 *db;
    sqlite3_stmt *document, *chunk, *find;
    const char *path;           /* borrowed, for messages */
    corpus_size size;           /* counted while writing */
} store_writer;

/* An empty corpus in file `path` ("" is SQLite's private temporary database, named `name` in messages). */
err_code store_create(store_writer *w, const char *path, const char *name, err *e);
err_code store_document(store_writer *w, view source, view name, err *e);
/* A chunk of the last document; texts must be valid UTF-8. */
err_code store_chunk(store_writer *w, const section *s, view title, view body, err *e);
/* Write meta and commit. The connection stays open in w->db. */
err_code store_finish(store_writer *w, err *e);
/* Closes statements, and the connection where it is still there. */
void store_writer_close(store_writer *w);

/* Open a corpus file for reading and check that it is one. On failure c->db may be set and is closed by corpus_close. */
err_code store_open(corpus *c, err *e);
#endif
