#ifndef KVSTORE_PRESET_H
#define KVSTORE_PRESET_H
#include "kvstore/policy.h"
/* The policy called `name`: "identity", a preset (configs/kv/NAME.ini), or a file if there is a '/' in it or .ini at its end.
 * ERR_CONFIG: no such name (those there are follow), or kv_policy_parse's; ERR_IO. */
err_code kv_policy_load(kv_policy *out, const char *name, err *e);
#endif
