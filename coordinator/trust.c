/* Who may reach the coordinator over a network. It knows no jobs, and reads no keys: proto does. */
#include "coordinator/trust.h"
#include "coordinator/front.h"
#include "core/log.h"
#include "proto/endpoint.h"
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* ---- listening ----------------------------------------------------------------------------------------------------- */

/* How others call this host: --address, or the one they were told to connect to. */
static err_code find_host(coordinator *c, const char *bound, err *e)
{
    if (c->set->address) snprintf(c->host, sizeof c->host, "%s", c->set->address);
    else if (endpoint_is_any(bound))
        return err_set(e, ERR_CONFIG, "--listen %s is all networks of this host: --address HOST must say which of them workers can reach", c->set->listen);
    else if (!endpoint_host(bound, c->host, sizeof c->host)) return err_set(e, ERR_CONFIG, "--listen %s: want tcp://HOST:PORT", c->set->listen);
    return ERR_OK;
}

static err_code listen_for_workers(coordinator *c, err *e)
{
    char addr[256];
    if (!c->set->listen) return ERR_OK;
    err_code rc = link_bind(&c->control_tcp, c->hub, LINK_ROUTER, LINK_CONTROL, c->set->listen, e);
    if (!rc) rc = link_limit(c->control_tcp, c->set->frame_rate, e);
    if (!rc) rc = find_host(c, link_addr(c->control_tcp), e);
    snprintf(addr, sizeof addr, "tcp://%s:*", c->host);
    if (!rc) rc = link_bind(&c->result_tcp, c->hub, LINK_PULL, LINK_DATA, addr, e);
    if (!rc) link_trace(c->control_tcp, c->trace, "control-tcp"), link_trace(c->result_tcp, c->trace, "result-tcp");
    return rc;
}

err_code trust_listen(coordinator *c, err *e)
{
    const settings *s = c->set;
    bool listens = s->listen || s->listen_clients;
    if (listens && hub_has_keys(c->hub) && !hub_gate_has_list(c->hub))
        return err_set(e, ERR_CONFIG, "--key without --allow FILE: nobody could connect (a line `stage pk_... name` lets a worker in)");
    err_code rc = listen_for_workers(c, e);
    if (!rc && s->listen_clients) rc = link_bind_also(c->client, s->listen_clients, c->client_addr, e);
    if (!rc && s->listen_clients) rc = link_limit(c->client, s->frame_rate, e);
    if (!rc && listens && !hub_has_keys(c->hub) && hub_is_insecure(c->hub))
        LOG(LOG_WARN, "INSECURE", "text=\"tcp without keys: anybody who reaches it can read, submit and join\"");
    return rc;
}

/* ---- workers ------------------------------------------------------------------------------------------------------- */

static bool is_tcp(const char *addr) { return !strncmp(addr, "tcp://", 6) && !endpoint_is_any(addr); }

static err_code check_key(const coordinator *c, const msg_hello *h, err *e)
{
    gate_peer p;
    char key[KEY_TEXT] = "";
    if (c->in.from.who && gate_look(hub_gate(c->hub), c->in.from.who, &p)) key_show(p.key, key);
    if (strcmp(key, h->key))
        return err_set(e, ERR_DENIED, "worker %s came with key %s and says %s", h->name, *key ? key : "none", *h->key ? h->key : "none");
    return ERR_OK;
}

err_code trust_hello(const coordinator *c, const link_t *from, const msg_hello *h, err *e)
{
    uint8_t key[KEY_BYTES];
    bool stage = h->role == 0;
    if (h->key[0] && !hub_has_keys(c->hub)) return err_set(e, ERR_DENIED, "worker %s uses keys and this coordinator has none", h->name);
    if (h->key[0] && key_parse(key, h->key, strlen(h->key), e)) return err_wrap(e, "worker %s", h->name);
    if (from == c->control) return ERR_OK; /* a socket in a folder of ours: whoever reaches it is us */
    if (h->cookie) return err_set(e, ERR_DENIED, "worker %s says that it is a child, from outside", h->name);
    if (stage && (!is_tcp(h->data_addr) || !is_tcp(h->bulk_addr)))
        return err_set(e, ERR_PROTO, "worker %s takes data at %s and %s, which cannot be reached from here", h->name, h->data_addr, h->bulk_addr);
    return check_key(c, h, e);
}

err_code trust_admit(coordinator *c, err *e)
{
    allow_entry child[MAX_MEMBERS];
    uint32_t n = 0;
    if (!hub_has_keys(c->hub)) return ERR_OK;
    for (uint32_t i = 0; i < c->n_members; i++) {
        const member *m = &c->member[i];
        if (!m->hello_seen || m->control != c->control || !m->hello.key[0]) continue;
        child[n] = (allow_entry){ .role = m->rag ? PEER_RAG : PEER_STAGE };
        if (key_parse(child[n].key, m->hello.key, strlen(m->hello.key), e)) continue; /* checked in its HELLO */
        snprintf(child[n++].name, sizeof child[0].name, "%s", m->name);
    }
    return hub_admit(c->hub, child, n, e);
}

bool trust_add_line(text *out, const member *m)
{
    return text_addf(out, m->hello.key[0] ? "%s %s\n" : "%s\n", m->hello.data_addr, m->hello.key);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

static member *sender(coordinator *c, const link_t *l)
{
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].hello_seen && c->member[i].control == l && link_id_same(&c->member[i].id, &c->in.from)) return &c->member[i];
    return NULL;
}

static bool may_stay(const coordinator *c, const member *m)
{
    gate_peer p;
    return !m->id.who || (gate_look(hub_gate(c->hub), m->id.who, &p) && p.allowed && p.role == (m->rag ? PEER_RAG : PEER_STAGE));
}

static uint64_t ref_of(const message *m)
{
    switch (m->type) {
    case MSG_SUBMIT: return m->submit.ref;
    case MSG_FETCH: return m->fetch.ref;
    case MSG_ASK: return m->ask.ref;
    case MSG_CANCEL: return m->cancel.job;
    default: return 0;
    }
}

void trust_refused(coordinator *c, link_t *l, const err *why)
{
    err e;
    link_id to = c->in.from;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    m.fail.ref = ref_of(&c->in.head);
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    member *w = sender(c, l);
    to.who = 0; /* who is off the list hears of it, once more */
    if (to.len) link_send(l, &to, &m, NULL, 0, &e);
    if (w && !may_stay(c, w)) fleet_lost(c, w, why);
}

/* A client is told when to come back; a worker that floods is not answered, and loses its place when its answers are missed. */
void trust_hurried(coordinator *c, const link_t *l, const err *why)
{
    if (l == c->client && c->in.from.len) front_fail(c, &c->in.from, ref_of(&c->in.head), why, c->in.wait_ms);
}

void trust_tick(coordinator *c)
{
    if (!hub_has_keys(c->hub) || gate_version(hub_gate(c->hub)) == c->gate_version) return;
    c->gate_version = gate_version(hub_gate(c->hub));
    for (uint32_t i = 0; i < c->n_members; i++) {
        member *m = &c->member[i];
        if (!m->hello_seen || may_stay(c, m)) continue;
        err e;
        err_set(&e, ERR_DENIED, "the key of %s was taken off the list", m->name);
        message f = msg_init(MSG_FAIL);
        f.fail.code = e.code;
        snprintf(f.fail.text, sizeof f.fail.text, "%s", e.text);
        link_id to = m->id;
        to.who = 0;
        link_send(m->control, &to, &f, NULL, 0, &(err){ 0 });
        fleet_lost(c, m, &e);
    }
}

/* ---- report -------------------------------------------------------------------------------------------------------- */

json_t *trust_json(const coordinator *c)
{
    json_t *o = json_pack("{s:b,s:b,s:s,s:s}", "keys", hub_has_keys(c->hub), "insecure", hub_is_insecure(c->hub), "public_key", hub_key(c->hub), "clients",
                          c->client_addr);
    if (o) json_object_set_new(o, "hurried", json_integer((json_int_t)(link_hurried(c->client) + (c->control_tcp ? link_hurried(c->control_tcp) : 0))));
    if (!o || !hub_has_keys(c->hub)) return o;
    gate_counts n;
    gate_count(hub_gate(c->hub), &n);
    json_object_set_new(o, "peers", json_integer(gate_listed(hub_gate(c->hub))));
#define X(name, doc) json_object_set_new(o, #name, json_integer((json_int_t)n.name));
    GATE_COUNTS(X)
#undef X
    return o;
}
