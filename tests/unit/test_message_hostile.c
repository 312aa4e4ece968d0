/* The codec and what a peer may send: odd headers, damaged and hostile bytes, frames that do not fit; what is printed of it, and
 * what the codec costs. */
#include "core/clock.h"
#include "core/rng.h"
#include "tests/unit/message_world.h"
#include <sys/resource.h>
#include <unistd.h>

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
    view v[MSG_FRAMES_MAX] = { { "", 0 }, { "", 0 }, { "", sizeof(hop_rec) }, { "", 0 }, { "", 0 } };
    err e = { 0 };
    cr_assert_eq(msg_check_frames(&m, v, 5, &e), ERR_PROTO);
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
