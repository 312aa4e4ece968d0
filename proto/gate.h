#ifndef PROTO_GATE_H
#define PROTO_GATE_H
/* The gate of a process: one thread that answers the library's question "may this key come in?" (ZAP, RFC 27), keeps the list of
 * peers as its file is now, and watches sockets for handshakes that fail. Everything else of it may be called from any thread.
 * Peers are numbered from 1 in the order in which they were first listed; a number is never given to another key, so a link can
 * ask about the sender of every message what the list says at this moment. */
#include "proto/allow.h"
#include "proto/lookout.h"

typedef struct gate gate;

#define GATE_COUNTS(X)                                                                       \
    X(accepted,    "handshakes of keys that are on the list")                                \
    X(unknown,     "handshakes of keys that are not")                                        \
    X(protocol,    "no CURVE, a wrong server key, replayed or broken handshakes")            \
    X(unfinished,  "peers that hung up or stayed silent in the handshake")                   \
    X(crowded,     "connections hung up on because they came too fast; some are among the unfinished, too") \
    X(lost,        "connections that ended, among them those with a frame above the limit")  \
    X(cut,         "messages dropped because their sender's key was taken off the list")     \
    X(role,        "messages refused because of the sender's role")                          \
    X(reloads,     "times the list was read again")
typedef struct {
#define X(name, doc) uint64_t name;
    GATE_COUNTS(X)
#undef X
} gate_counts;

typedef struct { uint8_t key[KEY_BYTES]; peer_role role; char name[ALLOW_NAME_MAX + 1]; bool allowed; } gate_peer;

/* `again`: a key that is not on the list is asked to try later (a stage whose PLAN is on its way), not told to give up. */
typedef struct { void *ctx; const char *file; bool again; uint64_t handshakes; } gate_options;   /* file: the list, NULL: none; handshakes: of one address a second, 0: any */

err_code gate_open(gate **out, const gate_options *o, err *e);
void gate_close(gate **g);                                  /* all watches must be given back */

/* Peers beside those of the file (a plan's stages, children); replaces what was set before. Entries of the file win. */
err_code gate_set(gate *g, const allow_entry *at, uint32_t n, err *e);
/* false: there is no such number. */
bool gate_look(gate *g, uint32_t who, gate_peer *out);
/* Goes up whenever the list changes. */
uint64_t gate_version(const gate *g);
void gate_count(const gate *g, gate_counts *out);
uint32_t gate_listed(gate *g);                              /* keys that may come in now */

/* The words of one message: sender `who`, as the library says; ERR_DENIED when its key is off the list or its role forbids it. */
err_code gate_check(gate *g, uint32_t who, const message *m, err *e);
/* A peer spoke without having been asked for a key where one is needed. */
err_code gate_nameless(gate *g, const char *where, err *e);

lookout_set *gate_watches(gate *g);                           /* of sockets that use keys */
#endif
