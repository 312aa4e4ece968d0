#include "workers/rag/corpus.h"
#include "workers/rag/store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    store_writer store;
    corpus_stats stats;
    chunk_size cut;
    text source, name, title, body;     /* cleaned; reused from chunk to chunk */
} builder;

static bool clean(text *out, view t, uint64_t *bad)
{
    text_clear(out);
    return text_add(out, "", 0) && utf8_clean(out, t, bad);
}

static view of(const text *t) { return (view){ t->ptr, t->len }; }

static uint32_t lines_in(const char *p, size_t n)
{
    uint32_t lines = 0;
    for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++) lines++;
    return lines;
}

/* Bytes of a chunk that overlap with the chunk before are counted (as replaced, too) once only. */
static err_code add_chunk(builder *b, const section *s, chunk_span span, size_t seen, err *e)
{
    const char *body = s->body.ptr;
    size_t fresh = span.begin > seen ? span.begin : seen;
    uint64_t bad = 0, again = 0;
    if (!clean(&b->body, (view){ body + span.begin, fresh - span.begin }, &again) ||
        !utf8_clean(&b->body, (view){ body + fresh, span.end - fresh }, &bad))
        return err_set(e, ERR_NOMEM, "out of memory for a chunk");
    b->stats.replaced += bad;
    b->store.size.bytes += span.end - fresh;
    section where = *s;
    if (s->verbatim) {
        where.begin = s->begin + span.begin;
        where.end = s->begin + span.end;
    }
    return store_chunk(&b->store, &where, of(&b->title), of(&b->body), e);
}

/* source_reader's take: cut a section and store the pieces. */
static err_code take_section(void *ctx, const section *s, err *e)
{
    builder *b = ctx;
    section at = *s;
    if (!clean(&b->title, s->title, &b->stats.replaced) || !clean(&b->name, s->name, &b->stats.replaced))
        return err_set(e, ERR_NOMEM, "out of memory for a title");
    err_code rc = s->first ? store_document(&b->store, of(&b->source), of(&b->name), e) : ERR_OK;
    chunk_span span;
    for (size_t next = 0, seen = 0, counted = 0; rc == ERR_OK && chunk_next(s->body, b->cut, &next, &span); seen = span.end) {
        if (s->verbatim) at.line += lines_in((const char *)s->body.ptr + counted, span.begin - counted);
        counted = span.begin;
        rc = add_chunk(b, &at, span, seen, e);
    }
    return rc;
}

static err_code read_folder(builder *b, const folder *f, const corpus_options *o, corpus_progress progress, void *ctx, err *e)
{
    source_reader r = { .take = take_section, .ctx = b, .skip_bad = o->skip_bad, .bad_files = f->bad };
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i <= f->count; i++) {
        const char *source = i < f->count ? f->at[i].source : "";
        if (progress && !progress(ctx, source, i, f->count)) return err_set(e, ERR_CANCELLED, "indexing was cancelled");
        if (i == f->count) break;
        if (!clean(&b->source, (view){ source, strlen(source) }, NULL)) return err_set(e, ERR_NOMEM, "out of memory");
        rc = source_read(&r, &f->at[i], e);
    }
    b->stats.files = f->count - (r.bad_files - f->bad) - r.binary_files;
    b->stats.bad_files = r.bad_files;
    b->stats.bad_lines = r.bad_lines;
    b->stats.binary_files = r.binary_files;
    b->stats.replaced += r.replaced;
    return rc;
}

static err_code options_check(const corpus_options *o, chunk_size *out, err *e)
{
    uint32_t chars = o->chunk_chars ? o->chunk_chars : CHUNK_CHARS;
    if (chars < CHUNK_CHARS_MIN || chars > CHUNK_CHARS_MAX)
        return err_set(e, ERR_CONFIG, "chunk size %u: must be %d to %d characters", chars, CHUNK_CHARS_MIN, CHUNK_CHARS_MAX);
    uint32_t overlap = o->no_overlap ? 0 : o->overlap ? o->overlap : (uint32_t)((uint64_t)chars * CHUNK_OVERLAP / CHUNK_CHARS);
    if (overlap > chars / 4) return err_set(e, ERR_CONFIG, "overlap %u: at most a quarter of the chunk size %u", overlap, chars);
    *out = (chunk_size){ chars, overlap };
    return ERR_OK;
}

static err_code fill(builder *b, const char *folder_path, const corpus_options *o, corpus_progress progress, void *ctx, err *e)
{
    folder files = { 0 };
    b->store.size.chunk_chars = b->cut.chars;
    b->store.size.overlap = b->cut.overlap;
    err_code rc = folder_list(&files, folder_path, o->skip_bad, e);
    if (rc == ERR_OK) rc = read_folder(b, &files, o, progress, ctx, e);
    folder_free(&files);
    if (rc == ERR_OK && !b->store.size.chunks) rc = err_set(e, ERR_INPUT, "%s: no text in its files", folder_path);
    if (rc == ERR_OK) rc = store_finish(&b->store, e);
    b->stats.documents = b->store.size.documents;
    b->stats.chunks = b->store.size.chunks;
    b->stats.bytes = b->store.size.bytes;
    return rc;
}

static void builder_free(builder *b)
{
    store_writer_close(&b->store);
    text_free(&b->source);
    text_free(&b->name);
    text_free(&b->title);
    text_free(&b->body);
}

/* ---- the file ---- */

/* A name next to `out` that nothing has, created empty; freed by the caller. Not mkstemp: a corpus gets the rights of any
 * new file, not 0600. */
static err_code temporary_make(char **temp, const char *out, err *e)
{
    int fd = -1;
    for (int n = 0; fd < 0 && n < 100; n++) {       /* a number may be taken by what a killed build left */
        free(*temp);
        if (asprintf(temp, "%s.tmp.%ld.%d", out, (long)getpid(), n) < 0) {
            *temp = NULL;
            return err_set(e, ERR_NOMEM, "%s: out of memory", out);
        }
        fd = open(*temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd >= 0) {
        close(fd);
        return ERR_OK;
    }
    err_set(e, ERR_IO, "%s: %s", *temp, strerror(errno));
    free(*temp);
    *temp = NULL;
    return ERR_IO;
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

/* On disk under its final name, or not at all. */
static err_code publish(const char *temp, const char *out, err *e)
{
    if (sync_path(temp, O_RDONLY) || rename(temp, out)) return err_set(e, ERR_IO, "%s: %s", out, strerror(errno));
    char *dir = strdup(out);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    if (slash) slash[slash == dir] = 0;
    if (dir) sync_path(slash ? dir : ".", O_RDONLY | O_DIRECTORY);    /* best effort: some file systems refuse it */
    free(dir);
    return ERR_OK;
}

/* May `out` become a corpus? Only a corpus is ever overwritten (also a damaged or older one): a slip on the command line
 * must not cost a file. */
static err_code may_replace(const char *out, err *e)
{
    static const char magic[16] = "SQLite format 3";
    unsigned char head[72] = { 0 };
    struct stat st;
    if (!*out) return err_set(e, ERR_INPUT, "the corpus file has an empty name");
    if (file_kind_of(out) != FILE_OTHER)
        return err_set(e, ERR_INPUT, "%s: a corpus file does not end in .txt, .md or .jsonl (those are documents)", out);
    if (lstat(out, &st)) return errno == ENOENT ? ERR_OK : err_set(e, ERR_IO, "%s: %s", out, strerror(errno));
    int fd = S_ISREG(st.st_mode) ? open(out, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, head, sizeof head) : -1;
    if (fd >= 0) close(fd);
    bool ours = n == sizeof head && !memcmp(head, magic, 16) && !memcmp(head + 68, "SLRC", 4);   /* 68: application_id */
    return ours ? ERR_OK : err_set(e, ERR_STATE, "%s: exists and is not a Sluice corpus: not overwritten", out);
}

err_code corpus_build(const char *folder_path, const char *out_db, const corpus_options *o, corpus_progress progress, void *ctx,
                      corpus_stats *stats, err *e)
{
    static const corpus_options defaults;
    if (!o) o = &defaults;
    builder b = { 0 };
    char *temp = NULL;
    err_code rc = options_check(o, &b.cut, e);
    if (rc == ERR_OK) rc = may_replace(out_db, e);
    if (rc == ERR_OK) rc = temporary_make(&temp, out_db, e);
    if (rc == ERR_OK) rc = store_create(&b.store, temp, out_db, e);
    if (rc == ERR_OK) rc = fill(&b, folder_path, o, progress, ctx, e);
    builder_free(&b);
    if (rc == ERR_OK) rc = publish(temp, out_db, e);
    if (rc != ERR_OK && temp) unlink(temp);
    free(temp);
    if (stats) *stats = b.stats;
    return rc;
}

/* ---- opening ---- */

static err_code open_folder(corpus *c, err *e)
{
    static const corpus_options defaults;
    builder b = { 0 };
    err_code rc = options_check(&defaults, &b.cut, e);
    if (rc == ERR_OK) rc = store_create(&b.store, "", c->path, e);
    if (rc == ERR_OK) rc = fill(&b, c->path, &defaults, NULL, NULL, e);
    if (rc == ERR_OK) {
        c->db = b.store.db;
        c->size = b.store.size;
        b.store.db = NULL;
    }
    builder_free(&b);
    return rc;
}

err_code corpus_open(corpus **out, const char *db_or_folder, err *e)
{
    struct stat st;
    *out = NULL;
    if (!*db_or_folder) return err_set(e, ERR_INPUT, "the corpus has an empty name");
    if (stat(db_or_folder, &st)) return err_set(e, ERR_IO, "%s: %s", db_or_folder, strerror(errno));
    corpus *c = calloc(1, sizeof *c);
    if (c) c->path = strdup(db_or_folder);
    if (!c || !c->path) {
        free(c);
        return err_set(e, ERR_NOMEM, "%s: out of memory", db_or_folder);
    }
    bool text_file = S_ISREG(st.st_mode) && file_kind_of(db_or_folder) != FILE_OTHER;
    err_code rc = S_ISDIR(st.st_mode) || text_file ? open_folder(c, e) : store_open(c, e);
    if (rc == ERR_OK) *out = c;
    else corpus_close(c);
    return rc;
}

corpus_size corpus_info(const corpus *c) { return c->size; }

void corpus_close(corpus *c)
{
    if (!c) return;
    sqlite3_finalize(c->search);
    sqlite3_close(c->db);
    free(c->path);
    free(c);
}
