#include "proto/zap.h"
#include <errno.h>
#include <string.h>
#include <zmq.h>

#define PARTS 7u   /* version, request id, domain, address, identity, mechanism, key */

err_code zap_open(void **out, void *ctx, err *e)
{
    int zero = 0;
    *out = zmq_socket(ctx, ZMQ_REP);
    if (*out && !zmq_setsockopt(*out, ZMQ_LINGER, &zero, sizeof zero) && !zmq_bind(*out, "inproc://zeromq.zap.01")) return ERR_OK;
    err_set(e, ERR_IO, "cannot guard sockets: %s", zmq_strerror(zmq_errno()));
    if (*out) zmq_close(*out);
    *out = NULL;
    return ERR_IO;
}

static void put_word(char *to, size_t cap, const void *p, size_t n)
{
    if (n >= cap) n = cap - 1;
    memcpy(to, p, n);
    to[n] = 0;
}

static bool part_is(zmq_msg_t *m, const char *word) { return zmq_msg_size(m) == strlen(word) && !memcmp(zmq_msg_data(m), word, strlen(word)); }

static void take_part(zap_question *q, unsigned i, zmq_msg_t *m)
{
    const void *p = zmq_msg_data(m);
    size_t n = zmq_msg_size(m);
    if (i == 0) q->curve = part_is(m, "1.0");
    if (i == 1 && n <= sizeof q->id) q->id_len = n, memcpy(q->id, p, n);
    if (i == 2) put_word(q->domain, sizeof q->domain, p, n);
    if (i == 3) put_word(q->address, sizeof q->address, p, n);
    if (i == 5) q->curve = q->curve && part_is(m, "CURVE");
    if (i != 6) return;
    q->curve = q->curve && n == KEY_BYTES;
    if (q->curve) memcpy(q->key, p, n);
}

bool zap_take(void *sock, zap_question *q)
{
    *q = (zap_question){ 0 };
    unsigned i = 0;
    bool more = true;
    for (; more; i++) {
        zmq_msg_t m;
        zmq_msg_init(&m);
        int rc;
        do rc = zmq_msg_recv(&m, sock, ZMQ_DONTWAIT);
        while (rc < 0 && zmq_errno() == EINTR);
        more = rc >= 0 && zmq_msg_more(&m);
        if (rc >= 0) take_part(q, i, &m);
        zmq_msg_close(&m);
        if (rc < 0) return false;
    }
    q->curve = q->curve && i == PARTS;
    return true;
}

void zap_answer(void *sock, const zap_question *q, const char *status, const char *user)
{
    const struct { const void *p; size_t n; } part[] = { { "1.0", 3 }, { q->id, q->id_len }, { status, 3 }, { "", 0 }, { user, strlen(user) }, { "", 0 } };
    size_t n = sizeof part / sizeof *part;
    for (size_t i = 0; i < n; i++)
        if (zmq_send(sock, part[i].p, part[i].n, ZMQ_DONTWAIT | (i + 1 < n ? ZMQ_SNDMORE : 0)) < 0) return;
}
