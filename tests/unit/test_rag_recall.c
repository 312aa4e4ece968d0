/* How often the right passage is found: the shared question sets (SLUICE_SHARED) and the demo. Figures go to stderr. */
#include "tests/unit/corpus_dir.h"
#include <jansson.h>
#include <unistd.h>

TestSuite(rag_recall, .init = dir_make, .fini = dir_remove, .timeout = 60);

/* A test that is skipped does not come to its .fini. */
static void skip(const char *absent)
{
    dir_remove();
    fprintf(stderr, "skipped: %s is absent\n", absent);
    cr_skip_test("skipped: %s is absent", absent);
}

static const char *shared(const char *name)
{
    static char path[2][512];
    static int turn;
    const char *root = getenv("SLUICE_SHARED");
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root ? root : "../shared", name);
    if (access(path[turn], R_OK)) skip(path[turn]);
    return path[turn];
}

typedef struct { int questions, first, three, five; } recall;

static void recall_add(recall *r, corpus *c, const char *question, const char *gold)
{
    search_options o = { .max_passages = 5 };
    passages p = find(c, question, &o);
    size_t rank = 0;
    while (rank < p.count && strcmp(p.at[rank].name.ptr, gold)) rank++;
    bool found = rank < p.count;
    r->questions++;
    r->first += found && rank < 1;
    r->three += found && rank < 3;
    r->five += found;
    passages_free(&p);
}

static void recall_expect(const char *what, const recall *r, double first, double five)
{
    double n = r->questions;
    fprintf(stderr, "recall, %s: %d questions, @1 %.2f %%, @3 %.2f %%, @5 %.2f %%\n", what, r->questions, 100 * r->first / n,
            100 * r->three / n, 100 * r->five / n);
    cr_expect_geq(r->first / n, first);
    cr_expect_geq(r->five / n, five);
}

Test(rag_recall, names_of_the_synthetic_world_are_found)
{
    const char *docs = shared("data/qa/corpus.jsonl"), *questions = shared("data/qa/corpus_questions.jsonl");
    err e = { 0 };
    cr_assert_eq(corpus_build(docs, at("out.db"), NULL, NULL, NULL, NULL, &e), ERR_OK, "%s", e.text);
    corpus *c = open_at("out.db");
    recall r = { 0 };
    char line[4096];
    FILE *f = fopen(questions, "r");
    while (f && fgets(line, sizeof line, f)) {
        json_t *q = json_loads(line, 0, NULL);
        recall_add(&r, c, json_string_value(json_object_get(q, "question")), json_string_value(json_object_get(q, "doc")));
        json_decref(q);
    }
    fclose(f);
    cr_expect_eq(r.questions, 400);
    recall_expect("corpus_questions", &r, 0.97, 0.99);
    corpus_close(c);
}

Test(rag_recall, people_of_the_demo_are_found_with_the_answer)
{
    if (access("configs/demo/questions.jsonl", R_OK)) skip("configs/demo/questions.jsonl");
    corpus *c;
    err e = { 0 };
    cr_assert_eq(corpus_open(&c, "configs/demo/corpus", &e), ERR_OK, "%s", e.text);
    char line[4096];
    int asked = 0;
    FILE *f = fopen("configs/demo/questions.jsonl", "r");
    for (; f && fgets(line, sizeof line, f); asked++) {
        json_t *q = json_loads(line, 0, NULL);
        passages p = find(c, json_string_value(json_object_get(q, "question")), NULL);
        cr_assert_geq(p.count, 1, "%s", line);
        cr_expect(strcasestr(p.at[0].body.ptr, json_string_value(json_object_get(q, "answer"))), "%s%s", line, p.at[0].body.ptr);
        passages_free(&p);
        json_decref(q);
    }
    fclose(f);
    cr_expect_eq(asked, 60);
    corpus_close(c);
}

/* The paragraphs of xquad.en as in/c.jsonl, id = their number. */
static void put_paragraphs(json_t *data)
{
    size_t i, k;
    json_t *article, *paragraph;
    FILE *f = fopen(at("in/c.jsonl"), "w");
    cr_assert(f);
    json_int_t id = 0;
    json_array_foreach(data, i, article) {
        json_array_foreach(json_object_get(article, "paragraphs"), k, paragraph) {
            json_t *o = json_pack("{s:I,s:O,s:O}", "id", id++, "title", json_object_get(article, "title"),
                                  "text", json_object_get(paragraph, "context"));
            json_dumpf(o, f, 0);
            fputc('\n', f);
            json_decref(o);
        }
    }
    fclose(f);
}

Test(rag_recall, paragraphs_of_xquad_are_found)
{
    json_t *x = json_load_file(shared("data/text/xquad.en.json"), 0, NULL), *data = json_object_get(x, "data");
    put_paragraphs(data);
    corpus *c = open_at("in");
    recall r = { 0 };
    size_t i, k, n;
    int id = 0;
    json_t *article, *paragraph, *q;
    json_array_foreach(data, i, article) {
        json_array_foreach(json_object_get(article, "paragraphs"), k, paragraph) {
            char gold[16];
            snprintf(gold, sizeof gold, "%d", id++);
            json_array_foreach(json_object_get(paragraph, "qas"), n, q)
                recall_add(&r, c, json_string_value(json_object_get(q, "question")), gold);
        }
    }
    recall_expect("xquad.en", &r, 0.90, 0.96);
    corpus_close(c);
    json_decref(x);
}
