#ifndef TESTS_UNIT_VOCAB_WORLD_H
#define TESTS_UNIT_VOCAB_WORLD_H
/* What the tokenizer's tests share: opening a vocabulary, comparing ids, random text. */
#include "engine/tokenizer_priv.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static inline tokenizer *open_at(const char *path)
{
    gguf *g;
    tokenizer *t = NULL;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(tokenizer_open(&t, g, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);                                        /* the tokenizer keeps nothing of it */
    return t;
}

static inline view v(const char *s) { return (view){ s, strlen(s) }; }

static inline token_list encode(const tokenizer *t, view in, bool ends, bool special)
{
    token_list l = { 0 };
    err e = { 0 };
    cr_assert_eq(tokenizer_encode(t, in, ends, special, &l, &e), ERR_OK, "%s", e.text);
    return l;
}

static inline void expect_ids(const tokenizer *t, view in, bool ends, bool special, const uint32_t *want, size_t n)
{
    token_list l = encode(t, in, ends, special);
    bool same = l.n == n && (!n || !memcmp(l.id, want, n * sizeof *want));
    text got = { 0 };
    for (size_t i = 0; i < l.n; i++) text_addf(&got, " %u", l.id[i]);
    cr_expect(same, "'%.*s' gives%s", (int)(in.len < 60 ? in.len : 60), (const char *)in.ptr, got.ptr ? got.ptr : " nothing");
    text_free(&got);
    token_list_free(&l);
}
#define IDS(t, s, ends, special, ...) \
    expect_ids(t, v(s), ends, special, (uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

/* The character cp in UTF-8, appended. */
static inline void add_char(text *t, uint32_t cp)
{
    char b[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned lead[] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    b[0] = (char)(lead[n] | cp >> (6 * (n - 1)));
    for (size_t i = 1; i < n; i++) b[i] = (char)(0x80 | (cp >> (6 * (n - 1 - i)) & 63));
    cr_assert(text_add(t, b, n));
}

/* Random text: mode 0 any bytes, 1 valid characters of all planes, 2 mostly ASCII, 3 few different characters. */
static inline void random_text(text *t, uint64_t seed, uint64_t mode, size_t n)
{
    static const uint32_t top[] = { 0x80, 0x800, 0x3100, 0x20000 };
    text_clear(t);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = support_draw(seed, 2 * i, 1u << 30), k = support_draw(seed, 2 * i + 1, 100);
        uint32_t cp = mode == 3 ? (uint32_t)(" a\n1'"[r % 5]) : (uint32_t)(r % (mode == 2 && k < 90 ? 0x80 : top[r % 4]));
        if (cp >= 0xD800 && cp < 0xE000) cp = 'x';
        if (mode == 0) cr_assert(text_add(t, &(char){ (char)r }, 1));
        else add_char(t, cp);
    }
}

/* What random strings for comparing are made of: ranges of characters long in Unicode (so that everybody's tables know
 * them), and bits that pre-tokenizers treat in their own ways. */
static const uint32_t mixed_ranges[][2] = {
    { 0x20, 0x7E }, { 0x20, 0x7E }, { 0x30, 0x39 }, { 0x41, 0x5A },   { 0x61, 0x7A },   { 0xA0, 0xFF },     { 0x100, 0x17F },
    { 0x391, 0x3A1 }, { 0x3B1, 0x3C9 }, { 0x410, 0x44F }, { 0x5D0, 0x5EA }, { 0x627, 0x64A }, { 0x660, 0x669 }, { 0x905, 0x939 },
    { 0x93E, 0x94C }, { 0x300, 0x314 }, { 0xE01, 0xE2E }, { 0x1C4, 0x1CC }, { 0x2010, 0x2027 }, { 0x20A0, 0x20AC },
    { 0x2150, 0x2182 }, { 0x2190, 0x21FF }, { 0x3000, 0x3029 }, { 0x3041, 0x3093 }, { 0x30A1, 0x30F6 }, { 0x4E00, 0x9FA5 },
    { 0xAC00, 0xD7A3 }, { 0xFF01, 0xFF5E }, { 0x1F600, 0x1F64F }, { 0x10400, 0x1044F }, { 0x1D400, 0x1D454 }, { 0xFE00, 0xFE0F },
};
static const char *const mixed_bits[] = {
    " ", "  ", "   ", "\n", "\r\n", "\n\n\n", "\t", "\t\t", " \n ", "\xC2\xA0", "\xE3\x80\x80", "\xE2\x80\xA8", "\x0B", "\xC2\x85",
    "'s", "'S", "'ll", "'LL", "'re", "'Ve", "'", "\xC5\xBF", "\xE1\xA0\x8E", "\xEF\xBB\xBF", "\xE2\x80\x8D", "...", "!?", "://",
    "123", "1234567", "3.14", "\xC2\xBD", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "<unk>", "[UNK]", "[CLS]",
    "<0x0A>", "<pad>", "<|", "|>", "\xE2\x96\x81", "##ing", " the", "The", "HTTPServer", "camelCase", "caf\xC3\xA9",
    "\xC3\x89t\xC3\xA9",
};

/* Mixed text: runs from the ranges, bits, runs of one character, and (with `broken`) stray bytes. */
static inline void mixed_text(text *t, uint64_t seed, size_t parts, bool broken)
{
    enum { N_RANGES = sizeof mixed_ranges / sizeof *mixed_ranges, N_BITS = sizeof mixed_bits / sizeof *mixed_bits };
    text_clear(t);
    for (size_t i = 0; i < parts; i++) {
        uint64_t r = support_draw(seed, i, 1u << 30), kind = r % 16;
        const uint32_t *range = mixed_ranges[(r >> 4) % N_RANGES];
        uint32_t width = range[1] - range[0] + 1, cp = range[0] + (uint32_t)(r >> 10) % width;
        if (kind < 7) cr_assert(text_adds(t, mixed_bits[(r >> 4) % N_BITS]));
        else if (kind < 8) for (uint64_t k = 0; k < (r >> 8) % 24; k++) add_char(t, cp);
        else if (kind < 9 && broken) cr_assert(text_add(t, &(char){ (char)(0x80 | (r >> 5)) }, 1));
        else for (uint64_t k = 0; k <= (r >> 12) % 5; k++) add_char(t, range[0] + (uint32_t)(support_draw(seed ^ i, k, width)));
    }
}
#endif
