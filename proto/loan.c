#include "proto/loan.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* Owns a count of holders in front of the bytes. It knows no messages. */

struct loan { _Alignas(64) atomic_uint holders; };

loan *loan_new(size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * sizeof(loan)) return NULL;
    loan *l = aligned_alloc(sizeof *l, sizeof *l + (bytes + sizeof *l - 1) / sizeof *l * sizeof *l);
    if (l) atomic_init(&l->holders, 1);
    return l;
}

void *loan_data(loan *l) { return l + 1; }

/* Acquire: what the last reader read was read before we write. */
bool loan_is_back(const loan *l) { return atomic_load_explicit(&l->holders, memory_order_acquire) == 1; }

void loan_hold(loan *l) { atomic_fetch_add_explicit(&l->holders, 1, memory_order_relaxed); }

void loan_drop(loan *l)
{
    if (l && atomic_fetch_sub_explicit(&l->holders, 1, memory_order_acq_rel) == 1) free(l);
}
