#ifndef KVSTORE_SKIP_H
#define KVSTORE_SKIP_H
/* Layers that a sequence leaves out: from[l] is the first row that has nothing in layer l of the model. Owns these numbers and what
 * was given back; refuses to know why. Behind the door only. Threads as kv.h: one owner changes, others read in between. */
#include "kvstore/store.h"

typedef struct kv_skips {
    uint32_t n;                /* layers of the model */
    uint32_t active;           /* of them, those that some row has */
    uint8_t *off, *gone;       /* [layers of the store]: left out by the rows under way; pages were given back */
    uint32_t from[];           /* [n] */
} kv_skips;

err_code skips_open(kv_seq *q, const uint32_t *from, err *e);
void skips_close(kv_seq *q);
err_code skips_fork(kv_seq *child, const kv_seq *q, err *e);
uint64_t skips_bytes(const kv_seq *q);
/* By layer of the store: does the row with this index leave it out? NULL: it leaves out none. */
const uint8_t *skips_off(const kv_seq *q, uint32_t row);
/* The layer has no rows in this sequence, or none any more. layer as in the model. */
bool skips_absent(const kv_seq *q, uint32_t layer);
/* Give back what no row from `row` on reads. */
void skips_release(kv_seq *q, uint32_t row);
/* May the sequence go back to row `row`? ERR_STATE when that row needs a layer whose rows are gone. 0: all rows go, and everything is
 * as it was at the beginning. */
err_code skips_truncate(kv_seq *q, uint32_t row, err *e);
#endif
