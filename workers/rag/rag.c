#include "workers/rag/rag.h"
#include "core/log.h"
#include "workers/rag/search.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 250
#define PASSAGE_OVERHEAD 6   /* tokens of "[12] " and the line end in common vocabularies */

typedef struct { const rag_options *o; corpus *corpus; link_t *control; packet in; bool bye; } rag;

static err_code hello(rag *r, err *e)
{
    message m = msg_init(MSG_HELLO);
    m.hello.major = PROTO_MAJOR;
    m.hello.minor = PROTO_MINOR;
    m.hello.role = 1;
    m.hello.pid = (uint64_t)getpid();
    m.hello.cookie = r->o->cookie;
    snprintf(m.hello.name, sizeof m.hello.name, "%s", r->o->name);
    gethostname(m.hello.host, sizeof m.hello.host - 1);
    return link_send(r->control, NULL, &m, &(view){ NULL, 0 }, 5000, e);
}

static void say_fail(rag *r, const err *why)
{
    err e;
    message m = msg_init(MSG_FAIL);
    m.fail.code = why->code;
    snprintf(m.fail.text, sizeof m.fail.text, "%s", why->text);
    link_send(r->control, NULL, &m, NULL, 1000, &e);
}

/* ---- QUERY -> PASSAGES --------------------------------------------------------------------------------------------- */

static bool add(const passage *p, text *recs, text *bytes)
{
    passage_rec rec = { .begin = p->begin, .end = p->end, .chunk = p->chunk, .score = (float)p->score, .text_len = (uint32_t)p->body.len,
                        .source_len = (uint32_t)p->source.len, .title_len = (uint32_t)p->title.len };
    return text_add(recs, &rec, sizeof rec) && text_add(bytes, p->body.ptr, p->body.len) && text_add(bytes, p->source.ptr, p->source.len)
           && text_add(bytes, p->title.ptr, p->title.len);
}

static err_code send_passages(rag *r, uint64_t id, const passages *ps, err *e)
{
    text recs = { 0 }, bytes = { 0 };
    bool ok = true;
    message m = msg_init(MSG_PASSAGES);
    m.passages.id = id;
    for (size_t i = 0; ok && i < ps->count && i < 64; i++, m.passages.n++) ok = add(&ps->at[i], &recs, &bytes);
    view f[MSG_FRAMES_MAX] = { [PASSAGES_RECS] = { recs.ptr, recs.len }, [PASSAGES_BYTES] = { bytes.ptr, bytes.len } };
    err_code rc = ok ? link_send(r->control, NULL, &m, f, 5000, e) : err_set(e, ERR_NOMEM, "out of memory for passages");
    text_free(&recs);
    text_free(&bytes);
    return rc;
}

static void on_query(rag *r)
{
    const msg_query *q = &r->in.head.query;
    search_options o = { .max_passages = (uint32_t)q->max_passages, .token_budget = (uint32_t)q->token_budget,
                         .passage_overhead = PASSAGE_OVERHEAD, .min_share = r->o->min_share, .chars_per_token = q->chars_per_token };
    passages found = { 0 };
    err e;
    if (corpus_search(r->corpus, r->in.frame[0], &o, &found, &e)) { /* the job goes on without passages, the log says why */
        say_fail(r, &e);
        passages_free(&found);
        found = (passages){ 0 };
    }
    if (send_passages(r, q->id, &found, &e)) {
        say_fail(r, &e);
        if (send_passages(r, q->id, &(passages){ 0 }, &e)) say_fail(r, &e);
    }
    passages_free(&found);
}

static void on_message(rag *r)
{
    err e;
    message pong = msg_init(MSG_PONG);
    switch (r->in.head.type) {
    case MSG_QUERY: on_query(r); break;
    case MSG_PING:
        pong.pong.nonce = r->in.head.ping.nonce;
        link_send(r->control, NULL, &pong, NULL, 1000, &e);
        break;
    case MSG_FAIL: LOG(LOG_ERROR, "RAG-REFUSED", "text=\"%s\"", r->in.head.fail.text); r->bye = true; break;
    case MSG_BYE: r->bye = true; break;
    default: LOG(LOG_WARN, "RAG-STRAY", "message=%s", msg_name(r->in.head.type));
    }
}

static err_code serve(rag *r, err *e)
{
    while (!r->bye && !(r->o->stop && atomic_load(r->o->stop))) {
        err_code rc = link_recv(r->control, &r->in, POLL_MS, e);
        if (rc == ERR_TIMEOUT) continue;
        if (rc == ERR_PROTO) LOG(LOG_WARN, "BAD-MESSAGE", "text=\"%s\"", e->text);
        else if (rc) return rc;
        else on_message(r);
        packet_done(&r->in);
    }
    return ERR_OK;
}

/* READY when the corpus is open and all else given up; else the coordinator hears why, and this waits for its BYE (linger is 0). */
static err_code open_corpus(rag *r, err *e)
{
    err ignored;
    message m = msg_init(MSG_READY);
    m.ready.epoch = 1;
    err_code rc = corpus_open(&r->corpus, r->o->corpus, e);
    if (!rc && r->o->sandbox) rc = sandbox_enter(r->o->sandbox, &m.ready.sandbox, e);
    if (!rc) return link_send(r->control, NULL, &m, NULL, 5000, e);
    say_fail(r, e);
    for (int i = 0; i < 10 && !r->bye; i++)
        if (!link_recv(r->control, &r->in, POLL_MS, &ignored)) on_message(r);
    return rc;
}

err_code rag_run(const rag_options *o, err *e)
{
    rag r = { .o = o };
    err_code rc = link_connect(&r.control, o->hub, LINK_DEALER, LINK_CONTROL, o->connect, e);
    if (!rc) rc = hello(&r, e);
    if (!rc) rc = open_corpus(&r, e);
    if (!rc) rc = serve(&r, e);
    packet_done(&r.in);
    if (r.control) link_close(&r.control);
    corpus_close(r.corpus);
    return rc;
}
