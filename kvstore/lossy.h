#ifndef KVSTORE_LOSSY_H
#define KVSTORE_LOSSY_H
/* A sequence under a policy that is not the identity. Committed rows settle at the prompt's end and at multiples of KV_INTERVAL:
 * from then on they lie packed in shelves, one a (layer, kv head), ragged; until then they are raw, in the sequence's table, as
 * the identity's are. Owns shelves and observations of one sequence; refuses to decide which rows stay (kvstore/policy/).
 * Behind the door only: kv.c, settle.c, observe.c, attend_packed.c, state.c. Threads as kv.h. */
#include "kvstore/observe.h"
#include "kvstore/pane.h"
#include "kvstore/policy/view.h"
#include "kvstore/store.h"

/* How a side of a pane is packed: an index into lossy.side[].code[]. */
enum {
    CODE_WAIT = 0,             /* raw, until enough newer rows have settled */
    CODE_RAW = 1,              /* raw for ever: exact sinks, Razor's compensation row */
    CODE_PACK = 2,             /* policy.k, policy.v */
    CODE_TIER = 3,             /* policy.k2, policy.v2 */
    CODE_LEVEL = 4,            /* staircase: levels[1] and on */
    CODES = CODE_LEVEL + KV_LEVELS - 1
};
#define ORD_EXTRA UINT32_MAX   /* the compensation row: it stands for rows, and is none */

typedef struct {
    uint32_t page[KV_SIDES];   /* ids in the classes of their codes */
    uint8_t code, n, alive;    /* rows in it; those that are not evicted */
    uint8_t spare;
} pane;

/* Rows of one head, pane after pane. A row that was evicted from a pane which cannot do without it stays as a dead one. */
typedef struct {
    pane *pane;                /* [panes] */
    uint32_t panes, cap, rows, cap_rows, dead;
    uint32_t *ord;             /* [rows] place among the committed rows; NULL: row i is the i-th */
    float *weight, *bias;      /* [rows] tokens it stands for, 0: dead, and ln of it; NULL: all 1 */
} shelf;

typedef struct { pages *class; kv_pack pack; } side_code;

struct kv_lossy {
    kv_policy policy;
    uint32_t n_prompt;         /* rows of the prompt, 0: unknown, so only multiples of KV_INTERVAL count */
    bool arriving;             /* an imported state waits for more layers */
    bool watch;                /* kv_seq_open_watch: it never settles */
    bool broken;               /* a settlement stopped half way: the sequence can only be closed */
    side_code code[KV_SIDES][CODES];
    uint32_t levels;           /* of the staircase, 0: none */
    shelf *shelf;              /* [layers][K] */
    uint16_t *channel;         /* [layers][K][d_pruned] K channels that are kept, ascending; NULL: all */
    uint32_t d_pruned;         /* d when nothing is pruned */
    observe see;
    struct kv_choices *choices;  /* choice.h; NULL: every layer reads all rows */
    uint64_t evicted;          /* rows, over heads and layers */
};

static inline uint32_t lossy_units(const kv *s) { return kv_layers(s) * s->g.K; }
static inline shelf *shelf_of(const kv_seq *q, uint32_t layer, uint32_t head)
{
    return &q->lossy->shelf[(size_t)(layer - q->store->g.first) * q->store->g.K + head];
}
static inline uint32_t shelf_ord(const shelf *h, uint32_t i) { return h->ord ? h->ord[i] : i; }
static inline bool lossy_prunes(const kv_lossy *y) { return y->channel != NULL; }

err_code lossy_open(kv_seq *q, const kv_policy *p, uint32_t n_prompt, err *e);
void lossy_close(kv_seq *q);
err_code lossy_fork(kv_seq *child, const kv_seq *q, err *e);
/* Of a watching sequence whose prompt is there: the child is under p, and has yet to settle. */
err_code lossy_adopt(kv_seq *child, const kv_seq *q, const kv_policy *p, err *e);
/* Pages of packed rows, whole; and those by how they are packed, one that n sequences share for 1/n. */
uint64_t lossy_data(const kv_seq *q);
void lossy_by_kind(const kv_seq *q, double by_kind[KV_PACK_COUNT]);
/* kv.c's calls, before and after what the identity does. */
err_code lossy_check_rows(const kv_seq *q, uint32_t staged, err *e);   /* may these rows be tentative now? */
err_code lossy_reserve(kv_seq *q, err *e);                             /* they are */
err_code lossy_before_commit(kv_seq *q, uint32_t row, err *e);
void lossy_move(kv_seq *q, uint32_t from, uint32_t to);
err_code lossy_after_commit(kv_seq *q, err *e);
/* Rows that have settled do not come back, nor what a dropped row saw: only tentative rows, or all. */
err_code lossy_truncate(kv_seq *q, uint32_t row, err *e);
/* Empty again, with a prompt of n rows. */
void lossy_clear(kv_seq *q, uint32_t n_prompt);
/* The first boundary above `committed` rows. */
uint32_t lossy_boundary(const kv_lossy *y, uint32_t committed);
/* Bytes beside the pages: shelves, observations. */
uint64_t lossy_meta(const kv_seq *q);

/* Page sizes of the codes, again when channels were pruned. */
err_code lossy_codes(kv_seq *q, err *e);
/* How panes of a code are packed in one head. */
pane_kind lossy_kind(const kv_seq *q, uint32_t layer, uint32_t head, int side, uint8_t code);
static inline unsigned char *pane_at(const kv_seq *q, const pane *p, int side)
{
    return pages_at(q->lossy->code[side][p->code].class, p->page[side]);
}
void shelf_free(kv_seq *q, shelf *h);
/* Room for the pages of one pane of this code; may take memory from other page sizes. */
err_code lossy_ensure(kv_seq *q, uint8_t code, uint32_t panes, err *e);

/* state.c: kv_import of a state */
bool kv_state_is(const void *buf, size_t len);
err_code lossy_import(kv_seq *q, const void *buf, size_t len, err *e);
/* settle.c: committed rows up to now settle. */
err_code lossy_settle(kv_seq *q, bool prompt_end, err *e);
/* attend_packed.c: n rows from `slot` on, each the parent of the next; one kv head; query and out are the first row's, ldq and ldo
 * floats from a row to the next. More than one row only when what they see is a line (attend_is_line). */
void lossy_attend(kv_seq *q, uint32_t layer, uint32_t slot, uint32_t n, const float *query, size_t ldq, float *out, size_t ldo,
                  uint32_t head, float *scratch);
size_t lossy_scratch_floats(const kv *s);
#endif
