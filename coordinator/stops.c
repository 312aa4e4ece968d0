/* Owns: the search for stop strings in streamed text (one Knuth-Morris-Pratt automaton a string). Refuses to know about
 * tokens. */
#include "coordinator/stops.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *s;               /* [len], in stops.bytes */
    uint32_t *border;            /* [len] border[i]: longest proper prefix of s[0..i] that also ends it */
    uint32_t len, at;            /* at: how much of s the text so far ends with */
} stop;

struct stops {
    stop *list;                  /* [n] */
    char *bytes;                 /* copy of the strings, NULs included */
    uint32_t *borders;           /* one a byte */
    text held;                   /* end of the text that may begin a stop string */
    uint32_t n;
    bool ended, failed;
};

static uint32_t step(const stop *p, uint32_t at, char c)
{
    while (at && p->s[at] != c) at = p->border[at - 1];
    return p->s[at] == c ? at + 1 : 0;
}

static void stop_init(stop *p, const char *s, uint32_t *border)
{
    *p = (stop){ s, border, (uint32_t)strlen(s), 0 };
    border[0] = 0;
    for (uint32_t i = 1; i < p->len; i++) border[i] = step(p, border[i - 1], s[i]);
}

static err_code list_check(const char *list, size_t len, uint32_t *n, err *e)
{
    *n = 0;
    if (!len) return ERR_OK;
    if (len > UINT32_MAX) return err_set(e, ERR_INPUT, "stop strings: %zu bytes are too many", len);
    if (list[len - 1]) return err_set(e, ERR_INPUT, "stop strings: no NUL after the last one");
    for (size_t i = 0; i < len; i++) {
        if (list[i]) continue;
        if (i == 0 || !list[i - 1]) return err_set(e, ERR_INPUT, "stop string %u is empty", *n + 1);
        ++*n;
    }
    return ERR_OK;
}

err_code stops_open(stops **out, const char *list, size_t len, err *e)
{
    uint32_t n;
    *out = NULL;
    if (!list) len = 0;
    err_code rc = list_check(list, len, &n, e);
    if (rc) return rc;
    stops *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "stop strings: out of memory");
    *out = s;
    if (!n) return ERR_OK;
    s->bytes = malloc(len);
    s->borders = calloc(len, sizeof *s->borders);
    s->list = calloc(n, sizeof *s->list);
    if (!s->bytes || !s->borders || !s->list) {
        stops_close(out);
        return err_set(e, ERR_NOMEM, "stop strings: out of memory for %zu bytes", len);
    }
    memcpy(s->bytes, list, len);
    for (size_t at = 0; s->n < n; at += s->list[s->n++].len + 1) stop_init(&s->list[s->n], s->bytes + at, s->borders + at);
    return ERR_OK;
}

void stops_close(stops **s)
{
    if (!*s) return;
    free((*s)->list);
    free((*s)->bytes);
    free((*s)->borders);
    text_free(&(*s)->held);
    free(*s);
    *s = NULL;
}

/* One byte through every automaton. Returns how many bytes back the longest begun stop string goes. */
static uint32_t advance(stops *s, char c)
{
    uint32_t back = 0, full = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        stop *p = &s->list[i];
        p->at = step(p, p->at, c);
        if (p->at > back) back = p->at;
        if (p->at < p->len) continue;
        s->ended = true;
        if (p->len > full) full = p->len;
    }
    return s->ended ? full : back;
}

bool stops_push(stops *s, view in, text *out)
{
    if (s->ended) return true;
    if (!text_reserve(out, s->held.len + in.len) || !text_reserve(&s->held, in.len)) {
        s->failed = true;
        return false;
    }
    const char *p = in.ptr;
    size_t done = 0, back = s->held.len;
    while (done < in.len && !s->ended) back = advance(s, p[done++]);
    text_add(&s->held, p, done);
    size_t show = s->held.len - back;
    text_add(out, s->held.ptr, show);
    memmove(s->held.ptr, s->held.ptr + show, back);
    s->held.len = back;
    if (s->ended) text_free(&s->held);
    return s->ended;
}

void stops_flush(stops *s, text *out)
{
    if (!text_add(out, s->held.ptr, s->held.len)) s->failed = true;
    else text_clear(&s->held);
    for (uint32_t i = 0; i < s->n; i++) s->list[i].at = 0;
}

bool stops_failed(const stops *s) { return s->failed; }
