#ifndef PROTO_PACE_H
#define PROTO_PACE_H
/* How many frames a second a peer may say to a socket. A peer is its key; without keys, its address. Those of this host who come
 * by a socket in a folder of ours are the user who runs us, and go as fast as they like. One thread. */
#include "core/err.h"
#include "proto/rate.h"

#define PACE_BURST_S 4u         /* so many seconds' worth at once: a stage answers for all sessions when a plan changes */

typedef struct pace pace;

pace *pace_open(uint64_t per_second);                           /* NULL: out of memory */
void pace_close(pace **p);
/* ERR_FULL: too fast; *wait_ms says when to come back. `who`: number of its key, 0: none; address: as the library says it (NULL: inproc). */
err_code pace_check(pace *p, uint32_t who, const char *address, const char *where, uint32_t frames, uint32_t *wait_ms, err *e);
uint64_t pace_refused(const pace *p);
#endif
