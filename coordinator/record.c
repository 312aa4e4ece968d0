/* Between the jobs in memory and the journal. Sends only ACCEPTED, and FAIL to those who are not accepted. */
#include "coordinator/record.h"
#include "coordinator/front.h"
#include "coordinator/journal.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_NS 1000000000u    /* a journal that could not be written is tried again */

/* Is it the journal's business? Scores are not kept, a replay is one look back. */
static bool durable(const coordinator *c, const job *j) { return c->journal && j->ask.kind == 0 && !j->replays && !j->refused; }

/* A detached job that ended only because the cluster failed: the next coordinator runs it again. */
static bool outlives(const coordinator *c, const job *j) { return c->fatal.code && j->failure.code && j->ask.detach; }

static bool has_news(const coordinator *c, const job *j)
{
    if (j->state == JOB_CHECKING) return false;
    if (!durable(c, j)) return !j->on_disk || (j->state == JOB_DONE && !j->recorded);
    return !j->on_disk || j->log.durable < j->log.n || (j->state == JOB_DONE && !j->recorded);
}

bool record_allows(const coordinator *c, const job *j)
{
    if (!j->acked || !j->on_disk) return false;
    if (j->state == JOB_DONE && !j->recorded) return false;
    return !durable(c, j) || j->log.durable == j->log.n;
}

const char *record_trouble(const coordinator *c) { return c->journal_trouble.code ? c->journal_trouble.text : NULL; }

/* ---- one round ----------------------------------------------------------------------------------------------------- */

static err_code write_job(coordinator *c, const job *j, err *e)
{
    err_code rc = ERR_OK;
    if (!durable(c, j)) return rc;
    if (!j->on_disk) rc = journal_add(c->journal, j, e);
    if (!rc && j->log.durable < j->log.n) rc = journal_events(c->journal, j, e);
    if (!rc && j->state == JOB_DONE && !j->recorded && !outlives(c, j)) rc = journal_end(c->journal, j, e);
    return rc;
}

static void mark(coordinator *c, job *j)
{
    bool kept = durable(c, j);
    j->on_disk = true;
    j->log.durable = j->log.n;
    if (j->state != JOB_DONE || j->recorded) return;
    j->recorded = true;
    j->archived = kept && !outlives(c, j);
    j->t_over = clock_ns();
}

static void refuse(coordinator *c, job *j, const err *why)
{
    j->acked = j->refused = j->on_disk = true;
    front_fail(c, &j->client, j->ask.ref, why, 0);
    job_fail(c, j, why);
    j->recorded = true;
}

static void accept(coordinator *c, job *j)
{
    err e;
    message m = msg_init(MSG_ACCEPTED);
    m.accepted.ref = j->ask.ref;
    m.accepted.job = j->id;
    err_code rc = front_send(c, &j->client, &m, NULL, &e);
    if (rc == ERR_TIMEOUT) return; /* a client that submits faster than it reads: the next round tries again */
    j->acked = true;
    if (rc == ERR_GONE && !j->ask.detach) job_cancel(c, j);
    if (rc || j->ask.detach) return;
    watcher *w = watch_add(&j->watch, &j->client, j->n_choices);
    if (w) w->submitter = true;
    else job_fail(c, j, &(err){ ERR_NOMEM, "out of memory for the answer" });
}

static void in_trouble(coordinator *c, const err *why)
{
    if (strcmp(c->journal_trouble.text, why->text)) LOG(LOG_ERROR, "JOURNAL-FAILED", "text=\"%s\"", why->text);
    c->journal_trouble = *why;
    c->t_journal_again = clock_ns() + AGAIN_NS;
    for (job *j = c->jobs.head; j; j = j->next)
        if (!j->on_disk && durable(c, j)) refuse(c, j, why);
}

/* All or nothing of a round is durable. */
static bool write_all(coordinator *c)
{
    err e = { 0 };
    err_code rc = ERR_OK;
    bool news = false;
    for (job *j = c->jobs.head; j && !rc; j = j->next)
        if (has_news(c, j)) rc = write_job(c, j, &e), news = true;
    if (!news) return true;
    if (!rc && c->journal) rc = journal_trim(c->journal, c->set->keep_jobs, c->set->keep_hours, &e);
    if (!rc && c->journal) rc = journal_commit(c->journal, &e);
    if (rc) in_trouble(c, &e);
    return !rc;
}

void record_round(coordinator *c)
{
    if (c->journal_trouble.code && clock_ns() < c->t_journal_again) {
        err why = c->journal_trouble;
        for (job *j = c->jobs.head; j; j = j->next)
            if (!j->on_disk && j->state != JOB_CHECKING && durable(c, j)) refuse(c, j, &why);
        return;
    }
    if (!write_all(c)) return;
    if (c->journal_trouble.code) LOG(LOG_WARN, "JOURNAL-WELL", "text=\"it can be written again\"");
    c->journal_trouble = (err){ 0 };
    for (job *j = c->jobs.head; j; j = j->next) {
        if (j->state == JOB_CHECKING) continue;
        mark(c, j);
        if (!j->acked) accept(c, j);
    }
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

/* The end of a damaged record is written at once, and by itself: where even that cannot be written, only this job suffers. */
static void bury(coordinator *c, job *j)
{
    err e;
    if (j->recorded) return;
    if (journal_end(c->journal, j, &e) || journal_commit(c->journal, &e)) LOG(LOG_ERROR, "JOURNAL-FAILED", "job=%" PRIu64 " text=\"%s\"", j->id, e.text);
    j->recorded = j->archived = true;
}

static err_code queue_again(coordinator *c, uint64_t id, err *e)
{
    job *j;
    err why;
    err_code rc = journal_get(c->journal, id, c->shape.V, &j, e);
    if (rc == ERR_ABSENT) return ERR_OK;
    if (rc) return rc;
    if (j->state == JOB_DONE) bury(c, j);
    if (j->state != JOB_DONE && job_follow(c, j, &why)) { /* of this model, but in another arithmetic: it waits, as jobs of other models do */
        LOG(LOG_WARN, "JOURNAL-OTHER-SHAPE", "job=%" PRIu64 " text=\"%s\"", id, why.text);
        job_free(j);
        return ERR_OK;
    }
    job_list_put(&c->jobs, j);
    return ERR_OK;
}

err_code record_open(coordinator *c, err *e)
{
    char path[512];
    const char *at = c->set->journal;
    uint64_t *ids = NULL;
    size_t n = 0;
    /* a cluster that stays records its jobs; one that goes with its starter has nobody to give them to later */
    if (at ? !strcmp(at, "none") : c->set->die_with_parent) return ERR_OK;
    snprintf(path, sizeof path, "%s/journal.db", c->dir);
    err_code rc = journal_open(&c->journal, at ? at : path, c->shape.digest, e);
    if (!rc) rc = journal_unfinished(c->journal, &ids, &n, e);
    for (size_t i = 0; !rc && i < n; i++) rc = queue_again(c, ids[i], e);
    free(ids);
    if (rc) return rc;
    if (c->jobs.last_id < journal_last_id(c->journal)) c->jobs.last_id = journal_last_id(c->journal);
    LOG(LOG_INFO, "JOURNAL-OPEN", "unfinished=%u finished=%" PRIu64, c->jobs.n, journal_finished(c->journal));
    return ERR_OK;
}

err_code record_recall(coordinator *c, uint64_t id, job **out, err *e)
{
    if (!c->journal) return err_set(e, ERR_ABSENT, "there is no job %" PRIu64, id);
    err_code rc = journal_get(c->journal, id, c->shape.V, out, e);
    if (rc) return rc;
    if ((*out)->state != JOB_DONE) { /* it waits for a cluster of another shape */
        err why = { 0 };
        job_follow(c, *out, &why);
        job_free(*out);
        return err_set(e, ERR_STATE, "job %" PRIu64 " waits for a cluster that computes as its log says%s%s", id, why.text[0] ? ": " : "", why.text);
    }
    (*out)->recorded = (*out)->archived = true;
    job_list_put(&c->jobs, *out);
    return ERR_OK;
}
