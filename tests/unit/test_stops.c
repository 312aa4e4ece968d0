/* Owns: stop strings against a search over the whole text. Refuses to know how the search works. */
#include "coordinator/stops.h"
#include "core/rng.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

typedef struct { uint64_t seed, at; } dice;
static uint32_t roll(dice *d, uint32_t n) { return (uint32_t)(rng_u64(d->seed, d->at++) % n); }

/* The stop that ends first, the longest of those; shown: what stands before it. False: no stop in the text. */
static bool oracle(const char *list, size_t len, const char *s, size_t n, size_t *shown)
{
    *shown = n;
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (size_t at = 0; at < len; at += strlen(list + at) + 1) {
            size_t m = strlen(list + at);
            if (m <= end && m > longest && !memcmp(s + end - m, list + at, m)) longest = m;
        }
        if (!longest) continue;
        *shown = end - longest;
        return true;
    }
    return false;
}

/* How much of the end of s, which has no stop in it, begins a stop. */
static size_t oracle_held(const char *list, size_t len, const char *s, size_t n)
{
    size_t most = 0;
    for (size_t at = 0; at < len; at += strlen(list + at) + 1)
        for (size_t m = 1; m < strlen(list + at) && m <= n; m++)
            if (m > most && !memcmp(s + n - m, list + at, m)) most = m;
    return most;
}

static void check_stream(const char *list, size_t len, const char *s, size_t n, dice *d, uint32_t max_piece)
{
    err e = { 0 };
    stops *t = NULL;
    text out = { 0 };
    size_t want, now, at = 0;
    bool ended = oracle(list, len, s, n, &want), said = false;
    cr_assert_eq(stops_open(&t, list, len, &e), ERR_OK, "%s", e.text);
    while (at < n) {
        size_t m = roll(d, max_piece + 1);
        if (m > n - at) m = n - at;
        said = stops_push(t, (view){ s + at, m }, &out);
        at += m;
        cr_assert_eq(said, oracle(list, len, s, at, &now), "seed %lu at byte %zu", d->seed, at);
        if (!said) now = at - oracle_held(list, len, s, at);
        cr_assert_eq(out.len, now, "seed %lu: %zu bytes shown of %zu, not %zu", d->seed, out.len, at, now);
    }
    stops_flush(t, &out);
    cr_assert_eq(said, ended);
    cr_assert_eq(out.len, want, "seed %lu: %zu bytes shown, not %zu", d->seed, out.len, want);
    cr_assert(!want || !memcmp(out.ptr, s, want), "seed %lu", d->seed);
    cr_assert(!stops_failed(t));
    stops_close(&t);
    text_free(&out);
}

Test(stops, equal_a_search_of_the_whole_text_however_it_is_cut)
{
    unsigned n_ended = 0;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        dice d = { seed, 0 };
        char list[64], s[200];
        size_t len = 0, n = roll(&d, sizeof s), shown;
        unsigned letters = 2 + roll(&d, 3);
        for (uint32_t k = roll(&d, 5); k; k--) {
            for (uint32_t m = 1 + roll(&d, 9); m; m--) list[len++] = (char)('a' + roll(&d, letters));
            list[len++] = 0;
        }
        for (size_t i = 0; i < n; i++) s[i] = (char)('a' + roll(&d, letters));
        n_ended += oracle(list, len, s, n, &shown);
        check_stream(list, len, s, n, &d, 1 + roll(&d, 12));
    }
    fprintf(stderr, "seeds 1..20000: %u streams with a stop\n", n_ended);
    cr_assert(n_ended > 5000 && n_ended < 19000);
}

Test(stops, find_utf8_strings_cut_inside_characters)
{
    static const char list[] = "\xE2\x82\xAC\xE2\x82\xAC\0\xF0\x9F\x98\x80!\0\xC3\xA9t\xC3\xA9";
    static const char *bits[] = { "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xC3\xA9", "t", "!", "\xE2\x82", "\xC3", "x" };
    for (uint64_t seed = 1; seed <= 5000; seed++) {
        dice d = { seed, 0 };
        text s = { 0 };
        for (uint32_t k = roll(&d, 30); k; k--) text_adds(&s, bits[roll(&d, 8)]);
        check_stream(list, sizeof list, s.ptr, s.len, &d, 3);
        text_free(&s);
    }
}

static void expect(const char *list, size_t len, const char **pieces, size_t n, const char *want, bool want_end)
{
    stops *t = NULL;
    text out = { 0 };
    bool end = false;
    cr_assert_eq(stops_open(&t, list, len, NULL), ERR_OK);
    for (size_t i = 0; i < n; i++) end = stops_push(t, (view){ pieces[i], strlen(pieces[i]) }, &out);
    stops_flush(t, &out);
    cr_assert_eq(end, want_end);
    cr_assert_str_eq(out.ptr ? out.ptr : "", want);
    stops_close(&t);
    text_free(&out);
}
#define EXPECT(list, want, end, ...) \
    expect(list, sizeof list, (const char *[]){ __VA_ARGS__ }, sizeof (const char *[]){ __VA_ARGS__ } / sizeof(char *), want, end)

Test(stops, see_a_string_across_pieces) { EXPECT("END", "text ", true, "text E", "N", "D", "more"); }
Test(stops, give_out_a_false_start) { EXPECT("END", "text ENx", false, "text E", "N", "x"); }
Test(stops, give_out_at_the_end_what_was_held) { EXPECT("END", "EN", false, "E", "N"); }
Test(stops, see_a_string_that_begins_inside_a_false_start) { EXPECT("aab", "a", true, "aa", "ab"); }
Test(stops, take_the_one_that_ends_first) { EXPECT("abcd\0c", "ab", true, "abcd"); }
Test(stops, take_the_longest_of_those_that_end_together) { EXPECT("c\0abc", "x", true, "xa", "bc"); }

Test(stops, show_nothing_after_the_end)
{
    stops *t = NULL;
    text out = { 0 };
    stops_open(&t, "x", 2, NULL);
    cr_assert(stops_push(t, (view){ "axb", 3 }, &out));
    cr_assert(stops_push(t, (view){ "c", 1 }, &out));
    stops_flush(t, &out);
    cr_assert_str_eq(out.ptr, "a");
    stops_close(&t);
    text_free(&out);
}

Test(stops, pass_everything_without_a_list)
{
    stops *t = NULL;
    text out = { 0 };
    cr_assert_eq(stops_open(&t, NULL, 0, NULL), ERR_OK);
    cr_assert(!stops_push(t, (view){ "a\0b", 3 }, &out));
    cr_assert_eq(out.len, 3);
    cr_assert(!stops_push(t, (view){ NULL, 0 }, &out));
    stops_flush(t, &out);
    cr_assert_eq(out.len, 3);
    stops_close(&t);
    text_free(&out);
}

Test(stops, refuse_empty_and_unended_strings)
{
    err e = { 0 };
    stops *t = NULL;
    cr_assert_eq(stops_open(&t, "", 1, &e), ERR_INPUT);
    cr_assert_eq(stops_open(&t, "a\0\0b", 5, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "string 2 is empty"), "%s", e.text);
    cr_assert_eq(stops_open(&t, "ab", 2, &e), ERR_INPUT);
    cr_assert_null(t);
}

/* A length no allocator gives: the text is refused whole and the object stays usable. */
Test(stops, say_when_memory_is_out)
{
    stops *t = NULL;
    text out = { 0 };
    stops_open(&t, "END", 4, NULL);
    cr_assert(!stops_push(t, (view){ "E", 1 }, &out));
    cr_assert(!stops_push(t, (view){ "x", SIZE_MAX / 2 }, &out));
    cr_assert(stops_failed(t));
    cr_assert_eq(out.len, 0);
    cr_assert(stops_push(t, (view){ "ND", 2 }, &out));
    cr_assert_eq(out.len, 0);
    stops_close(&t);
    text_free(&out);
}
