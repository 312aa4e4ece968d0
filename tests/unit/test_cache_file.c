#include "coordinator/cache_file.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The file of --prompt-cache: what is written comes back; what is of another model, torn or changed is said to be. */

enum { TOKENS = 40, LAYERS = 3, PART = 16, PARTS = LAYERS * 3 };

static char path[300];
static cache_key key;
static uint32_t token[TOKENS];

static view stream_of(const cache_part *p)
{
    static uint8_t bytes[600];
    size_t n = 100 + 10 * p->layer + (p->to - p->from);
    support_fill_bytes(bytes, n, p->layer * 1000 + p->from);
    return (view){ bytes, n };
}

static void write_all(bool keep)
{
    cache_writer *w;
    err e = { 0 };
    cr_assert_eq(cache_write_open(&w, path, &key, token, TOKENS, PARTS, &e), ERR_OK, "%s", e.text);
    for (uint32_t from = 0; from < TOKENS; from += PART)
        for (uint32_t l = 0; l < LAYERS; l++) {
            cache_part p = { l, from, from + PART < TOKENS ? from + PART : TOKENS };
            cr_assert_eq(cache_write_part(w, &p, stream_of(&p), &e), ERR_OK, "%s", e.text);
        }
    cr_assert_eq(cache_write_close(&w, keep, &e), ERR_OK, "%s", e.text);
}

static void begin(void)
{
    snprintf(path, sizeof path, "%s/cache", support_tmpdir());
    key = (cache_key){ .format = 0, .path = 1, .layers = LAYERS, .lora_scale = 0.5 };
    memset(key.digest, 'd', 32);
    for (uint32_t i = 0; i < TOKENS; i++) token[i] = 7 * i + 1;
}
TestSuite(cache_file, .init = begin);

/* ERR_OK, or how the whole file cannot be read. */
static err_code read_all(const cache_key *k, uint32_t *parts, err *e)
{
    cache_reader *r;
    cache_part p;
    view s;
    bool end = false;
    *parts = 0;
    err_code rc = cache_read_open(&r, path, k, e);
    while (!rc && !end) {
        rc = cache_read_part(r, &p, &s, &end, e);
        if (rc || end) break;
        view want = stream_of(&p);
        cr_expect(s.len == want.len && !memcmp(s.ptr, want.ptr, want.len));
        ++*parts;
    }
    cache_read_close(&r);
    return rc;
}

Test(cache_file, what_is_written_comes_back_twice)
{
    uint32_t n, parts;
    cache_reader *r;
    cache_part p;
    view s;
    bool end;
    err e = { 0 };
    write_all(true);
    cr_expect_eq(read_all(&key, &parts, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(parts, PARTS);
    cr_assert_eq(cache_read_open(&r, path, &key, &e), ERR_OK);
    const uint32_t *t = cache_read_tokens(r, &n);
    cr_expect(n == TOKENS && !memcmp(t, token, sizeof token));
    for (int i = 0; i < 2; i++) {
        for (parts = 0; !cache_read_part(r, &p, &s, &end, &e) && !end;) parts++;
        cr_expect_eq(parts, PARTS, "%s", e.text);
        cr_expect_eq(cache_read_again(r, &e), ERR_OK);
    }
    cache_read_close(&r);
}

Test(cache_file, a_file_that_is_not_kept_leaves_nothing)
{
    err e;
    uint32_t parts;
    write_all(false);
    cr_expect_eq(read_all(&key, &parts, &e), ERR_ABSENT);
}

Test(cache_file, every_part_of_the_key_matters_and_is_named)
{
    err e;
    uint32_t parts;
    cache_key k[6] = { key, key, key, key, key, key };
    static const char *const words[] = { "model", "model", "adapter", "--kv", "--arith", "--ctx" };
    k[0].digest[31] = 'x';
    k[1].layers++;
    memset(k[2].lora, 'a', 32);
    k[3].format = 1;
    k[4].path = 0;
    k[5].rope_long = 1;
    write_all(true);
    for (size_t i = 0; i < 6; i++) {
        cr_expect_eq(read_all(&k[i], &parts, &e), ERR_STATE);
        cr_expect(strstr(e.text, words[i]), "%s", e.text);
    }
    k[0] = key;
    k[0].lora_scale = 2; /* there is no adapter */
    cr_expect_eq(read_all(&k[0], &parts, &e), ERR_OK, "%s", e.text);
}

Test(cache_file, any_changed_byte_and_any_cut_is_noticed)
{
    text t = { 0 };
    err e = { 0 };
    uint32_t parts;
    write_all(true);
    cr_assert_eq(text_read_file(&t, path, 1 << 20, &e), ERR_OK);
    for (size_t i = 0; i < t.len; i++) {
        t.ptr[i] ^= (char)(1 << i % 8);
        cr_assert(support_write(path, t.ptr, t.len));
        err_code rc = read_all(&key, &parts, &e);
        cr_expect(rc == (i < 8 ? ERR_INPUT : rc) && (rc == ERR_PROTO || rc == ERR_STATE || rc == ERR_INPUT), "byte %zu: %d", i, rc);
        t.ptr[i] ^= (char)(1 << i % 8);
    }
    for (size_t n = 0; n < t.len; n += 3) {
        cr_assert(support_write(path, t.ptr, n));
        cr_expect_neq(read_all(&key, &parts, &e), ERR_OK, "%zu of %zu bytes", n, t.len);
    }
    text_free(&t);
}

Test(cache_file, other_files_are_no_caches)
{
    err e;
    uint32_t parts;
    cr_assert(support_write(path, "my diary\n", 9));
    cr_expect_eq(read_all(&key, &parts, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "left alone"), "%s", e.text);
    snprintf(path, sizeof path, "%s", support_tmpdir());
    cr_expect_eq(read_all(&key, &parts, &e), ERR_INPUT);
}
