#ifndef PROTO_HUB_H
#define PROTO_HUB_H
/* What all links of a process (or of a one-process cluster) share: the library's context, our keys, and the gate. Any thread,
 * but hub_open, hub_trust and hub_close, which are the main thread's. */
#include "proto/gate.h"

typedef struct hub hub;

err_code hub_open(hub **out, err *e);
void hub_close(hub **h);                                    /* all links must be closed */

/* Whom the tcp links of this hub trust. Before the first of them is opened, from the main thread.
 * key: file of our secret key; NULL: the systemd credential "sluice.key" if there is one. server_key: the coordinator's public key
 * or a file that holds it (credential "sluice.server.pub"), for programs that connect to one. allow: file of the peers that may
 * connect (credential "sluice.allow"); it is read again when it changes. own: make a pair that lives as long as this process (a
 * coordinator's child). watch: say how connections fare even without keys. insecure: tcp anywhere, in the clear. handshakes: with keys, so
 * many connections a second of one address (0: any number). Without any of these: tcp on loopback only, in the clear. */
typedef struct { const char *key, *server_key, *allow; bool own, watch, insecure; uint64_t handshakes; } hub_trusts;
err_code hub_trust(hub *h, const hub_trusts *t, err *e);
bool hub_has_keys(const hub *h);
/* Our public key as text; "" without keys. */
const char *hub_key(const hub *h);
gate *hub_gate(const hub *h);                               /* never NULL with keys */
bool hub_gate_has_list(const hub *h);                       /* a file says who may connect */
/* Who else may connect, beside the coordinator (--server-key) and those of the list: replaces what was said before. */
err_code hub_admit(hub *h, const allow_entry *at, uint32_t n, err *e);

/* ---- for links ---- */
void *hub_context(hub *h);
void hub_count_link(hub *h, int by);
bool hub_is_insecure(const hub *h);
const key_pair *hub_keys(const hub *h);                     /* NULL without keys */
const uint8_t *hub_server(const hub *h);                    /* the coordinator's public key [KEY_BYTES], NULL: not known */
#endif
