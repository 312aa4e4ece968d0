/* Export and import: rows of a sequence as bytes, for KV_PUSH and fail-over. Owns the stream's format; trusts nothing in it.
 *
 * All little-endian, no padding:
 *   head    magic "SLUICEKV", then the u32 of HEAD_MAP, u64 rope fingerprint, u64 bytes of the whole stream
 *   rows    [to-from] x { u32 row, u32 pos, u32 parent, u16 segment, u8 provenance, u8 path }
 *   data    [l1-l0][K][K side, V side][to-from][d] elements of the format
 *   check   u64 xxh3 of everything before it */
#include "kvstore/lossy.h"
#include "kvstore/skip.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are copied to the stream as they lie in memory");

/* Grows by one when the meaning of any byte changes; other versions are refused. */
#define STREAM_VERSION 1
#define HEAD_MAP(X) X(version) X(format) X(l0) X(l1) X(K) X(d) X(from) X(to)

typedef struct {
#define X(name) uint32_t name;
    HEAD_MAP(X)
#undef X
    uint64_t rope, bytes;
} head;

static const char magic[8] = { 'S', 'L', 'U', 'I', 'C', 'E', 'K', 'V' };
enum { HEAD_BYTES = sizeof magic + sizeof(head), ROW_BYTES = 16, CHECK_BYTES = 8 };
_Static_assert(sizeof(head) == 8 * 4 + 2 * 8 && sizeof(kv_row) == ROW_BYTES, "both are copied whole: no padding");

/* Cannot overflow: kv_open bounds the bytes of a full sequence, and a head is checked against the store first. */
static uint64_t data_bytes(const kv *s, uint32_t layers, uint32_t rows)
{
    return (uint64_t)layers * s->g.K * KV_SIDES * rows * s->layout.row;
}

/* Layers that the sequence leaves out have no data in a stream; both sides leave out the same ones. */
static uint32_t layers_with(const kv_seq *q, uint32_t l0, uint32_t l1)
{
    uint32_t n = 0;
    for (uint32_t l = l0; l < l1; l++) n += !skips_absent(q, l);
    return n;
}

/* Which those are, folded into what both sides compare. */
static uint64_t print_of(const kv_seq *q, uint32_t l0, uint32_t l1)
{
    uint64_t h = q->store->rope_print;
    for (uint32_t l = l0; l < l1; l++)
        if (skips_absent(q, l)) h = XXH3_64bits_withSeed(&l, sizeof l, h);
    return h;
}

static uint64_t stream_bytes(const kv *s, uint32_t layers, uint32_t rows)
{
    return HEAD_BYTES + (uint64_t)rows * ROW_BYTES + data_bytes(s, layers, rows) + CHECK_BYTES;
}

/* ---- export ---- */

static err_code range_check(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to, err *e)
{
    const kv_geometry *g = &q->store->g;
    if (l0 < g->first || l0 >= l1 || l1 > g->last)
        return err_set(e, ERR_INPUT, "export of layers [%u,%u): this store has [%u,%u)", l0, l1, g->first, g->last);
    if (from > to || to > q->cells.committed)
        return err_set(e, ERR_INPUT, "export of rows [%u,%u): the sequence has %u", from, to, q->cells.committed);
    if (from < q->base)
        return err_set(e, ERR_INPUT, "export of rows [%u,%u): the first %u have settled and are no longer exact", from, to,
                       q->base);
    for (uint32_t l = l0; l < l1; l++)
        if (skips_absent(q, l) && q->skips->from[l])
            return err_set(e, ERR_INPUT, "export of layer %u: its rows were given back, no later one reads them", l);
    return ERR_OK;
}

size_t kv_export_bytes(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to)
{
    return range_check(q, l0, l1, from, to, NULL) == ERR_OK ? stream_bytes(q->store, layers_with(q, l0, l1), to - from) : 0;
}

/* Where a stream's data meets the pages: out of them when `out` is set, else from `in` to them. */
static void data_walk(const kv_seq *q, const head *h, unsigned char *out, const unsigned char *in)
{
    const kv *s = q->store;
    size_t at = 0;
    for (uint32_t l = h->l0; l < h->l1; l++)
        for (uint32_t i = 0; i < s->g.K * KV_SIDES && !skips_absent(q, l); i++)
            for (uint32_t slot = h->from, n; slot < h->to; slot += n) {
                n = kv_layout_run(slot - q->base, h->to - q->base);
                void *rows = kv_row_at(q, l, i % KV_SIDES, i / KV_SIDES, slot - q->base);
                if (out) memcpy(out + at, rows, n * s->layout.row);
                else memcpy(rows, in + at, n * s->layout.row);
                at += n * s->layout.row;
            }
}

err_code kv_export(const kv_seq *q, uint32_t l0, uint32_t l1, uint32_t from, uint32_t to, void *buf, size_t len, err *e)
{
    err_code rc = range_check(q, l0, l1, from, to, e);
    if (rc != ERR_OK) return rc;
    const kv *s = q->store;
    head h = { STREAM_VERSION, s->g.format, l0, l1, s->g.K, s->g.d, from, to, print_of(q, l0, l1),
               stream_bytes(s, layers_with(q, l0, l1), to - from) };
    if (len != h.bytes) return err_set(e, ERR_INPUT, "export into %zu bytes: it takes %llu", len, (unsigned long long)h.bytes);

    unsigned char *at = buf;
    memcpy(at, magic, sizeof magic);
    memcpy(at + sizeof magic, &h, sizeof h);
    at += HEAD_BYTES;
    if (to > from) memcpy(at, q->cells.row + from, (size_t)(to - from) * ROW_BYTES);
    data_walk(q, &h, at + (size_t)(to - from) * ROW_BYTES, NULL);
    uint64_t check = XXH3_64bits(buf, len - CHECK_BYTES);
    memcpy((unsigned char *)buf + len - CHECK_BYTES, &check, sizeof check);
    return ERR_OK;
}

/* ---- import ---- */

/* The head's numbers against this store's, each with both values. */
static err_code head_check(const kv_seq *q, const head *h, err *e)
{
    const kv *s = q->store;
    const struct { const char *what; uint32_t got, want; } same[] = {
        { "version", h->version, STREAM_VERSION },
        { "format (0 f16, 1 f32)", h->format, s->g.format },
        { "KV heads", h->K, s->g.K },
        { "head size", h->d, s->g.d },
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (same[i].got != same[i].want)
            return err_set(e, ERR_INPUT, "KV stream: %s is %u, this store has %u", same[i].what, same[i].got, same[i].want);
    if (h->l0 < s->g.first || h->l0 >= h->l1 || h->l1 > s->g.last)
        return err_set(e, ERR_INPUT, "KV stream: layers [%u,%u), this store has [%u,%u)", h->l0, h->l1, s->g.first, s->g.last);
    if (h->rope != print_of(q, h->l0, h->l1))
        return err_set(e, ERR_INPUT, "KV stream: rotary table %016llx, this store has %016llx (layers left out are part of it)", (unsigned long long)h->rope,
                       (unsigned long long)print_of(q, h->l0, h->l1));
    if (h->from > h->to || h->to > s->g.n_ctx)
        return err_set(e, ERR_INPUT, "KV stream: rows [%u,%u), a sequence here holds %u", h->from, h->to, s->g.n_ctx);
    return ERR_OK;
}

static err_code stream_check(const kv_seq *q, const unsigned char *buf, size_t len, head *h, err *e)
{
    const kv *s = q->store;
    if (len < HEAD_BYTES + CHECK_BYTES || memcmp(buf, magic, sizeof magic))
        return err_set(e, ERR_INPUT, "KV stream: %zu bytes that do not begin with a head", len);
    memcpy(h, buf + sizeof magic, sizeof *h);
    err_code rc = head_check(q, h, e);
    if (rc != ERR_OK) return rc;
    uint64_t want = stream_bytes(s, layers_with(q, h->l0, h->l1), h->to - h->from);
    if (h->bytes != want || len != want)
        return err_set(e, ERR_INPUT, "KV stream: %zu bytes, its head says %llu, its rows make %llu", len,
                       (unsigned long long)h->bytes, (unsigned long long)want);
    uint64_t check, is = XXH3_64bits(buf, len - CHECK_BYTES);
    memcpy(&check, buf + len - CHECK_BYTES, sizeof check);
    if (check == is) return ERR_OK;
    return err_set(e, ERR_INPUT, "KV stream: checksum is %016llx, its bytes make %016llx", (unsigned long long)check,
                   (unsigned long long)is);
}

/* Does the stream continue what the sequence has? */
static err_code place_check(const kv_seq *q, const head *h, err *e)
{
    if (h->from != q->cells.committed)
        return err_set(e, ERR_INPUT, "KV stream: rows begin at %u, the sequence has %u", h->from, q->cells.committed);
    if (h->to >= kv_boundary(q))
        return err_set(e, ERR_INPUT, "KV stream: rows up to %u, and KV policy %s settles at row %u, which must be computed here",
                       h->to, q->lossy->policy.name, kv_boundary(q));
    for (uint32_t l = h->l0; l < h->l1; l++)
        if (q->have[l - q->store->g.first]) return err_set(e, ERR_INPUT, "KV stream: layer %u is here already", l);
    return ERR_OK;
}

static err_code rows_accept(kv_seq *q, const head *h, const kv_row *rows, err *e)
{
    uint32_t n = h->to - h->from;
    err_code rc = cells_check_chain(&q->cells, rows, n, e);
    if (rc != ERR_OK || q->cells.pending) return rc;
    rc = kv_grow(q, h->from, h->to, n ? rows[0].row : 0, e);
    if (rc == ERR_OK) cells_pend(&q->cells, rows, n);
    return rc;
}

/* All layers are here: the rows are as good as computed ones. */
static void finish(kv_seq *q)
{
    const kv_geometry *g = &q->store->g;
    for (uint32_t l = g->first; l < g->last; l++)
        if (!q->have[l - g->first] && !skips_absent(q, l)) return;
    cells_pend_commit(&q->cells);
    memset(q->have, 0, kv_layers(q->store));
}

err_code kv_import(kv_seq *q, const void *buf, size_t len, err *e)
{
    if (q->lossy && kv_state_is(buf, len)) return lossy_import(q, buf, len, e);
    head h;
    err_code rc = stream_check(q, buf, len, &h, e);
    if (rc == ERR_OK) rc = place_check(q, &h, e);
    if (rc != ERR_OK) return rc;
    size_t n = h.to - h.from;
    kv_row *rows = malloc(n * ROW_BYTES + 1);
    if (!rows) return err_set(e, ERR_NOMEM, "out of memory for the identities of %zu rows", n);
    const unsigned char *at = (const unsigned char *)buf + HEAD_BYTES;
    memcpy(rows, at, n * ROW_BYTES);
    rc = rows_accept(q, &h, rows, e);
    free(rows);
    if (rc != ERR_OK || n == 0) return rc;

    data_walk(q, &h, NULL, at + n * ROW_BYTES);
    memset(q->have + (h.l0 - q->store->g.first), 1, h.l1 - h.l0);
    finish(q);
    return ERR_OK;
}
