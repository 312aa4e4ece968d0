#include "ops/cli/chat.h"
#include "ops/cli/line_editor.h"
#include "ops/cli/signals.h"
#include <signal.h>
#include <string.h>

/* The talk at a terminal: lines in, answers out, and commands that begin with a stroke. Ctrl-C ends what is going on, never
 * the talk, unless nothing is. */

typedef struct {
    chat *t;
    line_editor *editor;
    text line;               /* a message, possibly of several lines */
    unsigned breaks;         /* Ctrl-C on an empty line, one after another */
    bool over;
} talk;

/* ---- one answer ---- */

static err_code next(void *me, request *out, bool *more, err *e)
{
    chat *t = me;
    (void)e;
    if ((*more = t->ready)) {
        *out = t->next;
        t->next = (request){ 0 };
        t->ready = false;
    }
    return ERR_OK;
}

/* A model's text may hold anything, escape sequences for the terminal too. */
static err_code write_text(const chat *t, view v, err *e)
{
    text shown = { 0 };
    if (!t->clean) return show_write(v.ptr, v.len, e);
    bool ok = text_add(&shown, v.ptr, v.len);
    for (size_t i = 0; ok && i < shown.len; i++) {
        unsigned char c = (unsigned char)shown.ptr[i];
        if ((c < 32 && c != '\n' && c != '\t') || c == 127) shown.ptr[i] = '?';
    }
    err_code rc = ok ? show_write(shown.ptr, shown.len, e) : err_set(e, ERR_NOMEM, "out of memory");
    text_free(&shown);
    return rc;
}

static err_code event(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    chat *t = me;
    (void)index;
    (void)a;
    if (p->head.type != MSG_TOKEN || p->head.token.index) return ERR_OK;
    view v = p->frame[TOKEN_TEXT];
    if (!text_add(&t->heard, v.ptr, v.len)) return err_set(e, ERR_NOMEM, "out of memory");
    return write_text(t, v, e);
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    chat *t = me;
    (void)index;
    (void)e;
    t->job = a->fail;
    return ERR_OK;
}

static void end_line(const chat *t)
{
    err quiet;
    if (t->heard.len && t->heard.ptr[t->heard.len - 1] != '\n') show_write("\n", 1, &quiet);
}

/* What was answered stays, whole or broken off; a message without an answer is taken back. */
static err_code keep(chat *t, err_code rc, err *e)
{
    bool broken = rc == ERR_CANCELLED && signals_caught() == SIGINT;
    if (broken) {
        signals_forget();
        fputs("(stopped)\n", stderr);
        rc = ERR_OK;
    }
    if (rc == ERR_OK && t->job.code != ERR_OK) fprintf(stderr, "sluice: %s\n", t->job.text);
    if (rc != ERR_OK) return rc;
    if (t->heard.len || (!broken && t->job.code == ERR_OK))
        return conversation_add(&t->said, CHAT_ASSISTANT, t->heard.ptr ? t->heard.ptr : "", t->heard.len, e);
    conversation_cut(&t->said, t->said.n - 1);
    return ERR_OK;
}

static err_code answer_line(chat *t, view line, err *e)
{
    static const flight_ops ops = { next, event, done };
    err why;
    err_code rc = conversation_add(&t->said, CHAT_USER, line.ptr, line.len, e);
    if (rc != ERR_OK) return rc;
    if (chat_prepare(t, &why) != ERR_OK) {
        fprintf(stderr, "sluice: %s\n", why.text);
        conversation_cut(&t->said, t->said.n - 1);
        return ERR_OK;
    }
    rc = flight_run(t->c, 1, &ops, t, e);
    end_line(t);
    return keep(t, rc, e);
}

/* ---- commands ---- */

static void do_help(talk *k, const char *arg)
{
    (void)k;
    (void)arg;
    fputs("/system TEXT   what the model is told before the talk (without TEXT: nothing)\n"
          "/clear         forget what was said\n"
          "/save FILE     write the talk, one JSON message a line\n"
          "/exit          leave (so does Ctrl-D)\n"
          "//...          a message that begins with a stroke; a line that ends with \\ goes on in the next\n"
          "Ctrl-C stops an answer, or drops the line; twice on an empty line it leaves.\n", stderr);
}

static void do_clear(talk *k, const char *arg)
{
    (void)arg;
    conversation_clear(&k->t->said);
}

static void do_system(talk *k, const char *arg)
{
    err e;
    if (conversation_set_system(&k->t->said, *arg ? arg : NULL, strlen(arg), &e) != ERR_OK) fprintf(stderr, "sluice: %s\n", e.text);
}

static void do_save(talk *k, const char *arg)
{
    err e;
    if (!*arg) fputs("/save FILE\n", stderr);
    else if (chat_store(&k->t->said, arg, &e) != ERR_OK) fprintf(stderr, "sluice: %s\n", e.text);
    else fprintf(stderr, "%zu messages in %s\n", k->t->said.n, arg);
}

static void do_exit(talk *k, const char *arg)
{
    (void)arg;
    k->over = true;
}

static const struct { const char *name; void (*run)(talk *k, const char *arg);
} talk_commands[] = {
    { "/help", do_help }, { "/clear", do_clear }, { "/system", do_system },
    { "/save", do_save }, { "/exit", do_exit },   { "/quit", do_exit },
};

static void command_line(talk *k, const char *line)
{
    size_t n = strcspn(line, " \t");
    const char *arg = line + n + strspn(line + n, " \t");
    for (size_t i = 0; i < sizeof talk_commands / sizeof talk_commands[0]; i++)
        if (strlen(talk_commands[i].name) == n && !memcmp(talk_commands[i].name, line, n)) {
            talk_commands[i].run(k, arg);
            return;
        }
    fprintf(stderr, "no command \"%.*s\"; /help lists them\n", (int)(n < 60 ? n : 60), line);
}

/* ---- lines ---- */

static err_code take_message(talk *k, err *e)
{
    view v = { k->line.ptr, k->line.len };
    const char *s = k->line.ptr;
    if (s[strspn(s, " \t\n")] == 0) return ERR_OK;
    if (s[0] == '/' && s[1] != '/') return command_line(k, s), ERR_OK;
    if (s[0] == '/') v = (view){ s + 1, v.len - 1 };
    return answer_line(k->t, v, e);
}

static err_code on_break(talk *k, bool empty, err *e)
{
    int sig = signals_caught();
    if (sig != SIGINT) return err_set(e, ERR_CANCELLED, "stopped by %s", strsignal(sig));
    signals_forget();
    k->breaks = empty && !k->line.len ? k->breaks + 1 : 0;
    text_clear(&k->line);
    if (k->breaks == 1) fputs("(Ctrl-C again or Ctrl-D leaves)\n", stderr);
    k->over = k->breaks > 1;
    return ERR_OK;
}

static err_code on_line(talk *k, view v, err *e)
{
    bool more = v.len && ((const char *)v.ptr)[v.len - 1] == '\\';
    k->breaks = 0;
    if (!text_add(&k->line, v.ptr, v.len - more) || !text_adds(&k->line, more ? "\n" : ""))
        return err_set(e, ERR_NOMEM, "out of memory");
    if (more) return ERR_OK;
    err_code rc = take_message(k, e);
    text_clear(&k->line);
    return rc;
}

err_code chat_talk(chat *t, err *e)
{
    talk k = { .t = t };
    err_code rc = line_editor_open(&k.editor, e);
    if (rc == ERR_OK) fprintf(stderr, "chat template %s; /help lists the commands\n", chat_style_name(&t->model.style));
    while (rc == ERR_OK && !k.over) {
        view v;
        line_event what = line_editor_read(k.editor, k.line.len ? ". " : "> ", &v);
        if (what == LINE_END) k.over = true;
        else rc = what == LINE_BROKEN ? on_break(&k, v.len == 0, e) : on_line(&k, v, e);
    }
    line_editor_close(&k.editor);
    text_free(&k.line);
    return rc;
}
