#ifndef PROTO_RATE_H
#define PROTO_RATE_H
/* How fast each of many may go: a bucket of tokens a name. A bucket is one number, the moment at which it will be full again (the
 * virtual schedule of ITU-T I.371's cell rate algorithm), so one that is full needs no place, and a table of fixed size serves any
 * number of names: a newcomer gets a place whose bucket is full, or else the debt of the least indebted of the few it may have.
 * So nobody loses its debt by coming under many names. No locks: a table belongs to one thread. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { uint64_t gap_ns, burst_ns; } rate_limit;      /* time of one token, and of a full bucket */
typedef struct rate_table rate_table;

/* per_second > 0 tokens come a second, `burst_s` seconds of them lie in a full bucket. */
rate_limit rate_of(uint64_t per_second, uint32_t burst_s);
/* Takes n tokens, or none: false, and *wait_ns says how long until there are as many (never, when a bucket holds fewer). *full_ns is the bucket, 0: full. */
bool rate_take(const rate_limit *l, uint64_t *full_ns, uint32_t n, uint64_t now_ns, uint64_t *wait_ns);

rate_table *rate_table_open(rate_limit l);                     /* NULL: out of memory */
void rate_table_close(rate_table **t);
bool rate_table_take(rate_table *t, const void *name, size_t len, uint32_t n, uint64_t now_ns, uint64_t *wait_ns);
#endif
