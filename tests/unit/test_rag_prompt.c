/* Prompts as the bundled model was trained on, and templates that are wrong. */
#include "coordinator/rag_prompt.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static view of(const char *s) { return (view){ s, strlen(s) }; }

static void add(passages *p, const char *title, const char *source, const char *body)
{
    passage *x = passages_add(p);
    cr_assert(x);
    cr_assert(text_adds(&x->title, title) && text_adds(&x->source, source) && text_adds(&x->body, body));
}

static passages two(void)
{
    passages p = { 0 };
    add(&p, "Drishanth", "a.jsonl", "Drishanth plays the bell. Drishanth eats onion tart every morning.");
    add(&p, "Stenbrorr", "b.txt", "  The boat of\n Stenbrorr\r\n\tis  silver.\n");
    return p;
}

static void expect_prompt(const rag_template *t, const passages *p, const char *question, const char *want)
{
    text out = { 0 };
    err e = { 0 };
    cr_expect_eq(rag_prompt(&out, t, p, of(question), &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(out.ptr ? out.ptr : "", want);
    text_free(&out);
}

Test(rag_prompt, defaults_are_what_the_model_was_trained_on)
{
    passages p = two();
    expect_prompt(NULL, &p, " What does Drishanth play?\n",
                  "Context:\n[1] Drishanth plays the bell. Drishanth eats onion tart every morning.\n"
                  "[2] The boat of Stenbrorr is silver.\nQuestion: What does Drishanth play?\nAnswer:");
    passages_free(&p);
    expect_prompt(NULL, &p, "Where does Rordenbina live?", "Question: Where does Rordenbina live?\nAnswer:");
}

Test(rag_prompt, templates_place_number_title_text_and_source)
{
    passages p = two();
    rag_template t = { .prompt = "{{{question}}} <{passages}> {question}", .passage = "{n}|{title}|{source}|{text};" };
    expect_prompt(&t, &p, "Q", "{Q} <1|Drishanth|a.jsonl|Drishanth plays the bell. Drishanth eats onion tart every morning.;"
                               "2|Stenbrorr|b.txt|The boat of Stenbrorr is silver.;> Q");
    t.keep_lines = true;
    t.prompt = "{passages}{question}";
    t.passage = "{text}.";
    expect_prompt(&t, &p, "",
                  "Drishanth plays the bell. Drishanth eats onion tart every morning..The boat of\n Stenbrorr\r\n\tis  silver..");
    passages_free(&p);
}

Test(rag_prompt, what_is_put_in_is_never_read_as_a_template)
{
    passages p = { 0 };
    add(&p, "{n}", "{x}", "see {question} and {passages} and { and }}");
    expect_prompt(NULL, &p, "what is {text}?",
                  "Context:\n[1] see {question} and {passages} and { and }}\nQuestion: what is {text}?\nAnswer:");
    passages_free(&p);
}

Test(rag_prompt, wrong_templates_are_refused_by_name_and_leave_the_output_as_it_was)
{
    static const struct { const char *prompt, *passage, *says; } bad[] = {
        { "{passages} {query}", NULL, "{query}" }, { NULL, "{text} {id}", "{id}" }, { "{question} {", NULL, "without partner" },
        { "{question} }", NULL, "without partner" }, { "{question", NULL, "without partner" },
        { "{passages}", NULL, "{question} is missing" },
        { NULL, "{n}", "{text} is missing" }, { "{} {question}", NULL, "{}" }, { "{question}{a{b}", NULL, "without partner" },
        { "{title} {question}", NULL, "{title}" }, { NULL, "{text}{question}", "{question}" },
        { "{ question }", NULL, "{ question }" },
    };
    passages p = two(), none = { 0 };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rag_template t = { .prompt = bad[i].prompt, .passage = bad[i].passage };
        text out = { 0 };
        err e = { 0 };
        cr_assert(text_adds(&out, "kept"));
        cr_expect_eq(rag_prompt(&out, &t, &p, of("q"), &e), ERR_CONFIG);
        cr_expect(strstr(e.text, bad[i].says), "\"%s\" does not say \"%s\"", e.text, bad[i].says);
        cr_expect_str_eq(out.ptr, "kept");
        cr_expect_eq(rag_prompt(&out, &t, &none, of("q"), &e), ERR_CONFIG, "without passages, too");
        cr_expect_eq(rag_template_check(&t, &e), ERR_CONFIG);
        text_free(&out);
    }
    cr_expect_eq(rag_template_check(NULL, NULL), ERR_OK);
    passages_free(&p);
}

Test(rag_prompt, odd_bytes_pass_through)
{
    passages p = { 0 };
    passage *x = passages_add(&p);
    cr_assert(x && text_add(&x->body, "a\0b \xFF\n\n", 7));
    text out = { 0 };
    err e = { 0 };
    cr_expect_eq(rag_prompt(&out, NULL, &p, (view){ NULL, 0 }, &e), ERR_OK, "%s", e.text);
    static const char want[] = "Context:\n[1] a\0b \xFF\nQuestion: \nAnswer:";
    cr_expect_eq(out.len, sizeof want - 1);
    cr_expect_eq(memcmp(out.ptr, want, sizeof want - 1), 0);
    text_free(&out);
    passages_free(&p);
}
