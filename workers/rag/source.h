#ifndef RAG_SOURCE_H
#define RAG_SOURCE_H
/* Reads one file of a corpus as documents with titles: a .txt is one document named after the file, a .md is one document
 * whose headings (# to ######, outside code fences) cut it into sections titled "H1 > H2", every line of a .jsonl is one
 * document {"text": ..., "title"?: ..., "id"?: ...}. It does not cut texts into chunks and stores nothing. */
#include "workers/rag/folder.h"

/* A stretch of a document under one title. Views are valid during the call. */
typedef struct {
    view name;                  /* the document's id; empty where it has none */
    view title;
    view body;                  /* any bytes */
    uint64_t begin, end;        /* where it comes from, bytes of the file */
    bool verbatim;              /* body is the file's bytes [begin, end); else (jsonl) that range is the whole line */
    bool first;                 /* starts a new document */
    uint32_t line;              /* 1-based line of the file at `begin` */
} section;

typedef struct {
    err_code (*take)(void *ctx, const section *s, err *e);
    void *ctx;
    bool skip_bad;              /* pass over unreadable files and bad lines, and count them */
    uint64_t bad_files, bad_lines, binary_files, replaced;      /* counted here; `replaced`: bytes of jsonl lines only */
} source_reader;

/* A text file larger than this is refused: it is read whole. A jsonl file may be of any size, its lines are limited. */
enum { SOURCE_FILE_MAX = 1 << 30, SOURCE_LINE_MAX = 64 << 20 };

/* Give every section of `f` to r->take, in order. A text file with NUL in its first 8 KiB is binary: counted, not read.
 * ERR_IO / ERR_INPUT name file:line. */
err_code source_read(source_reader *r, const folder_file *f, err *e);
#endif
