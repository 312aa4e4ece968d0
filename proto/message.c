/* Encode, decode and check message headers: loops over proto/message_table.h. The only home of msgpack.h; knows no sockets. */
#include "proto/message.h"
#include "proto/message_table.h"
#include "proto/msgpack_scan.h"
#include <inttypes.h>
#include <msgpack.h>
#include <pthread.h>
#include <string.h>

_Static_assert(sizeof(bool) == 1, "BO members are read as one byte");

static void *member(message *m, const field_desc *f) { return (char *)m + f->offset; }
static const void *peek(const message *m, const field_desc *f) { return (const char *)m + f->offset; }
static uint64_t count_at(const message *m, uint32_t offset) { return *(const uint64_t *)(const void *)((const char *)m + offset); }

message msg_init(msg_type t)
{
    message m = { .type = t };
    const message_desc *d = message_desc_of(t);
    uint32_t n = 0;
    const field_desc *f = d ? d->fields(&n) : NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (f[i].kind == FIELD_U) *(uint64_t *)member(&m, &f[i]) = f[i].def;
        if (f[i].kind == FIELD_F) *(double *)member(&m, &f[i]) = f[i].f_def;
    }
    return m;
}

/* ---- checks, the same for both directions ---------------------------------------------------------------------- */

typedef struct { const message_desc *d; const field_desc *f; err *e; } place;   /* what a complaint is about */

static err_code check_u(const place *at, uint64_t v)
{
    const field_desc *f = at->f;
    if (v >= f->lo && v <= f->hi) return ERR_OK;
    return err_set(at->e, ERR_PROTO, "%s.%s = %" PRIu64 ", allowed %" PRIu64 "..%" PRIu64, at->d->name, f->name, v, f->lo, f->hi);
}

static err_code check_f(const place *at, double v)
{
    const field_desc *f = at->f;
    if (v >= f->f_lo && v <= f->f_hi) return ERR_OK; /* false for NaN */
    return err_set(at->e, ERR_PROTO, "%s.%s = %g, allowed %g..%g", at->d->name, f->name, v, f->f_lo, f->f_hi);
}

static err_code check_s(const place *at, const char *s, size_t n)
{
    const field_desc *f = at->f;
    if (n > f->hi)
        return err_set(at->e, ERR_PROTO, "%s.%s has %zu bytes or more, allowed 0..%" PRIu64, at->d->name, f->name, n, f->hi);
    if (n && memchr(s, 0, n)) return err_set(at->e, ERR_PROTO, "%s.%s has a NUL inside", at->d->name, f->name);
    return ERR_OK;
}

/* ---- encode ---------------------------------------------------------------------------------------------------- */

typedef struct { char *p; size_t cap, used; } span;

static int span_write(void *ud, const char *p, size_t n)
{
    span *s = ud;
    if (n > s->cap - s->used) return -1;
    memcpy(s->p + s->used, p, n);
    s->used += n;
    return 0;
}

static bool is_default(const message *m, const field_desc *f)
{
    const void *v = peek(m, f);
    switch (f->kind) {
    case FIELD_U: return *(const uint64_t *)v == f->def;
    case FIELD_F: return *(const double *)v == f->f_def;
    case FIELD_S: return !*(const char *)v;
    case FIELD_B: return !*(const bool *)v;
    }
    return false;
}

static err_code check_member(const message *m, const place *at)
{
    const void *v = peek(m, at->f);
    switch (at->f->kind) {
    case FIELD_U: return check_u(at, *(const uint64_t *)v);
    case FIELD_F: return check_f(at, *(const double *)v);
    case FIELD_S: return check_s(at, v, strnlen(v, at->f->hi + 1));
    case FIELD_B: break;
    }
    return ERR_OK;
}

static int pack_member(msgpack_packer *pk, const message *m, const field_desc *f)
{
    const void *v = peek(m, f);
    int bad = msgpack_pack_uint64(pk, f->key);
    size_t n;
    switch (f->kind) {
    case FIELD_U: return bad | msgpack_pack_uint64(pk, *(const uint64_t *)v);
    case FIELD_F: return bad | msgpack_pack_double(pk, *(const double *)v);
    case FIELD_B: return bad | (*(const bool *)v ? msgpack_pack_true(pk) : msgpack_pack_false(pk));
    case FIELD_S:
        n = strlen(v);
        return bad | msgpack_pack_str(pk, n) | msgpack_pack_str_body(pk, v, n);
    }
    return -1;
}

/* Which fields travel: bit i for field i (a test keeps messages under 64 fields). All are checked, also those left out. */
static err_code choose(const message *m, const message_desc *d, uint64_t *mask, err *e)
{
    uint32_t n;
    const field_desc *f = d->fields(&n);
    *mask = 0;
    for (uint32_t i = 0; i < n; i++) {
        place at = { d, &f[i], e };
        err_code rc = check_member(m, &at);
        if (rc) return rc;
        if (f[i].required || !is_default(m, &f[i])) *mask |= UINT64_C(1) << i;
    }
    return ERR_OK;
}

err_code msg_encode(const message *m, void *buf, size_t *len, err *e)
{
    const message_desc *d = message_desc_of(m->type);
    if (!d) return err_set(e, ERR_PROTO, "cannot encode a message of id %u", (unsigned)m->type);
    uint64_t mask;
    err_code rc = choose(m, d, &mask, e);
    if (rc) return rc;
    span s = { buf, *len, 0 };
    msgpack_packer pk;
    msgpack_packer_init(&pk, &s, span_write);
    int bad = msgpack_pack_map(&pk, (size_t)__builtin_popcountll(mask) + 1) | msgpack_pack_uint64(&pk, 0)
              | msgpack_pack_uint64(&pk, d->id);
    uint32_t n;
    const field_desc *f = d->fields(&n);
    for (uint32_t i = 0; i < n; i++)
        if (mask >> i & 1) bad |= pack_member(&pk, m, &f[i]);
    if (bad) return err_set(e, ERR_FULL, "%s does not fit in %zu bytes", d->name, *len);
    *len = s.used;
    return ERR_OK;
}

/* ---- decode ---------------------------------------------------------------------------------------------------- */

/* One zone a thread, cleared after each message: a header in steady state allocates nothing. */
static _Thread_local msgpack_zone *zone;
static pthread_key_t zone_key;
static pthread_once_t zone_once = PTHREAD_ONCE_INIT;
static bool zone_key_made;

static void zone_drop(void *z) { msgpack_zone_free(z); }
static void zone_make_key(void) { zone_key_made = !pthread_key_create(&zone_key, zone_drop); }

static msgpack_zone *zone_of_thread(void)
{
    if (zone) return zone;
    pthread_once(&zone_once, zone_make_key);
    if (!zone_key_made) return NULL;
    zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
    if (zone && pthread_setspecific(zone_key, zone)) { /* without the key nobody would free it with the thread */
        msgpack_zone_free(zone);
        zone = NULL;
    }
    return zone;
}

static err_code wrong_kind(const place *at, const char *want)
{
    return err_set(at->e, ERR_PROTO, "%s.%s is not %s", at->d->name, at->f->name, want);
}

static err_code read_s(char *out, const place *at, const msgpack_object *o)
{
    if (o->type != MSGPACK_OBJECT_STR) return wrong_kind(at, "a string");
    err_code rc = check_s(at, o->via.str.ptr, o->via.str.size);
    if (rc) return rc;
    if (o->via.str.size) memcpy(out, o->via.str.ptr, o->via.str.size); /* an empty one has no pointer */
    out[o->via.str.size] = 0;
    return ERR_OK;
}

static err_code read_value(message *m, const place *at, const msgpack_object *o)
{
    void *v = member(m, at->f);
    switch (at->f->kind) {
    case FIELD_U:
        if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER) return wrong_kind(at, "an unsigned integer");
        *(uint64_t *)v = o->via.u64;
        return check_u(at, o->via.u64);
    case FIELD_F:
        if (o->type != MSGPACK_OBJECT_FLOAT64 && o->type != MSGPACK_OBJECT_FLOAT32) return wrong_kind(at, "a float");
        *(double *)v = o->via.f64;
        return check_f(at, o->via.f64);
    case FIELD_B:
        if (o->type != MSGPACK_OBJECT_BOOLEAN) return wrong_kind(at, "a boolean");
        *(bool *)v = o->via.boolean;
        return ERR_OK;
    case FIELD_S: return read_s(v, at, o);
    }
    return ERR_PROTO;
}

static bool is_key(const msgpack_object_kv *kv, uint64_t key)
{
    return kv->key.type == MSGPACK_OBJECT_POSITIVE_INTEGER && kv->key.via.u64 == key;
}

static err_code find_desc(const msgpack_object_map *map, const message_desc **out, err *e)
{
    const msgpack_object *id = NULL;
    for (uint32_t i = 0; i < map->size; i++) {
        if (!is_key(&map->ptr[i], 0)) continue;
        if (id) return err_set(e, ERR_PROTO, "header has key 0 (message id) twice");
        id = &map->ptr[i].val;
    }
    if (!id) return err_set(e, ERR_PROTO, "header has no key 0 (message id)");
    if (id->type != MSGPACK_OBJECT_POSITIVE_INTEGER) return err_set(e, ERR_PROTO, "message id is not an unsigned integer");
    *out = message_desc_of(id->via.u64);
    return *out ? ERR_OK : err_set(e, ERR_PROTO, "unknown message id %" PRIu64, id->via.u64);
}

/* Senders write keys in table order, so the field behind the last one is nearly always the right guess. */
static uint32_t find_field(const field_desc *f, uint32_t n, const msgpack_object_kv *kv, uint32_t guess)
{
    if (guess < n && is_key(kv, f[guess].key)) return guess;
    for (uint32_t i = 0; i < n; i++)
        if (is_key(kv, f[i].key)) return i;
    return n;
}

static err_code read_map(message *m, const message_desc *d, const msgpack_object_map *map, err *e)
{
    uint32_t n, i = 0;
    const field_desc *f = d->fields(&n);
    uint64_t seen = 0;
    for (uint32_t k = 0, guess = 0; k < map->size; k++, guess = i < n ? i + 1 : guess) {
        i = find_field(f, n, &map->ptr[k], guess);
        if (i == n) continue; /* key 0, or a newer minor version's */
        if (seen >> i & 1) return err_set(e, ERR_PROTO, "%s.%s (key %u) comes twice", d->name, f[i].name, f[i].key);
        seen |= UINT64_C(1) << i;
        place at = { d, &f[i], e };
        err_code rc = read_value(m, &at, &map->ptr[k].val);
        if (rc) return rc;
    }
    for (i = 0; i < n; i++)
        if (f[i].required && !(seen >> i & 1))
            return err_set(e, ERR_PROTO, "%s.%s (key %u) is missing", d->name, f[i].name, f[i].key);
    return ERR_OK;
}

static err_code read_header(message *m, const msgpack_object *o, err *e)
{
    if (o->type != MSGPACK_OBJECT_MAP) return err_set(e, ERR_PROTO, "header is not a map");
    const message_desc *d;
    err_code rc = find_desc(&o->via.map, &d, e);
    if (rc) return rc;
    message out = msg_init((msg_type)d->id);
    rc = read_map(&out, d, &o->via.map, e);
    if (rc == ERR_OK) *m = out;
    return rc;
}

err_code msg_decode(message *m, const void *buf, size_t len, err *e)
{
    if (len > MSG_HEADER_MAX) return err_set(e, ERR_PROTO, "header has %zu bytes, limit %u", len, MSG_HEADER_MAX);
    err_code rc = msgpack_scan_map(buf, len, e);
    if (rc) return rc;
    msgpack_zone *z = zone_of_thread();
    if (!z) return err_set(e, ERR_NOMEM, "out of memory for a message header");
    msgpack_object o;
    size_t off = 0;
    msgpack_unpack_return got = msgpack_unpack(buf, len, &off, z, &o);
    if (got == MSGPACK_UNPACK_NOMEM_ERROR) rc = err_set(e, ERR_NOMEM, "out of memory for a message header");
    else if (got != MSGPACK_UNPACK_SUCCESS || off != len) rc = err_set(e, ERR_PROTO, "header is not one whole msgpack value");
    else rc = read_header(m, &o, e);
    msgpack_zone_clear(z);
    return rc;
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static err_code check_frame(const message *m, const message_desc *d, const frame_desc *f, const view *v, err *e)
{
    if (v->len && !v->ptr) return err_set(e, ERR_PROTO, "%s.%s has a length but no bytes", d->name, f->name);
    if (f->kind == FRAME_BYTES) {
        if (v->len <= f->max) return ERR_OK;
        return err_set(e, ERR_PROTO, "%s.%s has %zu bytes, allowed 0..%" PRIu64, d->name, f->name, v->len, f->max);
    }
    uint64_t rows = count_at(m, f->rows_at), cols = f->cols_at ? count_at(m, f->cols_at) : 1, want;
    if (__builtin_mul_overflow(rows, cols, &want) || __builtin_mul_overflow(want, (uint64_t)f->record_size, &want))
        return err_set(e, ERR_PROTO, "%s.%s: %" PRIu64 " x %" PRIu64 " is too large", d->name, f->name, rows, cols);
    if (v->len == want) return ERR_OK;
    return err_set(e, ERR_PROTO, "%s.%s has %zu bytes, want %" PRIu64 " (%" PRIu64 " x %" PRIu64 " x %u)", d->name, f->name,
                   v->len, want, rows, cols, f->record_size);
}

err_code msg_check_frames(const message *m, const view *frames, uint32_t n, err *e)
{
    const message_desc *d = message_desc_of(m->type);
    if (!d) return err_set(e, ERR_PROTO, "no message has id %u", (unsigned)m->type);
    uint32_t want;
    const frame_desc *f = d->frames(&want);
    if (n != want) return err_set(e, ERR_PROTO, "%s has %u payload frames, want %u", d->name, n, want);
    if (n && !frames) return err_set(e, ERR_PROTO, "%s has no payload frames, want %u", d->name, want);
    for (uint32_t i = 0; i < n; i++) {
        err_code rc = check_frame(m, d, &f[i], &frames[i], e);
        if (rc) return rc;
    }
    return ERR_OK;
}
