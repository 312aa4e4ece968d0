/* Reads the lines of a PLAN that say where the stages are, and lets them in. Connects to nobody. */
#include "workers/stage/peers.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "addr" or "addr key". Addresses fit because SO(data_addr, 127) bounds them at HELLO. */
static err_code take_peer(peer *p, uint32_t i, const char *at, size_t n, err *e)
{
    const char *space = memchr(at, ' ', n);
    size_t addr = space ? (size_t)(space - at) : n, key = space ? n - addr - 1 : 0;
    if (addr == 0 || addr >= sizeof p->addr) return err_set(e, ERR_PROTO, "plan: address %u has %zu bytes", i, addr);
    if (key >= sizeof p->key) return err_set(e, ERR_PROTO, "plan: key %u has %zu bytes", i, key);
    memcpy(p->addr, at, addr);
    memcpy(p->key, at + n - key, key);
    return ERR_OK;
}

/* The stages of this plan, and nobody else, may send us STEPs, beside the coordinator. */
static err_code admit(const peers *p, hub *h, err *e)
{
    allow_entry *at = calloc(p->n + 1, sizeof *at);
    err_code rc = at ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %u peers", p->n);
    uint32_t n = 0;
    for (uint32_t i = 0; !rc && i < p->n; i++) {
        if (!p->at[i].key[0]) continue;
        rc = key_parse(at[n].key, p->at[i].key, strlen(p->at[i].key), e);
        at[n].role = PEER_STAGE;
        snprintf(at[n++].name, sizeof at[0].name, "stage %u", i);
    }
    if (!rc) rc = hub_admit(h, at, n, e);
    free(at);
    return rc;
}

err_code peers_take(peers *p, hub *h, uint32_t n, view lines, err *e)
{
    peers_free(p);
    p->at = calloc(n, sizeof *p->at);
    if (!p->at) return err_set(e, ERR_NOMEM, "out of memory for %u addresses", n);
    const char *at = lines.ptr, *end = at + lines.len;
    while (at < end && p->n < n) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((nl ? nl : end) - at);
        err_code rc = take_peer(&p->at[p->n], p->n, at, len, e);
        if (rc) return rc;
        p->n++;
        at += len + 1;
    }
    if (p->n != n) return err_set(e, ERR_PROTO, "plan: %u addresses for %u stages", p->n, n);
    return admit(p, h, e);
}

void peers_free(peers *p)
{
    free(p->at);
    *p = (peers){ 0 };
}
