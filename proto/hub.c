/* The context and the keys of a process. Opens no socket of its own, and hands the secret key to nobody but links. */
#include "proto/hub.h"
#include "core/log.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <zmq.h>

#define SOCKETS_MAX 4096          /* a coordinator of 512 stages with local prefill has 1,100; each place costs a pointer */
#define FILES_WANTED 65536        /* descriptors: every connection is one, and the usual soft limit is 1,024 */

struct hub {
    void *ctx;
    _Atomic int links;
    gate *gate;
    bool has_keys, has_server, has_list, insecure;
    key_pair keys;
    uint8_t server[KEY_BYTES];
    char shown[KEY_TEXT];            /* our public key */
};

err_code hub_open(hub **out, err *e)
{
    *out = NULL;
    hub *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_NOMEM, "out of memory for a hub");
    h->ctx = zmq_ctx_new();
    if (!h->ctx) {
        free(h);
        return err_set(e, ERR_IO, "cannot open a message hub: %s", zmq_strerror(zmq_errno()));
    }
    zmq_ctx_set(h->ctx, ZMQ_IO_THREADS, 1); /* one moves gigabytes a second; more would take cores from kernels */
    zmq_ctx_set(h->ctx, ZMQ_MAX_SOCKETS, SOCKETS_MAX);
    *out = h;
    return ERR_OK;
}

void hub_close(hub **h)
{
    if (!*h) return;
    int open = atomic_load(&(*h)->links);
    assert(open == 0);
    if (open) { /* ending the context would wait for ever; a leak at the end of a process is the lesser harm */
        LOG(LOG_ERROR, "HUB-LINKS-OPEN", "links=%d", open);
    } else {
        gate_close(&(*h)->gate);
        while (zmq_ctx_term((*h)->ctx) && zmq_errno() == EINTR) continue;
        key_pair_wipe(&(*h)->keys);
        free(*h);
    }
    *h = NULL;
}

void *hub_context(hub *h) { return h->ctx; }
void hub_count_link(hub *h, int by) { atomic_fetch_add(&h->links, by); }

/* ---- trust ----------------------------------------------------------------------------------------------------- */

bool hub_has_keys(const hub *h) { return h->has_keys; }
const char *hub_key(const hub *h) { return h->has_keys ? h->shown : ""; }
gate *hub_gate(const hub *h) { return h->gate; }
bool hub_gate_has_list(const hub *h) { return h->has_list; }
bool hub_is_insecure(const hub *h) { return h->insecure; }
const key_pair *hub_keys(const hub *h) { return h->has_keys ? &h->keys : NULL; }
const uint8_t *hub_server(const hub *h) { return h->has_server ? h->server : NULL; }

/* The option, or the credential of that name, or NULL. */
static const char *given_or_credential(const char *given, const char *name, char *buf, size_t cap)
{
    return given ? given : key_credential(name, buf, cap) ? buf : NULL;
}

static void want_files(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur >= FILES_WANTED) return;
    l.rlim_cur = l.rlim_max < FILES_WANTED ? l.rlim_max : FILES_WANTED;
    setrlimit(RLIMIT_NOFILE, &l);
}

static err_code take_keys(hub *h, const char *key, const char *server, bool own, err *e)
{
    if (!zmq_has("curve")) return err_set(e, ERR_CONFIG, "this libzmq was built without CURVE, so keys are of no use to it");
    key_protect_process();
    err_code rc = own ? key_pair_make(&h->keys, e) : key_pair_read(&h->keys, key, e);
    h->has_server = server != NULL;
    if (!rc && server) rc = key_public(h->server, server, e);
    if (rc) return rc;
    key_show(h->keys.open, h->shown);
    h->has_keys = true;
    return ERR_OK;
}

err_code hub_trust(hub *h, const hub_trusts *t, err *e)
{
    char buf[3][1024];
    const char *key = t->own ? NULL : given_or_credential(t->key, "sluice.key", buf[0], sizeof buf[0]);
    const char *server = given_or_credential(t->server_key, "sluice.server.pub", buf[1], sizeof buf[1]);
    const char *allow = given_or_credential(t->allow, "sluice.allow", buf[2], sizeof buf[2]);
    if (t->insecure && (t->key || t->server_key || t->allow)) return err_set(e, ERR_USAGE, "--insecure and keys exclude each other");
    h->insecure = t->insecure;
    want_files();
    if (t->insecure || (!key && !t->own)) {
        if (!t->insecure && (t->server_key || t->allow)) return err_set(e, ERR_USAGE, "--key FILE is missing (sluice keygen makes one)");
        gate_options o = { .ctx = h->ctx };
        return t->watch ? gate_open(&h->gate, &o, e) : ERR_OK;
    }
    err_code rc = take_keys(h, key, server, t->own, e);
    gate_options o = { .ctx = h->ctx, .file = allow, .again = allow == NULL, .handshakes = t->handshakes };
    if (!rc) rc = gate_open(&h->gate, &o, e);
    h->has_list = allow != NULL;
    return rc ? rc : hub_admit(h, NULL, 0, e);
}

err_code hub_admit(hub *h, const allow_entry *at, uint32_t n, err *e)
{
    if (!h->gate) return ERR_OK;
    allow_entry *all = malloc((n + 1) * sizeof *all);
    if (!all) return err_set(e, ERR_NOMEM, "out of memory for a list of peers");
    if (n) memcpy(all, at, n * sizeof *all);
    if (h->has_server) {
        all[n] = (allow_entry){ .role = PEER_COORDINATOR, .name = "coordinator" };
        memcpy(all[n].key, h->server, KEY_BYTES);
    }
    err_code rc = gate_set(h->gate, all, n + h->has_server, e);
    free(all);
    return rc;
}
