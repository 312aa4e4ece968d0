/* Buckets of tokens. Knows neither peers nor what is done with those who go too fast. */
#include "proto/rate.h"
#include "core/clock.h"
#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

#define SLOTS 1024u     /* names in debt at once that are told apart for sure; 16 KiB */
#define PROBES 8u       /* places that a name may have */

typedef struct { uint64_t name, full_ns; } slot;
struct rate_table { rate_limit limit; uint64_t salt; slot at[SLOTS]; };

rate_limit rate_of(uint64_t per_second, uint32_t burst_s)
{
    uint64_t gap = 1000000000u / per_second;
    return (rate_limit){ gap ? gap : 1, (uint64_t)burst_s * 1000000000u };
}

bool rate_take(const rate_limit *l, uint64_t *full_ns, uint32_t n, uint64_t now_ns, uint64_t *wait_ns)
{
    uint64_t from = *full_ns > now_ns ? *full_ns : now_ns, to = from + n * l->gap_ns;
    *wait_ns = to - now_ns > l->burst_ns ? to - now_ns - l->burst_ns : 0;
    if (*wait_ns) return false;
    *full_ns = to;
    return true;
}

/* The salt keeps a peer from choosing whose place it shares. */
rate_table *rate_table_open(rate_limit l)
{
    rate_table *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->limit = l;
    if (getrandom(&t->salt, sizeof t->salt, GRND_NONBLOCK) != sizeof t->salt) t->salt = clock_ns();
    return t;
}

void rate_table_close(rate_table **t)
{
    free(*t);
    *t = NULL;
}

static slot *slot_of(rate_table *t, uint64_t name)
{
    slot *best = NULL;
    for (uint32_t i = 0; i < PROBES; i++) {
        slot *s = &t->at[(name + i) % SLOTS];
        if (s->name == name) return s;
        if (!best || s->full_ns < best->full_ns) best = s;
    }
    best->name = name;
    return best;
}

bool rate_table_take(rate_table *t, const void *name, size_t len, uint32_t n, uint64_t now_ns, uint64_t *wait_ns)
{
    slot *s = slot_of(t, XXH3_64bits_withSeed(name, len, t->salt));
    return rate_take(&t->limit, &s->full_ns, n, now_ns, wait_ns);
}
