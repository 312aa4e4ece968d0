/* Export and import of all that a sequence under a policy is: packed panes as they lie, raw rows, and what attention has left
 * behind, so that it goes on elsewhere with the same bits. Owns the stream's format; trusts nothing in it.
 *
 * All little-endian:
 *   head      magic "SLUICEKS", then HEAD_MAP as u32, u64 rope fingerprint, u64 xxh3 of the policy's text, u64 bytes of the stream
 *   rows      [committed] x 16 bytes, as in stream.c
 *   layers    for each: heads, raw rows, observations
 *     head      u32 panes, rows, has (1 places, 2 weights); panes x { u8 code, u8 n, 2 bytes of nothing }; places [rows] u32;
 *               weights [rows] f32; for each pane its K page and its V page
 *     channels  [K][d_pruned] u16, when d_pruned < d
 *     raw       [K][K side, V side][committed - base][d] elements of the store's format
 *     observed  for each head, entries = its rows + committed - base: sums u64, last u64, entropy f32, as the policy wants them
 *     queries   [queries][H d] f32
 *   check     u64 xxh3 of everything before it */
#include "core/rope_math.h"
#include "kvstore/lossy.h"
#include "kvstore/skip.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Grows by one when the meaning of any byte changes; other versions are refused. */
#define STATE_VERSION 2
#define HEAD_MAP(X) X(version) X(format) X(l0) X(l1) X(K) X(d) X(width) X(committed) X(base) X(n_prompt) X(d_pruned) X(query0) \
    X(queries) X(spare)
enum { HAS_PLACES = 1, HAS_WEIGHTS = 2, ROW_BYTES = 16, CHECK_BYTES = 8 };

typedef struct {
#define X(name) uint32_t name;
    HEAD_MAP(X)
#undef X
    uint64_t rope, policy, bytes;
} head;
_Static_assert(sizeof(head) == 14 * 4 + 3 * 8, "copied whole: no padding");
static const char magic[8] = { 'S', 'L', 'U', 'I', 'C', 'E', 'K', 'S' };

typedef struct { uint32_t panes, rows, has; } shelf_head;

/* Bytes that go out (at NULL: only counted) or come in. */
typedef struct { unsigned char *at; size_t used, len; bool in, bad; } wire;

static void move_bytes(wire *w, void *p, size_t n)
{
    if (w->in && n > w->len - w->used) w->bad = true;
    if (w->bad) return;
    if (w->in && n) memcpy(p, w->at + w->used, n);
    else if (w->at && n) memcpy(w->at + w->used, p, n);
    w->used += n;
}

/* The next n bytes of what comes in, where they lie; NULL when there are not so many. */
static const unsigned char *next_bytes(wire *w, size_t n)
{
    if (w->bad || n > w->len - w->used) return w->bad = true, NULL;
    const unsigned char *p = w->at + w->used;
    w->used += n;
    return p;
}

static uint64_t policy_print(const kv_policy *p)
{
    char line[KV_POLICY_TEXT];
    kv_policy_print(p, line);
    return XXH3_64bits(line, strlen(line));
}

static size_t page_bytes(const kv_seq *q, int side, uint8_t code) { return q->lossy->code[side][code].class->page; }

/* ---- what goes both ways ------------------------------------------------------------------------------------------- */

static void raw_rows(const kv_seq *q, wire *w, uint32_t layer, uint32_t n)
{
    const kv *s = q->store;
    for (uint32_t i = 0; i < s->g.K * KV_SIDES; i++)
        for (uint32_t slot = 0, m; slot < n; slot += m) {
            m = kv_layout_run(slot, n);
            move_bytes(w, kv_row_at(q, layer, i % KV_SIDES, i / KV_SIDES, slot), m * s->layout.row);
        }
}

/* A layer that the sequence leaves out has no rows. */
static uint32_t raw_of(const kv_seq *q, uint32_t layer, uint32_t rows) { return skips_absent(q, layer) ? 0 : rows; }

static void observed_head(const observe *o, wire *w, uint32_t unit, uint32_t entries)
{
    size_t at = (size_t)unit * o->stride;
    if (o->what & KV_SEE_SUMS) move_bytes(w, o->sum + at, entries * sizeof *o->sum);
    if (o->what & KV_SEE_LAST) move_bytes(w, o->last + at, entries * sizeof *o->last);
    if (o->what & KV_SEE_ENTROPY) move_bytes(w, o->entropy + at, entries * sizeof *o->entropy);
}

static size_t observed_bytes(const observe *o, uint32_t entries)
{
    size_t one = (o->what & KV_SEE_SUMS ? 8 : 0) + (o->what & KV_SEE_LAST ? 8 : 0) + (o->what & KV_SEE_ENTROPY ? 4 : 0);
    return one * entries;
}

/* ---- export -------------------------------------------------------------------------------------------------------- */

static void put_shelf(const kv_seq *q, wire *w, const shelf *h)
{
    shelf_head sh = { h->panes, h->rows, (h->ord ? HAS_PLACES : 0) | (h->weight ? HAS_WEIGHTS : 0) };
    move_bytes(w, &sh, sizeof sh);
    for (uint32_t i = 0; i < h->panes; i++) {
        unsigned char p[4] = { h->pane[i].code, h->pane[i].n, 0, 0 };
        move_bytes(w, p, sizeof p);
    }
    if (h->ord) move_bytes(w, h->ord, h->rows * sizeof *h->ord);
    if (h->weight) move_bytes(w, h->weight, h->rows * sizeof *h->weight);
    for (uint32_t i = 0; i < h->panes; i++)
        for (int side = 0; side < KV_SIDES; side++)
            move_bytes(w, pane_at(q, &h->pane[i], side), page_bytes(q, side, h->pane[i].code));
}

static void put_layer(const kv_seq *q, wire *w, uint32_t layer)
{
    const kv *s = q->store;
    kv_lossy *y = q->lossy;
    uint32_t unit = (layer - s->g.first) * s->g.K, raw = raw_of(q, layer, q->cells.committed - q->base);
    for (uint32_t k = 0; k < s->g.K; k++) put_shelf(q, w, &y->shelf[unit + k]);
    if (y->channel) move_bytes(w, y->channel + (size_t)unit * y->d_pruned, (size_t)s->g.K * y->d_pruned * sizeof *y->channel);
    raw_rows(q, w, layer, raw);
    for (uint32_t k = 0; k < s->g.K && y->see.stride; k++) observed_head(&y->see, w, unit + k, y->shelf[unit + k].rows + raw);
    if (y->see.queries) move_bytes(w, y->see.query + (size_t)(layer - s->g.first) * y->see.queries * y->see.width,
                                   (size_t)y->see.queries * y->see.width * sizeof *y->see.query);
}

static void put_all(const kv_seq *q, wire *w, head *h)
{
    move_bytes(w, (void *)magic, sizeof magic);
    move_bytes(w, h, sizeof *h);
    move_bytes(w, q->cells.row, (size_t)q->cells.committed * ROW_BYTES);
    for (uint32_t l = h->l0; l < h->l1; l++) put_layer(q, w, l);
}

static err_code range_check(const kv_seq *q, uint32_t l0, uint32_t l1, err *e)
{
    const kv_geometry *g = &q->store->g;
    if (l0 < g->first || l0 >= l1 || l1 > g->last)
        return err_set(e, ERR_INPUT, "export of layers [%u,%u): this store has [%u,%u)", l0, l1, g->first, g->last);
    if (q->cells.pending || q->lossy->broken || (q->lossy->policy.see && q->cells.committed && !q->lossy->see.stride))
        return err_set(e, ERR_STATE, "export of a sequence that is not whole");
    return ERR_OK;
}

static head head_of(const kv_seq *q, uint32_t l0, uint32_t l1)
{
    const kv_geometry *g = &q->store->g;
    const kv_lossy *y = q->lossy;
    return (head){ STATE_VERSION, g->format, l0, l1, g->K, g->d, g->H * g->d, q->cells.committed, q->base, y->n_prompt, y->d_pruned,
                   y->see.query0, y->see.queries, 0, q->store->rope_print, policy_print(&y->policy), 0 };
}

size_t kv_state_bytes(const kv_seq *q, uint32_t l0, uint32_t l1)
{
    if (!q->lossy) return kv_export_bytes(q, l0, l1, 0, q->cells.committed);
    if (range_check(q, l0, l1, NULL)) return 0;
    head h = head_of(q, l0, l1);
    wire w = { 0 };
    put_all(q, &w, &h);
    return w.used + CHECK_BYTES;
}

err_code kv_state_export(const kv_seq *q, uint32_t l0, uint32_t l1, void *buf, size_t len, err *e)
{
    if (!q->lossy) return kv_export(q, l0, l1, 0, q->cells.committed, buf, len, e);
    err_code rc = range_check(q, l0, l1, e);
    size_t want = rc ? 0 : kv_state_bytes(q, l0, l1);
    if (!rc && len != want) rc = err_set(e, ERR_INPUT, "export into %zu bytes: it takes %zu", len, want);
    if (rc) return rc;
    head h = head_of(q, l0, l1);
    wire w = { .at = buf, .len = len };
    h.bytes = len;
    put_all(q, &w, &h);
    uint64_t check = XXH3_64bits(buf, w.used);
    memcpy((unsigned char *)buf + w.used, &check, sizeof check);
    return ERR_OK;
}

/* ---- import: checks ------------------------------------------------------------------------------------------------ */

static err_code broken(err *e, const char *what, uint64_t value)
{
    return err_set(e, ERR_INPUT, "KV state: %s %llu cannot be", what, (unsigned long long)value);
}

static err_code head_check(const kv_seq *q, const head *h, err *e)
{
    const kv_geometry *g = &q->store->g;
    const kv_lossy *y = q->lossy;
    const struct { const char *what; uint64_t got, want; } same[] = {
        { "version", h->version, STATE_VERSION }, { "format (0 f16, 1 f32)", h->format, g->format }, { "KV heads", h->K, g->K },
        { "head size", h->d, g->d }, { "query width", h->width, (uint64_t)g->H * g->d },
        { "rows of the prompt", h->n_prompt, y->n_prompt },
        { "rotary table", h->rope, q->store->rope_print }, { "policy", h->policy, policy_print(&y->policy) },
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (same[i].got != same[i].want)
            return err_set(e, ERR_INPUT, "KV state: %s is %llu, here it is %llu", same[i].what, (unsigned long long)same[i].got,
                           (unsigned long long)same[i].want);
    if (h->l0 < g->first || h->l0 >= h->l1 || h->l1 > g->last)
        return err_set(e, ERR_INPUT, "KV state: layers [%u,%u), this store has [%u,%u)", h->l0, h->l1, g->first, g->last);
    if (h->committed > g->n_ctx || h->base > h->committed) return broken(e, "rows", h->committed);
    if (h->committed > h->base && h->committed >= lossy_boundary(y, h->base)) return broken(e, "unsettled rows", h->committed);
    if (h->base && h->base != y->n_prompt && (h->base < y->n_prompt || h->base % KV_INTERVAL))
        return broken(e, "settled rows", h->base);
    if (!h->d_pruned || h->d_pruned > g->d || (h->d_pruned < g->d && y->policy.prune == KV_PRUNE_NONE))
        return broken(e, "kept channels", h->d_pruned);
    if (h->queries > g->n_ctx || h->query0 > g->n_ctx + KV_INTERVAL || (h->queries && !(y->policy.see & KV_SEE_QUERIES)))
        return broken(e, "queries", h->queries);
    return ERR_OK;
}

/* Empty, or layers of this very state are here already. */
static err_code place_check(const kv_seq *q, const head *h, err *e)
{
    const kv_lossy *y = q->lossy;
    if (!y->arriving && (q->cells.used || q->cells.pending))
        return err_set(e, ERR_INPUT, "KV state: the sequence has %u rows already", q->cells.used + q->cells.pending);
    bool same = q->base == h->base && y->d_pruned == h->d_pruned && y->see.queries == h->queries && y->see.query0 == h->query0;
    if (y->arriving && !same)
        return err_set(e, ERR_INPUT, "KV state: its layers are not those of one state");
    for (uint32_t l = h->l0; l < h->l1; l++)
        if (q->have[l - q->store->g.first]) return err_set(e, ERR_INPUT, "KV state: layer %u is here already", l);
    return ERR_OK;
}

/* ---- import: shelves ----------------------------------------------------------------------------------------------- */

static bool shelf_alloc(shelf *to, const shelf_head *h)
{
    to->pane = calloc(h->panes + 1, sizeof *to->pane);
    if (h->has & HAS_PLACES) to->ord = malloc((h->rows + 1) * sizeof *to->ord);
    if (h->has & HAS_WEIGHTS) {
        to->weight = malloc((h->rows + 1) * sizeof *to->weight);
        to->bias = malloc((h->rows + 1) * sizeof *to->bias);
    }
    bool weights = !(h->has & HAS_WEIGHTS) || (to->weight && to->bias);
    to->cap = h->panes;
    to->cap_rows = h->rows;
    return to->pane && weights && (!(h->has & HAS_PLACES) || to->ord);
}

static err_code rows_check(shelf *to, const head *h, err *e)
{
    for (uint32_t i = 0; to->ord && i < to->rows; i++)
        if (to->ord[i] >= h->base && to->ord[i] != ORD_EXTRA) return broken(e, "place", to->ord[i]);
    for (uint32_t i = 0; to->weight && i < to->rows; i++) {
        if (!(to->weight[i] >= 0 && to->weight[i] <= 0x1p31f)) return broken(e, "weight of row", i);
        to->bias[i] = to->weight[i] > 0 ? to->weight[i] == 1 ? 0 : (float)math_log((double)to->weight[i]) : -INFINITY;
        to->dead += to->weight[i] <= 0;
    }
    if (!to->ord && to->rows > h->base) return broken(e, "packed rows", to->rows);
    if (to->rows - to->dead > h->base + 1) return broken(e, "living rows", to->rows - to->dead);
    return to->dead <= to->rows - to->dead ? ERR_OK : broken(e, "dead rows", to->dead); /* so attention's scratch has room */
}

static err_code pane_get(kv_seq *q, wire *w, pane *p, err *e)
{
    err_code rc = lossy_ensure(q, p->code, 1, e);
    if (rc) return rc;
    for (int side = 0; side < KV_SIDES; side++) p->page[side] = pages_take(q->lossy->code[side][p->code].class);
    for (int side = 0; side < KV_SIDES; side++) move_bytes(w, pane_at(q, p, side), page_bytes(q, side, p->code));
    return ERR_OK;
}

static err_code panes_check(const kv_seq *q, wire *w, shelf *to, const shelf_head *sh, err *e)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < sh->panes; i++) {
        unsigned char p[4] = { 0 };
        move_bytes(w, p, sizeof p);
        if (p[0] >= CODES || !q->lossy->code[KV_SIDE_K][p[0]].class) return broken(e, "pane code", p[0]);
        if (!p[1] || p[1] > (p[0] == CODE_RAW ? PANE_FEW : PANE_ROWS)) return broken(e, "pane of rows", p[1]);
        to->pane[i] = (pane){ .code = p[0], .n = p[1] };
        rows += p[1];
    }
    return rows == sh->rows ? ERR_OK : broken(e, "rows in panes", rows);
}

static void count_alive(shelf *to)
{
    for (uint32_t i = 0, at = 0; i < to->panes; at += to->pane[i++].n)
        for (uint32_t r = 0; r < to->pane[i].n; r++) {
            bool lives = !to->weight || to->weight[at + r] > 0;
            to->pane[i].alive = (uint8_t)(to->pane[i].alive + lives);
        }
}

/* `to` is empty; what it owns when this fails is freed by the caller. */
static err_code shelf_get(kv_seq *q, wire *w, const head *h, shelf *to, err *e)
{
    shelf_head sh = { 0 };
    move_bytes(w, &sh, sizeof sh);
    if (sh.rows > 2 * (uint64_t)h->committed + 2 * PANE_ROWS || sh.panes > sh.rows || sh.has > 3)
        return broken(e, "packed rows", sh.rows);
    if (!shelf_alloc(to, &sh)) return err_set(e, ERR_NOMEM, "out of memory for %u packed rows", sh.rows);
    err_code rc = panes_check(q, w, to, &sh, e);
    to->rows = sh.rows;
    if (!rc && to->ord) move_bytes(w, to->ord, sh.rows * sizeof *to->ord);
    if (!rc && to->weight) move_bytes(w, to->weight, sh.rows * sizeof *to->weight);
    if (!rc && w->bad) rc = broken(e, "end at byte", w->used);
    if (!rc) rc = rows_check(to, h, e);
    while (!rc && to->panes < sh.panes && !(rc = pane_get(q, w, &to->pane[to->panes], e))) to->panes++;
    if (!rc) count_alive(to);
    return rc ? rc : w->bad ? broken(e, "end at byte", w->used) : ERR_OK;
}

/* ---- import: a layer, twice: first shelves and checks, then what cannot fail ----------------------------------------- */

typedef struct { const unsigned char *channel, *raw, *observed, *queries; } layer_part;

static err_code channels_check(const kv_seq *q, const head *h, const unsigned char *at, err *e)
{
    uint16_t last = 0, c;
    for (size_t i = 0; at && i < (size_t)h->K * h->d_pruned; i++, last = c) {
        memcpy(&c, at + 2 * i, sizeof c);
        if (c >= q->store->g.d || (i % h->d_pruned && c <= last)) return broken(e, "channel", c);
    }
    return ERR_OK;
}

static err_code layer_get(kv_seq *q, wire *w, const head *h, uint32_t layer, shelf *shelves, layer_part *part, err *e)
{
    const kv *s = q->store;
    const observe *o = &q->lossy->see;
    uint32_t raw = raw_of(q, layer, h->committed - h->base);
    size_t entries = 0;
    err_code rc = ERR_OK;
    for (uint32_t k = 0; !rc && k < s->g.K; k++) rc = shelf_get(q, w, h, &shelves[k], e);
    if (rc) return rc;
    for (uint32_t k = 0; k < s->g.K; k++) entries += shelves[k].rows + raw;
    *part = (layer_part){ 0 };
    if (h->d_pruned < s->g.d) part->channel = next_bytes(w, (size_t)s->g.K * h->d_pruned * 2);
    part->raw = next_bytes(w, (size_t)s->g.K * KV_SIDES * raw * s->layout.row);
    part->observed = next_bytes(w, o->what && h->committed ? observed_bytes(o, 1) * entries : 0);
    part->queries = next_bytes(w, (size_t)h->queries * h->width * sizeof(float));
    return w->bad ? broken(e, "end at byte", w->used) : channels_check(q, h, part->channel, e);
}

static void layer_put(kv_seq *q, const head *h, uint32_t layer, shelf *shelves, const layer_part *part)
{
    const kv *s = q->store;
    kv_lossy *y = q->lossy;
    uint32_t l = layer - s->g.first, unit = l * s->g.K, raw = raw_of(q, layer, h->committed - h->base);
    memcpy(&y->shelf[unit], shelves, s->g.K * sizeof *shelves);
    memset(shelves, 0, s->g.K * sizeof *shelves);
    if (part->channel) memcpy(y->channel + (size_t)unit * h->d_pruned, part->channel, (size_t)s->g.K * h->d_pruned * 2);
    wire w = { .at = (unsigned char *)part->raw, .len = SIZE_MAX, .in = true };
    raw_rows(q, &w, layer, raw);
    w = (wire){ .at = (unsigned char *)part->observed, .len = SIZE_MAX, .in = true };
    for (uint32_t k = 0; k < s->g.K && y->see.stride; k++) observed_head(&y->see, &w, unit + k, y->shelf[unit + k].rows + raw);
    size_t n = (size_t)h->queries * h->width;
    if (n) memcpy(y->see.query + l * n, part->queries, n * sizeof(float));
}

/* Channels say how large pages are, so they come before any page. */
static err_code prepare(kv_seq *q, const head *h, err *e)
{
    kv_lossy *y = q->lossy;
    if (y->arriving || h->d_pruned == y->d_pruned) return ERR_OK;
    y->channel = calloc((size_t)lossy_units(q->store) * h->d_pruned, sizeof *y->channel);
    if (!y->channel) return err_set(e, ERR_NOMEM, "out of memory for kept channels");
    y->d_pruned = h->d_pruned;
    return lossy_codes(q, e);
}

static err_code queries_room(observe *o, const head *h, err *e)
{
    o->query = calloc((size_t)o->layers * h->queries * h->width + 1, sizeof(float));
    if (!o->query) return err_set(e, ERR_NOMEM, "out of memory for %u queries", h->queries);
    o->queries = h->queries;
    o->query0 = h->query0;
    return ERR_OK;
}

/* Room for rows and observations; `most`: entries of a head. */
static err_code begin(kv_seq *q, const head *h, const kv_row *rows, uint32_t most, err *e)
{
    kv_lossy *y = q->lossy;
    err_code rc = cells_check_chain(&q->cells, rows, h->committed, e);
    if (!rc && h->committed) rc = observe_reserve(&y->see, h->committed, h->committed, most, UINT32_MAX, e);
    if (rc || y->arriving) return rc;
    q->base = h->base;
    if (h->queries) rc = queries_room(&y->see, h, e);
    return rc ? rc : kv_grow(q, h->base, h->committed, h->committed ? rows[0].row : 0, e);
}

/* ---- import -------------------------------------------------------------------------------------------------------- */

static err_code stream_check(const kv_seq *q, const unsigned char *buf, size_t len, head *h, err *e)
{
    if (len < sizeof magic + sizeof *h + CHECK_BYTES) return err_set(e, ERR_INPUT, "KV state: %zu bytes are no head", len);
    memcpy(h, buf + sizeof magic, sizeof *h);
    if (h->bytes != len)
        return err_set(e, ERR_INPUT, "KV state: %zu bytes, its head says %llu", len, (unsigned long long)h->bytes);
    uint64_t check, is = XXH3_64bits(buf, len - CHECK_BYTES);
    memcpy(&check, buf + len - CHECK_BYTES, sizeof check);
    if (check != is)
        return err_set(e, ERR_INPUT, "KV state: checksum is %016llx, its bytes make %016llx", (unsigned long long)check,
                       (unsigned long long)is);
    err_code rc = head_check(q, h, e);
    return rc ? rc : place_check(q, h, e);
}

static uint32_t most_entries(const shelf *shelves, uint32_t n, const head *h)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) most = shelves[i].rows > most ? shelves[i].rows : most;
    return most + h->committed - h->base + 1;
}

typedef struct { kv_row *rows; shelf *shelves; layer_part *part; uint32_t n; } arrival;

static bool arrival_open(arrival *a, const head *h)
{
    a->n = (h->l1 - h->l0) * h->K;
    a->rows = malloc((size_t)h->committed * ROW_BYTES + 1);
    a->shelves = calloc(a->n, sizeof *a->shelves);
    a->part = calloc(h->l1 - h->l0, sizeof *a->part);
    return a->rows && a->shelves && a->part;
}

static void arrival_close(kv_seq *q, arrival *a)
{
    for (uint32_t i = 0; a->shelves && i < a->n; i++) shelf_free(q, &a->shelves[i]);
    free(a->rows);
    free(a->shelves);
    free(a->part);
}

static void finish(kv_seq *q)
{
    const kv_geometry *g = &q->store->g;
    for (uint32_t l = g->first; l < g->last; l++)
        if (!q->have[l - g->first] && !skips_absent(q, l)) return;
    cells_pend_commit(&q->cells);
    memset(q->have, 0, kv_layers(q->store));
    q->lossy->arriving = false;
}

bool kv_state_is(const void *buf, size_t len) { return len >= sizeof magic && !memcmp(buf, magic, sizeof magic); }

/* The layers of one stream, checked and counted; the sequence has nothing of them yet. */
static err_code arrival_read(kv_seq *q, arrival *a, const head *h, wire *w, err *e)
{
    if (!arrival_open(a, h)) return err_set(e, ERR_NOMEM, "out of memory for a KV state of %u rows", h->committed);
    err_code rc = prepare(q, h, e);
    if (rc) return rc;
    move_bytes(w, a->rows, (size_t)h->committed * ROW_BYTES);
    if (w->bad) return broken(e, "end at byte", w->used);
    for (uint32_t i = 0; !rc && i < h->l1 - h->l0; i++) rc = layer_get(q, w, h, h->l0 + i, a->shelves + (size_t)i * h->K, &a->part[i], e);
    if (!rc && w->used != w->len) rc = broken(e, "end at byte", w->used);
    return rc ? rc : begin(q, h, a->rows, most_entries(a->shelves, a->n, h), e);
}

static void arrival_take(kv_seq *q, arrival *a, const head *h)
{
    if (!q->lossy->arriving) cells_pend(&q->cells, a->rows, h->committed);
    q->lossy->arriving = true;
    for (uint32_t i = 0; i < h->l1 - h->l0; i++) {
        layer_put(q, h, h->l0 + i, a->shelves + (size_t)i * h->K, &a->part[i]);
        q->have[h->l0 + i - q->store->g.first] = 1;
    }
    finish(q);
}

err_code lossy_import(kv_seq *q, const void *buf, size_t len, err *e)
{
    head h;
    arrival a = { 0 };
    err_code rc = stream_check(q, buf, len, &h, e);
    if (rc) return rc;
    size_t before = sizeof magic + sizeof h;
    wire w = { .at = (unsigned char *)buf + before, .len = len - before - CHECK_BYTES, .in = true };
    rc = arrival_read(q, &a, &h, &w, e);
    if (!rc) arrival_take(q, &a, &h);
    arrival_close(q, &a);
    if (rc && !q->lossy->arriving) {
        table_shrink(&q->table, &q->store->pages, 0);
        lossy_clear(q, q->lossy->n_prompt);
    }
    return rc;
}
