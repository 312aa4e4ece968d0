#ifndef PROTO_TURNSTILE_H
#define PROTO_TURNSTILE_H
/* So many connections a second of one address (of a /64 network of IPv6), and TURNSTILE_ALL times as many of all together: those above
 * are hung up on when they have just come, before a byte of theirs is read, let alone a curve operation made for them. An honest
 * peer tries again by itself, so it is delayed. Addresses are not proven at that time; whoever owns many is bounded by the sum.
 * One thread. */
#include "proto/rate.h"

#define TURNSTILE_BURST_S 10u   /* a cluster's start, or a host that comes back: so many seconds' worth at once */
#define TURNSTILE_ALL 8u

typedef struct turnstile turnstile;

turnstile *turnstile_open(uint64_t per_second);                 /* NULL: out of memory */
void turnstile_close(turnstile **t);
/* Somebody came to our `port` by descriptor fd, which is the library's, so it may belong to somebody else by now: one who came
 * later is judged in its stead, anything else is left alone. false: too fast, hung up on; who[64] is its address. */
bool turnstile_lets(turnstile *t, int fd, uint16_t port, char who[static 64]);
#endif
