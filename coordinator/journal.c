/* The journal's file, and writing to it. Decides nothing about jobs: record.c says what is written when. */
#include "coordinator/journal.h"
#include "coordinator/journal_db.h"
#include "core/clock.h"
#include <stdlib.h>
#include <string.h>

#define APPLICATION_ID 0x534c4a33   /* "SLJ3" */
#define APPLICATION_ID_BEFORE 0x534c4a32

#define OLDEST "SELECT id FROM job WHERE state<>0 ORDER BY id LIMIT ?1"
static const char *const sql[Q_COUNT] = {
    [Q_ADD] = "INSERT INTO job(id, submit, prompt, tokens, stop, bias, t_ms, model, owner, custom_id) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
    [Q_EVENT] = "INSERT INTO event(job, seq, choice, row, kind, payload) VALUES(?1,?2,?3,?4,?5,?6)",
    [Q_END] = "UPDATE job SET state=?2, error=?3, t_end_ms=?4, n_prompt=?5, n_tokens=?6, finish=?7 WHERE id=?1 AND state=0",
    [Q_CHOICE] = "INSERT INTO choice(job, idx, done, tokens, top, shown) VALUES(?1,?2,?3,?4,?5,?6)",
    [Q_TRIM_COUNT] = "DELETE FROM job WHERE id IN (" OLDEST ")",
    [Q_TRIM_AGE] = "DELETE FROM job WHERE state<>0 AND t_end_ms<?1",
    [Q_LAST] = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name='job'), 0)",
    [Q_FINISHED] = "SELECT count(*) FROM job WHERE state<>0",
    [Q_UNFINISHED] = "SELECT id FROM job WHERE state=0 AND model=?1 ORDER BY id", /* the others wait for a cluster that runs theirs */
    [Q_OTHERS] = "SELECT count(*) FROM job WHERE state=0 AND model<>?1",
    [Q_GET] = "SELECT submit, prompt, tokens, stop, bias, t_ms, owner, state, error, n_prompt FROM job WHERE id=?1 AND model=?2",
    [Q_GET_CHOICE] = "SELECT idx, done, tokens, top, shown FROM choice WHERE job=?1 ORDER BY idx",
    [Q_GET_EVENT] = "SELECT choice, row, kind, payload FROM event WHERE job=?1 ORDER BY seq",
    [Q_LIST] = "SELECT id, custom_id, state, n_prompt, n_tokens, finish, error, owner, t_ms, t_end_ms FROM job WHERE model=?1 ORDER BY id DESC LIMIT ?2",
};
/* AUTOINCREMENT: a number is never given twice, whatever is forgotten. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, owner TEXT NOT NULL, custom_id TEXT NOT NULL,"
    " submit BLOB NOT NULL, prompt BLOB, tokens BLOB, stop BLOB, bias BLOB, t_ms INTEGER NOT NULL, t_end_ms INTEGER NOT NULL DEFAULT 0,"
    " state INTEGER NOT NULL DEFAULT 0, error TEXT, n_prompt INTEGER NOT NULL DEFAULT 0, n_tokens INTEGER NOT NULL DEFAULT 0,"
    " finish INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX IF NOT EXISTS job_unfinished ON job(id) WHERE state=0;"
    "CREATE TABLE IF NOT EXISTS event(job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE, seq INTEGER NOT NULL, choice INTEGER NOT NULL,"
    " row INTEGER NOT NULL, kind INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(job, seq)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS choice(job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE, idx INTEGER NOT NULL, done BLOB NOT NULL,"
    " tokens BLOB, top BLOB, shown BLOB, PRIMARY KEY(job, idx)) WITHOUT ROWID;";

err_code journal_fail(journal *g, const char *what, err *e)
{
    return err_set(e, ERR_IO, "journal %s: %s: %s", g->path, what, sqlite3_errmsg(g->db));
}

static err_code run(journal *g, const char *what, err *e)
{
    return sqlite3_exec(g->db, what, NULL, NULL, NULL) ? journal_fail(g, what, e) : ERR_OK;
}

/* ---- open ---------------------------------------------------------------------------------------------------------- */

static err_code whose(journal *g, err *e)
{
    sqlite3_stmt *s;
    int id = 0, rows = 0;
    if (sqlite3_prepare_v2(g->db, "SELECT (SELECT * FROM pragma_application_id), (SELECT count(*) FROM sqlite_master)", -1, &s, NULL)) return journal_fail(g, "cannot read", e);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) id = sqlite3_column_int(s, 0), rows = sqlite3_column_int(s, 1);
    sqlite3_finalize(s);
    if (rc != SQLITE_ROW) return journal_fail(g, "cannot read", e);
    if (id == APPLICATION_ID_BEFORE) return err_set(e, ERR_IO, "journal %s: written by an older sluice; move it away, or name another with --journal", g->path);
    if (id != APPLICATION_ID && rows) return err_set(e, ERR_IO, "journal %s: this file belongs to another program", g->path);
    return ERR_OK;
}

static uint64_t number(journal *g, int q)
{
    uint64_t n = sqlite3_step(g->q[q]) == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(g->q[q], 0) : 0;
    sqlite3_reset(g->q[q]);
    return n;
}

static err_code prepare(journal *g, err *e)
{
    char pragma[64];
    snprintf(pragma, sizeof pragma, "PRAGMA application_id=%d", APPLICATION_ID);
    const char *const first[] = {
        "PRAGMA locking_mode=EXCLUSIVE", /* one coordinator a journal; a second one gets "locked" */
        "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON", pragma, schema,
    };
    err_code rc = whose(g, e);
    for (size_t i = 0; !rc && i < sizeof first / sizeof *first; i++) rc = run(g, first[i], e);
    for (int i = 0; !rc && i < Q_COUNT; i++)
        if (sqlite3_prepare_v3(g->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &g->q[i], NULL)) rc = journal_fail(g, "cannot prepare", e);
    if (rc) return rc;
    g->last_id = number(g, Q_LAST);
    g->finished = number(g, Q_FINISHED);
    return ERR_OK;
}

err_code journal_open(journal **out, const char *path, const char *digest, err *e)
{
    *out = NULL;
    journal *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NOMEM, "out of memory");
    snprintf(g->path, sizeof g->path, "%s", path);
    snprintf(g->model, sizeof g->model, "%s", digest);
    err_code rc = sqlite3_open_v2(path, &g->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL)
                      ? err_set(e, ERR_IO, "journal %s: %s", path, g->db ? sqlite3_errmsg(g->db) : "out of memory")
                      : prepare(g, e);
    if (rc) journal_close(&g);
    *out = g;
    return rc;
}

void journal_close(journal **gp)
{
    journal *g = *gp;
    if (!g) return;
    err e;
    journal_commit(g, &e);
    for (int i = 0; i < Q_COUNT; i++) sqlite3_finalize(g->q[i]);
    sqlite3_close(g->db);
    free(g);
    *gp = NULL;
}

uint64_t journal_last_id(const journal *g) { return g->last_id; }
uint64_t journal_finished(const journal *g) { return g->finished; }

/* ---- write --------------------------------------------------------------------------------------------------------- */

static void roll_back(journal *g)
{
    sqlite3_exec(g->db, "ROLLBACK", NULL, NULL, NULL); /* of one that SQLite has ended itself: an error that matters to nobody */
    g->open = false;
    g->finished = number(g, Q_FINISHED);
}

static err_code begin(journal *g, err *e)
{
    if (g->open) return ERR_OK;
    err_code rc = run(g, "BEGIN IMMEDIATE", e);
    g->open = rc == ERR_OK;
    return rc;
}

static void bind_bytes(sqlite3_stmt *s, int i, const void *p, size_t n) { sqlite3_bind_blob64(s, i, p ? p : "", n, SQLITE_STATIC); }

static err_code step(journal *g, int q, err *e)
{
    int rc = sqlite3_step(g->q[q]);
    if (rc == SQLITE_DONE) return sqlite3_reset(g->q[q]), ERR_OK;
    journal_fail(g, "cannot write", e); /* reads the reason, so in front of the reset */
    sqlite3_reset(g->q[q]);
    roll_back(g);
    return e ? e->code : ERR_IO;
}

/* begin() and a header, for the two that write one. */
static err_code header(journal *g, const message *m, uint8_t head[static MSG_HEADER_MAX], size_t *n, err *e)
{
    err_code rc = begin(g, e);
    *n = MSG_HEADER_MAX;
    if (!rc && (rc = msg_encode(m, head, n, e))) roll_back(g);
    return rc;
}

err_code journal_add(journal *g, const job *j, err *e)
{
    uint8_t head[MSG_HEADER_MAX];
    size_t n;
    message m = { .type = MSG_SUBMIT, .submit = j->ask };
    err_code rc = header(g, &m, head, &n, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_ADD];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    bind_bytes(s, 2, head, n);
    bind_bytes(s, 3, j->prompt.ptr, j->prompt.len);
    bind_bytes(s, 4, j->tokens.id, j->ask.n_tokens * sizeof *j->tokens.id);
    bind_bytes(s, 5, j->stop.ptr, j->stop.len);
    bind_bytes(s, 6, j->bias, j->ask.n_bias * sizeof *j->bias);
    sqlite3_bind_int64(s, 7, (sqlite3_int64)j->wall_ms);
    sqlite3_bind_text(s, 8, g->model, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 9, j->owner, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 10, j->ask.custom_id, -1, SQLITE_STATIC);
    rc = step(g, Q_ADD, e);
    if (!rc && j->id > g->last_id) g->last_id = j->id;
    return rc;
}

err_code journal_events(journal *g, const job *j, err *e)
{
    err_code rc = begin(g, e);
    sqlite3_stmt *s = g->q[Q_EVENT];
    for (uint32_t i = j->log.durable; !rc && i < j->log.n; i++) {
        const event *v = &j->log.at[i];
        sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
        sqlite3_bind_int64(s, 2, i);
        sqlite3_bind_int64(s, 3, v->choice);
        sqlite3_bind_int64(s, 4, v->row);
        sqlite3_bind_int64(s, 5, v->kind);
        bind_bytes(s, 6, v->payload.ptr, v->payload.len);
        rc = step(g, Q_EVENT, e);
    }
    return rc;
}

static err_code end_choice(journal *g, const job *j, uint32_t i, err *e)
{
    const choice *c = &j->choice[i];
    uint8_t head[MSG_HEADER_MAX];
    size_t n;
    message m = { .type = MSG_DONE, .done = job_done_message(j, i) };
    m.done.n_prompt = 0; /* the ids themselves are not kept */
    err_code rc = header(g, &m, head, &n, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_CHOICE];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    sqlite3_bind_int64(s, 2, i);
    bind_bytes(s, 3, head, n);
    bind_bytes(s, 4, c->tok, c->n_tok * sizeof *c->tok);
    bind_bytes(s, 5, c->top, c->n_top * sizeof *c->top);
    bind_bytes(s, 6, c->shown.ptr, c->shown.len);
    return step(g, Q_CHOICE, e);
}

err_code journal_end(journal *g, const job *j, err *e)
{
    err_code rc = begin(g, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_END];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    sqlite3_bind_int64(s, 2, j->failure.code ? ROW_FAILED : j->cancelled ? ROW_CANCELLED : ROW_DONE);
    sqlite3_bind_text(s, 3, j->failure.code ? j->failure.text : "", -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, (sqlite3_int64)clock_wall_ms());
    sqlite3_bind_int64(s, 5, (sqlite3_int64)(j->tokens.n ? j->tokens.n : j->n_prompt));
    sqlite3_bind_int64(s, 6, (sqlite3_int64)j->choice[0].n_tok);
    sqlite3_bind_int64(s, 7, j->choice[0].finish);
    rc = step(g, Q_END, e);
    if (rc || !sqlite3_changes(g->db)) return rc; /* it has an end already */
    g->finished++;
    for (uint32_t i = 0; !rc && i < j->n_choices; i++) rc = end_choice(g, j, i, e);
    return rc;
}

static err_code trim(journal *g, int q, uint64_t bound, err *e)
{
    err_code rc = begin(g, e);
    if (rc) return rc;
    sqlite3_bind_int64(g->q[q], 1, (sqlite3_int64)bound);
    rc = step(g, q, e);
    if (!rc) g->finished -= (uint64_t)sqlite3_changes(g->db);
    return rc;
}

err_code journal_trim(journal *g, uint64_t keep, uint64_t hours, err *e)
{
    uint64_t now = clock_wall_ms(), age = hours * 3600000u;
    err_code rc = g->finished > keep ? trim(g, Q_TRIM_COUNT, g->finished - keep, e) : ERR_OK;
    return rc || !hours || now <= age ? rc : trim(g, Q_TRIM_AGE, now - age, e);
}

err_code journal_commit(journal *g, err *e)
{
    if (!g->open) return ERR_OK;
    err_code rc = run(g, "COMMIT", e);
    g->open = false;
    if (rc) roll_back(g); /* a full disk */
    return rc;
}
