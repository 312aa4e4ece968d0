#include "ops/cli/answer_openai.h"
#include "ops/cli/pieces.h"
#include "proto/finish.h"
#include <string.h>
#include <time.h>

/* Other people's field names, fixed by their API. Our own are in answer_json.c. */

static json_t *integer(uint64_t n) { return json_integer((json_int_t)n); }

static json_t *one_token(uint32_t id, double logprob, const tokenizer *names)
{
    json_t *o = json_object();
    pieces_put(o, "token", names, id);
    json_object_set_new(o, "id", integer(id));
    json_object_set_new(o, "logprob", json_finite(logprob));
    return o;
}

static json_t *tops(const cand_rec *top, size_t n, const tokenizer *names)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, one_token(top[i].id, (double)top[i].logit, names));
    return list;
}

/* The id stands beside OpenAI's fields: pieces of characters are no JSON text. */
static json_t *logprob_content(const choice *c, const tokenizer *names)
{
    json_t *list = json_array();
    size_t at = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        size_t left = c->n_top - at, n = c->token[i].n_top < left ? c->token[i].n_top : left;
        json_t *o = one_token(c->token[i].id, (double)c->token[i].logprob, names);
        json_object_set_new(o, "top_logprobs", tops(c->top + at, n, names));
        json_array_append_new(list, o);
        at += n;
    }
    return json_pack("{s:o}", "content", list);
}

static json_t *choice_json(const choice *c, uint32_t index, bool chat, bool logprobs, const tokenizer *names)
{
    json_t *o = json_object(), *said = json_bytes(c->text.ptr, c->text.len);
    json_object_set_new(o, "index", integer(index));
    if (chat) json_object_set_new(o, "message", json_pack("{s:s, s:o}", "role", "assistant", "content", said));
    else json_object_set_new(o, "text", said);
    json_object_set_new(o, "logprobs", logprobs ? logprob_content(c, names) : json_null());
    json_object_set_new(o, "finish_reason",
                        json_string(c->done.finish == FINISH_LENGTH || c->done.finish == FINISH_CONTEXT ? "length" : "stop"));
    return o;
}

static json_t *usage(const answer *a)
{
    uint64_t made = 0, prompt = a->n_choices ? a->choice[0].done.prompt_tokens : 0;
    for (uint32_t i = 0; i < a->n_choices; i++) made += a->choice[i].n_tokens;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)made, "total_tokens",
                     (json_int_t)(prompt + made));
}

static json_t *body(const openai_line *l, const answer *a, bool logprobs, const tokenizer *names)
{
    bool chat = l->shape == SHAPE_OPENAI_CHAT;
    char id[48];
    json_t *o = json_object(), *choices = json_array();
    snprintf(id, sizeof id, "%s-%llu", chat ? "chatcmpl" : "cmpl", (unsigned long long)a->job);
    for (uint32_t i = 0; i < a->n_choices; i++)
        json_array_append_new(choices, choice_json(&a->choice[i], i, chat, logprobs, names));
    json_object_set_new(o, "id", json_string(id));
    json_object_set_new(o, "object", json_string(chat ? "chat.completion" : "text_completion"));
    json_object_set_new(o, "created", json_integer((json_int_t)time(NULL)));
    json_object_set_new(o, "model", json_bytes(l->model, strlen(l->model)));
    json_object_set_new(o, "choices", choices);
    json_object_set_new(o, "usage", usage(a));
    return o;
}

static json_t *line(const openai_line *l, uint64_t job, int status, json_t *body_)
{
    char id[48], request_id[48];
    snprintf(id, sizeof id, "batch_req_%llu", (unsigned long long)job);
    snprintf(request_id, sizeof request_id, "%llu", (unsigned long long)job);
    json_t *name = *l->custom_id ? json_bytes(l->custom_id, strlen(l->custom_id)) : json_null();
    return json_pack("{s:s, s:o, s:{s:i, s:s, s:o}, s:n}", "id", id, "custom_id", name, "response", "status_code", status,
                     "request_id", request_id, "body", body_, "error");
}

json_t *openai_answer(const openai_line *l, const answer *a, bool logprobs, const tokenizer *names)
{
    return line(l, a->job, 200, body(l, a, logprobs, names));
}

json_t *openai_failure(const openai_line *l, uint64_t job, const err *why)
{
    bool theirs = why->code == ERR_INPUT;
    json_t *e = json_pack("{s:o, s:s, s:n, s:s}", "message", json_bytes(why->text, strlen(why->text)), "type",
                          theirs ? "invalid_request_error" : "server_error", "param", "code", err_name(why->code));
    return line(l, job, theirs ? 400 : 500, json_pack("{s:o}", "error", e));
}
