#include "ops/cli/line_editor.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

/* Owns libedit. It leaves signals to signals.c: libedit's own handling sends them to the whole process group. */

enum { HISTORY_LINES = 1000, SLICE_MS = 100 };   /* a signal between two polls goes unnoticed for that long at most */

struct line_editor {
    EditLine *el;
    History *past;
    FILE *prompt_to;
    const char *prompt;
    mbstate_t half;          /* a character whose other bytes are still to come */
};

static char *prompt_of(EditLine *el)
{
    line_editor *l = NULL;
    el_get(el, EL_CLIENTDATA, &l);
    return (char *)(l ? l->prompt : "");
}

/* One byte: 1, 0 at the end, -1 after a signal. libedit's own reader swallows the first EINTR. */
static int next_byte(char *c)
{
    struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
    for (;;) {
        if (signals_caught()) return errno = EINTR, -1;
        int n = poll(&p, 1, SLICE_MS);
        if (n < 0 && errno != EINTR) return -1;
        if (n <= 0) continue;
        ssize_t got = read(STDIN_FILENO, c, 1);
        if (got >= 0) return (int)got;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

static int next_character(EditLine *el, wchar_t *out)
{
    line_editor *l = NULL;
    el_get(el, EL_CLIENTDATA, &l);
    for (;;) {
        char c;
        int n = next_byte(&c);
        if (n <= 0) return n;
        size_t used = mbrtowc(out, &c, 1, &l->half);
        if (used != (size_t)-2 && used != (size_t)-1) return 1;
        if (used == (size_t)-1) l->half = (mbstate_t){ 0 };              /* no character: left out */
    }
}

static void set_up(line_editor *l)
{
    HistEvent ev;
    history(l->past, &ev, H_SETSIZE, HISTORY_LINES);
    history(l->past, &ev, H_SETUNIQUE, 1);
    el_set(l->el, EL_CLIENTDATA, l);
    el_set(l->el, EL_PROMPT, prompt_of);
    el_set(l->el, EL_SIGNAL, 0);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_HIST, history, l->past);
    el_set(l->el, EL_GETCFN, next_character);
    el_set(l->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
}

err_code line_editor_open(line_editor **out, err *e)
{
    line_editor *l = *out = calloc(1, sizeof *l);
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");     /* bytes of other scripts would be lost */
    if (!l) return err_set(e, ERR_NOMEM, "out of memory");
    l->prompt_to = isatty(STDOUT_FILENO) ? stdout : stderr;
    l->el = el_init("sluice", stdin, l->prompt_to, stderr);
    l->past = history_init();
    if (!l->el || !l->past) {
        line_editor_close(out);
        return err_set(e, ERR_IO, "the terminal cannot be used for editing lines");
    }
    set_up(l);
    return ERR_OK;
}

void line_editor_close(line_editor **pl)
{
    line_editor *l = *pl;
    if (!l) return;
    if (l->el) el_end(l->el);
    if (l->past) history_end(l->past);
    free(l);
    *pl = NULL;
}

line_event line_editor_read(line_editor *l, const char *prompt, view *line)
{
    int n = 0;
    HistEvent ev;
    l->prompt = prompt;
    l->half = (mbstate_t){ 0 };
    el_resize(l->el);
    const char *s = el_gets(l->el, &n);
    if (!s && signals_caught()) {
        const LineInfo *typed = el_line(l->el);
        *line = (view){ typed->buffer, (size_t)(typed->lastchar - typed->buffer) };
        fputc('\n', l->prompt_to);
        fflush(l->prompt_to);
        return LINE_BROKEN;
    }
    if (!s || n <= 0) return LINE_END;
    *line = (view){ s, (size_t)n };
    while (line->len && strchr("\r\n", s[line->len - 1])) line->len--;
    if (line->len) history(l->past, &ev, H_ENTER, s);
    return LINE_READ;
}
