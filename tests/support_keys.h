#ifndef TESTS_SUPPORT_KEYS_H
#define TESTS_SUPPORT_KEYS_H
/* Keys and lists for tests: files in support_tmpdir(). What goes wrong ends the test process. One thread. */
#include "proto/keys.h"

typedef struct { char file[160], pub[168], key[KEY_TEXT]; } key_owner;   /* secret key file, public key file, public key */
key_owner key_owner_make(const char *name);
/* Write a list in one move, as an editor does: pairs of role and owner, NULL at the end. */
typedef struct { const char *role; const key_owner *who; } key_entry;
void key_list_write(const char *file, const key_entry *entry);
#endif
