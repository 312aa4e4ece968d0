#include "ops/cli/command.h"
#include "ops/cli/show.h"
#include "proto/keys.h"

/* sluice keygen: a pair of keys in two files. */

static err_code show_key(const settings *s, const char *key, err *e)
{
    if (!s->json) {
        printf("%s\n", key);
        return show_write("", 0, e);
    }
    json_t *o = json_pack("{s:s,s:s,s:s}", "schema", "sluice.keygen/1", "public_key", key, "secret_file", s->out);
    if (o) json_object_set_new(o, "public_file", json_sprintf("%s.pub", s->out));
    return show_json(o, e);
}

err_code cmd_keygen(settings *s, err *e)
{
    key_pair k = { 0 };
    char key[KEY_TEXT];
    if (s->args.n) return err_set(e, ERR_USAGE, "what is \"%.100s\"? (-o FILE names the key file)", s->args.at[0]);
    if (!s->out || !*s->out) return err_set(e, ERR_USAGE, "-o FILE is missing: where the secret key goes (FILE.pub gets the public one)");
    key_protect_process();
    err_code rc = key_pair_make(&k, e);
    if (rc == ERR_OK) rc = key_pair_write(&k, s->out, s->force, e);
    key_show(k.open, key);
    key_pair_wipe(&k);
    return rc == ERR_OK ? show_key(s, key, e) : rc;
}
