/* One pass over msgpack bytes with a stack of four counters. Allocates nothing; never looks at what a value means. */
#include "proto/msgpack_scan.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum { PLAIN, ARRAY, MAP } shape;
/* What follows a first byte: `length` bytes of big-endian length or count, then `fixed` bytes and the length itself. */
typedef struct { uint8_t length, fixed; shape kind; bool bad; } token;

static const token wide[32] = { /* 0xc0..0xdf; spec: github.com/msgpack/msgpack/blob/master/spec.md */
    [0x00] = { 0, 0, PLAIN, false },  [0x01] = { 0, 0, PLAIN, true },   /* nil, never used */
    [0x02] = { 0, 0, PLAIN, false },  [0x03] = { 0, 0, PLAIN, false },  /* false, true */
    [0x04] = { 1, 0, PLAIN, false },  [0x05] = { 2, 0, PLAIN, false },  [0x06] = { 4, 0, PLAIN, false },  /* bin */
    [0x07] = { 1, 1, PLAIN, false },  [0x08] = { 2, 1, PLAIN, false },  [0x09] = { 4, 1, PLAIN, false },  /* ext */
    [0x0a] = { 0, 4, PLAIN, false },  [0x0b] = { 0, 8, PLAIN, false },  /* float32, float64 */
    [0x0c] = { 0, 1, PLAIN, false },  [0x0d] = { 0, 2, PLAIN, false },  /* uint */
    [0x0e] = { 0, 4, PLAIN, false },  [0x0f] = { 0, 8, PLAIN, false },
    [0x10] = { 0, 1, PLAIN, false },  [0x11] = { 0, 2, PLAIN, false },  /* int */
    [0x12] = { 0, 4, PLAIN, false },  [0x13] = { 0, 8, PLAIN, false },
    [0x14] = { 0, 2, PLAIN, false },  [0x15] = { 0, 3, PLAIN, false },  /* fixext: a type byte and 1..16 bytes */
    [0x16] = { 0, 5, PLAIN, false },  [0x17] = { 0, 9, PLAIN, false },  [0x18] = { 0, 17, PLAIN, false },
    [0x19] = { 1, 0, PLAIN, false },  [0x1a] = { 2, 0, PLAIN, false },  [0x1b] = { 4, 0, PLAIN, false },  /* str */
    [0x1c] = { 2, 0, ARRAY, false },  [0x1d] = { 4, 0, ARRAY, false },
    [0x1e] = { 2, 0, MAP, false },    [0x1f] = { 4, 0, MAP, false },
};

typedef struct {
    const uint8_t *p;
    size_t n, at;
    uint64_t left[MSGPACK_DEPTH_MAX];   /* values still to come, one counter for each open container */
    uint32_t depth;
} scan;

static err_code truncated(const scan *s, err *e)
{
    return err_set(e, ERR_PROTO, "header ends inside a value (byte %zu of %zu)", s->at, s->n);
}

/* The token of a first byte; for the short forms the length is in the byte itself and goes to *value. */
static token token_of(uint8_t c, uint64_t *value)
{
    *value = 0;
    if (c <= 0x7f || c >= 0xe0) return (token){ 0, 0, PLAIN, false };
    if (c >= 0xc0) return wide[c - 0xc0];
    *value = c >= 0xa0 ? c & 0x1fu : c & 0x0fu;
    return (token){ 0, 0, c >= 0xa0 ? PLAIN : c >= 0x90 ? ARRAY : MAP, false };
}

static err_code open_container(scan *s, shape kind, uint64_t count, err *e)
{
    uint64_t values = kind == MAP ? count * 2 : count; /* count < 2^32 */
    if (values > s->n - s->at)
        return err_set(e, ERR_PROTO, "header claims %llu values, only %zu bytes follow", (unsigned long long)values, s->n - s->at);
    if (s->depth == MSGPACK_DEPTH_MAX)
        return err_set(e, ERR_PROTO, "header is nested deeper than %u", MSGPACK_DEPTH_MAX);
    s->left[s->depth++] = values;
    return ERR_OK;
}

static err_code scan_value(scan *s, err *e)
{
    if (s->at >= s->n) return truncated(s, e);
    uint64_t value;
    token t = token_of(s->p[s->at++], &value);
    if (t.bad) return err_set(e, ERR_PROTO, "header has byte 0xc1, which is not msgpack");
    if (t.length > s->n - s->at) return truncated(s, e);
    for (uint8_t i = 0; i < t.length; i++) value = value << 8 | s->p[s->at++];
    if (t.kind != PLAIN) return open_container(s, t.kind, value, e);
    value += t.fixed;
    if (value > s->n - s->at) return truncated(s, e);
    s->at += value;
    return ERR_OK;
}

/* Leave the containers that are complete, and take the next value off the one that is not. */
static bool next_value(scan *s)
{
    while (s->depth && !s->left[s->depth - 1]) s->depth--;
    if (!s->depth) return false;
    s->left[s->depth - 1]--;
    return true;
}

err_code msgpack_scan_map(const void *bytes, size_t n, err *e)
{
    scan s = { .p = bytes, .n = n };
    if (!n) return err_set(e, ERR_PROTO, "header is empty");
    uint64_t unused;
    if (token_of(s.p[0], &unused).kind != MAP) return err_set(e, ERR_PROTO, "header is not a map (first byte 0x%02x)", s.p[0]);
    err_code rc;
    do
        if ((rc = scan_value(&s, e))) return rc;
    while (next_value(&s));
    if (s.at != n) return err_set(e, ERR_PROTO, "header has %zu bytes behind its map", n - s.at);
    return ERR_OK;
}
