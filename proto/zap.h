#ifndef PROTO_ZAP_H
#define PROTO_ZAP_H
/* The library's questions about keys, ZAP 1.0 (RFC 27), on a REP socket. Decides nothing. One thread. */
#include "proto/keys.h"

typedef struct {
    char id[64];                /* goes back as it came */
    size_t id_len;
    char domain[32], address[64];
    uint8_t key[KEY_BYTES];
    bool curve;                 /* the question is well made and about a CURVE key */
} zap_question;

/* Bind the one address that the library asks at. */
err_code zap_open(void **out, void *ctx, err *e);
/* Take a question without waiting; false: none is there. */
bool zap_take(void *sock, zap_question *q);
/* Answer it: status "200" lets the peer in as `user`; "300" later; "400" no. */
void zap_answer(void *sock, const zap_question *q, const char *status, const char *user);
#endif
