#include "coordinator/prompt_cache.h"
#include "coordinator/cache_file.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define REUSE_MIN 8u          /* a shorter beginning in common (BOS, a chat's head) is computed as fast as it is read */
#define PART_BYTES (4u << 20) /* of a part: reading, checking and sending one takes a millisecond or two */
#define PART_ROWS 512u
#define SILENT_NS 10000000000u /* a stage that gives no rows for so long: the save is given up */

typedef enum { CACHE_CHECK, CACHE_SEND, CACHE_WAIT, CACHE_IDLE, CACHE_COMMIT, CACHE_PULL, CACHE_OVER } phase;

struct prompt_cache {
    phase phase;
    cache_reader *in;
    cache_writer *out;
    uint32_t reuse;   /* rows that are taken from the file */
    bool covers;      /* the file holds the whole prompt: nothing to save */
    bool foreign;     /* it is none of ours: never written to */
    uint32_t rows, n; /* of a part; of the prompt */
    cache_part next;  /* asked for */
    cache_part part;  /* read, */
    view stream;      /* and to be sent when its stage has room */
    bool unsent;
    uint64_t t_asked; /* also: when the last part went out */
};

static cache_key key_of(const coordinator *c, const job *j)
{
    const rope_config *r = &c->shape.rope;
    cache_key k = { .lora_scale = j->ask.lora_scale,
                    .format = c->kv,
                    .path = j->prompt_path,
                    .layers = c->shape.L,
                    .rope_long = r->scaling == ROPE_LONG && c->n_ctx > r->orig_ctx };
    snprintf(k.digest, sizeof k.digest, "%s", gguf_digest(c->file));
    snprintf(k.lora, sizeof k.lora, "%s", j->ask.lora_digest);
    return k;
}

static void note(session *s, const err *why)
{
    LOG(LOG_INFO, "PROMPT-CACHE", "job=%" PRIu64 " text=\"%s\"", s->job->id, why->text);
    snprintf(s->job->cache_note, sizeof s->job->cache_note, "%s", why->text);
}

member *stage_of_layer(const coordinator *c, uint32_t layer)
{
    for (uint32_t i = 0; i < c->n_stages; i++)
        if (c->by_stage[i] && layer >= c->by_stage[i]->part.first && layer < c->by_stage[i]->part.last) return c->by_stage[i];
    return NULL;
}

/* ---- before the prompt --------------------------------------------------------------------------------------------- */

static uint32_t in_common(const cache_reader *r, const session *s, bool *covers)
{
    uint32_t n, same = 0;
    const uint32_t *t = cache_read_tokens(r, &n);
    while (same < n && same < s->n_prompt && t[same] == s->tokens.id[same]) same++;
    *covers = same == s->n_prompt;
    if (same >= s->n_prompt) same = s->n_prompt - 1; /* the last row goes through the pipeline and brings the logits */
    return same >= REUSE_MIN ? same : 0;
}

bool prompt_cache_begin(coordinator *c, session *s)
{
    err e;
    cache_key k = key_of(c, s->job);
    if (!s->job->ask.cache[0] || s->job->ask.kind || s->cache) return false;
    if (s->job->kv.lossy) {
        err_set(&e, ERR_STATE, "a prompt cache holds exact rows, and KV policy %s keeps others", s->job->kv.name);
        return note(s, &e), false;
    }
    if (s->mask || s->job->route_due) {
        err_set(&e, ERR_STATE, "a prompt cache holds rows of all layers, and this job leaves some out");
        return note(s, &e), false;
    }
    if (!(s->cache = calloc(1, sizeof *s->cache))) return false;
    struct prompt_cache *p = s->cache;
    err_code rc = cache_read_open(&p->in, s->job->ask.cache, &k, &e);
    p->foreign = rc == ERR_INPUT;
    p->phase = CACHE_IDLE;
    if (rc && rc != ERR_ABSENT) note(s, &e);
    if (!rc) p->reuse = in_common(p->in, s, &p->covers);
    if (!p->reuse) return cache_read_close(&p->in), false;
    p->phase = CACHE_CHECK;
    s->state = SESSION_LOCAL;
    return true;
}

/* The file is of no use after all: the prompt is computed from its first row. Nothing has been sent to any stage. */
static void give_up(session *s, const err *why)
{
    struct prompt_cache *p = s->cache;
    note(s, why);
    cache_read_close(&p->in);
    p->covers = false;
    p->phase = CACHE_IDLE;
    s->state = SESSION_PROMPT;
}

/* Is the whole file as it was written, and are the rows that are wanted all there, in an order that stages take? */
static void check_one(session *s, uint32_t layers)
{
    struct prompt_cache *p = s->cache;
    cache_part part;
    view stream;
    bool end;
    err e;
    err_code rc = cache_read_part(p->in, &part, &stream, &end, &e);
    if (!rc && !end) {
        bool follows = part.layer == p->next.layer && part.from == p->next.from && (!part.layer || part.to == p->next.to);
        if (!follows) rc = err_set(&e, ERR_PROTO, "%s is damaged: the order of its rows", s->job->ask.cache);
        p->next = (cache_part){ part.layer + 1, part.from, part.to };
        if (p->next.layer == layers) p->next = (cache_part){ 0, part.to, 0 };
    } else if (!rc && (p->next.layer || p->next.from < p->reuse)) {
        rc = err_set(&e, ERR_PROTO, "%s is damaged: rows are missing", s->job->ask.cache);
    } else if (!rc) {
        rc = cache_read_again(p->in, &e);
        p->phase = CACHE_SEND;
    }
    if (rc) give_up(s, &e);
}

err_code kv_push_to(coordinator *c, member *m, const message *head, view stream, int timeout_ms, err *e)
{
    link_t **l = &c->bulk[m->stage];
    err_code rc = *l ? ERR_OK : link_connect_to(l, c->hub, LINK_PUSH, LINK_BULK, m->hello.bulk_addr, m->hello.key, e);
    return rc ? rc : link_send(*l, NULL, head, &stream, timeout_ms, e);
}

static err_code push(coordinator *c, session *s, const cache_part *part, view stream, err *e)
{
    member *m = stage_of_layer(c, part->layer);
    if (!m) return err_set(e, ERR_STATE, "no stage has layer %u", part->layer);
    message h = msg_init(MSG_KV_PUSH);
    h.kv_push.epoch = c->epoch;
    h.kv_push.session = s->id;
    h.kv_push.from = part->from;
    h.kv_push.last = part->to >= s->cache->reuse && part->layer + 1 == m->part.last;
    return kv_push_to(c, m, &h, stream, 2, e); /* a moment, as reading a part takes */
}

static void send_one(coordinator *c, session *s)
{
    struct prompt_cache *p = s->cache;
    bool end = false;
    err e;
    err_code rc = p->unsent ? ERR_OK : cache_read_part(p->in, &p->part, &p->stream, &end, &e);
    if (!rc && (end || p->part.from >= p->reuse)) {
        cache_read_close(&p->in);
        p->phase = CACHE_WAIT;
        session_pushed(c, s->id);
        return;
    }
    if (!rc) rc = push(c, s, &p->part, p->stream, &e);
    /* a stage in a long step: the others do not wait for it */
    if (rc == ERR_TIMEOUT && (!p->unsent || clock_ns() - p->t_asked < SILENT_NS)) {
        if (!p->unsent) p->t_asked = clock_ns();
        p->unsent = true;
        return;
    }
    p->unsent = false;
    if (rc) job_fail(c, s->job, &e); /* it was whole a moment ago, and stages may have some of it */
}

void prompt_cache_filled(session *s)
{
    struct prompt_cache *p = s->cache;
    s->cursor = p->reuse;
    s->trim = true; /* the last part may hold rows of the other prompt */
    s->job->cached = p->reuse;
    cache_read_close(&p->in);
    p->phase = CACHE_IDLE;
    char said[1100];
    int n = snprintf(said, sizeof said, "rows=%u file=%s", p->reuse, s->job->ask.cache);
    log_add(&s->job->log, s->index, p->reuse, EVENT_CACHE, (view){ said, (size_t)n }); /* changes no token: without memory it is left out */
    LOG(LOG_INFO, "PROMPT-CACHE", "job=%" PRIu64 " rows=%u", s->job->id, p->reuse);
}

/* ---- after the answer ---------------------------------------------------------------------------------------------- */

static bool worth_saving(const session *s)
{
    const struct prompt_cache *p = s->cache;
    const job *j = s->job;
    return !p->covers && !p->foreign && !s->index && !j->failure.code && !j->cancelled && !j->choice[0].slides &&
           s->cursor >= s->n_prompt;
}

static void finish(session *s, bool keep, const err *why)
{
    err e;
    if (why) LOG(LOG_WARN, "PROMPT-CACHE", "job=%" PRIu64 " not saved: %s", s->job->id, why->text);
    if (cache_write_close(&s->cache->out, keep, &e))
        LOG(LOG_WARN, "PROMPT-CACHE", "job=%" PRIu64 " not saved: %s", s->job->id, e.text);
    s->cache->phase = CACHE_OVER;
}

static void ask_next(coordinator *c, session *s)
{
    const cache_part *n = &s->cache->next;
    member *m = stage_of_layer(c, n->layer);
    err e;
    message h = msg_init(MSG_KV_PULL);
    h.kv_pull = (msg_kv_pull){ .epoch = c->epoch, .session = s->id, .layer = n->layer, .from = n->from, .to = n->to };
    err_code rc = m ? fleet_send(c, m, &h, NULL, &e) : err_set(&e, ERR_STATE, "no stage has layer %u", n->layer);
    s->cache->t_asked = clock_ns();
    if (rc) finish(s, false, &e);
}

static uint32_t end_of_part(const struct prompt_cache *p, uint32_t from)
{
    return p->n - from < p->rows ? p->n : from + p->rows;
}

static void begin_save(coordinator *c, session *s)
{
    struct prompt_cache *p = s->cache;
    uint64_t row = 2ull * c->shape.K * c->shape.d * (c->kv == KV_F32 ? 4 : 2);
    cache_key k = key_of(c, s->job);
    err e;
    p->rows = row > PART_BYTES ? 1 : (uint32_t)(PART_BYTES / row);
    if (p->rows > PART_ROWS) p->rows = PART_ROWS;
    p->n = s->n_prompt;
    uint64_t parts = (uint64_t)c->shape.L * ((p->n + p->rows - 1) / p->rows);
    p->phase = CACHE_PULL;
    p->next = (cache_part){ 0, 0, end_of_part(p, 0) };
    if (cache_write_open(&p->out, s->job->ask.cache, &k, s->tokens.id, p->n, parts, &e)) finish(s, false, &e);
    else ask_next(c, s);
}

bool prompt_cache_holds(coordinator *c, session *s)
{
    struct prompt_cache *p = s->cache;
    if (!p || p->phase == CACHE_OVER) return false;
    if (p->phase == CACHE_PULL && clock_ns() - p->t_asked > SILENT_NS)
        finish(s, false, &(err){ ERR_TIMEOUT, "a stage gives no rows" });
    if (p->phase != CACHE_PULL && p->phase != CACHE_COMMIT && !worth_saving(s)) return false;
    if (p->phase == CACHE_COMMIT) begin_save(c, s);
    if (p->phase == CACHE_IDLE) { /* the rows that were sent last are tentative still */
        p->phase = CACHE_COMMIT;
        if (!pump_commit(c, s)) finish(s, false, &(err){ ERR_NOMEM, "out of memory" });
        c->caching = true;
    }
    return p->phase != CACHE_OVER;
}

void prompt_cache_rows(coordinator *c)
{
    const msg_kv_rows *m = &c->in.head.kv_rows;
    session *s = session_find(&c->sessions, m->session);
    struct prompt_cache *p = s ? s->cache : NULL;
    err e;
    if (m->epoch != c->epoch || !p || p->phase != CACHE_PULL || m->layer != p->next.layer || m->from != p->next.from ||
        m->to != p->next.to)
        return;
    if (cache_write_part(p->out, &p->next, c->in.frame[0], &e)) {
        finish(s, false, &e);
        return;
    }
    if (++p->next.layer == c->shape.L) p->next = (cache_part){ 0, p->next.to, end_of_part(p, p->next.to) };
    if (p->next.from < p->n) ask_next(c, s);
    else finish(s, true, NULL);
}

bool prompt_cache_failed(session *s, const err *why)
{
    if (!s->cache || s->cache->phase != CACHE_PULL) return false;
    finish(s, false, why);
    return true;
}

/* ---- between the messages ------------------------------------------------------------------------------------------ */

void prompt_cache_tick(coordinator *c)
{
    c->caching = false;
    for (session *s = c->sessions.head; s; s = s->next) {
        struct prompt_cache *p = s->cache;
        if (!p || s->state != SESSION_LOCAL) continue;
        if (p->phase == CACHE_CHECK) check_one(s, c->shape.L);
        else if (p->phase == CACHE_SEND) send_one(c, s);
        c->caching = c->caching || p->phase == CACHE_CHECK || p->phase == CACHE_SEND;
    }
}

void prompt_cache_drop(session *s)
{
    err quiet;
    if (!s->cache) return;
    cache_read_close(&s->cache->in);
    cache_write_close(&s->cache->out, false, &quiet);
    free(s->cache);
    s->cache = NULL;
}

void prompt_cache_break(coordinator *c)
{
    for (session *s = c->sessions.head; s; s = s->next) {
        if (!s->cache) continue;
        if (s->cache->phase == CACHE_PULL) finish(s, false, &(err){ ERR_GONE, "a stage died" });
        else if (s->cache->phase != CACHE_OVER)
            cache_read_close(&s->cache->in), s->cache->phase = s->state == SESSION_OVER ? CACHE_OVER : CACHE_IDLE;
    }
    for (size_t i = 0; i < sizeof c->bulk / sizeof *c->bulk; i++)
        if (c->bulk[i]) link_close(&c->bulk[i]);
}
