/* Where texts are cut, and which words of a question are searched. */
#include "core/rng.h"
#include "workers/rag/chunk.h"
#include "workers/rag/query.h"
#include <criterion/criterion.h>
#include <string.h>

static view of(const char *s) { return (view){ s, strlen(s) }; }

Test(chunk, chunks_end_at_sentences_and_overlap_in_whole_sentences)
{
    text t = { 0 };
    for (int i = 0; i < 60; i++) text_addf(&t, "Sentence number %d has a few words. ", i);
    chunk_size size = { 200, 40 };
    chunk_span s, before = { 0, 0 };
    size_t next = 0, n = 0;
    for (; chunk_next((view){ t.ptr, t.len }, size, &next, &s); n++, before = s) {
        cr_assert_leq(s.end - s.begin, 200);
        cr_expect_eq(t.ptr[s.end - 1], '.');
        cr_expect_eq(memcmp(t.ptr + s.begin, "Sentence", 8), 0);
        cr_expect(n == 0 || (s.begin < before.end && before.end - s.begin <= 40), "overlap %zd", (ssize_t)(before.end - s.begin));
        cr_expect_gt(s.end, before.end);
    }
    cr_expect_eq(before.end, t.len - 1);
    cr_expect_geq(n, 10);
    text_free(&t);
}

Test(chunk, any_bytes_are_cut_into_chunks_that_miss_only_white_space)
{
    const uint64_t seed = 5;
    static const char *const bits[] = { "a", "bc", " ", "\n", "\n\n", ".", "! ", "\xE3\x80\x82",
                                        "\xE4\xB8\xAD", "e\xCC\x81", "\xFF", "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x94\xA7" };
    for (uint64_t round = 0; round < 60; round++) {
        text t = { 0 };
        size_t kinds = 1 + rng_u64(seed, round) % 12;
        for (uint64_t i = 0; i < 900; i++) text_adds(&t, bits[rng_u64(seed + round, i) % kinds]);
        view v = { t.ptr, t.len };
        chunk_size size = { 64 + (uint32_t)(round % 3) * 50, (uint32_t)(round % 2) * 16 };
        chunk_span s;
        size_t next = 0, covered = 0, step;
        while (chunk_next(v, size, &next, &s)) {
            cr_assert_gt(s.end, covered, "seed %llu round %llu", (unsigned long long)seed, (unsigned long long)round);
            cr_assert_leq(utf8_count((view){ t.ptr + s.begin, s.end - s.begin }), size.chars);
            for (size_t i = covered; i < s.begin; i += step) cr_assert(utf8_is_space(utf8_at(v, i, &step)));
            covered = s.end;
        }
        for (size_t i = covered; i < v.len; i += step) cr_assert(utf8_is_space(utf8_at(v, i, &step)));
        text_free(&t);
    }
}

Test(chunk, stop_words_are_dropped_only_where_another_word_is_left)
{
    text t = { 0 };
    cr_assert(query_terms(&t, of("What is the home of Sarharda, the Home?")));
    cr_expect_str_eq(t.ptr, "\"home\" OR \"Sarharda\"");
    text_clear(&t);
    cr_assert(query_terms(&t, of("To be or not to be")));
    cr_expect_str_eq(t.ptr, "\"To\" OR \"be\" OR \"or\" OR \"not\"");
    text_clear(&t);
    cr_assert(query_terms(&t, of(" \t?!")));
    cr_expect_eq(t.len, 0);
    text_free(&t);
}
