#ifndef COORDINATOR_TRUST_H
#define COORDINATOR_TRUST_H
/* What the coordinator does about strangers: where it listens for others, whom it lets in, what becomes of a worker whose key is
 * taken off the list. Main thread. */
#include "coordinator/coordinator.h"

/* Bind --listen (with the socket for results beside it) and --listen-clients. ERR_CONFIG: keys without a list, or an address of all
 * networks without --address. */
err_code trust_listen(coordinator *c, err *e);
/* Is a HELLO what its connection says? (Key, addresses, cookie.) ERR_DENIED or ERR_PROTO. */
err_code trust_hello(const coordinator *c, const link_t *from, const msg_hello *h, err *e);
/* The keys of the children that are here may connect: after every HELLO and every death of one. */
err_code trust_admit(coordinator *c, err *e);
/* The message that was just refused on l (in c->in, `why`): tell its sender, and let a worker go whose key is off the list. */
void trust_refused(coordinator *c, link_t *l, const err *why);
/* The message that was just refused on l because its sender says too much in a second. */
void trust_hurried(coordinator *c, const link_t *l, const err *why);
/* Workers whose keys were taken off the list since the last call are lost. */
void trust_tick(coordinator *c);
/* "addr key" or "addr": a line of PLAN for this member. */
bool trust_add_line(text *out, const member *m);
/* For `sluice status --json`; NULL: out of memory. */
struct json_t *trust_json(const coordinator *c);
#endif
