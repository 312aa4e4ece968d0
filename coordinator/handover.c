/* KV that outlives its stage. Asks for rows and sends them; reads none. */
#include "coordinator/handover.h"
#include "coordinator/prompt_cache.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MIN 16u             /* fewer are computed as fast as they are asked for */
#define PART_BYTES (1u << 20)    /* of a part: all layers of a range are on their way at once */
#define PART_ROWS 512u
#define HELD_BYTES (1ull << 30)  /* memory for copies at most; sessions that find no room are computed again */
#define ALL_NS 5000000000ull     /* a worker waits 10 s to be let go (workers/stage/stage.c) */
#define SILENT_NS 2000000000ull  /* an answer that is missing for so long was lost */
#define SEND_MS 2

typedef struct handed {
    enum { COPYING, HELD, FILLING, REFUSED } state;
    uint32_t rows, part_rows, ranges, layers;
    uint32_t range, got;         /* COPYING: the one under way, and parts of it that are here */
    uint32_t sent;               /* FILLING: parts */
    uint64_t bytes;
    text part[];                 /* [ranges][layers] */
} handed;

/* ---- what is worth it ---------------------------------------------------------------------------------------------- */

static uint64_t row_bytes(const coordinator *c) { return 2ull * c->shape.K * c->shape.d * (c->kv == KV_F32 ? 4 : 2); }
static uint64_t copy_bytes(const coordinator *c, const session *s) { return row_bytes(c) * c->shape.L * s->committed; }

/* Exact rows of all layers. Others have a state beside their rows, or layers without any, or are made up by the stages. */
static bool can_copy(const session *s)
{
    const job *j = s->job;
    bool live = s->state == SESSION_PROMPT || s->state == SESSION_DECODE || s->state == SESSION_WAIT;
    bool alone = !s->is_shadow && !s->shadow && !s->held && !s->cache;
    bool plain = s->exact && !s->mask && !j->route_due && !j->kv.lossy && j->ask.kind != 1 && !session_filled_rows(s);
    return live && alone && plain && s->committed >= ROWS_MIN && !s->handed;
}

static bool is_way(const coordinator *c, const char *way) { return c->set->hand_over && !strcmp(c->set->hand_over, way); }

/* Computing so many rows again. Before the first prompt: a chunk takes a step's time at least. */
static double replay_s(const coordinator *c, uint64_t rows)
{
    const pump *p = &c->pump;
    double row_ns = p->prompt_row_ns ? (double)p->prompt_row_ns : (double)p->usual / c->chunk;
    return (double)rows * row_ns / 1e9;
}

/* All sessions, by what the parts that are here took; the way in takes as long as the way out. */
static bool too_slow(const coordinator *c)
{
    const handover *o = &c->handover;
    double spent = (double)(clock_ns() - o->t_begin) / 1e9;
    return !is_way(c, "copy") && o->bytes && 2 * spent * (double)o->want / (double)o->bytes > replay_s(c, o->rows);
}

/* ---- out of the stages --------------------------------------------------------------------------------------------- */

void handover_drop(session *s)
{
    handed *h = s->handed;
    if (!h) return;
    for (size_t i = 0; i < (size_t)h->ranges * h->layers; i++) text_free(&h->part[i]);
    free(h);
    s->handed = NULL;
}

/* This one is computed again. It is remembered until the plan changes, so that it is not tried again. */
static void refuse(session *s)
{
    handed *h = s->handed;
    for (size_t i = 0; i < (size_t)h->ranges * h->layers; i++) text_free(&h->part[i]);
    h->state = REFUSED;
}

static uint32_t range_end(const handed *h, uint32_t range)
{
    uint64_t to = ((uint64_t)range + 1) * h->part_rows;
    return to < h->rows ? (uint32_t)to : h->rows;
}

static void ask_range(coordinator *c, session *s)
{
    handed *h = s->handed;
    err e;
    h->got = 0;
    c->handover.t_heard = clock_ns();
    for (uint32_t l = 0; l < h->layers; l++) {
        message m = msg_init(MSG_KV_PULL);
        m.kv_pull = (msg_kv_pull){ .epoch = c->epoch, .session = s->id, .layer = l, .from = h->range * h->part_rows, .to = range_end(h, h->range) };
        member *at = stage_of_layer(c, l);
        if (at && !fleet_send(c, at, &m, NULL, &e)) continue;
        refuse(s);
        return;
    }
}

static bool begin_session(coordinator *c, session *s)
{
    uint64_t row = row_bytes(c);
    uint32_t part = row > PART_BYTES ? 1 : (uint32_t)(PART_BYTES / row);
    if (part > PART_ROWS) part = PART_ROWS;
    uint32_t ranges = (s->committed + part - 1) / part, L = c->shape.L;
    if (c->handover.held + copy_bytes(c, s) > HELD_BYTES) return false;
    handed *h = s->handed = calloc(1, sizeof *h + (size_t)ranges * L * sizeof *h->part);
    if (!h) return false;
    h->rows = s->committed, h->part_rows = part, h->ranges = ranges, h->layers = L;
    ask_range(c, s);
    return h->state == COPYING;
}

static void begin_all(coordinator *c)
{
    handover *o = &c->handover;
    o->on = true;
    o->t_begin = o->t_heard = clock_ns();
    o->bytes = o->held = o->want = o->rows = 0;
    for (const session *s = c->sessions.head; s; s = s->next)
        if (can_copy(s)) o->want += copy_bytes(c, s), o->rows += s->committed;
    LOG(LOG_INFO, "HANDOVER", "rows=%" PRIu64 " mb=%.1f replay_ms=%.0f", o->rows, (double)o->want / 1e6, replay_s(c, o->rows) * 1e3);
}

static session *under_way(coordinator *c)
{
    for (session *s = c->sessions.head; s; s = s->next)
        if (s->handed && s->handed->state == COPYING) return s;
    return NULL;
}

bool handover_done(coordinator *c)
{
    handover *o = &c->handover;
    if (is_way(c, "replay")) return true;
    if (!o->on) begin_all(c);
    uint64_t now = clock_ns(); /* after what begin_all took for it */
    session *s = under_way(c);
    bool late = now - o->t_heard > SILENT_NS || now - o->t_begin > ALL_NS || too_slow(c);
    if (s && (late || s->state == SESSION_OVER)) refuse(s), s = NULL;
    if (late && o->bytes < o->want) o->given_up++;
    for (session *t = late || s ? NULL : c->sessions.head; t && !s; t = t->next)
        if (can_copy(t) && begin_session(c, t)) s = t;
    return !s;
}

void handover_rows(coordinator *c)
{
    const msg_kv_rows *m = &c->in.head.kv_rows;
    session *s = session_find(&c->sessions, m->session);
    handed *h = s ? s->handed : NULL;
    view v = c->in.frame[0];
    if (m->epoch != c->epoch || !h || h->state != COPYING || m->layer >= h->layers) return;
    if (m->from != (uint64_t)h->range * h->part_rows || m->to != range_end(h, h->range)) return;
    text *at = &h->part[(size_t)h->range * h->layers + m->layer];
    if (at->len) return;
    if (!v.len || !text_add(at, v.ptr, v.len)) {
        refuse(s);
        return;
    }
    c->handover.t_heard = clock_ns();
    c->handover.bytes += row_bytes(c) * (m->to - m->from);
    if (++h->got < h->layers) return;
    h->bytes = copy_bytes(c, s);
    if (++h->range < h->ranges) ask_range(c, s);
    else h->state = HELD, c->handover.held += h->bytes;
}

bool handover_failed(coordinator *c, session *s)
{
    (void)c;
    if (!s->handed || s->handed->state != COPYING) return false;
    refuse(s);
    return true;
}

/* ---- into the next ones -------------------------------------------------------------------------------------------- */

bool handover_fill(coordinator *c, session *s)
{
    if (!s->handed || s->handed->state != HELD) return false;
    s->handed->state = FILLING;
    s->handed->sent = 0;
    s->state = SESSION_LOCAL;
    c->caching = true;
    return true;
}

static void send_one(coordinator *c, session *s)
{
    handed *h = s->handed;
    uint32_t range = h->sent / h->layers, layer = h->sent % h->layers;
    member *to = stage_of_layer(c, layer);
    err e;
    message m = msg_init(MSG_KV_PUSH);
    m.kv_push = (msg_kv_push){ .epoch = c->epoch, .session = s->id, .from = range * h->part_rows };
    m.kv_push.last = to && range + 1 == h->ranges && layer + 1 == to->part.last;
    text *t = &h->part[h->sent];
    err_code rc = to ? kv_push_to(c, to, &m, (view){ t->ptr, t->len }, SEND_MS, &e) : err_set(&e, ERR_STATE, "no stage has layer %u", layer);
    if (!rc && ++h->sent == h->ranges * h->layers) session_pushed(c, s->id);
    if (rc && rc != ERR_TIMEOUT) fleet_again(c, &e);
}

bool handover_tick(coordinator *c)
{
    bool more = false;
    for (session *s = c->sessions.head; s; s = s->next) {
        handed *h = s->handed;
        if (!h || h->state != FILLING || s->state != SESSION_LOCAL || h->sent == h->ranges * h->layers) continue;
        more = true;
        send_one(c, s);
        if (!fleet_is_whole(c)) return false; /* it could not be sent: everything was broken up */
    }
    return more;
}

uint32_t handover_filled(coordinator *c, session *s)
{
    uint32_t rows = s->handed->rows;
    c->handover.sessions++;
    c->handover.copied += rows;
    LOG(LOG_INFO, "HANDED-OVER", "session=%" PRIu64 " rows=%u mb=%.1f", s->id, rows, (double)s->handed->bytes / 1e6);
    handover_drop(s);
    return rows;
}

void handover_break(coordinator *c)
{
    c->handover.on = false;
    c->handover.held = 0;
    for (session *s = c->sessions.head; s; s = s->next) {
        if (s->handed && s->handed->state != HELD) handover_drop(s);
        if (s->handed) c->handover.held += s->handed->bytes;
    }
}

json_t *handover_json(const coordinator *c)
{
    const handover *o = &c->handover;
    return json_pack("{s:I,s:I,s:I}", "sessions", (json_int_t)o->sessions, "rows", (json_int_t)o->copied, "given_up", (json_int_t)o->given_up);
}
