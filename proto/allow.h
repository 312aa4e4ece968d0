#ifndef PROTO_ALLOW_H
#define PROTO_ALLOW_H
/* Who may talk, and which messages a role may send. A list file has a line `role public-key name` for each peer (role: client,
 * stage or rag; name: for people, optional) and comments from a # at the beginning of a line. Any thread. */
#include "proto/keys.h"
#include "proto/message.h"

#define ALLOW_NAME_MAX 63u
#define ALLOW_MAX 4096u         /* peers in a list; they are looked up one after the other */

typedef enum { PEER_LOCAL, PEER_CLIENT, PEER_STAGE, PEER_RAG, PEER_COORDINATOR, PEER_ROLES } peer_role;
typedef struct { uint8_t key[KEY_BYTES]; peer_role role; char name[ALLOW_NAME_MAX + 1]; } allow_entry;
typedef struct { allow_entry *at; uint32_t n; } allow_list;         /* sorted by key */

const char *peer_role_name(peer_role r);
/* May a peer of this role send that message? PEER_LOCAL (ipc, inproc, or a tcp without keys) and PEER_COORDINATOR may send all
 * that there is. ERR_DENIED names role and message. */
err_code allow_message(peer_role r, const message *m, err *e);

/* ERR_CONFIG names the file (`name`), line and word. A key twice is refused: it could have one role only. *out needs allow_free. */
err_code allow_parse(allow_list *out, const char *words, size_t n, const char *name, err *e);
/* The same from a file whose owner and rights are checked (keys.h). */
err_code allow_read(allow_list *out, const char *file, err *e);
void allow_free(allow_list *l);
const allow_entry *allow_find(const allow_list *l, const uint8_t key[static KEY_BYTES]);
#endif
