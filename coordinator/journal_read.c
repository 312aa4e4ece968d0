/* Jobs out of the journal. What is damaged is named and set aside; it stops nothing else. */
#include "coordinator/journal_db.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static view column(sqlite3_stmt *s, int i)
{
    const void *p = sqlite3_column_blob(s, i); /* before _bytes: the order SQLite asks for */
    return (view){ p ? p : "", (size_t)sqlite3_column_bytes(s, i) };
}

static const char *words(sqlite3_stmt *s, int i)
{
    const void *p = sqlite3_column_text(s, i);
    return p ? p : "";
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

/* ---- choices ------------------------------------------------------------------------------------------------------- */

static bool take_done(view head, job *j, choice *c, uint32_t i)
{
    message m;
    if (msg_decode(&m, head.ptr, head.len, NULL) || m.type != MSG_DONE || m.done.index != i || m.done.finish > FINISH_SCORED) return false;
    const msg_done *d = &m.done;
    c->finish = (finish_reason)d->finish;
    c->slides = (uint32_t)d->slides;
    c->predicted = (uint32_t)d->predicted;
    c->done = c->timed = true;
    memcpy(c->us, (uint64_t[4]){ d->queue_us, d->ttft_us, d->prefill_us, d->decode_us }, sizeof c->us);
    j->cancelled = j->cancelled || c->finish == FINISH_CANCELLED;
    j->n_prompt = (uint32_t)d->prompt_tokens;
    j->way = (prefill_way)(d->prefill_mode <= WAY_HYBRID ? d->prefill_mode : WAY_PIPELINE);
    j->full_rows = (uint32_t)d->full_rows;
    j->n_passages = (uint32_t)d->n_passages;
    j->cached = (uint32_t)d->cached;
    snprintf(j->aux, sizeof j->aux, "%s", d->aux);
    snprintf(j->why, sizeof j->why, "%s", d->why);
    snprintf(j->cache_note, sizeof j->cache_note, "%s", d->cache_note);
    if (d->code) j->failure.code = d->code < ERR_COUNT ? (err_code)d->code : ERR_STATE;
    return true;
}

static bool take_choice(sqlite3_stmt *s, job *j)
{
    sqlite3_int64 i = sqlite3_column_int64(s, 0);
    if (i < 0 || i >= j->n_choices || j->choice[i].done) return false;
    choice *c = &j->choice[i];
    view shown = column(s, 4);
    if (!take_done(column(s, 1), j, c, (uint32_t)i)) return false;
    if (!take(column(s, 2), sizeof *c->tok, (void **)&c->tok, &c->n_tok) || !take(column(s, 3), sizeof *c->top, (void **)&c->top, &c->n_top)) return false;
    c->cap_tok = c->n_tok;
    c->cap_top = c->n_top;
    size_t text_end = 0, top_end = 0;
    for (size_t k = 0; k < c->n_tok; k++) {
        const answer_token *t = &c->tok[k];
        if (t->text_end < text_end || t->top_end < top_end || t->text_end > shown.len || t->top_end > c->n_top) return false;
        text_end = t->text_end;
        top_end = t->top_end;
    }
    return text_add(&c->shown, shown.ptr, shown.len);
}

/* All rows of a query about one job. */
static err_code each(journal *g, job *j, int q, bool (*take_row)(sqlite3_stmt *, job *), const char *what, err *e)
{
    sqlite3_stmt *s = g->q[q];
    int rc;
    bool ok = true;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)j->id);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) ok = take_row(s, j) && ok;
    if (rc != SQLITE_DONE) err_set(e, ERR_IO, "%s: %s", what, sqlite3_errmsg(g->db));
    sqlite3_reset(s);
    if (rc != SQLITE_DONE) return ERR_IO;
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s", what);
}

/* ---- events -------------------------------------------------------------------------------------------------------- */

static bool take_event(sqlite3_stmt *s, job *j)
{
    sqlite3_int64 index = sqlite3_column_int64(s, 0), row = sqlite3_column_int64(s, 1), kind = sqlite3_column_int64(s, 2);
    if (index < 0 || index > 63 || row < 0 || row > UINT32_MAX || kind < 0 || kind > 255 || !event_name((uint32_t)kind)) return false;
    if (kind == EVENT_PASSAGES) {
        view v = column(s, 3);
        json_t *o = json_loadb(v.ptr, v.len, 0, NULL);
        j->n_passages = (uint32_t)json_array_size(o);
        json_decref(o);
    }
    return log_add(&j->log, (uint32_t)index, (uint32_t)row, (event_kind)kind, column(s, 3));
}

/* ---- a job --------------------------------------------------------------------------------------------------------- */

static err_code from_submit(journal *g, uint64_t id, uint32_t V, job **out, err *e)
{
    sqlite3_stmt *s = g->q[Q_GET];
    view head = column(s, 0);
    packet in = { .n_frames = 4 };
    in.frame[SUBMIT_PROMPT] = column(s, 1);
    in.frame[SUBMIT_TOKENS] = column(s, 2);
    in.frame[SUBMIT_STOP] = column(s, 3);
    in.frame[SUBMIT_BIAS] = column(s, 4);
    err_code rc = msg_decode(&in.head, head.ptr, head.len, e);
    if (!rc && in.head.type != MSG_SUBMIT) rc = err_set(e, ERR_IO, "not a SUBMIT");
    if (!rc) rc = msg_check_frames(&in.head, in.frame, 4, e);
    return rc ? rc : job_make(id, &in, V, out, e);
}

/* The deadline is a moment on the wall: what is left of it, on our clock. */
static void take_times(job *j, sqlite3_int64 t_ms)
{
    uint64_t now = clock_wall_ms(), due = (uint64_t)(t_ms > 0 ? t_ms : 0) + j->ask.deadline_ms;
    j->wall_ms = (uint64_t)(t_ms > 0 ? t_ms : 0);
    if (j->deadline) j->deadline = clock_ns() + (due > now ? due - now : 0) * 1000000u;
}

static err_code read_row(journal *g, uint64_t id, uint32_t V, job **out, err *e)
{
    sqlite3_stmt *s = g->q[Q_GET];
    err_code rc = from_submit(g, id, V, out, e);
    if (rc) return rc;
    job *j = *out;
    int state = sqlite3_column_int(s, 7);
    take_times(j, sqlite3_column_int64(s, 5));
    snprintf(j->owner, sizeof j->owner, "%s", words(s, 6));
    j->on_disk = j->acked = j->ask.detach = true;
    if ((rc = each(g, j, Q_GET_EVENT, take_event, "its log is damaged", e))) return rc;
    j->log.durable = j->log.n;
    if (state == ROW_OPEN) return ERR_OK;
    j->state = JOB_DONE;
    j->recorded = j->archived = true;
    j->cancelled = state == ROW_CANCELLED;
    snprintf(j->failure.text, sizeof j->failure.text, "%s", words(s, 8));
    if (state == ROW_FAILED) j->failure.code = ERR_STATE; /* its choices know better */
    rc = each(g, j, Q_GET_CHOICE, take_choice, "its answer is damaged", e);
    return rc || job_is_done(j) ? rc : err_set(e, ERR_IO, "its answer is damaged");
}

/* It failed, and with what it failed can be read as long as it is kept. */
static err_code set_aside(journal *g, uint64_t id, int state, job **out, err *e)
{
    err why = *e;
    err_wrap(&why, "the record of job %" PRIu64 " in the journal is damaged", id);
    LOG(LOG_WARN, "JOURNAL-DAMAGED", "job=%" PRIu64 " file=%s text=\"%s\"", id, g->path, e->text);
    why.code = ERR_IO;
    *out = job_stub(id, &why);
    if (!*out) return err_set(e, ERR_NOMEM, "out of memory");
    snprintf((*out)->owner, sizeof (*out)->owner, "%s", OWNER_LOCAL);
    (*out)->recorded = (*out)->archived = state != ROW_OPEN; /* else record.c writes its end */
    return ERR_OK;
}

err_code journal_get(journal *g, uint64_t id, uint32_t V, job **out, err *e)
{
    sqlite3_stmt *s = g->q[Q_GET];
    *out = NULL;
    if (!id || id > JOB_ID_MAX) return err_set(e, ERR_ABSENT, "there is no job %" PRIu64, id);
    sqlite3_bind_int64(s, 1, (sqlite3_int64)id);
    sqlite3_bind_text(s, 2, g->model, -1, SQLITE_STATIC);
    int rc = sqlite3_step(s), state = rc == SQLITE_ROW ? sqlite3_column_int(s, 7) : ROW_OPEN;
    err_code bad = rc == SQLITE_ROW    ? read_row(g, id, V, out, e)
                   : rc == SQLITE_DONE ? err_set(e, ERR_ABSENT, "there is no job %" PRIu64, id)
                                       : err_set(e, ERR_IO, "%s", sqlite3_errmsg(g->db));
    sqlite3_reset(s);
    if (!bad || (bad == ERR_ABSENT && rc == SQLITE_DONE)) return bad;
    if (*out) job_free(*out);
    return bad == ERR_NOMEM ? bad : set_aside(g, id, state, out, e);
}

/* ---- lists --------------------------------------------------------------------------------------------------------- */

err_code journal_unfinished(journal *g, uint64_t **ids, size_t *n, err *e)
{
    int rc;
    size_t cap = 0;
    *ids = NULL;
    *n = 0;
    sqlite3_bind_text(g->q[Q_OTHERS], 1, g->model, -1, SQLITE_STATIC);
    sqlite3_int64 others = sqlite3_step(g->q[Q_OTHERS]) == SQLITE_ROW ? sqlite3_column_int64(g->q[Q_OTHERS], 0) : 0;
    sqlite3_reset(g->q[Q_OTHERS]);
    if (others) LOG(LOG_WARN, "JOURNAL-OTHER-MODEL", "jobs=%lld", (long long)others);
    sqlite3_bind_text(g->q[Q_UNFINISHED], 1, g->model, -1, SQLITE_STATIC);
    while ((rc = sqlite3_step(g->q[Q_UNFINISHED])) == SQLITE_ROW) {
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            uint64_t *more = realloc(*ids, cap * sizeof *more);
            if (!more) break;
            *ids = more;
        }
        (*ids)[(*n)++] = (uint64_t)sqlite3_column_int64(g->q[Q_UNFINISHED], 0);
    }
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) journal_fail(g, "cannot read", e);
    sqlite3_reset(g->q[Q_UNFINISHED]);
    if (rc == SQLITE_ROW) return err_set(e, ERR_NOMEM, "out of memory");
    return rc == SQLITE_DONE ? ERR_OK : ERR_IO;
}

static json_t *row_json(sqlite3_stmt *s)
{
    static const char *const names[] = { "queued", "done", "failed", "cancelled" };
    int state = sqlite3_column_int(s, 2);
    if (state < ROW_OPEN || state > ROW_CANCELLED) state = ROW_FAILED;
    json_t *custom = json_string(words(s, 1)), *error = state == ROW_FAILED ? json_string(words(s, 6)) : json_null();
    return json_pack("{s:I,s:o,s:s,s:I,s:I,s:s,s:o,s:s,s:I,s:I}", "id", (json_int_t)sqlite3_column_int64(s, 0), "custom_id", custom ? custom : json_string(""),
                     "state", names[state], "prompt_tokens", (json_int_t)sqlite3_column_int64(s, 3), "tokens", (json_int_t)sqlite3_column_int64(s, 4),
                     "finish_reason", finish_name((uint64_t)sqlite3_column_int64(s, 5)), "error", error ? error : json_string("(no text)"), "owner",
                     words(s, 7), "submitted_ms", (json_int_t)sqlite3_column_int64(s, 8), "ended_ms", (json_int_t)sqlite3_column_int64(s, 9));
}

err_code journal_list(journal *g, uint32_t limit, json_t *list, err *e)
{
    sqlite3_stmt *s = g->q[Q_LIST];
    int rc;
    sqlite3_bind_text(s, 1, g->model, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, limit);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) json_array_insert_new(list, 0, row_json(s));
    if (rc != SQLITE_DONE) journal_fail(g, "cannot read", e);
    sqlite3_reset(s);
    return rc == SQLITE_DONE ? ERR_OK : ERR_IO;
}
