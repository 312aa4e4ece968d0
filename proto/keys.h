#ifndef PROTO_KEYS_H
#define PROTO_KEYS_H
/* Key pairs (Curve25519) and the files they live in. Text form: "pk_" or "sk_" and 43 characters of base64url, so that a key can
 * be pasted into a shell, an INI file or a list, and a secret one is never taken for a public one. Any thread. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_BYTES 32u
#define KEY_TEXT 47u            /* bytes of a key as text, NUL included */

typedef struct { uint8_t open[KEY_BYTES], secret[KEY_BYTES]; } key_pair;   /* open: the public half */

err_code key_pair_make(key_pair *out, err *e);
/* FILE (mode 0600, the secret key) and FILE.pub (0644). Without `force` neither may exist: ERR_STATE. Both are complete or not there. */
err_code key_pair_write(const key_pair *k, const char *file, bool force, err *e);
/* ERR_DENIED: not a plain file of ours (or root's), or others may read or write it; a systemd credential may have a group. */
err_code key_pair_read(key_pair *out, const char *file, err *e);
void key_pair_wipe(key_pair *k);

void key_show(const uint8_t key[static KEY_BYTES], char out[static KEY_TEXT]);
/* A public key; ERR_CONFIG quotes what is none (never a secret key). */
err_code key_parse(uint8_t out[static KEY_BYTES], const char *word, size_t n, err *e);
/* A public key, or a file that holds one (FILE.pub). */
err_code key_public(uint8_t out[static KEY_BYTES], const char *word_or_file, err *e);

/* Open a file that decides who is trusted: plain, of ours or root's, not writable by others, and with `secret` not readable by
 * them either. *fd is the caller's. */
err_code key_file_open(int *fd, const char *file, bool secret, err *e);
/* Path of a systemd credential ($CREDENTIALS_DIRECTORY/name); false when there is none. */
bool key_credential(const char *name, char *path, size_t cap);
/* From now on this process leaves no core file and cannot be looked into by others of the same user. */
void key_protect_process(void);
#endif
