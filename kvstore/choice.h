#ifndef KVSTORE_CHOICE_H
#define KVSTORE_CHOICE_H
/* Which rows a tentative row reads in sparse layers (TidalDecode, arXiv:2410.05076). A row is named by its place among those that the
 * row sees, which is the same in every layer and every stage, since nothing is evicted. While a selecting layer attends, every head
 * adds the weights that it gave: integers, so neither threads nor heads have an order. Prompt rows read everything.
 * Owns these numbers; refuses to attend. Threads: choice_weights by any (a head of a row by one), the rest by the owner, but kv_choose
 * of different rows by different threads. */
#include "kvstore/policy/view.h"
#include "kvstore/store.h"

typedef struct kv_choices {
    kv_policy policy;
    uint32_t lane0, lanes;     /* slots [lane0, lane0 + lanes) have a lane */
    uint32_t stride, most;     /* rows that one may see; that one may read */
    uint64_t *total;           /* [lanes][stride] */
    uint32_t *row;             /* [lanes][most] ascending */
    uint32_t *n;               /* [lanes], 0: nothing was chosen */
    uint32_t lane_cap;
} kv_choices;

err_code choices_open(kv_choices **out, const kv_policy *p, err *e);
void choices_close(kv_choices **c);
uint64_t choices_bytes(const kv_choices *c);
/* Slots [lane0, used) are about to attend; nothing is chosen for any. */
err_code choices_reserve(kv_choices *c, uint32_t lane0, uint32_t used, err *e);
static inline bool choices_has(const kv_choices *c, uint32_t slot) { return c && slot >= c->lane0 && slot - c->lane0 < c->lanes; }
/* Rows that `slot` reads in sparse layers, *n of them; NULL: all. */
const uint32_t *choices_of(const kv_choices *c, uint32_t slot, uint32_t *n);
/* Query head i < g gave the row at place j < n the weight x[i * ld + j] * inv[i]. */
typedef struct { const float *x; size_t ld; const float *inv; uint32_t g, n; } choice_weights;
void choices_add(const kv_choices *c, uint32_t slot, const choice_weights *w);
#endif
