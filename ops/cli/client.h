#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H
/* A connection to a coordinator over the client lane (a DEALER to ipc://DIR/client, or to a tcp endpoint of another host). One
 * thread. It knows messages, not what jobs mean. */
#include "core/settings.h"
#include "proto/link.h"
#include <jansson.h>
#include <sys/types.h>

typedef struct client client;

/* `where`: a run directory, or tcp://HOST:PORT (then --key, --server-key and --insecure of the settings count). ERR_ABSENT "no
 * cluster is up in DIR (sluice up starts one)" when nobody listens there; ERR_DENIED when the other side does not let us in. */
err_code client_open(client **out, const settings *s, const char *where, err *e);
void client_close(client **c);
/* Pid of the coordinator as DIR/pid says, 0 when it does not or is elsewhere. */
pid_t client_pid(const client *c);
/* How long flights on this connection try again when the cluster is busy (600 s unless said otherwise), and wait for a
 * coordinator that went away (0 s). */
typedef struct { double busy_s, lost_s; } client_patience;
void client_be_patient(client *c, client_patience p);
client_patience client_patience_of(const client *c);
/* A new connection in place of one that is gone, as soon as somebody listens again, within lost_s. ERR_GONE, ERR_CANCELLED. */
err_code client_reopen(client *c, err *e);
/* A number never used before on this connection, for `ref` fields. */
uint64_t client_ref(client *c);

err_code client_send(client *c, const message *m, const view *frames, err *e);
/* Next message, at most timeout_ms (-1: for ever). The packet is the client's, valid until the next call. ERR_TIMEOUT;
 * ERR_GONE when the coordinator is no more; ERR_CANCELLED when a signal has come (not with deaf set). */
err_code client_next(client *c, int timeout_ms, bool deaf, const packet **out, err *e);

/* ASK: send, and take the REPORT apart. Between the two other messages may arrive. */
err_code client_ask(client *c, unsigned what, uint64_t *ref, err *e);
err_code client_report(const packet *p, json_t **out, err *e);
/* Ask and wait; for connections with nothing else going on. */
err_code client_status(client *c, unsigned what, json_t **out, err *e);
/* The error that a FAIL carries. */
err_code client_failed(const packet *p, err *e);

/* Is somebody listening on DIR/client? */
bool client_listens(const char *dir);
/* Pid in DIR/pid, 0 when there is none. */
pid_t client_read_pid(const char *dir);
/* Does the process run (zombies do not)? */
bool client_pid_alive(pid_t pid);
#endif
