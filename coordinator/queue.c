/* The order in which jobs start, and how many may wait. Starts none. */
#include "coordinator/queue.h"
#include <inttypes.h>
#include <string.h>

#define RISE_NS 60000000000u    /* a waiting job's priority rises by one */
#define SMOOTH 0.1              /* of a new gap in the mean: about the last ten starts count */
#define RETRY_MIN_MS 100u
#define RETRY_MAX_MS 60000u

/* A client: who owns the job and, unless a tenant is named, the connection it came on. */
static bool same_client(const job *a, const job *b)
{
    if (strcmp(a->owner, b->owner) || a->ask.tenant != b->ask.tenant) return false;
    return a->ask.tenant || link_id_same(&a->client, &b->client);
}

static uint64_t rank_of(const job *j, uint64_t now)
{
    return j->ask.priority + (now > j->t_submit ? (now - j->t_submit) / RISE_NS : 0);
}

void queue_put(job_queue *q, job *j) { j->turn = ++q->turn; }

static bool goes_before(const job *a, const job *b, uint64_t now)
{
    uint64_t ra = rank_of(a, now), rb = rank_of(b, now);
    if (ra != rb) return ra > rb;
    return a->turn != b->turn ? a->turn < b->turn : a->id < b->id;
}

job *queue_next(const job_list *l, uint64_t now, bool rag)
{
    job *best = NULL;
    for (job *j = l->head; j; j = j->next)
        if (j->state == JOB_QUEUED && (!j->ask.rag || rag) && (!best || goes_before(j, best, now))) best = j;
    return best;
}

void queue_started(job_queue *q, const job_list *l, const job *j, uint64_t now)
{
    uint64_t turn = ++q->turn;
    bool waiting = false;
    for (job *k = l->head; k; k = k->next) {
        if (k == j || k->state != JOB_QUEUED) continue;
        waiting = true;
        if (same_client(k, j)) k->turn = turn;
    }
    double gap = q->t_start && now > q->t_start ? (double)(now - q->t_start) / 1e6 : 0;
    if (waiting) q->gap_ms = q->gap_ms > 0 ? q->gap_ms + SMOOTH * (gap - q->gap_ms) : gap;
    q->t_start = now;
}

typedef struct { uint64_t jobs, mine, bytes, unread; } load;

static load count(const job_list *l, const job *like)
{
    load n = { 0 };
    for (const job *j = l->head; j; j = j->next) {
        bool waits = j->state == JOB_QUEUED || j->state == JOB_CHECKING, unread = j->state == JOB_DONE && (j->watch || !j->acked);
        if (!waits && !unread) continue;
        n.jobs++;
        n.unread += unread;
        n.mine += same_client(j, like);
        n.bytes += job_bytes(j);
    }
    return n;
}

/* When about a tenth of those who wait have been started. */
static uint64_t retry_after(const job_queue *q, uint64_t waiting)
{
    double ms = q->gap_ms * (double)(waiting / 10 + 1);
    return ms < RETRY_MIN_MS ? RETRY_MIN_MS : ms > RETRY_MAX_MS ? RETRY_MAX_MS : (uint64_t)ms;
}

err_code queue_admit(job_queue *q, const job_list *l, const queue_limits *max, const job *like, size_t bytes, uint64_t *retry_ms, err *e)
{
    load n = count(l, like);
    uint64_t own = max->jobs - max->jobs / 4;
    bool full = n.jobs >= max->jobs, share = n.mine >= own, big = n.bytes + bytes > max->bytes && n.jobs;
    *retry_ms = 0;
    if (!full && !share && !big) return ERR_OK;
    q->refused++;
    *retry_ms = retry_after(q, n.jobs);
    double s = (double)*retry_ms / 1e3;
    if (big) return err_set(e, ERR_FULL, "busy: jobs that wait hold %" PRIu64 " MB (--max-queue-mb %" PRIu64 "), retry after %.1f s", n.bytes >> 20, max->bytes >> 20, s);
    if (full) return err_set(e, ERR_FULL, "busy: %" PRIu64 " jobs wait, %" PRIu64 " of them to be read (--max-queue %" PRIu64 "), retry after %.1f s", n.jobs, n.unread, max->jobs, s);
    return err_set(e, ERR_FULL, "busy: %" PRIu64 " jobs of this client wait (three quarters of --max-queue %" PRIu64 "), retry after %.1f s", n.mine, max->jobs, s);
}
