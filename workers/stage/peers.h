#ifndef WORKERS_STAGE_PEERS_H
#define WORKERS_STAGE_PEERS_H
/* The stages of a plan: where each takes STEPs, and its public key ("": it speaks in the clear). One thread. */
#include "core/buf.h"
#include "proto/hub.h"

typedef struct { char addr[128], key[48]; } peer;
typedef struct { peer *at; uint32_t n; } peers;   /* [n], by stage index */

/* PLAN.addrs: n lines "addr" or "addr key". They replace what was there; with keys, these stages and the coordinator may send to
 * this process from now on and nobody else. ERR_PROTO: not n lines, or words that are too long. */
err_code peers_take(peers *p, hub *h, uint32_t n, view lines, err *e);
void peers_free(peers *p);
#endif
