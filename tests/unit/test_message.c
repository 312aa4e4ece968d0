/* The codec against its own table: every message, every field, at and beyond its bounds; damaged and hostile bytes. */
#include "core/clock.h"
#include "core/rng.h"
#include "proto/message_table.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- a packer that checks nothing, so that it can write what msg_encode refuses ---------------------------------- */

typedef struct { uint8_t b[16384]; size_t n; } raw;

static void put(raw *r, const void *p, size_t n)
{
    cr_assert(n <= sizeof r->b - r->n);
    if (n) memcpy(r->b + r->n, p, n);
    r->n += n;
}
static void put_byte(raw *r, unsigned c) { put(r, &(uint8_t){ (uint8_t)c }, 1); }
static void put_be(raw *r, uint64_t v, int bytes) { for (int i = bytes; i--;) put_byte(r, (unsigned)(v >> (8 * i) & 0xff)); }
static void put_uint(raw *r, uint64_t v) { put_byte(r, 0xcf); put_be(r, v, 8); }
static void put_map(raw *r, size_t n) { put_byte(r, 0xde); put_be(r, n, 2); }
static void put_str(raw *r, const char *s, size_t n) { put_byte(r, 0xda); put_be(r, n, 2); put(r, s, n); }
static void put_f64(raw *r, double v) { uint64_t u; memcpy(&u, &v, 8); put_byte(r, 0xcb); put_be(r, u, 8); }

static void *at(message *m, const field_desc *f) { return (char *)m + f->offset; }

static void put_value(raw *r, message *m, const field_desc *f)
{
    if (f->kind == FIELD_U) put_uint(r, *(uint64_t *)at(m, f));
    if (f->kind == FIELD_F) put_f64(r, *(double *)at(m, f));
    if (f->kind == FIELD_S) put_str(r, at(m, f), strlen(at(m, f)));
    if (f->kind == FIELD_B) put_byte(r, *(bool *)at(m, f) ? 0xc3 : 0xc2);
}

/* The whole header of m, field `skip` left out; `extra` pairs are announced and left to the caller. */
static raw raw_header(message *m, uint32_t skip, size_t extra)
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
static message smallest(const message_desc *d)
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

static message largest(const message_desc *d)
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

static bool same_field(const message *a, const message *b, const field_desc *f)
{
    const char *p = (const char *)a + f->offset, *q = (const char *)b + f->offset;
    if (f->kind == FIELD_S) return !strcmp(p, q);
    return !memcmp(p, q, f->kind == FIELD_B ? 1 : 8);
}

static bool same(const message *a, const message *b)
{
    uint32_t n;
    if (a->type != b->type) return false;
    const field_desc *f = message_desc_of(a->type)->fields(&n);
    for (uint32_t i = 0; i < n; i++)
        if (!same_field(a, b, &f[i])) return false;
    return true;
}

static size_t encode(const message *m, uint8_t *buf)
{
    size_t n = MSG_HEADER_MAX;
    err e = { 0 };
    cr_assert_eq(msg_encode(m, buf, &n, &e), ERR_OK, "%s", e.text);
    return n;
}

static void round_trip(const message *m)
{
    uint8_t buf[MSG_HEADER_MAX];
    size_t n = encode(m, buf);
    message back;
    err e = { 0 };
    cr_assert_eq(msg_decode(&back, buf, n, &e), ERR_OK, "%s", e.text);
    cr_assert(same(m, &back), "%s changed on its way", msg_name(m->type));
}

/* Refused with a text that holds `word`, and the target untouched. */
static void refused(const raw *r, const char *word)
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

static void accepted(const raw *r, const message *want)
{
    message m;
    err e = { 0 };
    cr_assert_eq(msg_decode(&m, r->b, r->n, &e), ERR_OK, "%s", e.text);
    cr_assert(same(&m, want));
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

Test(message, table_keeps_its_own_rules)
{
    const message_desc *d;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        uint32_t n, frames;
        const field_desc *f = d->fields(&n);
        const frame_desc *v = d->frames(&frames);
        cr_assert_eq(message_desc_of(d->id), d, "id %u is used twice", d->id);
        cr_assert(n < 64 && frames <= MSG_FRAMES_MAX, "%s", d->name);
        for (uint32_t k = 0; k < n; k++) {
            cr_assert(f[k].key > (k ? f[k - 1].key : 0), "%s.%s: keys must ascend", d->name, f[k].name);
            cr_assert(f[k].lo <= f[k].hi && f[k].f_lo <= f[k].f_hi);
            if (!f[k].required && f[k].kind == FIELD_U) cr_assert(f[k].def >= f[k].lo && f[k].def <= f[k].hi, "%s", f[k].name);
            if (!f[k].required && f[k].kind == FIELD_F) cr_assert(f[k].f_def >= f[k].f_lo && f[k].f_def <= f[k].f_hi);
        }
        for (uint32_t k = 0; k < frames; k++) {
            uint32_t counts = 0;
            for (uint32_t j = 0; j < n; j++)
                counts += f[j].kind == FIELD_U && (f[j].offset == v[k].rows_at || f[j].offset == v[k].cols_at);
            cr_assert_eq(counts, v[k].kind == FRAME_BYTES ? 0u : v[k].kind == FRAME_TABLE ? 1u : 2u, "%s.%s", d->name, v[k].name);
        }
    }
}

Test(message, frame_enums_follow_the_table)
{
    static const struct { msg_type t; uint32_t at; const char *name; } names[] = {
        { MSG_STEP, STEP_ROWS, "rows" },         { MSG_STEP, STEP_OPS, "ops" },           { MSG_STEP, STEP_HOPS, "hops" },
        { MSG_STEP, STEP_HIDDEN, "hidden" },     { MSG_RESULT, RESULT_ROWS, "rows" },     { MSG_RESULT, RESULT_CANDS, "cands" },
        { MSG_RESULT, RESULT_FULL, "full" },     { MSG_RESULT, RESULT_HIDDEN, "hidden" }, { MSG_SUBMIT, SUBMIT_PROMPT, "prompt" },
        { MSG_SUBMIT, SUBMIT_TOKENS, "tokens" }, { MSG_SUBMIT, SUBMIT_STOP, "stop" },     { MSG_SUBMIT, SUBMIT_BIAS, "bias" },
        { MSG_TOKEN, TOKEN_TOKENS, "tokens" },   { MSG_TOKEN, TOKEN_TOP, "top" },         { MSG_TOKEN, TOKEN_TEXT, "text" },
        { MSG_SCORED, SCORED_ROWS, "rows" },     { MSG_SCORED, SCORED_FULL, "full" },     { MSG_DONE, DONE_TEXT, "text" },
        { MSG_DONE, DONE_PASSAGES, "passages" }, { MSG_DONE, DONE_PROMPT, "prompt" },     { MSG_PASSAGES, PASSAGES_RECS, "recs" },
        { MSG_PASSAGES, PASSAGES_BYTES, "bytes" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint32_t n;
        const frame_desc *f = message_desc_of(names[i].t)->frames(&n);
        cr_assert_lt(names[i].at, n);
        cr_assert_str_eq(f[names[i].at].name, names[i].name, "%s", msg_name(names[i].t));
    }
}

Test(message, protocol_page_is_what_the_table_says)
{
    if (access("proto/messages.def", R_OK)) cr_skip_test("not run from the top folder");
    text page = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&page, "docs/PROTOCOL.md", 1u << 24, &e), ERR_OK, "%s", e.text);
    char *made = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&made, &n);
    cr_assert(f);
    msg_write_protocol(f);
    fclose(f);
    cr_assert(n == page.len && !memcmp(made, page.ptr, n), "docs/PROTOCOL.md is old: make protocol");
    free(made);
    text_free(&page);
}

/* ---- bounds ---------------------------------------------------------------------------------------------------- */

static uint32_t try_values(const message_desc *d, const field_desc *f)
{
    message m = smallest(d);
    const uint64_t u[] = { f->lo, f->hi, f->def };
    const double v[] = { f->f_lo, f->f_hi, f->f_def };
    const size_t s[] = { 0, f->hi, f->hi / 2 };
    for (int i = 0; i < (f->required ? 2 : 3); i++) {
        if (f->kind == FIELD_U) *(uint64_t *)at(&m, f) = u[i];
        if (f->kind == FIELD_F) *(double *)at(&m, f) = v[i];
        if (f->kind == FIELD_B) *(bool *)at(&m, f) = i == 1;
        if (f->kind == FIELD_S) memset(at(&m, f), 0, f->hi + 1), memset(at(&m, f), 'y', s[i]);
        round_trip(&m);
    }
    return 1;
}

Test(message, every_field_round_trips_at_its_bounds)
{
    const message_desc *d;
    uint32_t tried = 0, n;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        const field_desc *f = d->fields(&n);
        for (uint32_t k = 0; k < n; k++) tried += try_values(d, &f[k]);
        message big = largest(d), small = smallest(d);
        round_trip(&big);
        round_trip(&small);
    }
    cr_assert_gt(tried, 150);
}

static void refuse_both(message *m, const message_desc *d, const field_desc *f)
{
    char name[80];
    snprintf(name, sizeof name, "%s.%s", d->name, f->name);
    raw r = raw_header(m, UINT32_MAX, 0);
    refused(&r, name);
    uint8_t buf[MSG_HEADER_MAX];
    size_t len = sizeof buf;
    err e = { 0 };
    cr_assert_eq(msg_encode(m, buf, &len, &e), ERR_PROTO, "%s was encoded", name);
    cr_assert(strstr(e.text, name), "%s", e.text);
}

static void beyond_u(const message_desc *d, const field_desc *f)
{
    message m = smallest(d);
    if (f->lo > 0) *(uint64_t *)at(&m, f) = f->lo - 1, refuse_both(&m, d, f);
    if (f->hi < UINT64_MAX) *(uint64_t *)at(&m, f) = f->hi + 1, refuse_both(&m, d, f);
}

static void beyond_f(const message_desc *d, const field_desc *f)
{
    const double bad[] = { nextafter(f->f_lo, -INFINITY), nextafter(f->f_hi, INFINITY), NAN, INFINITY, -INFINITY };
    for (int i = 0; i < 5; i++) {
        message m = smallest(d);
        *(double *)at(&m, f) = bad[i];
        refuse_both(&m, d, f);
    }
}

static void beyond_s(const message_desc *d, const field_desc *f, uint32_t index)
{
    char name[80], s[8192];
    snprintf(name, sizeof name, "%s.%s", d->name, f->name);
    memset(s, 'z', sizeof s);
    message m = smallest(d);
    raw r = raw_header(&m, index, 1);
    put_uint(&r, f->key);
    put_str(&r, s, f->hi + 1);
    if (r.n <= MSG_HEADER_MAX) refused(&r, name);
    memset(at(&m, f), 'z', f->hi + 1); /* no NUL: must not read past the member either */
    uint8_t buf[MSG_HEADER_MAX];
    size_t len = sizeof buf;
    cr_assert_eq(msg_encode(&m, buf, &len, NULL), ERR_PROTO);
}

Test(message, one_beyond_a_bound_is_refused_by_both_sides)
{
    const message_desc *d;
    uint32_t n;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        const field_desc *f = d->fields(&n);
        for (uint32_t k = 0; k < n; k++) {
            if (f[k].kind == FIELD_U) beyond_u(d, &f[k]);
            if (f[k].kind == FIELD_F) beyond_f(d, &f[k]);
            if (f[k].kind == FIELD_S) beyond_s(d, &f[k], k);
        }
    }
}

Test(message, complaint_gives_the_value_and_the_range)
{
    message m = smallest(message_desc_of(MSG_STEP));
    m.step.n_rows = 9999;
    raw r = raw_header(&m, UINT32_MAX, 0);
    refused(&r, "step.n_rows = 9999, allowed 0..4096");
}

Test(message, missing_required_field_is_named)
{
    const message_desc *d;
    uint32_t n;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        const field_desc *f = d->fields(&n);
        for (uint32_t k = 0; k < n; k++) {
            message m = smallest(d);
            raw r = raw_header(&m, k, 0);
            char name[80];
            snprintf(name, sizeof name, "%s.%s (key %u) is missing", d->name, f[k].name, f[k].key);
            if (f[k].required) refused(&r, name);
            else accepted(&r, &m);
        }
    }
}

/* Values of every kind; `right`: the field kind that may hold it. */
static const struct { const char *bytes; size_t n; int right; } other[] = {
    { "\xff", 1, -1 },      { "\xc0", 1, -1 },      { "\x91\x01", 2, -1 },     { "\x81\x01\x01", 3, -1 },    { "\xc4\x01x", 3, -1 },
    { "\xd4\x01x", 3, -1 }, { "\xa1x", 2, FIELD_S }, { "\x01", 1, FIELD_U }, { "\xc3", 1, FIELD_B },
};

Test(message, wrong_kind_is_refused)
{
    const message_desc *d;
    uint32_t n;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        const field_desc *f = d->fields(&n);
        for (uint32_t k = 0; k < n; k++) {
            for (size_t v = 0; v < sizeof other / sizeof *other; v++) {
                if (other[v].right == (int)f[k].kind) continue;
                message m = smallest(d);
                raw r = raw_header(&m, k, 1);
                put_uint(&r, f[k].key);
                put(&r, other[v].bytes, other[v].n);
                refused(&r, f[k].name);
            }
        }
    }
}

Test(message, default_values_do_not_travel)
{
    uint8_t buf[MSG_HEADER_MAX];
    message m = msg_init(MSG_STATS);
    cr_assert_eq(encode(&m, buf), 3); /* {0: 10} */
    m = msg_init(MSG_SUBMIT);
    m.submit.ref = 1;
    cr_assert_eq(encode(&m, buf), 5);
    cr_assert_eq(m.submit.max_tokens, 128);
    cr_assert_float_eq(m.submit.top_p, 1, 0);
}

Test(message, too_small_a_buffer_is_an_error_not_an_overrun)
{
    message m = largest(message_desc_of(MSG_HELLO));
    uint8_t buf[MSG_HEADER_MAX];
    size_t whole = encode(&m, buf);
    for (size_t n = 0; n < whole; n++) {
        uint8_t *small = malloc(n + 1); /* its own block: the address sanitizer sees one byte too many */
        size_t len = n;
        cr_assert_eq(msg_encode(&m, small, &len, NULL), ERR_FULL);
        free(small);
    }
}

Test(message, hello_of_another_version_can_still_be_read)
{
    message m = smallest(message_desc_of(MSG_HELLO));
    m.hello.major = PROTO_MAJOR + 1;
    m.hello.minor = 77;
    strcpy(m.hello.name, "worker-1");
    raw r = raw_header(&m, UINT32_MAX, 1);
    put_uint(&r, 200); /* what a newer one would say besides */
    put_byte(&r, 0xc0);
    accepted(&r, &m);
}

/* ---- shapes of a header ---------------------------------------------------------------------------------------- */

Test(message, unknown_keys_are_skipped_whatever_they_hold)
{
    static const struct { const char *pair; size_t n; } extra[] = {
        { "\x7e\x01", 2 }, { "\xa3" "abc\xa1x", 6 }, { "\x7e\x93\x01\x92\x02\x03\x81\x04\x05", 9 }, { "\xff\xc0", 2 },
        { "\x7e\xc4\x02xy", 5 }, { "\x7e\xd4\x01x", 4 }, { "\x7e\xc7\x03\x05xyz", 7 }, { "\x7e\xca\x7f\xc0\x00\x00", 6 },
        { "\x92\x01\x02\x03", 4 }, { "\xc0\xc3", 2 }, { "\x7e\xd3\x80\0\0\0\0\0\0\0", 10 }, { "\x7e\x91\x91\x91\x01", 5 },
        { "\xcb\0\0\0\0\0\0\0\0\x01", 10 }, { "\x7e\xdf\0\0\0\0", 6 }, { "\x7e\xd8\x01" "0123456789abcdef", 19 },
    };
    message m = smallest(message_desc_of(MSG_STEP));
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
        raw r = raw_header(&m, UINT32_MAX, 2); /* twice: only known keys must be single */
        put(&r, extra[i].pair, extra[i].n);
        put(&r, extra[i].pair, extra[i].n);
        accepted(&r, &m);
    }
}

Test(message, known_key_may_not_come_twice_in_any_width)
{
    message m = smallest(message_desc_of(MSG_PING));
    static const char *const keys[] = { "\x01", "\xcc\x01", "\xcd\0\x01", "\xce\0\0\0\x01", "\xd0\x01" };
    static const size_t lens[] = { 1, 2, 3, 5, 2 };
    for (int i = 0; i < 5; i++) {
        raw r = raw_header(&m, UINT32_MAX, 1);
        put(&r, keys[i], lens[i]);
        put_byte(&r, 7);
        refused(&r, "ping.nonce (key 1) comes twice");
    }
}

static void refuse_bytes(const char *bytes, size_t n, const char *word)
{
    raw r = { .n = 0 };
    put(&r, bytes, n);
    refused(&r, word);
}

Test(message, header_that_is_not_one_map_with_an_id_is_refused)
{
    refuse_bytes("", 0, "empty");
    refuse_bytes("\x92\x00\x04", 3, "not a map");
    refuse_bytes("\x04", 1, "not a map");
    refuse_bytes("\x80", 1, "no key 0");
    refuse_bytes("\x81\x01\x04", 3, "no key 0");
    refuse_bytes("\x82\x00\x04\x00\x04", 5, "twice");
    refuse_bytes("\x81\x00\xff", 3, "not an unsigned");
    refuse_bytes("\x81\x00\xa1x", 4, "not an unsigned");
    refuse_bytes("\x81\x00\x3f", 3, "unknown message id 63");
    refuse_bytes("\x81\x00\x00", 3, "unknown message id 0");
    refuse_bytes("\x81\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 11, "unknown message id 18446744073709551615");
    refuse_bytes("\x81\x00\xcd\x01\x04", 5, "unknown message id 260");
    refuse_bytes("\x82\x00\x04\x01\x07\x07", 6, "behind its map");
    refuse_bytes("\x82\x00\x04\x01\xc1", 5, "0xc1");
    refuse_bytes("\x83\x00\x04\x01\x07\x7e\x91\x91\x91\x91\x01", 11, "nested deeper");
}

Test(message, nul_inside_a_string_is_refused)
{
    message m = smallest(message_desc_of(MSG_BYE));
    raw r = raw_header(&m, 0, 1);
    put_uint(&r, 1);
    put_str(&r, "a\0b", 3);
    refused(&r, "bye.reason has a NUL");
}

Test(message, float32_counts_as_a_float)
{
    message m = smallest(message_desc_of(MSG_QUERY));
    m.query.chars_per_token = 0.5;
    raw r = raw_header(&m, 3, 1);
    put(&r, "\x04\xca\x3f\x00\x00\x00", 6);
    accepted(&r, &m);
}

Test(message, header_above_the_limit_is_refused_before_it_is_read)
{
    static uint8_t big[MSG_HEADER_MAX + 1];
    message m;
    err e = { 0 };
    memset(big, 0xc1, sizeof big);
    cr_assert_eq(msg_decode(&m, big, sizeof big, &e), ERR_PROTO);
    cr_assert(strstr(e.text, "limit 4096"), "%s", e.text);
}

/* ---- hostile bytes --------------------------------------------------------------------------------------------- */

Test(message, every_truncation_is_refused)
{
    const message_desc *d;
    uint8_t buf[MSG_HEADER_MAX];
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        message m = largest(d);
        size_t n = encode(&m, buf);
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *part = malloc(cut ? cut : 1);
            memcpy(part, buf, cut);
            message out;
            cr_assert_eq(msg_decode(&out, part, cut, NULL), ERR_PROTO, "%s cut to %zu of %zu bytes", d->name, cut, n);
            free(part);
        }
    }
}

/* One to four edits: a byte set, a bit turned, bytes taken out, bytes doubled. */
static size_t mutate(uint8_t *b, size_t n, uint64_t seed, uint64_t *k)
{
    for (uint64_t edits = 1 + rng_u64(seed, (*k)++) % 4; edits && n > 1; edits--) {
        size_t i = rng_u64(seed, (*k)++) % n, span = 1 + rng_u64(seed, (*k)++) % 8;
        uint64_t v = rng_u64(seed, (*k)++);
        if (span > n - i) span = n - i;
        switch (v % 4) {
        case 0: b[i] = (uint8_t)(v >> 8); break;
        case 1: b[i] ^= (uint8_t)(1u << (v >> 8 & 7)); break;
        case 2: memmove(b + i, b + i + span, n - i - span); n -= span; break;
        case 3: memmove(b + i + span, b + i, n - i); n += span; break;
        }
    }
    return n;
}

static message random_message(const message_desc *d, uint64_t seed, uint64_t *k)
{
    message m = msg_init((msg_type)d->id);
    uint32_t n;
    const field_desc *f = d->fields(&n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = rng_u64(seed, (*k)++), width = f[i].hi - f[i].lo;
        v >>= v & 63; /* small and large numbers alike */
        if (f[i].kind == FIELD_U) *(uint64_t *)at(&m, &f[i]) = f[i].lo + (width == UINT64_MAX ? v : v % (width + 1));
        if (f[i].kind == FIELD_F) *(double *)at(&m, &f[i]) = f[i].f_lo + (f[i].f_hi - f[i].f_lo) * rng_unit(seed, (*k)++);
        if (f[i].kind == FIELD_B) *(bool *)at(&m, &f[i]) = v & 1;
        if (f[i].kind == FIELD_S) memset(at(&m, &f[i]), 'a' + (int)(v % 26), v % (f[i].hi + 1));
    }
    return m;
}

Test(message, random_messages_survive_and_random_damage_never_crashes)
{
    const uint64_t seed = clock_ns();
    uint64_t k = 0, whole = 0, tried = 0;
    fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
    const message_desc *d;
    for (int round = 0; round < 1000; round++)
        for (uint32_t i = 0; (d = message_desc_at(i)); i++, tried++) {
            message m = random_message(d, seed, &k), out, before;
            round_trip(&m);
            uint8_t buf[MSG_HEADER_MAX + 64];
            size_t n = mutate(buf, encode(&m, buf), seed, &k);
            uint8_t *exact = malloc(n);
            memcpy(exact, buf, n);
            memset(&out, 0xa5, sizeof out);
            memcpy(&before, &out, sizeof out);
            err_code rc = msg_decode(&out, exact, n, NULL);
            free(exact);
            if (rc) cr_assert(rc == ERR_PROTO && !memcmp(&out, &before, sizeof out), "seed %llu", (unsigned long long)seed);
            else round_trip(&out), whole++;
        }
    fprintf(stderr, "# %llu mutations, %llu still whole\n", (unsigned long long)tried, (unsigned long long)whole);
    cr_assert_geq(tried, 10000);
    cr_assert_lt(whole, tried);
}

static long rss_kb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

Test(message, claim_is_held_against_the_bytes_there_are)
{
    refuse_bytes("\x82\x00\x04\x7e\xdd\xff\xff\xff\xff", 9, "claims 4294967295 values, only 0 bytes follow");
    refuse_bytes("\xde\x00\x02\x00\x04", 5, "claims 4 values, only 2 bytes follow");
}

Test(message, claimed_giant_containers_cost_nothing)
{
    static const struct { const char *bytes; size_t n; } claims[] = {
        { "\xdf\xff\xff\xff\xff", 5 }, { "\xdf\x7f\xff\xff\xff\x00\x04", 7 }, { "\x82\x00\x04\x01\xdd\xff\xff\xff\xff", 9 },
        { "\x82\x00\x04\x7e\xdf\xff\xff\xff\xff", 9 }, { "\x82\x00\x04\x7e\xc6\xff\xff\xff\xff", 9 },
        { "\x82\x00\x04\x7e\xdb\xff\xff\xff\xff", 9 }, { "\x82\x00\x04\x7e\xc9\xff\xff\xff\xff\x01", 10 },
        { "\xde\xff\xff\x00\x04", 5 }, { "\x82\x00\x04\x7e\xdc\xff\xff", 7 },
    };
    long before = rss_kb();
    uint64_t start = clock_ns();
    for (int round = 0; round < 1000; round++)
        for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
            message m;
            cr_assert_eq(msg_decode(&m, claims[i].bytes, claims[i].n, NULL), ERR_PROTO);
        }
    cr_assert_lt(clock_ns() - start, 1000000000u);
    cr_assert_lt(rss_kb() - before, 4096, "grew by %ld KiB", rss_kb() - before);
}

Test(message, header_full_of_unknown_containers_is_read_and_forgotten)
{
    raw r = { .n = 0 };
    put_map(&r, 2 + 1300);
    put(&r, "\x00\x04\x01\x07", 4);
    for (int i = 0; i < 1300; i++) put(&r, "\x7e\x91\x05", 3);
    message want = msg_init(MSG_PING);
    want.ping.nonce = 7;
    for (int i = 0; i < 100; i++) accepted(&r, &want);
}

/* ---- payload frames -------------------------------------------------------------------------------------------- */

static uint64_t frame_size(const message *m, const frame_desc *f)
{
    uint64_t rows = 1, cols = 1;
    if (f->kind == FRAME_BYTES) return 3;
    memcpy(&rows, (const char *)m + f->rows_at, 8);
    if (f->cols_at) memcpy(&cols, (const char *)m + f->cols_at, 8);
    return rows * cols * f->record_size;
}

/* The pointer is never read: only sizes are checked. */
static uint32_t frames_for(const message *m, view *v)
{
    uint32_t n;
    const frame_desc *f = message_desc_of(m->type)->frames(&n);
    for (uint32_t i = 0; i < n; i++) v[i] = (view){ "", frame_size(m, &f[i]) };
    return n;
}

Test(message, frames_must_fit_the_header_exactly)
{
    const message_desc *d;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        for (int big = 0; big < 2; big++) {
            message m = big ? largest(d) : smallest(d);
            view v[MSG_FRAMES_MAX + 1] = { 0 };
            uint32_t n = frames_for(&m, v);
            const frame_desc *f = d->frames(&n);
            err e = { 0 };
            cr_assert_eq(msg_check_frames(&m, v, n, &e), ERR_OK, "%s", e.text);
            cr_assert_eq(msg_frames(m.type), n);
            cr_assert_eq(msg_check_frames(&m, v, n + 1, &e), ERR_PROTO);
            if (n) cr_assert_eq(msg_check_frames(&m, v, n - 1, &e), ERR_PROTO);
            if (n) cr_assert_eq(msg_check_frames(&m, NULL, n, &e), ERR_PROTO);
            for (uint32_t k = 0; k < n; k++) {
                view keep = v[k];
                v[k] = (view){ "", f[k].kind == FRAME_BYTES ? f[k].max + 1 : keep.len + 1 };
                cr_assert_eq(msg_check_frames(&m, v, n, &e), ERR_PROTO);
                cr_assert(strstr(e.text, f[k].name), "%s", e.text);
                v[k] = keep;
            }
        }
    }
}

Test(message, frame_sizes_that_overflow_are_refused)
{
    message m = smallest(message_desc_of(MSG_STEP));
    m.step.n_hidden = UINT64_C(1) << 62; /* a header made by hand: msg_decode would not let it pass */
    m.step.dim = 4;
    view v[MSG_FRAMES_MAX] = { { "", 0 }, { "", 0 }, { "", sizeof(hop_rec) }, { "", 0 } };
    err e = { 0 };
    cr_assert_eq(msg_check_frames(&m, v, 4, &e), ERR_PROTO);
    cr_assert(strstr(e.text, "too large"), "%s", e.text);
}

/* ---- printing, speed ------------------------------------------------------------------------------------------- */

Test(message, printed_line_is_one_line_whatever_a_peer_writes)
{
    message m = msg_init(MSG_FAIL);
    m.fail.code = 6;
    m.fail.session = 12;
    strcpy(m.fail.text, "bad\n\x1b[31m\"x\"");
    char *line = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&line, &n);
    msg_print(&m, f);
    fclose(f);
    cr_assert_str_eq(line, "fail code=6 session=12 text=\"bad\\x0a\\x1b[31m\\\"x\\\"\"\n");
    free(line);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* This binary's own malloc, to count: the codec must not call it once it is warm. */
static _Thread_local uint64_t mallocs;
void *__libc_malloc(size_t n);
void *malloc(size_t n);
void *malloc(size_t n) { return mallocs++, __libc_malloc(n); }

Test(message, warm_codec_allocates_nothing)
{
    const message_desc *d;
    uint8_t buf[MSG_HEADER_MAX];
    message m = smallest(message_desc_of(MSG_PING)), out;
    size_t n = encode(&m, buf);
    cr_assert_eq(msg_decode(&out, buf, n, NULL), ERR_OK);
    uint64_t before = mallocs;
    for (uint32_t i = 0; (d = message_desc_at(i)); i++) {
        m = largest(d);
        n = sizeof buf;
        if (msg_encode(&m, buf, &n, NULL) || msg_decode(&out, buf, n, NULL)) abort();
    }
    cr_assert_eq(mallocs, before);
}
#endif

static void time_codec(const message *m)
{
    enum { ROUNDS = 20000 };
    uint8_t buf[MSG_HEADER_MAX];
    size_t n = encode(m, buf);
    message out;
    uint64_t t0 = clock_ns();
    for (int i = 0; i < ROUNDS; i++) n = sizeof buf, msg_encode(m, buf, &n, NULL);
    uint64_t t1 = clock_ns();
    for (int i = 0; i < ROUNDS; i++) msg_decode(&out, buf, n, NULL);
    uint64_t t2 = clock_ns();
    fprintf(stderr, "# codec %-8s %4zu bytes: encode %llu ns, decode %llu ns\n", msg_name(m->type), n,
            (unsigned long long)(t1 - t0) / ROUNDS, (unsigned long long)(t2 - t1) / ROUNDS);
    cr_assert_lt((t2 - t0) / ROUNDS, 200000u, "a header must cost microseconds");
}

Test(message, codec_speed_is_printed)
{
    static const msg_type types[] = { MSG_PING, MSG_STEP, MSG_RESULT, MSG_TOKEN, MSG_SUBMIT };
    for (int i = 0; i < 5; i++) {
        message m = largest(message_desc_of(types[i]));
        time_codec(&m);
    }
}
