#include "coordinator/journal.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define APPLICATION_ID 0x534c4a32   /* "SLJ2" */

enum { Q_ADD, Q_PASSAGES, Q_FINISH, Q_CHOICE, Q_FORGET, Q_FORGET_CHOICES, Q_LOAD, Q_LOAD_CHOICE, Q_LAST, Q_COUNT };
static const char *const sql[Q_COUNT] = {
    [Q_ADD] = "INSERT INTO job(id, submit, prompt, tokens, stop, bias, t_ms, model) VALUES(?1,?2,?3,?4,?5,?6,?7,?8)",
    [Q_PASSAGES] = "UPDATE job SET prompt=?2, passages=?3, n_passages=?4 WHERE id=?1",
    [Q_FINISH] = "UPDATE job SET done=1, code=?2, error=?3, full_rows=?4, n_prompt=?5 WHERE id=?1 AND done=0",
    [Q_CHOICE] = "INSERT OR IGNORE INTO choice(job, idx, finish, slides, tokens, top, shown) VALUES(?1,?2,?3,?4,?5,?6,?7)",
    /* the greatest id stays, so that none is given twice */
    [Q_FORGET] = "DELETE FROM job WHERE id<?1 AND done=1 AND id<(SELECT max(id) FROM job)",
    [Q_FORGET_CHOICES] = "DELETE FROM choice WHERE job<?1 AND job NOT IN (SELECT id FROM job)",
    [Q_LOAD] = "SELECT id, submit, prompt, tokens, stop, bias, passages, n_passages, done, code, error, full_rows, n_prompt"
               " FROM job WHERE model=?1 ORDER BY id", /* jobs for another model wait for a cluster that runs it */
    [Q_LAST] = "SELECT coalesce(max(id), 0), coalesce(sum(model<>?1 AND NOT done), 0) FROM job",
    [Q_LOAD_CHOICE] = "SELECT idx, finish, slides, tokens, top, shown FROM choice WHERE job=?1 ORDER BY idx",
};
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY, model TEXT NOT NULL, submit BLOB NOT NULL, prompt BLOB, tokens BLOB, stop BLOB, bias BLOB, passages BLOB,"
    " n_passages INTEGER NOT NULL DEFAULT 0, t_ms INTEGER, done INTEGER NOT NULL DEFAULT 0, code INTEGER NOT NULL DEFAULT 0, error TEXT,"
    " full_rows INTEGER NOT NULL DEFAULT 0, n_prompt INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS choice(job INTEGER, idx INTEGER, finish INTEGER, slides INTEGER, tokens BLOB, top BLOB, shown BLOB,"
    " PRIMARY KEY(job, idx)) WITHOUT ROWID;";

struct journal {
    sqlite3 *db;
    sqlite3_stmt *q[Q_COUNT];
    bool open;                  /* a transaction is under way */
    char path[512], model[33];  /* model: digest */
};

static err_code fail(journal *g, const char *what, err *e)
{
    return err_set(e, ERR_IO, "journal %s: %s: %s", g->path, what, sqlite3_errmsg(g->db));
}

static err_code run(journal *g, const char *what, err *e) { return sqlite3_exec(g->db, what, NULL, NULL, NULL) ? fail(g, what, e) : ERR_OK; }

/* ---- open ---------------------------------------------------------------------------------------------------------- */

static err_code whose(journal *g, err *e)
{
    sqlite3_stmt *s;
    int id = 0, rows = 0;
    if (sqlite3_prepare_v2(g->db, "SELECT (SELECT * FROM pragma_application_id), (SELECT count(*) FROM sqlite_master)", -1, &s, NULL)) return fail(g, "cannot read", e);
    if (sqlite3_step(s) == SQLITE_ROW) id = sqlite3_column_int(s, 0), rows = sqlite3_column_int(s, 1);
    sqlite3_finalize(s);
    if (id != APPLICATION_ID && rows) return err_set(e, ERR_IO, "journal %s: this file belongs to another program", g->path);
    return ERR_OK;
}

static err_code prepare(journal *g, err *e)
{
    char pragma[64];
    snprintf(pragma, sizeof pragma, "PRAGMA application_id=%d", APPLICATION_ID);
    err_code rc = whose(g, e);
    if (!rc) rc = run(g, "PRAGMA locking_mode=EXCLUSIVE", e); /* one coordinator a journal; a second one gets "locked" */
    if (!rc) rc = run(g, "PRAGMA journal_mode=WAL", e);
    if (!rc) rc = run(g, "PRAGMA synchronous=FULL", e);
    if (!rc) rc = run(g, pragma, e);
    if (!rc) rc = run(g, schema, e);
    for (int i = 0; !rc && i < Q_COUNT; i++)
        if (sqlite3_prepare_v3(g->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &g->q[i], NULL)) rc = fail(g, "cannot prepare", e);
    return rc;
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

/* ---- write --------------------------------------------------------------------------------------------------------- */

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
    sqlite3_reset(g->q[q]);
    return rc == SQLITE_DONE ? ERR_OK : fail(g, "cannot write", e);
}

err_code journal_add(journal *g, const job *j, err *e)
{
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    message m = { .type = MSG_SUBMIT, .submit = j->ask };
    err_code rc = begin(g, e);
    if (!rc) rc = msg_encode(&m, head, &n, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_ADD];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    bind_bytes(s, 2, head, n);
    bind_bytes(s, 3, j->prompt.ptr, j->prompt.len);
    bind_bytes(s, 4, j->tokens.id, j->tokens.n * sizeof *j->tokens.id);
    bind_bytes(s, 5, j->stop.ptr, j->stop.len);
    bind_bytes(s, 6, j->bias, j->ask.n_bias * sizeof *j->bias);
    sqlite3_bind_int64(s, 7, (sqlite3_int64)clock_wall_ms());
    sqlite3_bind_text(s, 8, g->model, -1, SQLITE_STATIC);
    return step(g, Q_ADD, e);
}

err_code journal_passages(journal *g, const job *j, err *e)
{
    err_code rc = begin(g, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_PASSAGES];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    bind_bytes(s, 2, j->prompt.ptr, j->prompt.len);
    bind_bytes(s, 3, j->passages.ptr, j->passages.len);
    sqlite3_bind_int64(s, 4, j->n_passages);
    return step(g, Q_PASSAGES, e);
}

static err_code finish_choice(journal *g, const job *j, uint32_t i, err *e)
{
    const choice *c = &j->choice[i];
    sqlite3_stmt *s = g->q[Q_CHOICE];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    sqlite3_bind_int64(s, 2, i);
    sqlite3_bind_int64(s, 3, c->finish);
    sqlite3_bind_int64(s, 4, c->slides);
    bind_bytes(s, 5, c->tok, c->n_tok * sizeof *c->tok);
    bind_bytes(s, 6, c->top, c->n_top * sizeof *c->top);
    bind_bytes(s, 7, c->shown.ptr, c->shown.len);
    return step(g, Q_CHOICE, e);
}

err_code journal_finish(journal *g, const job *j, err *e)
{
    err_code rc = begin(g, e);
    if (rc) return rc;
    sqlite3_stmt *s = g->q[Q_FINISH];
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    sqlite3_bind_int64(s, 2, j->failure.code);
    sqlite3_bind_text(s, 3, j->failure.code ? j->failure.text : "", -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, j->full_rows);
    sqlite3_bind_int64(s, 5, (sqlite3_int64)j->tokens.n);
    rc = step(g, Q_FINISH, e);
    for (uint32_t i = 0; !rc && i < j->n_choices; i++) rc = finish_choice(g, j, i, e);
    return rc;
}

err_code journal_forget(journal *g, uint64_t below, err *e)
{
    err_code rc = begin(g, e);
    for (int q = Q_FORGET; !rc && q <= Q_FORGET_CHOICES; q++) {
        sqlite3_bind_int64(g->q[q], 1, (sqlite3_int64)below);
        rc = step(g, q, e);
    }
    return rc;
}

err_code journal_commit(journal *g, err *e)
{
    if (!g->open) return ERR_OK;
    err_code rc = run(g, "COMMIT", e);
    if (rc) sqlite3_exec(g->db, "ROLLBACK", NULL, NULL, NULL); /* a full disk: the caller refuses what it had not acknowledged */
    g->open = false;
    return rc;
}

/* ---- read ---------------------------------------------------------------------------------------------------------- */

static view column(sqlite3_stmt *s, int i)
{
    const void *p = sqlite3_column_blob(s, i); /* before _bytes: the order SQLite asks for */
    return (view){ p ? p : "", (size_t)sqlite3_column_bytes(s, i) };
}

/* A record of `size`-byte items; false when it is torn. */
static bool take(view v, size_t size, void **out, size_t *n)
{
    if (v.len % size) return false;
    *n = v.len / size;
    *out = malloc(v.len + 1);
    if (*out) memcpy(*out, v.ptr, v.len);
    return *out != NULL;
}

static bool load_choice(sqlite3_stmt *s, job *j)
{
    uint32_t i = (uint32_t)sqlite3_column_int64(s, 0);
    if (i >= j->n_choices || j->choice[i].tok) return false;
    choice *c = &j->choice[i];
    view shown = column(s, 5);
    if (!take(column(s, 3), sizeof *c->tok, (void **)&c->tok, &c->n_tok) || !take(column(s, 4), sizeof *c->top, (void **)&c->top, &c->n_top)) return false;
    c->cap_tok = c->n_tok;
    c->cap_top = c->n_top;
    for (size_t k = 0; k < c->n_tok; k++)
        if (c->tok[k].text_end > shown.len || c->tok[k].top_end > c->n_top) return false;
    int finish = sqlite3_column_int(s, 1);
    if (finish < 0 || finish > FINISH_SCORED) return false;
    c->finish = (finish_reason)finish;
    c->slides = (uint32_t)sqlite3_column_int(s, 2);
    c->done = c->done_sent = true;
    return text_add(&c->shown, shown.ptr, shown.len);
}

static err_code load_choices(journal *g, job *j, err *e)
{
    sqlite3_stmt *s = g->q[Q_LOAD_CHOICE];
    int rc;
    bool ok = true;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) ok = load_choice(s, j) && ok;
    sqlite3_reset(s);
    if (rc != SQLITE_DONE) return fail(g, "cannot read", e);
    return ok && job_is_done(j) ? ERR_OK : err_set(e, ERR_IO, "journal %s: the answer of job %" PRIu64 " is damaged", g->path, j->id);
}

static err_code load_job(journal *g, job_list *l, uint32_t V, err *e)
{
    sqlite3_stmt *s = g->q[Q_LOAD];
    uint64_t id = (uint64_t)sqlite3_column_int64(s, 0);
    view head = column(s, 1), passages = column(s, 6);
    packet in = { .n_frames = 4 };
    in.frame[SUBMIT_PROMPT] = column(s, 2);
    in.frame[SUBMIT_TOKENS] = column(s, 3);
    in.frame[SUBMIT_STOP] = column(s, 4);
    in.frame[SUBMIT_BIAS] = column(s, 5);
    job *j;
    err_code rc = id && id <= JOB_ID_MAX ? msg_decode(&in.head, head.ptr, head.len, e) : err_set(e, ERR_IO, "no such number can be");
    if (!rc && in.head.type != MSG_SUBMIT) rc = err_set(e, ERR_IO, "not a SUBMIT");
    if (!rc) rc = msg_check_frames(&in.head, in.frame, 4, e);
    l->next_id = id - 1;
    if (!rc) rc = job_new(l, &in, V, &j, e);
    if (rc) return err_wrap(e, "journal %s: job %" PRIu64, g->path, id);
    j->has_client = false;
    j->acked = true;
    j->ask.detach = true;
    j->n_passages = (uint32_t)sqlite3_column_int64(s, 7);
    j->retrieved = passages.len > 0;
    if (!text_add(&j->passages, passages.ptr, passages.len)) return err_set(e, ERR_NOMEM, "out of memory");
    if (!sqlite3_column_int(s, 8)) return ERR_OK;
    j->state = JOB_DONE;
    j->recorded = true;
    int code = sqlite3_column_int(s, 9);
    int64_t n_prompt = sqlite3_column_int64(s, 12);
    view why = column(s, 10);
    j->failure.code = code >= 0 && code < ERR_COUNT ? (err_code)code : ERR_STATE;
    snprintf(j->failure.text, sizeof j->failure.text, "%.*s", (int)why.len, (const char *)why.ptr);
    j->full_rows = (uint32_t)sqlite3_column_int64(s, 11);
    j->n_prompt = n_prompt > 0 && n_prompt <= 1 << 24 ? (uint32_t)n_prompt : 0; /* what DONE can say */
    return load_choices(g, j, e);
}

/* Numbers go on behind every job there ever was, those of other models too. */
static err_code last_id(journal *g, job_list *l, err *e)
{
    sqlite3_stmt *s = g->q[Q_LAST];
    sqlite3_bind_text(s, 1, g->model, -1, SQLITE_STATIC);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        l->next_id = (uint64_t)sqlite3_column_int64(s, 0);
        sqlite3_int64 others = sqlite3_column_int64(s, 1);
        if (others) LOG(LOG_WARN, "JOURNAL-OTHER-MODEL", "jobs=%lld", (long long)others);
    }
    sqlite3_reset(s);
    return rc == SQLITE_ROW ? ERR_OK : fail(g, "cannot read", e);
}

err_code journal_load(journal *g, job_list *l, uint32_t V, err *e)
{
    int rc;
    err_code bad = ERR_OK;
    sqlite3_bind_text(g->q[Q_LOAD], 1, g->model, -1, SQLITE_STATIC);
    while (!bad && (rc = sqlite3_step(g->q[Q_LOAD])) == SQLITE_ROW) bad = load_job(g, l, V, e);
    if (!bad && rc != SQLITE_DONE) bad = fail(g, "cannot read", e);
    sqlite3_reset(g->q[Q_LOAD]);
    return bad ? bad : last_id(g, l, e);
}
