#include "ops/cli/chat.h"
#include "ops/cli/cluster.h"
#include <string.h>
#include <unistd.h>

/* Owns a conversation from its file to its file, and the single turn. The talk at a terminal is in chat_talk.c. */

err_code chat_check(const settings *s, err *e)
{
    const char *lone = s->chat_history ? "--chat-history" : s->chat_save ? "--chat-save" : s->system ? "--system" : NULL;
    if (!s->chat) return lone ? err_set(e, ERR_USAGE, "%s goes with --chat", lone) : ERR_OK;
    if (s->rag) return err_set(e, ERR_USAGE, "--chat and --rag exclude each other: passages go in front of plain prompts only");
    return ERR_OK;
}

err_code chat_prepare(chat *t, err *e)
{
    request_free(&t->next);
    text_clear(&t->heard);
    t->job = (err){ 0 };
    err_code rc = request_init(&t->next, t->s, e);
    if (rc == ERR_OK) rc = chat_model_request(&t->model, &t->said, &t->next, e);
    t->next.m.submit.stream = true;
    t->ready = rc == ERR_OK;
    return rc;
}

/* ---- one turn ---- */

static err_code next(void *me, request *out, bool *more, err *e) { return show_ops.next(&((chat *)me)->show, out, more, e); }

static err_code event(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    return show_ops.event(&((chat *)me)->show, index, a, p, e);
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    chat *t = me;
    t->job = a->fail;
    bool ok = !a->n_choices || text_add(&t->heard, a->choice[0].text.ptr, a->choice[0].text.len);
    return ok ? show_ops.done(&t->show, index, a, e) : err_set(e, ERR_NOMEM, "out of memory");
}

static err_code one_turn(chat *t, err *e)
{
    static const flight_ops ops = { next, event, done };
    err_code rc = chat_prepare(t, e);
    if (rc == ERR_OK) rc = show_open(&t->show, t->s, "sluice.run/1", t->dir, &t->next, e);
    if (rc == ERR_OK) rc = flight_run(t->c, 1, &ops, t, e);
    if (rc == ERR_OK && t->job.code != ERR_OK) {
        *e = t->job;
        rc = t->job.code;
    }
    show_close(&t->show);
    return rc == ERR_OK ? conversation_add(&t->said, CHAT_ASSISTANT, t->heard.ptr, t->heard.len, e) : rc;
}

/* ---- both ---- */

static bool has_prompt(const settings *s) { return s->prompt || s->file || s->args.n; }

static bool waits_for_answer(const conversation *c) { return c->n && c->turn[c->n - 1].role == CHAT_USER; }

static err_code read_turn(chat *t, err *e)
{
    request r = { 0 };
    err_code rc = request_prompt(&r, t->s, e);
    if (rc == ERR_OK) rc = conversation_add(&t->said, CHAT_USER, r.prompt.ptr, r.prompt.len, e);
    request_free(&r);
    return rc;
}

/* History, --system, and the turn given on the command line; *talk: there is none, but somebody at a terminal. */
static err_code collect(chat *t, bool *talk, err *e)
{
    const settings *s = t->s;
    bool same = s->chat_history && s->chat_save && !strcmp(s->chat_history, s->chat_save); /* made by the first turn */
    err_code rc = s->chat_history ? chat_load(&t->said, s->chat_history, same, e) : ERR_OK;
    if (rc == ERR_OK && s->system) rc = conversation_set_system(&t->said, s->system, strlen(s->system), e);
    *talk = !has_prompt(s) && !waits_for_answer(&t->said) && isatty(STDIN_FILENO);
    if (rc != ERR_OK || *talk) return rc;
    return has_prompt(s) || !waits_for_answer(&t->said) ? read_turn(t, e) : ERR_OK;
}

static err_code talk_options(const settings *s, err *e)
{
    if (s->json)
        return err_set(e, ERR_USAGE, "--json wants a turn: -p TEXT, -f FILE, - or a --chat-history that ends with the user's");
    return s->choices > 1 ? err_set(e, ERR_USAGE, "--choices wants a turn: -p TEXT, -f FILE or -") : ERR_OK;
}

static err_code with_cluster(chat *t, bool talk, err *e)
{
    text file = { 0 };
    err_code rc = client_open(&t->c, t->s, t->dir, e);
    if (rc == ERR_OK) rc = chat_model_file(&file, t->c, e);
    if (rc == ERR_OK) rc = chat_model_open(&t->model, file.ptr, t->s->chat_template, e);
    if (rc == ERR_OK) rc = talk ? chat_talk(t, e) : one_turn(t, e);
    if (rc == ERR_OK && t->s->chat_save) rc = chat_store(&t->said, t->s->chat_save, e);
    client_close(&t->c);
    text_free(&file);
    return rc;
}

err_code chat_run(settings *s, err *e)
{
    chat t = { .s = s, .clean = isatty(STDOUT_FILENO) };
    cluster c = { 0 };
    bool talk = false;
    err_code rc = collect(&t, &talk, e);
    if (rc == ERR_OK && talk) rc = talk_options(s, e);
    if (rc == ERR_OK) rc = cluster_join(&c, s, e);
    t.dir = c.dir.ptr;
    if (rc == ERR_OK) rc = with_cluster(&t, talk, e);
    if (rc == ERR_GONE) cluster_check(&c, e);
    cluster_leave(&c);
    chat_model_close(&t.model);
    conversation_free(&t.said);
    request_free(&t.next);
    text_free(&t.heard);
    return rc;
}
