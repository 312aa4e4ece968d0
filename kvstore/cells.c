#include "kvstore/cells.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(kv_row) == 16, "rows are compared as bytes: no padding");

void cells_open(cells *c, uint32_t n_ctx)
{
    *c = (cells){ .n_ctx = n_ctx };
}

void cells_close(cells *c)
{
    free(c->row);
    free(c->link);
    free(c->move);
    *c = (cells){ .n_ctx = c->n_ctx };
}

uint64_t cells_bytes(const cells *c)
{
    return (uint64_t)c->cap * sizeof *c->row + (uint64_t)c->link_cap * (sizeof *c->link + sizeof *c->move);
}

uint32_t cells_last(const cells *c)
{
    return c->committed ? c->row[c->committed - 1].row : KV_ROW_NONE;
}

/* First slot of [lo, hi) whose row index is >= row; indices ascend. */
static uint32_t lower_bound(const cells *c, uint32_t lo, uint32_t hi, uint32_t row)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (c->row[mid].row < row) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static uint32_t find_in(const cells *c, uint32_t lo, uint32_t hi, uint32_t row)
{
    uint32_t s = lower_bound(c, lo, hi, row);
    return s < hi && c->row[s].row == row ? s : CELL_NONE;
}

uint32_t cells_find(const cells *c, uint32_t row)
{
    return find_in(c, 0, c->used, row);
}

/* Grow *p to hold `want` items; doubling, so that a row costs O(1). */
static bool room(void **p, uint32_t *cap, uint32_t want, size_t size)
{
    if (want <= *cap) return true;
    uint32_t n = *cap ? *cap : 64;
    while (n < want) n *= 2;
    void *q = realloc(*p, (size_t)n * size);
    if (!q) return false;
    *p = q;
    *cap = n;
    return true;
}

/* n_ctx is at most 2^30 (kv_open), so the doubling above cannot wrap. */
static err_code check_count(const cells *c, uint32_t n, err *e)
{
    if (n <= c->n_ctx - c->used) return ERR_OK;
    return err_set(e, ERR_FULL, "the sequence holds %u rows and %u more are asked for: it may hold %u", c->used, n, c->n_ctx);
}

static err_code room_rows(cells *c, uint32_t n, err *e)
{
    void *p = c->row;
    bool ok = room(&p, &c->cap, c->used + n, sizeof *c->row);
    c->row = p;
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the identities of %u rows", c->used + n);
}

static err_code room_links(cells *c, uint32_t n, err *e)
{
    uint32_t want = c->used - c->committed + n, link_cap = c->link_cap, move_cap = c->link_cap;
    void *link = c->link, *move = c->move;
    bool ok = room(&link, &link_cap, want, sizeof *c->link);
    c->link = link;
    ok = ok && room(&move, &move_cap, want, sizeof *c->move);
    c->move = move;
    if (!ok) return err_set(e, ERR_NOMEM, "out of memory for %u tentative rows", want);
    c->link_cap = link_cap;
    return ERR_OK;
}

/* What holds for a row wherever it comes from. `last` is the row index that it must be above. */
static err_code check_row(const cells *c, const kv_row *r, uint32_t last, err *e)
{
    if (r->row == KV_ROW_NONE || (last != KV_ROW_NONE && r->row <= last))
        return err_set(e, ERR_INPUT, "row %u does not come after row %u", r->row, last);
    if (r->pos >= c->n_ctx) return err_set(e, ERR_INPUT, "row %u: position %u is not below %u", r->row, r->pos, c->n_ctx);
    if (r->provenance > KV_EXTERNAL) return err_set(e, ERR_INPUT, "row %u: unknown provenance %u", r->row, r->provenance);
    return ERR_OK;
}

/* The link of the row in `slot`; rows before it are staged already. */
static err_code link_row(const cells *c, uint32_t slot, cell_link *out, err *e)
{
    const kv_row *r = &c->row[slot];
    if (r->parent == cells_last(c)) {
        uint32_t parent = c->committed ? c->committed - 1 : CELL_NONE;
        *out = (cell_link){ parent, slot == c->committed ? 0 : slot, c->committed + 1 };
        return ERR_OK;
    }
    uint32_t parent = find_in(c, c->committed, slot, r->parent);
    if (parent == CELL_NONE)
        return err_set(e, ERR_INPUT, "row %u: parent %u is neither the last committed row (%u) nor a tentative one",
                       r->row, r->parent, cells_last(c));
    const cell_link *l = &c->link[parent - c->committed];
    *out = (cell_link){ parent, parent + 1 == slot ? l->first : slot, l->seen + 1 };
    return ERR_OK;
}

err_code cells_stage(cells *c, const kv_row *rows, uint32_t n, err *e)
{
    c->staged = 0;
    if (c->pending) return err_set(e, ERR_STATE, "an import of %u rows waits for more layers", c->pending);
    err_code rc = check_count(c, n, e);
    if (rc == ERR_OK) rc = room_rows(c, n, e);
    if (rc == ERR_OK) rc = room_links(c, n, e);
    for (uint32_t i = 0; i < n && rc == ERR_OK; i++) {
        uint32_t slot = c->used + i;
        rc = check_row(c, &rows[i], slot ? c->row[slot - 1].row : KV_ROW_NONE, e);
        if (rc != ERR_OK) break;
        c->row[slot] = rows[i];
        if (rows[i].parent == KV_ROW_NONE) c->row[slot].parent = cells_last(c);
        rc = link_row(c, slot, &c->link[slot - c->committed], e);
    }
    if (rc == ERR_OK) c->staged = n;
    return rc;
}

void cells_add(cells *c, uint32_t *slots)
{
    for (uint32_t i = 0; i < c->staged; i++) slots[i] = c->used + i;
    c->used += c->staged;
    c->staged = 0;
}

/* The moves that bring the chain which ends in `slot` down, in order. The runs come last first, so they fill the list from
 * its end; what lies in its place already needs no move. */
static uint32_t chain_moves(cells *c, uint32_t slot, const cell_move **first)
{
    uint32_t at = c->link_cap;
    while (slot != CELL_NONE && slot >= c->committed) {
        cell_run r = cells_run(c, slot);
        if (r.first != r.at) c->move[--at] = (cell_move){ r.first, r.at, r.n };
        slot = r.prev;
    }
    *first = c->move + at;
    return c->link_cap - at;
}

err_code cells_commit(cells *c, uint32_t row, const cell_move **moves, uint32_t *n_moves, err *e)
{
    if (c->pending) return err_set(e, ERR_STATE, "row %u: an import of %u rows waits for more layers", row, c->pending);
    c->staged = 0;
    *moves = NULL;
    *n_moves = 0;
    uint32_t slot = find_in(c, c->committed, c->used, row);
    if (slot == CELL_NONE && row != cells_last(c))
        return err_set(e, ERR_INPUT, "row %u is neither tentative nor the last committed row (%u)", row, cells_last(c));
    if (slot != CELL_NONE) {
        *n_moves = chain_moves(c, slot, moves);
        for (uint32_t i = 0; i < *n_moves; i++) {
            const cell_move *m = &(*moves)[i];
            memmove(c->row + m->to, c->row + m->from, (size_t)m->n * sizeof *c->row);
        }
        c->committed = c->link[slot - c->committed].seen;
    }
    c->used = c->committed;
    return ERR_OK;
}

void cells_truncate(cells *c, uint32_t row)
{
    c->committed = lower_bound(c, 0, c->committed, row);
    c->used = c->committed;
    c->pending = c->staged = 0;
}

err_code cells_fork(cells *child, const cells *c, err *e)
{
    cells_open(child, c->n_ctx);
    err_code rc = room_rows(child, c->committed, e);
    if (rc != ERR_OK) return rc;
    if (c->committed) memcpy(child->row, c->row, (size_t)c->committed * sizeof *c->row);
    child->committed = child->used = c->committed;
    return ERR_OK;
}

/* A later group of layers: the same rows again. */
static err_code check_same(const cells *c, const kv_row *rows, uint32_t n, err *e)
{
    if (n != c->pending)
        return err_set(e, ERR_INPUT, "the stream has %u rows, the import under way has %u", n, c->pending);
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(&rows[i], &c->row[c->committed + i], sizeof *rows))
            return err_set(e, ERR_INPUT, "row %u differs from row %u of the import under way", rows[i].row,
                           c->row[c->committed + i].row);
    return ERR_OK;
}

err_code cells_check_chain(cells *c, const kv_row *rows, uint32_t n, err *e)
{
    if (c->used > c->committed)
        return err_set(e, ERR_STATE, "%u tentative rows must be committed or dropped before an import", c->used - c->committed);
    if (c->pending) return check_same(c, rows, n, e);
    err_code rc = check_count(c, n, e);
    uint32_t last = cells_last(c);
    for (uint32_t i = 0; i < n && rc == ERR_OK; i++) {
        rc = check_row(c, &rows[i], last, e);
        if (rc == ERR_OK && rows[i].parent != last)
            rc = err_set(e, ERR_INPUT, "row %u: parent %u is not the row before it (%u)", rows[i].row, rows[i].parent, last);
        last = rows[i].row;
    }
    return rc == ERR_OK ? room_rows(c, n, e) : rc;
}

void cells_pend(cells *c, const kv_row *rows, uint32_t n)
{
    assert(c->used == c->committed && c->used + n <= c->cap);
    if (n) memcpy(c->row + c->committed, rows, (size_t)n * sizeof *rows);
    c->pending = n;
    c->staged = 0;
}

void cells_pend_commit(cells *c)
{
    c->committed += c->pending;
    c->used = c->committed;
    c->pending = 0;
}
