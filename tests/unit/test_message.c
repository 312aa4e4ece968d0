/* The codec against its own table: every message, every field, at and beyond its bounds. */
#include "tests/unit/message_world.h"
#include <math.h>
#include <unistd.h>

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
        { MSG_STEP, STEP_HIDDEN, "hidden" },     { MSG_STEP, STEP_PICKS, "picks" },       { MSG_RESULT, RESULT_ROWS, "rows" },     { MSG_RESULT, RESULT_CANDS, "cands" },
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
