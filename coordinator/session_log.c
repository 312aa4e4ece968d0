/* What happened to a job that nobody could know beforehand. Decides nothing. */
#include "coordinator/session_log.h"
#include "engine/kernels.h"
#include "kvstore/kv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLLOWED, NOTED, TEXT, JSON, BYTES };

static const struct { uint32_t kind; const char *name; int duty, payload; } kinds[] = {
#define EVENT(NAME, id, name, duty, payload, what) { id, name, duty, payload },
#include "coordinator/events.def"
};

static int place_of(uint32_t kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == kind) return (int)i;
    return -1;
}

const char *event_name(uint32_t kind)
{
    int i = place_of(kind);
    return i < 0 ? NULL : kinds[i].name;
}

bool event_is_text(uint32_t kind)
{
    int i = place_of(kind);
    return i >= 0 && kinds[i].payload != BYTES;
}

bool log_add(session_log *l, uint32_t choice, uint32_t row, event_kind kind, view payload)
{
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 4;
        event *more = realloc(l->at, cap * sizeof *more);
        if (!more) return false;
        l->at = more;
        l->cap = cap;
    }
    event *v = &l->at[l->n];
    *v = (event){ .choice = choice, .row = row, .kind = kind };
    if (!text_add(&v->payload, payload.len ? payload.ptr : "", payload.len)) return false;
    l->n++;
    return true;
}

void log_free(session_log *l)
{
    for (uint32_t i = 0; i < l->n; i++) text_free(&l->at[i].payload);
    free(l->at);
    *l = (session_log){ 0 };
}

bool log_copy_followed(session_log *to, const session_log *from)
{
    for (uint32_t i = 0; i < from->n; i++) {
        const event *v = &from->at[i];
        int k = place_of(v->kind);
        if (k < 0 || kinds[k].duty == NOTED) continue;
        if (!log_add(to, v->choice, v->row, v->kind, (view){ v->payload.ptr, v->payload.len })) return false;
    }
    return true;
}

const event *log_find(const session_log *l, event_kind kind)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->at[i].kind == kind) return &l->at[i];
    return NULL;
}

const event *log_find_at(const session_log *l, event_kind kind, uint32_t choice, uint32_t row)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->at[i].kind == kind && l->at[i].choice == choice && l->at[i].row == row) return &l->at[i];
    return NULL;
}

bool log_add_path(session_log *l, const log_path *p)
{
    char line[120];
    int n = snprintf(line, sizeof line, "path=%s kv=%s ctx=%u rope=%s", path_name((path_id)p->path), kv_format_name((kv_format)p->kv), p->n_ctx,
                     p->rope_long ? "long" : "short");
    if (p->prompt != p->path) n += snprintf(line + n, sizeof line - (size_t)n, " prompt=%s", path_name((path_id)p->prompt));
    return log_add(l, 0, 0, EVENT_PATH, (view){ line, (size_t)n });
}

err_code log_read_path(const session_log *l, log_path *out, err *e)
{
    const event *v = log_find(l, EVENT_PATH);
    char path[16], rows[16], rope[8], prompt[16];
    kv_format format;
    path_id p, q;
    if (!v) return err_set(e, ERR_ABSENT, "the log names no path");
    int n = v->payload.ptr ? sscanf(v->payload.ptr, "path=%15s kv=%15s ctx=%u rope=%7s prompt=%15s", path, rows, &out->n_ctx, rope, prompt) : 0;
    bool ok = n >= 4 && path_named(path, &p) && path_named(n == 5 ? prompt : path, &q);
    if (!ok || kv_format_parse(rows, &format, NULL) || !out->n_ctx)
        return err_set(e, ERR_INPUT, "\"%.100s\" in the log is no path", v->payload.ptr ? v->payload.ptr : "");
    out->path = p;
    out->prompt = q;
    out->kv = format;
    out->rope_long = !strcmp(rope, "long");
    return ERR_OK;
}
