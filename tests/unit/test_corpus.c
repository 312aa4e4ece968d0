/* The retrieval library from a folder of files to passages, and everything that may be wrong on the way. */
#include "core/rng.h"
#include "tests/unit/corpus_dir.h"
#include "workers/rag/chunk.h"
#include <unistd.h>

TestSuite(corpus, .init = dir_make, .fini = dir_remove, .timeout = 60);

static void get(const char *name, text *out)
{
    err e;
    cr_assert_eq(text_read_file(out, at(name), 1 << 24, &e), ERR_OK, "%s", e.text);
}

static corpus_stats build(const char *out)
{
    corpus_stats s;
    err e = { 0 };
    cr_assert_eq(corpus_build(at("in"), at(out), NULL, NULL, NULL, &s, &e), ERR_OK, "%s", e.text);
    return s;
}

static void three_files(void)
{
    puts_to("in/a.txt", "Vopakriss works as a beekeeper.\n\nVopakriss lives in North Grove.\n");
    puts_to("in/b.md", "Before all headings: Ruthens.\n# Guide\nIntro by Lemick.\n## Install ##\nCall Zilsarm first.\n"
                       "```\n# no heading: Krajoda\n```\n# Usage\nAsk Drorhis.\n");
    puts_to("in/c.jsonl", "{\"id\": \"d0\", \"title\": \"Sarharda\", \"text\": \"The home of Sarharda is in Lower Dale.\"}\n\n"
                          "{\"id\": 7, \"text\": \"Drarwoth \\u00fcber High Bridge \\ud83d\\ude00.\"}\n");
}

/* ---- build, open, search ---- */

Test(corpus, what_was_indexed_is_found_with_title_source_and_id)
{
    three_files();
    corpus_stats s = build("out.db");
    cr_expect_eq(s.files, 3);
    cr_expect_eq(s.documents, 4);
    cr_expect_eq(s.chunks, 7);
    corpus *c = open_at("out.db");
    cr_expect_eq(corpus_info(c).documents, 4);
    cr_expect_eq(corpus_info(c).chunks, 7);
    cr_expect_eq(corpus_info(c).bytes, s.bytes);
    static const struct { const char *query, *title, *source, *name; uint32_t line; } want[] = {
        { "Where does Vopakriss live?", "a", "a.txt", "", 1 },
        { "ruthens", "b", "b.md", "", 1 },
        { "Lemick", "Guide", "b.md", "", 3 },
        { "Who is Zilsarm", "Guide > Install", "b.md", "", 5 },
        { "KRAJODA", "Guide > Install", "b.md", "", 5 },
        { "drorhis?", "Usage", "b.md", "", 10 },
        { "the home of Sarharda", "Sarharda", "c.jsonl", "d0", 1 },
        { "\xC3\x9C" "ber", "", "c.jsonl", "7", 3 },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        passages p = find(c, want[i].query, NULL);
        cr_assert_geq(p.count, 1, "%s", want[i].query);
        cr_expect_str_eq(p.at[0].title.ptr, want[i].title);
        cr_expect_str_eq(p.at[0].source.ptr, want[i].source);
        cr_expect_str_eq(p.at[0].name.ptr, want[i].name);
        cr_expect_eq(p.at[0].line, want[i].line, "%s: line %u", want[i].query, p.at[0].line);
        cr_expect_gt(p.at[0].score, 0);
        passages_free(&p);
    }
    corpus_close(c);
}

/* Word `i` of the text of `seed`; no two are the same. */
static void random_word(char out[48], uint64_t seed, size_t i)
{
    uint64_t r = rng_u64(seed, i);
    int a = 'a' + (int)(r % 26), b = 'a' + (int)(r / 26 % 26), c = 'a' + (int)(r / 676 % 26);
    snprintf(out, 48, "%s%c%c%cx%zu", r % 29 ? "" : "\xC3\xA4", a, b, c, i);
}

/* Sentences of random words, paragraphs of random length, some umlauts: the same for a seed. */
static void random_prose(text *t, uint64_t seed, size_t words)
{
    char word[48];
    for (size_t i = 0; i < words; i++) {
        uint64_t r = rng_u64(seed, i);
        random_word(word, seed, i);
        text_adds(t, word);
        text_adds(t, r % 11 == 0 ? ".\n\n" : r % 5 == 0 ? ". " : r % 17 == 0 ? "\r\n" : " ");
    }
}

Test(corpus, offsets_point_to_the_text_in_the_source)
{
    const uint64_t seed = 11;
    text prose = { 0 };
    random_prose(&prose, seed, 4000);
    put("in/p.txt", prose.ptr, prose.len);
    text md = { 0 };
    text_addf(&md, "\xEF\xBB\xBF# One\n%.*s\n## Two\n", 5000, prose.ptr);
    text_add(&md, prose.ptr + 5000, 5000);
    put("in/q.md", md.ptr, md.len);
    build("out.db");
    corpus *c = open_at("out.db");
    size_t seen = 0;
    for (size_t i = 0; i < 4000; i += 7) {
        char word[48];
        random_word(word, seed, i);
        passages p = find(c, word, NULL);
        cr_assert_geq(p.count, 1, "seed %llu: %s is lost", (unsigned long long)seed, word);
        for (size_t k = 0; k < p.count; k++, seen++) {
            const text *file = strcmp(p.at[k].source.ptr, "p.txt") ? &md : &prose;
            cr_assert_leq(p.at[k].end, file->len);
            cr_assert_eq(p.at[k].end - p.at[k].begin, p.at[k].body.len);
            cr_assert_eq(memcmp(file->ptr + p.at[k].begin, p.at[k].body.ptr, p.at[k].body.len), 0);
            cr_assert_leq(utf8_count((view){ p.at[k].body.ptr, p.at[k].body.len }), CHUNK_CHARS);
            uint32_t line = 1;
            for (size_t b = 0; b < p.at[k].begin; b++) line += file->ptr[b] == '\n';
            cr_assert_eq(p.at[k].line, line);
        }
        passages_free(&p);
    }
    cr_expect_geq(seen, 4000 / 7);
    corpus_close(c);
    text_free(&prose);
    text_free(&md);
}

Test(corpus, a_jsonl_passage_points_to_its_line)
{
    three_files();
    corpus *c = open_at("in");
    text file = { 0 };
    get("in/c.jsonl", &file);
    passages p = find(c, "Drarwoth", NULL);
    cr_assert_eq(p.count, 1);
    cr_expect_eq(file.ptr[p.at[0].begin], '{');
    cr_expect_eq(file.ptr[p.at[0].end], '\n');
    cr_expect(memmem(file.ptr + p.at[0].begin, p.at[0].end - p.at[0].begin, "Drarwoth", 8));
    cr_expect(strstr(p.at[0].body.ptr, "\xF0\x9F\x98\x80"));
    passages_free(&p);
    text_free(&file);
    corpus_close(c);
}

static void expect_same(const passages *a, const passages *b)
{
    cr_assert_eq(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        cr_expect_str_eq(a->at[i].body.ptr, b->at[i].body.ptr);
        cr_expect_str_eq(a->at[i].source.ptr, b->at[i].source.ptr);
        cr_expect_eq(a->at[i].begin, b->at[i].begin);
        cr_expect_eq(a->at[i].chunk, b->at[i].chunk);
        cr_expect_eq(memcmp(&a->at[i].score, &b->at[i].score, sizeof(double)), 0);
    }
}

Test(corpus, building_twice_gives_the_same_file_and_a_folder_the_same_results)
{
    cr_assert_eq(mkdir(at("in/sub"), 0755), 0);
    for (int i = 0; i < 40; i++) {
        char name[64];
        text t = { 0 };
        random_prose(&t, (uint64_t)i % 8, 300);        /* eight texts five times: many ties */
        snprintf(name, sizeof name, "in/%sf%02d.txt", i % 2 ? "sub/" : "", (i * 17) % 40);
        put(name, t.ptr, t.len);
        text_free(&t);
    }
    build("one.db");
    build("two.db");
    text one = { 0 }, two = { 0 };
    get("one.db", &one);
    get("two.db", &two);
    cr_expect_eq(one.len, two.len);
    cr_expect_eq(memcmp(one.ptr, two.ptr, one.len), 0);
    text_free(&one);
    text_free(&two);
    corpus *a = open_at("one.db"), *b = open_at("in");
    search_options o = { .max_passages = 30 };
    for (uint64_t i = 0; i < 40; i++) {
        char word[48];
        random_word(word, i % 8, i);
        passages p = find(a, word, &o), q = find(b, word, &o);
        expect_same(&p, &q);
        for (size_t k = 1; k < p.count; k++)
            cr_expect(p.at[k - 1].score > p.at[k].score ||
                      (p.at[k - 1].score == p.at[k].score && p.at[k - 1].chunk < p.at[k].chunk));
        passages_free(&p);
        passages_free(&q);
    }
    corpus_close(a);
    corpus_close(b);
}

Test(corpus, of_equal_passages_the_first_comes_first)
{
    text t = { 0 };
    for (int i = 0; i < 50; i++) text_addf(&t, "{\"id\": %d, \"text\": \"Mirko sails.\"}\n", i);
    put("in/c.jsonl", t.ptr, t.len);
    corpus *c = open_at("in");
    passages p = find(c, "Mirko", &(search_options){ .max_passages = 3 });
    cr_assert_eq(p.count, 3);
    for (size_t i = 0; i < 3; i++) cr_expect_eq(p.at[i].chunk, i + 1);
    passages_free(&p);
    corpus_close(c);
    text_free(&t);
}

/* ---- bytes that are no text ---- */

Test(corpus, bad_utf8_becomes_replacement_characters_and_binaries_are_passed_over)
{
    put("in/a.txt", "Good \xFF\xC3 Zarilna \x80.", 18);
    put("in/b.txt", "\0\1\2binary", 9);
    put("in/c.jsonl", "{\"text\": \"Bad \xFF byte Monlim\"}", 29);
    corpus_stats s = build("out.db");
    cr_expect_eq(s.replaced, 4);
    cr_expect_eq(s.binary_files, 1);
    cr_expect_eq(s.files, 2);
    corpus *c = open_at("out.db");
    passages p = find(c, "zarilna", NULL);
    cr_assert_eq(p.count, 1);
    cr_expect_str_eq(p.at[0].body.ptr, "Good \xEF\xBF\xBD\xEF\xBF\xBD Zarilna \xEF\xBF\xBD.");
    cr_expect_eq(p.at[0].begin, 0);
    cr_expect_eq(p.at[0].end, 18);
    passages_free(&p);
    corpus_close(c);
}

/* ---- the token budget ---- */

static size_t count_words(void *ctx, view t)
{
    size_t words = 0;
    ++*(size_t *)ctx;
    for (size_t i = 0; i < t.len; i++) words += ((const char *)t.ptr)[i] == ' ' || i + 1 == t.len;
    return words;
}

Test(corpus, passages_stay_inside_the_token_budget_and_are_whole)
{
    text t = { 0 };
    for (int i = 0; i < 8; i++) {
        text_addf(&t, "{\"id\": %d, \"text\": \"Mirko", i);
        for (int k = 0; k <= i * 3; k++) text_addf(&t, " word%d", k);
        text_adds(&t, ".\"}\n");
    }
    put("in/c.jsonl", t.ptr, t.len);
    corpus *c = open_at("in/c.jsonl");
    size_t calls = 0;
    for (uint32_t budget = 1; budget < 90; budget++) {
        search_options o = { .max_passages = 6, .token_budget = budget, .passage_overhead = 3,
                             .count = count_words, .count_ctx = &calls };
        passages p = find(c, "Mirko", &o);
        uint32_t used = 0;
        for (size_t i = 0; i < p.count; i++) {
            used += p.at[i].tokens;
            cr_expect_eq(p.at[i].cut, p.at[i].body.ptr[p.at[i].body.len - 1] != '.');
            cr_expect(!p.at[i].cut || i == 0);
        }
        cr_expect_leq(used, budget);
        cr_expect_leq(p.count, 6);
        cr_expect(budget < 5 || p.count > 0);
        passages_free(&p);
    }
    cr_expect_gt(calls, 0);
    corpus_close(c);
    text_free(&t);
}

Test(corpus, a_passage_longer_than_the_budget_is_cut_at_a_sentence_and_says_so)
{
    puts_to("in/a.txt", "Telmar owns a boat. The boat is red and new. It lies in the harbour of Ridge. Nobody sails it. "
                        "That is a pity.");
    corpus *c = open_at("in");
    search_options o = { .token_budget = 20, .chars_per_token = 4 };
    passages p = find(c, "Telmar", &o);
    cr_assert_eq(p.count, 1);
    cr_expect(p.at[0].cut);
    cr_expect_str_eq(p.at[0].body.ptr, "Telmar owns a boat. The boat is red and new. It lies in the harbour of Ridge.");
    cr_expect_eq(p.at[0].end, p.at[0].body.len);
    cr_expect_leq(p.at[0].tokens, 20);
    passages_free(&p);
    corpus_close(c);
}

/* ---- queries ---- */

Test(corpus, no_query_reaches_the_syntax_of_fts5)
{
    three_files();
    corpus *c = open_at("in");
    static const char *const odd[] = {
        "\"", "\"\"\"", "Vopakriss\" OR \"x", "title:Vopakriss", "NEAR(Vopakriss bees, 3)", "Vopakriss*", "^Vopakriss",
        "{title}: Vopakriss",
        "Vopakriss AND", "NOT Vopakriss", "(Vopakriss", "Vopakriss) --; DROP TABLE chunk", "- Vopakriss +", "'Vopakriss'",
        "\xF0\x9F\x90\x9D Vopakriss \xFF\xFE",
        "AND OR NOT Vopakriss NEAR",
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        passages p = find(c, odd[i], NULL);
        cr_expect_eq(p.count, i < 2 ? 0 : 1, "%s: %zu", odd[i], p.count);
        if (p.count) cr_expect_str_eq(p.at[0].source.ptr, "a.txt");
        passages_free(&p);
    }
    passages p = { 0 };
    err e = { 0 };
    cr_expect_eq(corpus_search(c, (view){ "x\0Vopakriss\0\"", 13 }, NULL, &p, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(p.count, 1);
    cr_expect_eq(corpus_search(c, (view){ NULL, 0 }, NULL, &p, &e), ERR_OK);
    cr_expect_eq(p.count, 1);
    passages_free(&p);
    corpus_close(c);
}

Test(corpus, a_query_of_ten_kilobytes_is_searched_by_its_last_words)
{
    three_files();
    corpus *c = open_at("in");
    text t = { 0 };
    for (int i = 0; t.len < 10000; i++) text_addf(&t, "w%d (\"", i);
    text_adds(&t, " and where is Sarharda at home?");
    passages p = find(c, t.ptr, NULL);
    cr_assert_eq(p.count, 1);
    cr_expect_str_eq(p.at[0].name.ptr, "d0");
    passages_free(&p);
    text_clear(&t);
    for (int i = 0; i < 10000; i++) text_adds(&t, "x");     /* one word of 10 kB */
    p = find(c, t.ptr, NULL);
    cr_expect_eq(p.count, 0);
    passages_free(&p);
    text_free(&t);
    corpus_close(c);
}

/* ---- what may be wrong with files ---- */

static void expect_error(err_code want, const char *part, err_code got, const err *e)
{
    cr_expect_eq(got, want, "%s: %s", err_name(got), e->text);
    cr_expect(strstr(e->text, part), "\"%s\" does not say \"%s\"", e->text, part);
}

static err_code try_build(const corpus_options *o, corpus_stats *s, err *e)
{
    return corpus_build(at("in"), at("out.db"), o, NULL, NULL, s, e);
}

Test(corpus, bad_json_lines_are_named_or_skipped_and_counted)
{
    static const struct { const char *line, *says; } bad[] = {
        { "{\"text\": \"x\"", "c.jsonl:2: bad JSON" }, { "[1]", "c.jsonl:2: not a JSON object" },
        { "{\"title\": \"x\"}", "c.jsonl:2: no field \"text\"" }, { "{\"text\": 5}", "c.jsonl:2: \"text\" is no string" },
        { "{\"text\": \"x\", \"title\": []}", "\"title\" is no string" }, { "{\"text\": \"x\", \"id\": 1.5}", "\"id\" is neither" },
        { "{\"text\": \"\\ud800\"}", "c.jsonl:2: bad JSON" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        text t = { 0 };
        err e = { 0 };
        corpus_stats s;
        text_addf(&t, "{\"text\": \"good\"}\n%s\n{\"text\": \"last\"}", bad[i].line);
        put("in/c.jsonl", t.ptr, t.len);
        expect_error(ERR_INPUT, bad[i].says, try_build(NULL, NULL, &e), &e);
        cr_expect_eq(access(at("out.db"), F_OK), -1, "a failed build leaves a file");
        cr_expect_eq(try_build(&(corpus_options){ .skip_bad = true }, &s, &e), ERR_OK, "%s", e.text);
        cr_expect_eq(s.bad_lines, 1);
        cr_expect_eq(s.documents, 2);
        cr_expect_eq(unlink(at("out.db")), 0);
        text_free(&t);
    }
}

Test(corpus, folders_without_text_and_files_of_another_kind_are_refused)
{
    err e = { 0 };
    corpus *c;
    expect_error(ERR_INPUT, "no .txt, .md or .jsonl file", try_build(NULL, NULL, &e), &e);
    puts_to("in/empty.txt", " \n\n ");
    expect_error(ERR_INPUT, "no text in its files", try_build(NULL, NULL, &e), &e);
    puts_to("in/x.pdf", "%PDF");
    expect_error(ERR_INPUT, "not a folder and not a .txt",
                 corpus_build(at("in/x.pdf"), at("o.db"), NULL, NULL, NULL, NULL, &e), &e);
    expect_error(ERR_IO, "No such file", corpus_build(at("none"), at("o.db"), NULL, NULL, NULL, NULL, &e), &e);
    expect_error(ERR_IO, "No such file", corpus_open(&c, at("none"), &e), &e);
    cr_expect_null(c);
    expect_error(ERR_CONFIG, "chunk size 9", try_build(&(corpus_options){ .chunk_chars = 9 }, NULL, &e), &e);
    expect_error(ERR_CONFIG, "overlap 90", try_build(&(corpus_options){ .chunk_chars = 100, .overlap = 90 }, NULL, &e), &e);
}

Test(corpus, an_unreadable_file_is_named_or_skipped)
{
    if (geteuid() == 0) {               /* root reads everything: take a file that nobody can read as text */
        cr_assert_eq(mkdir(at("in/dangling"), 0755), 0);
        cr_assert_eq(symlink("/proc/self/mem", at("in/dangling/m.txt")), 0);
    } else {
        puts_to("in/m.txt", "x");
        cr_assert_eq(chmod(at("in/m.txt"), 0), 0);
    }
    puts_to("in/a.txt", "Readable.");
    err e = { 0 };
    corpus_stats s;
    expect_error(ERR_IO, "m.txt", try_build(NULL, NULL, &e), &e);
    cr_expect_eq(try_build(&(corpus_options){ .skip_bad = true }, &s, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(s.bad_files, 1);
    cr_expect_eq(s.files, 1);
}

Test(corpus, only_a_corpus_is_ever_overwritten)
{
    err e = { 0 };
    three_files();
    puts_to("out.db", "my thesis");
    expect_error(ERR_STATE, "not overwritten", try_build(NULL, NULL, &e), &e);
    text t = { 0 };
    get("out.db", &t);
    cr_expect_str_eq(t.ptr, "my thesis");
    text_free(&t);
    unlink(at("out.db"));
    build("out.db");
    build("out.db");
    expect_error(ERR_INPUT, "does not end in", corpus_build(at("in"), at("in/new.md"), NULL, NULL, NULL, NULL, &e), &e);
    expect_error(ERR_IO, "none/out.db", corpus_build(at("in"), at("none/out.db"), NULL, NULL, NULL, NULL, &e), &e);
    expect_error(ERR_STATE, "not overwritten", corpus_build(at("in"), at("in"), NULL, NULL, NULL, NULL, &e), &e);
}

static bool stop_at_second(void *ctx, const char *source, uint64_t done, uint64_t total)
{
    cr_expect_eq(total, 3);
    cr_expect_str_eq(source, done ? "b.md" : "a.txt");
    ++*(int *)ctx;
    return done < 1;
}

Test(corpus, a_cancelled_build_leaves_the_old_corpus_and_no_temporary_file)
{
    three_files();
    build("out.db");
    text before = { 0 }, after = { 0 };
    get("out.db", &before);
    int calls = 0;
    err e = { 0 };
    expect_error(ERR_CANCELLED, "cancelled", corpus_build(at("in"), at("out.db"), NULL, stop_at_second, &calls, NULL, &e), &e);
    cr_expect_eq(calls, 2);
    get("out.db", &after);
    cr_expect(before.len == after.len && !memcmp(before.ptr, after.ptr, after.len));
    char command[128];
    snprintf(command, sizeof command, "test $(ls %s | wc -l) = 2", dir);
    cr_expect_eq(system(command), 0, "a temporary file is left");
    text_free(&before);
    text_free(&after);
}

Test(corpus, a_file_that_is_no_corpus_says_so)
{
    err e = { 0 };
    corpus *c;
    puts_to("empty.db", "");
    puts_to("words.db", "these are only some words, no database at all");
    put("head.db", "SQLite format 3\0 and then nonsense that is no header of a database page", 72);
    static const char *const names[] = { "empty.db", "words.db", "head.db" };
    for (size_t i = 0; i < 3; i++) expect_error(ERR_INPUT, "not a Sluice corpus", corpus_open(&c, at(names[i]), &e), &e);
    three_files();
    build("out.db");
    text t = { 0 };
    get("out.db", &t);
    memcpy(t.ptr + 68, "XXXX", 4);                      /* application_id */
    put("other.db", t.ptr, t.len);
    expect_error(ERR_INPUT, "another program", corpus_open(&c, at("other.db"), &e), &e);
    memcpy(t.ptr + 68, "SLRC", 4);
    t.ptr[63] = 9;                                      /* user_version */
    put("newer.db", t.ptr, t.len);
    expect_error(ERR_INPUT, "schema 9, this program reads schema 1", corpus_open(&c, at("newer.db"), &e), &e);
    text_free(&t);
}

/* Open and search a damaged file: a clean error, or results; never a crash. Returns whether it was noticed. */
static bool survives(const text *t, size_t len)
{
    err e = { 0 };
    corpus *c;
    passages p = { 0 };
    put("hurt.db", t->ptr, len);
    err_code rc = corpus_open(&c, at("hurt.db"), &e);
    if (rc == ERR_OK) rc = corpus_search(c, of("Vopakriss Sarharda home word x1 x2 bridge"), NULL, &p, &e);
    cr_expect(rc == ERR_OK || rc == ERR_IO || rc == ERR_INPUT || rc == ERR_NOMEM, "%s", e.text);
    cr_expect(rc == ERR_OK || strstr(e.text, "hurt.db"), "%s", e.text);
    passages_free(&p);
    corpus_close(c);
    return rc != ERR_OK;
}

Test(corpus, a_truncated_or_damaged_corpus_gives_an_error_and_never_a_crash)
{
    const uint64_t seed = 23;
    three_files();
    text prose = { 0 }, t = { 0 };
    random_prose(&prose, seed, 3000);
    put("in/p.txt", prose.ptr, prose.len);
    build("out.db");
    get("out.db", &t);
    for (size_t cut = 1; cut < 12; cut++) cr_expect(survives(&t, t.len * cut / 12), "cut at %zu of 12", cut);
    int noticed = 0;
    for (uint64_t i = 0; i < 150; i++) {
        text hurt = { 0 };
        text_add(&hurt, t.ptr, t.len);
        for (uint64_t k = 0; k < 20; k++) hurt.ptr[rng_u64(seed + i, k) % t.len] = (char)rng_u64(seed + i, k + 100);
        noticed += survives(&hurt, hurt.len);
        text_free(&hurt);
    }
    cr_expect_gt(noticed, 50, "seed %llu: %d of 150 noticed", (unsigned long long)seed, noticed);
    text_free(&prose);
    text_free(&t);
}
