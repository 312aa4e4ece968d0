#ifndef PROTO_LOAN_H
#define PROTO_LOAN_H
/* Memory that a sent message may keep: it goes over the wire from where it was computed, and may be written again when the
 * last message has let go of it. Refused: growing. Filling belongs to one thread; letting go may happen on any. */
#include <stdbool.h>
#include <stddef.h>
typedef struct loan loan;

/* NULL: out of memory. The caller holds it once. */
loan *loan_new(size_t bytes);
void *loan_data(loan *l);               /* 64-byte aligned */
/* Does nobody but its owner hold it? Then it may be written. */
bool loan_is_back(const loan *l);
void loan_hold(loan *l);
/* Let go; the last one gives the memory back. NULL is fine. */
void loan_drop(loan *l);
#endif
