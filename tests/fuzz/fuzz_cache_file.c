/* Any bytes as a file of --prompt-cache, all parts read, twice. The first byte's bit 0 makes the checksums fit, so that the
 * fuzzer gets behind them. What was read whole and written again must be the same file.
 * Parser: coordinator/cache_file.c */
#include "coordinator/cache_file.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static const cache_key key = { .digest = "0123456789abcdef0123456789abcdef", .format = 0, .path = 1, .layers = 3 };
enum { HEAD = 112, N_TOKENS_AT = 28, PART = 24, BYTES_AT = 16 }; /* the layout that cache_file.h writes down */

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const uint32_t tokens[8] = { 1, 2, 3 };
    const char *path = kit_path("cache");
    uint32_t parts = pick % 4;
    cache_key k = key;
    cache_writer *w;
    err e;
    if (pick / 4 % 4 == 1) k.layers = 2;
    if (pick / 4 % 8 == 2) memset(k.lora, 'f', 32);
    kit_must(cache_write_open(&w, path, &k, tokens, 1 + pick / 4 % 8, parts, &e), &e);
    for (uint32_t i = 0; i < parts; i++)
        kit_must(cache_write_part(w, &(cache_part){ i % 3, 0, 1 }, (view){ "some rows of keys and values", 28 }, &e), &e);
    kit_must(cache_write_close(&w, true, &e), &e);
    if (!max) return 0;
    out[0] = (uint8_t)pick;
    size_t n = kit_read(path, out + 1, max - 1);
    return n ? n + 1 : 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

/* Checksums, as far as the lengths lead. */
static void seal(uint8_t *p, size_t n)
{
    uint32_t tokens;
    uint64_t bytes, chain;
    if (n < HEAD) return;
    memcpy(&tokens, p + N_TOKENS_AT, 4);
    size_t at = HEAD;
    if ((uint64_t)tokens * 4 + 8 > n - at) return;
    chain = XXH3_64bits_withSeed(p + at, (size_t)tokens * 4, XXH3_64bits(p, HEAD));
    memcpy(p + (at += (size_t)tokens * 4), &chain, 8);
    for (at += 8; n - at >= PART;) {
        memcpy(&bytes, p + at + BYTES_AT, 8);
        if (bytes > n - at - PART || n - at - PART - bytes < 8) return;
        chain = XXH3_64bits_withSeed(p + at + PART, bytes, XXH3_64bits_withSeed(p + at, PART, chain));
        memcpy(p + (at += PART + bytes), &chain, 8);
        at += 8;
    }
}

static volatile uint8_t sink;

static err_code read_parts(cache_reader *r, uint32_t *n)
{
    *n = 0;
    cache_part p;
    view stream;
    bool end = false;
    err e = { 0 };
    err_code rc = ERR_OK;
    while (!rc && !end) {
        rc = cache_read_part(r, &p, &stream, &end, &e);
        if (!rc && !end) {
            if (!stream.len || p.layer >= key.layers || p.from >= p.to) abort();
            ++*n;
            sink = ((const uint8_t *)stream.ptr)[stream.len - 1];
        }
    }
    kit_said(rc, &e);
    return rc;
}

/* A copy by the writer, which must be as good as what was read. */
static void write_again(cache_reader *r, uint64_t parts)
{
    const char *path = kit_path("again");
    cache_writer *w;
    cache_reader *copy;
    cache_part p;
    view stream;
    uint32_t n, n_copy;
    bool end = false;
    err e;
    const uint32_t *t = cache_read_tokens(r, &n);
    kit_must(cache_read_again(r, &e), &e);
    kit_must(cache_write_open(&w, path, &key, t, n, parts, &e), &e);
    for (;;) {
        kit_must(cache_read_part(r, &p, &stream, &end, &e), &e);
        if (end) break;
        kit_must(cache_write_part(w, &p, stream, &e), &e);
    }
    kit_must(cache_write_close(&w, true, &e), &e);
    kit_must(cache_read_open(&copy, path, &key, &e), &e);
    const uint32_t *t_copy = cache_read_tokens(copy, &n_copy);
    if (n_copy != n || memcmp(t, t_copy, n * sizeof *t) || read_parts(copy, &n_copy) || n_copy != parts) abort();
    cache_read_close(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cache_reader *r;
    err e = { 0 };
    if (!size) return 0;
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1) seal(copy, size - 1);
    err_code rc = cache_read_open(&r, kit_file(0, copy, size - 1), &key, &e);
    free(copy);
    kit_said(rc, &e);
    if (rc) return 0;
    uint32_t n, again;
    if (!cache_read_tokens(r, &n) || !n) abort();
    rc = read_parts(r, &n);
    kit_must(cache_read_again(r, &e), &e);
    if (read_parts(r, &again) != rc || again != n) abort();
    if (!rc) write_again(r, n);
    cache_read_close(&r);
    return 0;
}
