#include "tests/support_keys.h"
#include "tests/support.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

key_owner key_owner_make(const char *name)
{
    key_owner o;
    key_pair k;
    snprintf(o.file, sizeof o.file, "%s/%s.key", support_tmpdir(), name);
    snprintf(o.pub, sizeof o.pub, "%s.pub", o.file);
    if (key_pair_make(&k, NULL) || key_pair_write(&k, o.file, true, NULL)) abort();
    key_show(k.open, o.key);
    return o;
}

void key_list_write(const char *file, const key_entry *entry)
{
    char tmp[200];
    text t = { 0 };
    bool ok = text_adds(&t, "# written by a test\n");
    for (; entry->role; entry++) ok = ok && text_addf(&t, "%s %s %s\n", entry->role, entry->who->key, entry->role);
    snprintf(tmp, sizeof tmp, "%s.new", file);
    if (!ok || !support_write(tmp, t.ptr, t.len) || chmod(tmp, 0644) || rename(tmp, file)) abort();
    text_free(&t);
}
