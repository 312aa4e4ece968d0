#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

/* sluice run --prompt-cache: rows of the prompt come from a file and change no bit of the answer; whatever is wrong with the
 * file is said, and the prompt computed. */

#define SECONDS 120
#define STORY "Once upon a time there was a little fox who lived in the forest near a big river and liked to eat berries every day."

static char cache[200];

static void begin(void)
{
    programs_begin();
    snprintf(cache, sizeof cache, "%s", programs_file("prompt.cache"));
}
static void end(void)
{
    cr_expect(programs_gone(20));
}
TestSuite(prompt_cache, .init = begin, .fini = end, .timeout = 600);

typedef struct {
    json_t *o;
    int cached;
    bool warned;
    char said[600];
} answer;

/* One run; `more` is up to three more words. */
static answer ask(const char *prompt, const char *stages, bool with, const char *a, const char *b)
{
    const char *argv[24] = { support_bin("sluice"), "run", "-p",     prompt,        "-n", "10", "--stages", stages,
                             "--logprobs",          "3",   "--json", "--ignore-eos" };
    size_t n = 12;
    if (with) argv[n++] = "--prompt-cache", argv[n++] = cache;
    if (a) argv[n++] = a, argv[n++] = b;
    ran r = program_run(0, SECONDS, NULL, argv);
    answer x = { .warned = strstr(ran_errs(&r), "prompt cache not used") != NULL };
    snprintf(x.said, sizeof x.said, "%.599s", ran_errs(&r));
    x.o = ran_json(&r);
    cr_assert_not_null(x.o);
    x.cached = (int)json_number_at(x.o, "cached_tokens");
    return x;
}

static void same(const answer *got, const answer *want)
{
    cr_expect(json_equal(json_object_get(got->o, "logprobs"), json_object_get(want->o, "logprobs")), "log-probabilities differ");
    cr_expect_eq(json_array_size(json_object_get(got->o, "logprobs")), 10);
    cr_expect_eq(json_number_at(got->o, "prompt_tokens"), json_number_at(want->o, "prompt_tokens"));
}

static void drop(answer *a)
{
    json_decref(a->o);
}

Test(prompt_cache, the_second_run_computes_one_row_and_says_the_same_bits)
{
    answer plain = ask(STORY, "2", false, NULL, NULL), first = ask(STORY, "2", true, NULL, NULL),
           second = ask(STORY, "2", true, NULL, NULL), other = ask(STORY, "3", true, "--chunk", "5");
    int n = (int)json_number_at(plain.o, "prompt_tokens");
    cr_expect(n > 20 && plain.cached == 0 && first.cached == 0 && !first.warned, "%s", first.said);
    cr_expect_eq(second.cached, n - 1, "%d of %d: %s", second.cached, n, second.said);
    cr_expect_eq(other.cached, n - 1, "another number of stages takes the same file: %s", other.said);
    same(&first, &plain);
    same(&second, &plain);
    same(&other, &plain);
    drop(&plain), drop(&first), drop(&second), drop(&other);
}

Test(prompt_cache, what_prompts_have_in_common_is_reused)
{
    answer first = ask(STORY, "1", true, "--chunk", "7");
    int n = (int)json_number_at(first.o, "prompt_tokens");
    answer plain = ask(STORY " And then came a bear.", "2", false, NULL, NULL),
           longer = ask(STORY " And then came a bear.", "2", true, NULL, NULL);
    cr_expect(longer.cached >= n - 2 && longer.cached <= n, "%d of %d", longer.cached, n);
    same(&longer, &plain);
    answer again = ask(STORY " And then came a bear.", "2", true, NULL, NULL);
    cr_expect_eq(again.cached, json_number_at(plain.o, "prompt_tokens") - 1, "the longer prompt was saved");
    same(&again, &plain);
    answer shorter = ask(STORY, "2", true, NULL, NULL);
    cr_expect_eq(shorter.cached, n - 1);
    same(&shorter, &first);
    drop(&first), drop(&plain), drop(&longer), drop(&again), drop(&shorter);
}

Test(prompt_cache, prompts_that_part_in_the_middle_share_only_their_beginning)
{
    static const char other[] =
        "Once upon a time there was a little fox who lived in the city, and his name was Tom. He had a red ball and a blue hat.";
    answer first = ask(STORY, "2", true, NULL, NULL), plain = ask(other, "2", false, NULL, NULL),
           second = ask(other, "2", true, NULL, NULL);
    cr_expect(second.cached >= 8 && second.cached < json_number_at(first.o, "prompt_tokens") - 5, "%d", second.cached);
    same(&second, &plain);
    answer strange = ask("What is the favourite food of the people who live in the north?", "2", true, NULL, NULL);
    cr_expect(strange.cached == 0 && !strange.warned, "another prompt is no mistake: %s", strange.said);
    drop(&first), drop(&plain), drop(&second), drop(&strange);
}

Test(prompt_cache, another_format_is_said_and_computed_anew)
{
    answer first = ask(STORY, "2", true, NULL, NULL), plain = ask(STORY, "2", false, "--kv", "f32"),
           other = ask(STORY, "2", true, "--kv", "f32");
    cr_expect(other.warned && other.cached == 0 && strstr(other.said, "--kv"), "%s", other.said);
    same(&other, &plain);
    answer now = ask(STORY, "1", true, "--kv", "f32");
    cr_expect(!now.warned && now.cached > 0, "the file is of the new format now: %s", now.said);
    same(&now, &plain);
    drop(&first), drop(&plain), drop(&other), drop(&now);
}

Test(prompt_cache, a_damaged_file_is_said_and_computed_anew)
{
    text t = { 0 };
    answer first = ask(STORY, "2", true, NULL, NULL);
    cr_assert_eq(text_read_file(&t, cache, 1 << 26, NULL), ERR_OK);
    t.ptr[t.len * 3 / 4] ^= 1;
    cr_assert(support_write(cache, t.ptr, t.len));
    answer second = ask(STORY, "2", true, NULL, NULL);
    cr_expect(second.warned && second.cached == 0 && strstr(second.said, "damaged"), "%s", second.said);
    same(&second, &first);
    answer third = ask(STORY, "2", true, NULL, NULL);
    cr_expect(!third.warned && third.cached > 0, "%s", third.said);
    cr_assert(support_write(cache, t.ptr, t.len / 2));
    answer torn = ask(STORY, "2", true, NULL, NULL);
    cr_expect(torn.warned && torn.cached == 0, "%s", torn.said);
    same(&torn, &first);
    text_free(&t);
    drop(&first), drop(&second), drop(&third), drop(&torn);
}

Test(prompt_cache, a_file_of_somebody_else_is_left_alone)
{
    cr_assert(support_write(cache, "my diary\n", 9));
    answer a = ask(STORY, "1", true, NULL, NULL);
    text t = { 0 };
    cr_expect(a.warned && strstr(a.said, "no prompt cache"), "%s", a.said);
    cr_assert_eq(text_read_file(&t, cache, 100, NULL), ERR_OK);
    cr_expect_str_eq(t.ptr, "my diary\n");
    text_free(&t);
    drop(&a);
}

Test(prompt_cache, choices_and_a_single_token_work_with_it)
{
    answer first = ask(STORY, "2", true, "--choices", "3"), second = ask(STORY, "2", true, "--choices", "3");
    cr_expect(second.cached > 0 && json_equal(json_object_get(first.o, "choices"), json_object_get(second.o, "choices")));
    drop(&first), drop(&second);
    unlink(cache);
    ran r = program_run(0, SECONDS, NULL, SLUICE("run", "-p", STORY, "-n", "1", "--stages", "2", "--prompt-cache", cache));
    ran_free(&r);
    first = ask(STORY, "2", true, NULL, NULL);
    cr_expect_eq(first.cached, json_number_at(first.o, "prompt_tokens") - 1, "rows of the last chunk are saved too: %d",
                 first.cached);
    drop(&first);
}
