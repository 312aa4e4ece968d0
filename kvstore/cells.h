#ifndef KVSTORE_CELLS_H
#define KVSTORE_CELLS_H
/* Which row lies in which slot of a sequence, and what a row may see: identities, committed and tentative rows, the
 * decisions of commit, truncate and fork. Owns the identity of every row; refuses to know of any data: a decision that
 * moves rows comes out as a list of moves, so all of it can be tested without a float.
 *
 * A slot is a dense index. Committed rows lie in slots [0, committed) and are a chain: each one's parent is the one
 * before. Tentative rows follow in slots [committed, used), row indices ascending; they form a tree whose root is the
 * last committed row. Pending rows (an import that waits for more layers) lie in [committed, committed+pending) and
 * exclude tentative ones.
 *
 * Threads: one owner changes; cells_run and the counts may be read by any thread in between. */
#include "kvstore/kv.h"

#define CELL_NONE UINT32_MAX

/* Where a tentative row hangs. */
typedef struct {
    uint32_t parent;           /* slot, CELL_NONE: no row before */
    uint32_t first;            /* slots first..this are each other's parents: one run; 0 when it reaches the committed rows */
    uint32_t seen;             /* rows it sees, itself included */
} cell_link;

typedef struct { uint32_t from, to, n; } cell_move;  /* slots; to < from; ranges may overlap: copy ascending */

typedef struct {
    kv_row *row;               /* [cap] */
    cell_link *link;           /* [link_cap] of slot committed+i */
    cell_move *move;           /* [link_cap] */
    uint32_t committed, used, pending, staged;
    uint32_t cap, link_cap;
    uint32_t n_ctx;            /* rows at most, and the bound of position ids */
} cells;

void cells_open(cells *c, uint32_t n_ctx);
void cells_close(cells *c);
uint64_t cells_bytes(const cells *c);

uint32_t cells_last(const cells *c);                   /* row index of the last committed row, KV_ROW_NONE when empty */
uint32_t cells_find(const cells *c, uint32_t row);     /* slot of a committed or tentative row, or CELL_NONE */

/* Check n new tentative rows and lay them ready; nothing is visible until cells_add, and staging again starts anew.
 * parent KV_ROW_NONE is replaced by the last committed row. ERR_INPUT with the row and the bad value, ERR_FULL above
 * n_ctx, ERR_STATE while an import is pending, ERR_NOMEM. */
err_code cells_stage(cells *c, const kv_row *rows, uint32_t n, err *e);
void cells_add(cells *c, uint32_t *slots);             /* slots [n] of the staged rows */

/* As kv_commit. *moves (owned by c, valid until the next call) bring the chosen rows' data to their new slots, in order. */
err_code cells_commit(cells *c, uint32_t row, const cell_move **moves, uint32_t *n_moves, err *e);
/* As kv_truncate; drops pending rows too. */
void cells_truncate(cells *c, uint32_t row);
/* *child becomes the committed rows of c. ERR_NOMEM leaves it closed. */
err_code cells_fork(cells *child, const cells *c, err *e);

/* Rows from outside, which continue the committed chain. Check first (also makes room), then pend; a later group must bring
 * the same rows. cells_pend_commit makes them committed. */
err_code cells_check_chain(cells *c, const kv_row *rows, uint32_t n, err *e);
void cells_pend(cells *c, const kv_row *rows, uint32_t n);
void cells_pend_commit(cells *c);

/* What a row sees, as runs of slots, walked from the row itself back to the first row. The run covers slots
 * [first, first+n) and lies at [at, at+n) of the dense visible order; prev is the slot that ends the run before it, or
 * CELL_NONE. A row of a line has one run; the cost is O(1) a run. */
typedef struct { uint32_t first, n, at, prev; } cell_run;
static inline cell_run cells_run(const cells *c, uint32_t slot)
{
    if (slot < c->committed) return (cell_run){ 0, slot + 1, 0, CELL_NONE };
    const cell_link *l = &c->link[slot - c->committed];
    uint32_t n = slot - l->first + 1;
    uint32_t prev = l->first < c->committed ? CELL_NONE : c->link[l->first - c->committed].parent;
    return (cell_run){ l->first, n, l->seen - n, prev };
}
#endif
