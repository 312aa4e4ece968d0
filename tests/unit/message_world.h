#ifndef TESTS_UNIT_MESSAGE_WORLD_H
#define TESTS_UNIT_MESSAGE_WORLD_H
/* What the codec's tests share: messages at their bounds, comparing them, and a packer that checks nothing. */
#include "proto/message_table.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* ---- a packer that checks nothing, so that it can write what msg_encode refuses ---------------------------------- */

typedef struct { uint8_t b[16384]; size_t n; } raw;

static inline void put(raw *r, const void *p, size_t n)
{
    cr_assert(n <= sizeof r->b - r->n);
    if (n) memcpy(r->b + r->n, p, n);
    r->n += n;
}
static inline void put_byte(raw *r, unsigned c) { put(r, &(uint8_t){ (uint8_t)c }, 1); }
static inline void put_be(raw *r, uint64_t v, int bytes) { for (int i = bytes; i--;) put_byte(r, (unsigned)(v >> (8 * i) & 0xff)); }
static inline void put_uint(raw *r, uint64_t v) { put_byte(r, 0xcf); put_be(r, v, 8); }
static inline void put_map(raw *r, size_t n) { put_byte(r, 0xde); put_be(r, n, 2); }
static inline void put_str(raw *r, const char *s, size_t n) { put_byte(r, 0xda); put_be(r, n, 2); put(r, s, n); }
static inline void put_f64(raw *r, double v) { uint64_t u; memcpy(&u, &v, 8); put_byte(r, 0xcb); put_be(r, u, 8); }

static inline void *at(message *m, const field_desc *f) { return (char *)m + f->offset; }

static inline void put_value(raw *r, message *m, const field_desc *f)
{
    if (f->kind == FIELD_U) put_uint(r, *(uint64_t *)at(m, f));
    if (f->kind == FIELD_F) put_f64(r, *(double *)at(m, f));
    if (f->kind == FIELD_S) put_str(r, at(m, f), strlen(at(m, f)));
    if (f->kind == FIELD_B) put_byte(r, *(bool *)at(m, f) ? 0xc3 : 0xc2);
}

/* The whole header of m, field `skip` left out; `extra` pairs are announced and left to the caller. */
static inline raw raw_header(message *m, uint32_t skip, size_t extra)
{
    raw r = { .n = 0 };
    uint32_t n;
    const field_desc *f = message_desc_of(m->type)->fields(&n);
    put_map(&r, 1 + n - (skip < n) + extra);
    put_uint(&r, 0);
    put_uint(&r, m->type);
    for (uint32_t i = 0; i < n; i++) {
        if (i == skip) continue;
        put_uint(&r, f[i].key);
        put_value(&r, m, &f[i]);
    }
    return r;
}

/* Required numbers at their lower bound, so that the message is valid. */
static inline message smallest(const message_desc *d)
{
    message m = msg_init((msg_type)d->id);
    uint32_t n;
    const field_desc *f = d->fields(&n);
    for (uint32_t i = 0; i < n; i++) {
        if (!f[i].required) continue;
        if (f[i].kind == FIELD_U) *(uint64_t *)at(&m, &f[i]) = f[i].lo;
        if (f[i].kind == FIELD_F) *(double *)at(&m, &f[i]) = f[i].f_lo;
    }
    return m;
}

static inline message largest(const message_desc *d)
{
    message m = msg_init((msg_type)d->id);
    uint32_t n;
    const field_desc *f = d->fields(&n);
    for (uint32_t i = 0; i < n; i++) {
        if (f[i].kind == FIELD_U) *(uint64_t *)at(&m, &f[i]) = f[i].hi;
        if (f[i].kind == FIELD_F) *(double *)at(&m, &f[i]) = f[i].f_hi;
        if (f[i].kind == FIELD_S) memset(at(&m, &f[i]), 'x', f[i].hi);
        if (f[i].kind == FIELD_B) *(bool *)at(&m, &f[i]) = true;
    }
    return m;
}

static inline bool same_field(const message *a, const message *b, const field_desc *f)
{
    const char *p = (const char *)a + f->offset, *q = (const char *)b + f->offset;
    if (f->kind == FIELD_S) return !strcmp(p, q);
    return !memcmp(p, q, f->kind == FIELD_B ? 1 : 8);
}

static inline bool same(const message *a, const message *b)
{
    uint32_t n;
    if (a->type != b->type) return false;
    const field_desc *f = message_desc_of(a->type)->fields(&n);
    for (uint32_t i = 0; i < n; i++)
        if (!same_field(a, b, &f[i])) return false;
    return true;
}

static inline size_t encode(const message *m, uint8_t *buf)
{
    size_t n = MSG_HEADER_MAX;
    err e = { 0 };
    cr_assert_eq(msg_encode(m, buf, &n, &e), ERR_OK, "%s", e.text);
    return n;
}

static inline void round_trip(const message *m)
{
    uint8_t buf[MSG_HEADER_MAX];
    size_t n = encode(m, buf);
    message back;
    err e = { 0 };
    cr_assert_eq(msg_decode(&back, buf, n, &e), ERR_OK, "%s", e.text);
    cr_assert(same(m, &back), "%s changed on its way", msg_name(m->type));
}

/* Refused with a text that holds `word`, and the target untouched. */
static inline void refused(const raw *r, const char *word)
{
    message m, before;
    memset(&m, 0xa5, sizeof m);
    memcpy(&before, &m, sizeof m);
    err e = { 0 };
    cr_assert_eq(msg_decode(&m, r->b, r->n, &e), ERR_PROTO, "accepted, expected a complaint about %s", word);
    cr_assert_eq(e.code, ERR_PROTO);
    cr_assert(strstr(e.text, word), "\"%s\" does not name %s", e.text, word);
    cr_assert(!memcmp(&m, &before, sizeof m), "touched on refusal: %s", e.text);
}

static inline void accepted(const raw *r, const message *want)
{
    message m;
    err e = { 0 };
    cr_assert_eq(msg_decode(&m, r->b, r->n, &e), ERR_OK, "%s", e.text);
    cr_assert(same(&m, want));
}
#endif
