#include "ops/cli/chat_model.h"
#include "core/log.h"
#include "ops/cli/lines.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Owns the way from a conversation to a request, and conversations in files. It talks to nobody about jobs. */

err_code chat_model_open(chat_model *m, const char *file, const char *name, err *e)
{
    gguf *g = NULL;
    *m = (chat_model){ 0 };
    err_code rc = gguf_open(&g, file, e);
    if (rc == ERR_OK) rc = chat_style_of(&m->style, name, g, e);
    if (rc == ERR_OK) rc = tokenizer_open(&m->tok, g, e);
    gguf_close(&g);
    return rc;
}

void chat_model_close(chat_model *m) { tokenizer_close(&m->tok); }

err_code chat_model_file(text *out, client *c, err *e)
{
    json_t *status = NULL;
    err_code rc = client_status(c, 0, &status, e);
    const char *file = rc == ERR_OK ? json_string_value(json_object_get(json_object_get(status, "model"), "file")) : NULL;
    if (rc == ERR_OK && !file) rc = err_set(e, ERR_PROTO, "the coordinator does not say which model it runs");
    if (rc == ERR_OK && !text_adds(out, file)) rc = err_set(e, ERR_NOMEM, "out of memory");
    json_decref(status);
    return rc;
}

err_code chat_model_request(const chat_model *m, const conversation *c, request *r, err *e)
{
    token_list ids = { 0 };
    size_t broken = 0;
    const char *stop = chat_stop(&m->style, m->tok);
    err_code rc = chat_render(&m->style, m->tok, c->turn, c->n, &ids, &broken, e);
    if (rc == ERR_OK) rc = request_set_tokens(r, ids.id, ids.n, e);
    if (rc == ERR_OK && stop) rc = request_add_stop(r, stop, e);
    if (broken)
        LOG(LOG_WARN, "CHAT-MARKER",
            "template=%s broken=%zu: role markers in the messages' text got a blank, so that they are none",
            chat_style_name(&m->style), broken);
    token_list_free(&ids);
    return rc;
}

/* ---- files ---- */

err_code chat_load(conversation *c, const char *path, bool may_lack, err *e)
{
    lines in;
    view line;
    if (may_lack && strcmp(path, "-") && access(path, F_OK) && errno == ENOENT) return ERR_OK;
    err_code rc = lines_open(&in, path, e);
    if (rc != ERR_OK) return rc;
    while (rc == ERR_OK && lines_next(&in, &line, e)) {
        rc = conversation_line(c, line, e);
        if (rc != ERR_OK) err_wrap(e, "%s:%llu", in.path, (unsigned long long)in.number);
    }
    if (rc == ERR_OK) rc = e->code;
    lines_close(&in);
    return rc;
}

static bool write_messages(FILE *f, const conversation *c)
{
    bool ok = true;
    for (size_t i = 0; ok && i < c->n; i++) {
        json_t *m = conversation_message(c, i);
        ok = m && !json_dumpf(m, f, JSON_COMPACT) && fputc('\n', f) != EOF;
        json_decref(m);
    }
    return ok;
}

err_code chat_store(const conversation *c, const char *path, err *e)
{
    text part = { 0 };
    if (!text_addf(&part, "%s.part-%ld", path, (long)getpid())) return err_set(e, ERR_NOMEM, "out of memory");
    FILE *f = fopen(part.ptr, "wxe");
    bool ok = f && write_messages(f, c);
    if (f && fclose(f)) ok = false;
    if (ok) ok = !rename(part.ptr, path);
    err_code rc = ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (f && !ok) unlink(part.ptr);
    text_free(&part);
    return rc;
}
