#include "workers/rag/store.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    APPLICATION = 0x534C5243,           /* "SLRC" */
    VERSION = 1,
    ROW_MAX = 64 << 20,                 /* bytes of one value; a chunk is at most 4 MiB */
    CHECK_MAX = 64 << 20                /* a file up to this size has its b-trees checked when opened (about 1 ms a MB) */
};

/* Porter stemming on top of unicode61: measured on xquad (tests/unit/test_corpus.c), recall@1 +0.3 %, recall@5
 * +0.2 %; names keep their rank. */
static const char schema[] =
    "PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; BEGIN;"
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE document(id INTEGER PRIMARY KEY, source TEXT NOT NULL, name TEXT NOT NULL);"
    "CREATE TABLE chunk(id INTEGER PRIMARY KEY, document INTEGER NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL,"
    " begin_byte INTEGER NOT NULL, end_byte INTEGER NOT NULL, line INTEGER NOT NULL);"
    "CREATE VIRTUAL TABLE find USING fts5(title, body, content='chunk', content_rowid='id',"
    " tokenize='porter unicode61 remove_diacritics 2');";

err_code store_fail(sqlite3 *db, const char *path, const char *what, err *e)
{
    int rc = db ? sqlite3_errcode(db) : SQLITE_NOMEM;
    const char *why = db ? sqlite3_errmsg(db) : "out of memory";
    if ((rc & 0xFF) == SQLITE_NOMEM) return err_set(e, ERR_NOMEM, "%s: %s: out of memory", path, what);
    if ((rc & 0xFF) == SQLITE_NOTADB) return err_set(e, ERR_INPUT, "%s: not a Sluice corpus (%s)", path, why);
    if ((rc & 0xFF) == SQLITE_CORRUPT) return err_set(e, ERR_IO, "%s: damaged corpus (%s): index the folder again", path, why);
    return err_set(e, ERR_IO, "%s: %s: %s", path, what, why);
}

/* sqlite3_open_v2 on a plain file name: Debian's SQLite reads one that begins with "file:" as a URI. */
static int open_file(const char *path, sqlite3 **db, int flags)
{
    char *plain = sqlite3_mprintf("%s%s", strncmp(path, "file:", 5) ? "" : "./", path);
    int rc = plain ? sqlite3_open_v2(plain, db, flags | SQLITE_OPEN_NOMUTEX, NULL) : SQLITE_NOMEM;
    sqlite3_free(plain);
    return rc;
}

/* ---- writing ---- */

err_code store_create(store_writer *w, const char *path, const char *name, err *e)
{
    static const char document[] = "INSERT INTO document VALUES(?,?,?)", chunk[] = "INSERT INTO chunk VALUES(?,?,?,?,?,?,?)",
                      find[] = "INSERT INTO find(rowid,title,body) VALUES(?,?,?)";
    w->path = name;
    if (open_file(path, &w->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) ||
        sqlite3_exec(w->db, schema, NULL, NULL, NULL) ||
        sqlite3_prepare_v2(w->db, document, -1, &w->document, NULL) ||
        sqlite3_prepare_v2(w->db, chunk, -1, &w->chunk, NULL) ||
        sqlite3_prepare_v2(w->db, find, -1, &w->find, NULL)) return store_fail(w->db, name, "cannot create the corpus", e);
    return ERR_OK;
}

static int bind_view(sqlite3_stmt *s, int at, view v)
{
    return sqlite3_bind_text64(s, at, v.ptr ? v.ptr : "", v.len, SQLITE_STATIC, SQLITE_UTF8);
}

static err_code run(store_writer *w, sqlite3_stmt *s, int bound, err *e)
{
    int rc = bound ? bound : sqlite3_step(s);
    sqlite3_reset(s);
    return rc == SQLITE_DONE ? ERR_OK : store_fail(w->db, w->path, "cannot write the corpus", e);
}

err_code store_document(store_writer *w, view source, view name, err *e)
{
    sqlite3_stmt *s = w->document;
    w->size.documents++;
    int rc = sqlite3_bind_int64(s, 1, (sqlite3_int64)w->size.documents);
    rc |= bind_view(s, 2, source) | bind_view(s, 3, name);
    return run(w, s, rc, e);
}

err_code store_chunk(store_writer *w, const section *from, view title, view body, err *e)
{
    sqlite3_int64 id = (sqlite3_int64)++w->size.chunks;
    sqlite3_stmt *s = w->chunk;
    int rc = sqlite3_bind_int64(s, 1, id) | sqlite3_bind_int64(s, 2, (sqlite3_int64)w->size.documents);
    rc |= bind_view(s, 3, title) | bind_view(s, 4, body);
    rc |= sqlite3_bind_int64(s, 5, (sqlite3_int64)from->begin) | sqlite3_bind_int64(s, 6, (sqlite3_int64)from->end);
    rc |= sqlite3_bind_int64(s, 7, from->line);
    err_code bad = run(w, s, rc, e);
    if (bad != ERR_OK) return bad;
    s = w->find;
    rc = sqlite3_bind_int64(s, 1, id) | bind_view(s, 2, title) | bind_view(s, 3, body);
    return run(w, s, rc, e);
}

err_code store_finish(store_writer *w, err *e)
{
    char *sql = sqlite3_mprintf(
        "INSERT INTO meta VALUES('documents',%llu),('chunks',%llu),('bytes',%llu),('chunk_chars',%u),('overlap',%u);"
        "INSERT INTO find(find) VALUES('optimize');"
        "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
        (unsigned long long)w->size.documents, (unsigned long long)w->size.chunks, (unsigned long long)w->size.bytes,
        w->size.chunk_chars, w->size.overlap, APPLICATION, VERSION);
    int rc = sql ? sqlite3_exec(w->db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc ? store_fail(sql ? w->db : NULL, w->path, "cannot write the corpus", e) : ERR_OK;
}

void store_writer_close(store_writer *w)
{
    sqlite3_finalize(w->document);
    sqlite3_finalize(w->chunk);
    sqlite3_finalize(w->find);
    sqlite3_close(w->db);
    *w = (store_writer){ 0 };
}

/* ---- reading ---- */

/* The file's first bytes say whether SQLite should see it at all; *size is its length. */
static err_code check_magic(const char *path, off_t *size, err *e)
{
    static const char magic[16] = "SQLite format 3";
    char head[16];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    bool regular = !fstat(fd, &st) && S_ISREG(st.st_mode);
    ssize_t n = regular ? read(fd, head, sizeof head) : -1;
    close(fd);
    if (n != sizeof head || memcmp(head, magic, sizeof magic)) return err_set(e, ERR_INPUT, "%s: not a Sluice corpus", path);
    *size = st.st_size;
    return ERR_OK;
}

/* Run `sql` and give its first integer; ERR_ABSENT when there is no row. */
static err_code first_integer(corpus *c, const char *sql, sqlite3_int64 *out, err *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) *out = sqlite3_column_int64(s, 0);
    err_code bad = rc == SQLITE_ROW ? ERR_OK : rc == SQLITE_DONE ? ERR_ABSENT : store_fail(c->db, c->path, "cannot read", e);
    sqlite3_finalize(s);
    return bad;
}

static err_code check_kind(corpus *c, err *e)
{
    sqlite3_int64 application = 0, version = 0;
    err_code rc = first_integer(c, "PRAGMA application_id", &application, e);
    if (rc == ERR_OK) rc = first_integer(c, "PRAGMA user_version", &version, e);
    if (rc != ERR_OK) return rc;
    if (application != APPLICATION)
        return err_set(e, ERR_INPUT, "%s: not a Sluice corpus (an SQLite database of another program)", c->path);
    if (version != VERSION)
        return err_set(e, ERR_INPUT, "%s: corpus of schema %lld, this program reads schema %d: index the folder again", c->path,
                       (long long)version, VERSION);
    return ERR_OK;
}

/* The first complaint of quick_check, "ok" if none. */
static err_code check_trees(corpus *c, err *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db, "PRAGMA quick_check(1)", -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    const char *says = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
    err_code bad = ERR_OK;
    if (!says) bad = store_fail(c->db, c->path, "cannot check", e);
    else if (strcmp(says, "ok")) bad = err_set(e, ERR_IO, "%s: damaged corpus (%.200s): index the folder again", c->path, says);
    sqlite3_finalize(s);
    return bad;
}

static err_code read_meta(corpus *c, err *e)
{
    sqlite3_int64 v[5] = { 0 };
    static const char *const sql[5] = {
        "SELECT value FROM meta WHERE key='documents'", "SELECT value FROM meta WHERE key='chunks'",
        "SELECT value FROM meta WHERE key='bytes'", "SELECT value FROM meta WHERE key='chunk_chars'",
        "SELECT value FROM meta WHERE key='overlap'",
    };
    for (int i = 0; i < 5; i++) {
        err_code rc = first_integer(c, sql[i], &v[i], e);
        if (rc == ERR_ABSENT || (rc == ERR_OK && (v[i] < 0 || (i > 2 && v[i] > CHUNK_CHARS_MAX))))
            return err_set(e, ERR_IO, "%s: damaged corpus (table meta is not whole): index the folder again", c->path);
        if (rc != ERR_OK) return rc;
    }
    c->size = (corpus_size){ (uint64_t)v[0], (uint64_t)v[1], (uint64_t)v[2], (uint32_t)v[3], (uint32_t)v[4] };
    return ERR_OK;
}

/* A corpus may come from somebody else: nothing in its schema may run code or make SQLite trust it. */
static void harden(sqlite3 *db)
{
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, ROW_MAX);
    sqlite3_exec(db, "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA query_only=ON", NULL, NULL, NULL);
}

err_code store_open(corpus *c, err *e)
{
    off_t bytes = 0;
    err_code rc = check_magic(c->path, &bytes, e);
    if (rc != ERR_OK) return rc;
    if (open_file(c->path, &c->db, SQLITE_OPEN_READONLY))
        return store_fail(c->db, c->path, "cannot open", e);
    harden(c->db);
    rc = check_kind(c, e);
    if (rc == ERR_OK && bytes <= CHECK_MAX) rc = check_trees(c, e);
    return rc == ERR_OK ? read_meta(c, e) : rc;
}
