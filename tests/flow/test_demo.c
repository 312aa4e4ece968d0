/* The main job, seen from outside: `sluice run` answers from the demo corpus what the model alone does not know, the
 * corpus decides what it says, and whatever way it ends nothing of it stays. */
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ANSWERS 10                     /* of the 60 questions; every one costs two clusters */
#define GONE_SECONDS 5                 /* "within a few seconds" */

static char model[512], corpus[512];

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(corpus, sizeof corpus, "%s", support_root("configs/demo/corpus"));
}

TestSuite(demo, .init = begin, .timeout = 120);

/* Line i of the questions, a new reference. */
static json_t *question(size_t i)
{
    text t = { 0 };
    cr_assert_eq(text_read_file(&t, support_root("configs/demo/questions.jsonl"), 1 << 20, NULL), ERR_OK);
    char *line = strtok(t.ptr, "\n");
    for (; line && i; i--) line = strtok(NULL, "\n");
    json_t *q = line ? json_loads(line, 0, NULL) : NULL;
    cr_assert(q, "the question file is too short");
    text_free(&t);
    return q;
}

static json_t *answer_of(const char *rag, const char *prompt)
{
    ran r = rag ? program_run(0, 20, NULL, SLUICE("run", "-m", model, "--json", "-n", "24", "--stop", "\n", "-p", prompt, "--rag", rag))
                : program_run(0, 20, NULL, SLUICE("run", "-m", model, "--json", "-n", "24", "--stop", "\n", "-p", prompt));
    cr_assert_eq(r.status, 0);
    json_t *o = ran_json(&r);
    cr_assert(o);
    cr_assert_str_eq(json_string_at(o, "schema"), "sluice.run/1");
    return o;
}

/* Without case, spaces in front and full stop behind. */
static bool says(const json_t *o, const char *want)
{
    const char *got = json_string_at(o, "text");
    while (*got == ' ') got++;
    size_t n = strlen(got);
    if (n && got[n - 1] == '.') n--;
    return n == strlen(want) && !strncasecmp(got, want, n);
}

static json_t *ask(const char *rag, const char *q)
{
    char prompt[512];
    snprintf(prompt, sizeof prompt, rag ? "%s" : "Question: %s\nAnswer:", q);
    return answer_of(rag, prompt);
}

/* The first passage holds the answer and comes from a file of the corpus, at the bytes it names. */
static void check_passages(const json_t *o, const char *want)
{
    char path[1024];
    text file = { 0 };
    cr_assert_gt(json_array_size(json_object_get(o, "passages")), 0);
    cr_expect(strcasestr(json_string_at(o, "passages.0.text"), want), "%s", json_string_at(o, "passages.0.text"));
    snprintf(path, sizeof path, "%s/%s", corpus, json_string_at(o, "passages.0.source"));
    cr_assert_eq(text_read_file(&file, path, 1 << 20, NULL), ERR_OK, "%s", path);
    int64_t begin_at = json_number_at(o, "passages.0.begin"), end_at = json_number_at(o, "passages.0.end");
    cr_assert(begin_at >= 0 && end_at > begin_at && (size_t)end_at <= file.len);
    file.ptr[end_at] = 0;
    cr_expect(strcasestr(file.ptr + begin_at, want), "bytes %d to %d of %s: %s", (int)begin_at, (int)end_at, path, file.ptr + begin_at);
    text_free(&file);
}

Test(demo, the_corpus_answers_what_the_model_alone_does_not_know)
{
    for (size_t i = 0; i < ANSWERS; i++) {
        json_t *q = question(i * 6);
        const char *words = json_string_at(q, "question"), *want = json_string_at(q, "answer");
        json_t *alone = ask(NULL, words), *told = ask(corpus, words);
        cr_expect(says(alone, "I do not know"), "alone, %s: %s", words, json_string_at(alone, "text"));
        cr_expect(says(told, want), "with the corpus, %s: \"%s\" instead of \"%s\"", words, json_string_at(told, "text"), want);
        cr_expect_eq(json_array_size(json_object_get(alone, "passages")), 0);
        check_passages(told, want);
        json_decref(alone);
        json_decref(told);
        json_decref(q);
    }
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(demo, the_json_object_has_what_the_page_promises)
{
    static const char *const keys[] = { "text", "tokens", "prompt_tokens", "finish_reason", "timings", "stages", "lossy", "schema" };
    json_t *o = ask(NULL, "Who is Korjar?");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) cr_expect(json_object_get(o, keys[i]), "no \"%s\"", keys[i]);
    cr_expect_eq(json_array_size(json_object_get(o, "lossy")), 0);
    cr_expect_eq(json_array_size(json_object_get(o, "stages")), 2);
    cr_expect_eq((int64_t)json_array_size(json_object_get(o, "tokens")), json_number_at(o, "completion_tokens"));
    cr_expect_gt(json_number_at(o, "stages.1.pid"), 1);
    json_decref(o);
}

Test(demo, the_summary_on_stderr_names_stages_and_passages)
{
    ran r = program_run(0, 20, NULL, SLUICE("run", "-m", model, "--rag", corpus, "-n", "8", "-p", "In which year was Nejovi born?"));
    cr_assert_eq(r.status, 0);
    cr_expect(strstr(ran_out(&r), "1845"), "%s", ran_out(&r));
    const char *want[] = { "stage 0  layers 0-", "stage 1  layers ", "cores ", "pid ", "prompt tokens", "first token", "tok/s", "KV ",
                           "passage 1  people.jsonl" };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) cr_expect(strstr(ran_errs(&r), want[i]), "no \"%s\" in\n%s", want[i], ran_errs(&r));
    ran_free(&r);
}

Test(demo, make_run_shows_an_answer_from_the_corpus)
{
    char build[512];
    snprintf(build, sizeof build, "%s", support_bin(""));
    ran r = program_run(0, 30, NULL, (const char *const[]){ support_root("ops/demo.sh"), build, "1", NULL });
    cr_assert_eq(r.status, 0);
    cr_expect(strstr(ran_out(&r), "In\\ which\\ year\\ was\\ Nejovi\\ born") && strstr(ran_out(&r), " 1845."), "%s", ran_out(&r));
    ran_free(&r);
    cr_assert(programs_gone(GONE_SECONDS));
}

/* ---- the corpus decides */

static void shell(const char *words)
{
    ran r = program_run(0, 20, NULL, (const char *const[]){ "/bin/sh", "-c", words, NULL });
    cr_assert_eq(r.status, 0);
    ran_free(&r);
}

/* A copy of the corpus in which `from` has become `to`, everywhere. */
static void copy_with(const char *copy, const char *from, const char *to)
{
    char words[2048];
    snprintf(words, sizeof words, "cp -r '%s' '%s' && grep -rl '%s' '%s' | xargs sed -i 's/%s/%s/g'", corpus, copy, from, copy, from, to);
    shell(words);
}

Test(demo, another_fact_in_the_corpus_is_another_answer)
{
    static const struct { const char *question, *fact, *answer, *changed, *now; } table[] = {
        { "In which year was Nejovi born?", "The birth year of Nejovi is 1845", "1845", "The birth year of Nejovi is 1723", "1723" },
        { "What is the favourite food of Tuvorfilvi?", "food of Tuvorfilvi is mushroom rice", "Mushroom rice",
          "food of Tuvorfilvi is lentil soup", "Lentil soup" },
        { "Which instrument does Cuborl play?", "play the pipe", "Pipe", "play the drum", "Drum" },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char copy[128];
        snprintf(copy, sizeof copy, "%s", programs_file("copy"));
        copy_with(copy, table[i].fact, table[i].changed);
        json_t *before = ask(corpus, table[i].question), *after = ask(copy, table[i].question);
        cr_expect(says(before, table[i].answer), "before: %s", json_string_at(before, "text"));
        cr_expect(says(after, table[i].now), "after: %s", json_string_at(after, "text"));
        json_decref(before);
        json_decref(after);
        char words[256];
        snprintf(words, sizeof words, "rm -r '%s'", copy);
        shell(words);
    }
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(demo, a_fact_taken_out_of_the_corpus_is_not_known_any_more)
{
    char copy[128];
    snprintf(copy, sizeof copy, "%s", programs_file("without"));
    char words[2048];
    snprintf(words, sizeof words, "cp -r '%s' '%s' && grep -rl Nejovi '%s' | xargs sed -i '/Nejovi/d'", corpus, copy, copy);
    shell(words);
    json_t *o = ask(copy, "In which year was Nejovi born?");
    cr_expect(!says(o, "1845"), "%s", json_string_at(o, "text"));
    json_decref(o);
}

Test(demo, a_corpus_file_gives_the_same_answer_as_its_folder)
{
    char file[128];
    snprintf(file, sizeof file, "%s", programs_file("demo.corpus"));
    ran r = program_run(0, 20, NULL, SLUICE("index", corpus, "-o", file));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    for (size_t i = 0; i < 3; i++) {
        json_t *q = question(i * 20 + 2), *a = ask(corpus, json_string_at(q, "question")), *b = ask(file, json_string_at(q, "question"));
        cr_expect_str_eq(json_string_at(a, "text"), json_string_at(b, "text"));
        cr_expect(json_equal(json_object_get(a, "passages"), json_object_get(b, "passages")), "other passages");
        cr_expect(says(b, json_string_at(q, "answer")));
        json_decref(a);
        json_decref(b);
        json_decref(q);
    }
    cr_assert(programs_gone(GONE_SECONDS));
}

/* ---- nothing stays */

static program start_long(void)
{
    program p;
    cr_assert(program_start(&p, "long", SLUICE("run", "-m", model, "--rag", corpus, "-n", "100000", "--ignore-eos", "--context-full", "slide",
                                              "--temp", "1", "-p", "Once upon a time")));
    return p;
}

static void end_by(int sig, int status)
{
    program p = start_long();
    cr_assert(program_has_output(&p, 20), "no text came");
    cr_assert_geq(programs_alive(NULL), 5, "run, coordinator, two stages and rag");
    kill(p.pid, sig);
    cr_expect_eq(program_wait(&p, status, 10), status);
    cr_expect(programs_gone(GONE_SECONDS), "after signal %d", sig);
}

Test(demo, nothing_stays_after_a_normal_end)
{
    json_t *o = ask(corpus, "In which year was Nejovi born?");
    json_decref(o);
    cr_assert(programs_gone(0), "`sluice run` ends after its children");
}

Test(demo, nothing_stays_after_sigint) { end_by(SIGINT, 130); }
Test(demo, nothing_stays_after_sigterm) { end_by(SIGTERM, 143); }
Test(demo, nothing_stays_after_sighup) { end_by(SIGHUP, 129); }
Test(demo, nothing_stays_after_sigkill) { end_by(SIGKILL, 137); }

/* From before the coordinator is there to after the first token: a signal may come at any moment. */
Test(demo, nothing_stays_after_a_signal_while_it_starts)
{
    static const int sigs[] = { SIGINT, SIGTERM, SIGKILL };
    for (int i = 0; i < 18; i++) {
        program p = start_long();
        nanosleep(&(struct timespec){ .tv_nsec = (long)(i * 6000000 * programs_patience()) % 1000000000 }, NULL);
        kill(p.pid, sigs[i % 3]);
        int status = program_wait(&p, -1, 10);
        cr_expect(status > 128 && status != PROGRAM_INSANE, "status %d after %d ms", status, i * 6);
        cr_assert(programs_gone(GONE_SECONDS), "signal %d after %d ms", sigs[i % 3], i * 6);
    }
}

static int child_pid(const char *word)
{
    text who = { 0 };
    programs_alive(&who);
    int pid = 0;
    for (char *line = who.len ? strtok(who.ptr, "\n") : NULL; line; line = strtok(NULL, "\n"))
        if (strstr(line, word)) pid = atoi(line);
    text_free(&who);
    return pid;
}

static off_t output_size(const program *p)
{
    struct stat st;
    return stat(p->out, &st) ? 0 : st.st_size;
}

static program without_child(const char *word)
{
    program p = start_long();
    cr_assert(program_has_output(&p, 20), "no text came");
    int pid = child_pid(word);
    cr_assert_gt(pid, 1, "no %s", word);
    kill(pid, SIGKILL);
    return p;
}

Test(demo, nothing_stays_when_the_coordinator_dies)
{
    program p = without_child("sluice-coordinator --");
    cr_expect_eq(program_wait(&p, 7, 10), 7, "7: peer is gone");
    text errs = program_errs(&p);
    cr_expect(strstr(errs.ptr, "sluice run: "), "%s", errs.ptr);
    text_free(&errs);
    cr_assert(programs_gone(GONE_SECONDS));
}

/* Another stage takes its place and the text goes on; the cluster still ends with its command. */
Test(demo, nothing_stays_when_a_stage_has_died)
{
    program p = without_child("--name=stage-1");
    off_t before = output_size(&p);
    int patience = (int)(1000 * programs_patience()); /* ten seconds: a death, a restart, every row again, and some new text */
    for (int i = 0; i < patience && output_size(&p) <= before + 1000; i++) usleep(10000);
    cr_expect_gt(output_size(&p), before + 1000, "the text does not go on");
    kill(p.pid, SIGTERM);
    cr_expect_eq(program_wait(&p, 143, 10), 143);
    cr_assert(programs_gone(GONE_SECONDS));
}

Test(demo, nothing_stays_when_stdout_is_closed)
{
    static const char *const ways[] = { "exec \"$0\" \"$@\" >&-", "\"$0\" \"$@\" | head -c 3 >/dev/null", "exec \"$0\" \"$@\" >/dev/full",
                                        "exec \"$0\" \"$@\" >&- 2>&- <&-" };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        const char *argv[] = { "/bin/sh", "-c", ways[i], support_bin("sluice"), "run", "-m", model, "-n", "100000", "--ignore-eos",
                               "--context-full", "slide", "-p", "Once upon a time", NULL };
        ran r = program_run(-1, 20, NULL, argv);
        cr_expect_eq(r.status, i == 1 ? 0 : 4, "%s: status %d, %s", ways[i], r.status, ran_errs(&r));
        cr_expect(i == 3 || strstr(ran_errs(&r), "sluice run: standard output: "), "%s: %s", ways[i], ran_errs(&r));
        ran_free(&r);
        cr_assert(programs_gone(GONE_SECONDS), "%s", ways[i]);
    }
}
