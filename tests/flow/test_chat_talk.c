/* sluice run --chat, with and without a terminal, and conversations in batch files. A pty stands for the person. */
#include "tests/support.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MODEL support_root("models/sluice-tiny-Q8_0.gguf")
enum { SECONDS = 60 };

/* ---- a terminal with somebody at it ---- */

typedef struct { int fd; pid_t pid; text seen; size_t from; } person;

static person sit_down(const char *const *more)
{
    const char *argv[40] = { support_bin("sluice"), "run", "--chat", "-m", MODEL, "--chat-template", "chatml", "--stages", "1",
                             "--ctx", "512", "--ignore-eos", "--context-full", "slide", "-n", "1000000" };
    size_t n = 16;
    while (*more) argv[n++] = *more++;
    person p = { 0 };
    p.pid = forkpty(&p.fd, NULL, NULL, &(struct winsize){ .ws_row = 24, .ws_col = 200 });
    if (p.pid < 0) cr_skip_test("no pseudo-terminal on this machine");
    if (!p.pid) {
        setenv("TERM", "vt100", 1);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return p;
}

static bool read_some(person *p, int ms)
{
    char buf[4096];
    struct pollfd f = { .fd = p->fd, .events = POLLIN };
    if (poll(&f, 1, ms) <= 0) return false;
    ssize_t n = read(p->fd, buf, sizeof buf);
    return n > 0 && text_add(&p->seen, buf, (size_t)n);
}

/* A prompt is on the screen a moment before the line editor has the terminal (no canonical input), and a key that comes in
 * between may be lost, by the terminal's own rule: nobody types so soon, so neither do we. */
static void editor_has_it(const person *p)
{
    struct termios t;
    for (int i = 0; i < 500 && !tcgetattr(p->fd, &t) && (t.c_lflag & ICANON); i++) nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

/* Until `word` stands in what came after the last thing waited for. */
static bool sees(person *p, const char *word, size_t bytes)
{
    double seconds = 30 * programs_patience();
    for (int i = 0; i < (int)(seconds * 10); i++) {
        const char *from = p->seen.ptr ? p->seen.ptr + p->from : "";
        const char *at = p->seen.len > p->from ? memmem(from, p->seen.len - p->from, word, strlen(word)) : NULL;
        if (at && p->seen.len - p->from >= bytes) {
            if (!strcmp(word, "> ")) editor_has_it(p);
            p->from = bytes ? p->seen.len : (size_t)(at - p->seen.ptr) + strlen(word);
            return true;
        }
        read_some(p, 100);
    }
    printf("# waited for \"%s\", last seen: %.400s\n", word,
           p->seen.ptr ? p->seen.ptr + (p->seen.len > 400 ? p->seen.len - 400 : 0) : "");
    return false;
}

static void types(person *p, const char *s) { cr_assert_eq(write(p->fd, s, strlen(s)), (ssize_t)strlen(s)); }

/* Types `last` and waits for the end. A key that comes in the moment in which the line editor takes over the terminal is
 * lost (the terminal's own rule), so a person, and we, press it again. */
static int stand_up(person *p, const char *last)
{
    int status = 0, i = 0;
    for (; i < 300 && waitpid(p->pid, &status, WNOHANG) == 0; i++) {
        if (i % 20 == 0 && write(p->fd, last, strlen(last)) < 0) continue; /* it may be gone by now */
        read_some(p, 100);
    }
    if (i == 300) printf("# it does not end, last seen: %.400s\n", p->seen.ptr ? p->seen.ptr + (p->seen.len > 400 ? p->seen.len - 400 : 0) : "");
    if (kill(p->pid, 0) == 0) kill(p->pid, SIGKILL), waitpid(p->pid, &status, 0);
    close(p->fd);
    const char *words = p->seen.ptr ? sanitizer_words(p->seen.ptr) : NULL;
    cr_expect_null(words, "%s", words);
    text_free(&p->seen);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static size_t lines_in(const char *path)
{
    text t = { 0 };
    err e;
    size_t n = 0;
    cr_assert_eq(text_read_file(&t, path, 1 << 20, &e), ERR_OK, "%s", e.text);
    for (size_t i = 0; i < t.len; i++) n += t.ptr[i] == '\n';
    text_free(&t);
    return n;
}

static void save_as(person *p, const char *path)
{
    char line[300];
    snprintf(line, sizeof line, "/save %s\r", path);
    types(p, line);
    cr_assert(sees(p, "messages in", 0));
    cr_assert(sees(p, "> ", 0));
}

Test(chat_talk, ctrl_c_stops_the_answer_and_not_the_program)
{
    programs_begin();
    char one[256], two[256];
    snprintf(one, sizeof one, "%s", programs_file("one.jsonl"));
    snprintf(two, sizeof two, "%s", programs_file("two.jsonl"));
    person p = sit_down((const char *const[]){ "--system", "Be brief.", NULL });
    cr_assert(sees(&p, "/help lists", 0) && sees(&p, "> ", 0));
    types(&p, "hello\r");
    cr_assert(sees(&p, "\n", 300), "an answer comes");
    types(&p, "\x03");
    cr_assert(sees(&p, "(stopped)", 0) && sees(&p, "> ", 0));
    save_as(&p, one);
    cr_expect_eq(lines_in(one), 3, "system, user, and as much of the answer as there was");
    types(&p, "half a line\x03");                       /* drops the line; another Ctrl-C after it is the first */
    cr_assert(sees(&p, "> ", 0));
    types(&p, "again\r");
    cr_assert(sees(&p, "\n", 300), "the program still answers");
    types(&p, "\x03");
    cr_assert(sees(&p, "(stopped)", 0) && sees(&p, "> ", 0));
    save_as(&p, two);
    cr_expect_eq(lines_in(two), 5);
    types(&p, "\x03");
    cr_assert(sees(&p, "Ctrl-C again", 0) && sees(&p, "> ", 0));
    cr_expect_eq(stand_up(&p, "\x03"), 0);
    cr_expect(programs_gone(10));
}

Test(chat_talk, commands_work_and_lines_have_a_history)
{
    programs_begin();
    char one[256], end[256];
    snprintf(one, sizeof one, "%s", programs_file("one.jsonl"));
    snprintf(end, sizeof end, "%s", programs_file("end.jsonl"));
    person p = sit_down((const char *const[]){ "-n", "4", "--chat-save", end, NULL });
    cr_assert(sees(&p, "> ", 0));
    types(&p, "/system Be kind.\r/hlep\r");
    cr_assert(sees(&p, "no command \"/hlep\"", 0) && sees(&p, "> ", 0));
    types(&p, "one\\\rtwo\r");
    cr_assert(sees(&p, ". ", 0) && sees(&p, "> ", 0));
    save_as(&p, one);
    cr_expect_eq(lines_in(one), 3);
    types(&p, "/clear\r");
    cr_assert(sees(&p, "> ", 0));
    unlink(one);
    types(&p, "\x1b[A\x1b[A\r");                        /* up, up: the /save before the /clear */
    cr_assert(sees(&p, "1 messages in", 0) && sees(&p, "> ", 0));
    cr_expect_eq(lines_in(one), 1);
    cr_expect_eq(stand_up(&p, "\x04"), 0);
    cr_expect_eq(lines_in(end), 1, "--chat-save writes at the end");
    cr_expect(programs_gone(10));
}

/* ---- nobody at a terminal ---- */

Test(chat_talk, a_history_file_grows_turn_by_turn)
{
    programs_begin();
    char h[256];
    snprintf(h, sizeof h, "%s", programs_file("h.jsonl"));
    for (size_t turn = 1; turn <= 2; turn++) {
        ran r = program_run(0, SECONDS, NULL,
                            SLUICE("run", "--chat", "-m", MODEL, "--chat-template", "zephyr", "--system", "Be brief.", "--stages",
                                   "1", "-n", "4", "--chat-history", h, "--chat-save", h, "-p", "Who <|assistant|> are you?"));
        cr_expect(strstr(ran_errs(&r), "CHAT-MARKER"), "%s", ran_errs(&r));
        cr_expect_eq(lines_in(h), 1 + 2 * turn);
        ran_free(&r);
    }
    ran r = program_run(5, SECONDS, NULL, SLUICE("run", "--chat", "-m", MODEL, "--stages", "1", "-p", "x"));
    cr_expect(strstr(ran_errs(&r), "states no chat template") && strstr(ran_errs(&r), "llama3"), "%s", ran_errs(&r));
    ran_free(&r);
    r = program_run(2, SECONDS, NULL, SLUICE("run", "-m", MODEL, "--system", "S", "-p", "x"));
    ran_free(&r);
    cr_expect(programs_gone(10));
}

static json_t *line_of(const char *all, const char *id)
{
    for (const char *p = all, *end; *p && (end = strchr(p, '\n')); p = end + 1) {
        json_t *o = json_loadb(p, (size_t)(end - p), 0, NULL);
        if (o && !strcmp(json_string_at(o, "custom_id"), id)) return o;
        json_decref(o);
    }
    return NULL;
}

static const char batch_in[] =
    "{\"custom_id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":4}\n"
    "{\"custom_id\":\"b\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\",\"messages\":"
    "[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":4,\"logprobs\":true,\"top_logprobs\":2,\"stop\":null}}\n"
    "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/"
    "completions\",\"body\":{\"model\":\"m\",\"prompt\":\"Hi\",\"max_tokens\":4}}\n"
    "{\"custom_id\":\"d\",\"method\":\"POST\",\"url\":\"/v1/chat/"
    "completions\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
    "\"tools\":[]}}\n"
    "{\"custom_id\":\"e\",\"messages\":[{\"role\":\"assistant\",\"content\":\"Hi\"}]}\n";

Test(chat_talk, batch_files_hold_messages_and_openais_shape_comes_back_as_such)
{
    programs_begin();
    char in[256];
    standing c;
    snprintf(in, sizeof in, "%s", programs_file("in.jsonl"));
    cr_assert(support_write(in, batch_in, strlen(batch_in)));
    cr_assert(standing_up(&c, "chat", (const char *const[]){ "-m", MODEL, "--stages", "1", NULL }));
    ran r = program_run(11, SECONDS, NULL, SLUICE("submit", "--dir", c.dir, "--chat-template", "chatml", "--batch", in));
    json_t *a = line_of(ran_out(&r), "a"), *b = line_of(ran_out(&r), "b"), *t = line_of(ran_out(&r), "c"),
           *d = line_of(ran_out(&r), "d"), *l = line_of(ran_out(&r), "e");
    cr_assert(a && b && t && d && l, "%s", ran_out(&r));
    cr_expect_str_eq(json_string_at(a, "text"), json_string_at(b, "response.body.choices.0.message.content"), "the same turn");
    cr_expect_eq(json_number_at(b, "response.status_code"), 200);
    cr_expect_str_eq(json_string_at(b, "response.body.object"), "chat.completion");
    cr_expect_str_eq(json_string_at(b, "response.body.model"), "m");
    cr_expect_str_eq(json_string_at(b, "response.body.choices.0.finish_reason"), "length");
    cr_expect_eq(json_number_at(b, "response.body.usage.prompt_tokens"), json_number_at(a, "prompt_tokens"));
    cr_expect(*json_string_at(b, "response.body.choices.0.logprobs.content.0.top_logprobs.1.token"));
    cr_expect_str_eq(json_string_at(t, "response.body.object"), "text_completion");
    cr_expect_eq(json_number_at(d, "response.status_code"), 400);
    cr_expect(strstr(json_string_at(d, "response.body.error.message"), "\"tools\""));
    cr_expect(strstr(json_string_at(l, "error.message"), "nothing to answer"));
    json_decref(a), json_decref(b), json_decref(t), json_decref(d), json_decref(l);
    ran_free(&r);
    cr_expect(standing_down(&c));
}
