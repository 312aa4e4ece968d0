#include "core/settings.h"
#include "ops/cli/request.h"
#include "engine/skip_rule.h"
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* One line of a batch file as a request. The table is the list of fields; nothing outside it is accepted. */

typedef struct field field;
typedef err_code take_fn(request *r, const field *f, const json_t *v, err *e);
struct field {
    const char *name;
    take_fn *take;
    size_t at;             /* in msg_submit */
    double lo, hi;
};

static void *spot(request *r, const field *f) { return (char *)&r->m.submit + f->at; }

static err_code take_uint(request *r, const field *f, const json_t *v, err *e)
{
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < 0 || (double)n < f->lo || (double)n > f->hi)
        return err_set(e, ERR_INPUT, "\"%s\" wants a whole number from %g to %g", f->name, f->lo, f->hi);
    *(uint64_t *)spot(r, f) = (uint64_t)n;
    return ERR_OK;
}

static err_code take_real(request *r, const field *f, const json_t *v, err *e)
{
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(x >= f->lo && x <= f->hi)) return err_set(e, ERR_INPUT, "\"%s\" wants a number from %g to %g", f->name, f->lo, f->hi);
    *(double *)spot(r, f) = x;
    return ERR_OK;
}

static err_code take_bool(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_boolean(v)) return err_set(e, ERR_INPUT, "\"%s\" wants true or false", f->name);
    *(bool *)spot(r, f) = json_is_true(v);
    return ERR_OK;
}

static err_code take_prompt(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v)) return err_set(e, ERR_INPUT, "\"%s\" wants a text", f->name);
    return request_set_prompt(r, json_string_value(v), json_string_length(v), e);
}

static err_code take_messages(request *r, const field *f, const json_t *v, err *e)
{
    (void)f;
    return conversation_take_all(&r->chat, v, e);
}

static err_code take_tokens(request *r, const field *f, const json_t *v, err *e)
{
    size_t n = json_array_size(v);
    uint32_t *ids = n ? calloc(n, sizeof *ids) : NULL;
    if (!n) return err_set(e, ERR_INPUT, "\"%s\" wants an array of token ids", f->name);
    if (!ids) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = ERR_OK;
    for (size_t i = 0; i < n && rc == ERR_OK; i++) {
        const json_t *x = json_array_get(v, i);
        json_int_t id = json_is_integer(x) ? json_integer_value(x) : -1;
        if (id < 0 || id >= UINT32_MAX) rc = err_set(e, ERR_INPUT, "\"%s\"[%zu] is no token id", f->name, i);
        else ids[i] = (uint32_t)id;
    }
    if (rc == ERR_OK) rc = request_set_tokens(r, ids, n, e);
    free(ids);
    return rc;
}

static err_code take_stop(request *r, const field *f, const json_t *v, err *e)
{
    text_clear(&r->stop);
    if (json_is_string(v)) return request_add_stop(r, json_string_value(v), e);
    if (!json_is_array(v)) return err_set(e, ERR_INPUT, "\"%s\" wants a text or an array of texts", f->name);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_string(x)) return err_set(e, ERR_INPUT, "\"%s\"[%zu] is no text", f->name, i);
        err_code rc = request_add_stop(r, json_string_value(x), e);
        if (rc != ERR_OK) return rc;
    }
    return ERR_OK;
}

static err_code take_bias(request *r, const field *f, const json_t *v, err *e)
{
    const char *key;
    json_t *x;
    if (!json_is_object(v)) return err_set(e, ERR_INPUT, "\"%s\" wants an object {\"ID\": X}", f->name);
    r->m.submit.n_bias = 0;
    json_object_foreach((json_t *)v, key, x) {
        char *end = NULL;
        unsigned long long id = *key >= '0' && *key <= '9' ? strtoull(key, &end, 10) : 0;
        if (!end || *end || id >= UINT32_MAX) return err_set(e, ERR_INPUT, "\"%s\": \"%.40s\" is no token id", f->name, key);
        if (!json_is_number(x)) return err_set(e, ERR_INPUT, "\"%s\": the value of %.40s is no number", f->name, key);
        err_code rc = request_add_bias(r, (uint32_t)id, (float)json_number_value(x), e);
        if (rc != ERR_OK) return rc;
    }
    return ERR_OK;
}

static err_code take_word(request *r, const field *f, const json_t *v, const char *const *words, size_t n, err *e)
{
    for (size_t i = 0; json_is_string(v) && i < n; i++)
        if (!strcmp(json_string_value(v), words[i])) return *(uint64_t *)spot(r, f) = i, ERR_OK;
    return err_set(e, ERR_INPUT, "\"%s\" wants \"%s\", \"%s\"%s%s%s", f->name, words[0], words[1], n > 2 ? " or \"" : "",
                   n > 2 ? words[2] : "", n > 2 ? "\"" : "");
}

static err_code take_full(request *r, const field *f, const json_t *v, err *e)
{
    static const char *const words[] = { "stop", "slide" };
    return take_word(r, f, v, words, 2, e);
}

static err_code take_prefill(request *r, const field *f, const json_t *v, err *e)
{
    static const char *const words[] = { "auto", "pipeline", "local", "predict", "hybrid" };
    return take_word(r, f, v, words, 5, e);
}

static err_code take_lora(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_set(e, ERR_INPUT, "\"%s\" wants a text: FILE or FILE:SCALE", f->name);
    return request_set_lora(r, json_string_value(v), e);
}

static err_code take_kv(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_set(e, ERR_INPUT, "\"%s\" wants a text: the name of a KV policy", f->name);
    return request_set_kv(r, json_string_value(v), e);
}

static err_code take_skip(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_set(e, ERR_INPUT, "\"%s\" wants a text: NAME or NAME:SETTINGS", f->name);
    return skip_rule_load(r->m.submit.skip, json_string_value(v), e);
}

static err_code take_id(request *r, const field *f, const json_t *v, err *e)
{
    size_t n = json_string_length(v);
    if (!json_is_string(v) || !n || n >= sizeof r->m.submit.custom_id)
        return err_set(e, ERR_INPUT, "\"%s\" wants a text of 1 to %zu bytes", f->name, sizeof r->m.submit.custom_id - 1);
    memcpy(r->m.submit.custom_id, json_string_value(v), n + 1);
    return ERR_OK;
}

#define AT(m) offsetof(msg_submit, m)
static const field fields[] = {
    { "custom_id", take_id, 0, 0, 0 },
    { "prompt", take_prompt, 0, 0, 0 },
    { "tokens", take_tokens, 0, 0, 0 },
    { "messages", take_messages, 0, 0, 0 },
    { "max_tokens", take_uint, AT(max_tokens), 0, 1 << 24 },
    { "temperature", take_real, AT(temperature), 0, 100 },
    { "top_k", take_uint, AT(top_k), 0, 1 << 24 },
    { "top_p", take_real, AT(top_p), 0, 1 },
    { "min_p", take_real, AT(min_p), 0, 1 },
    { "repeat_penalty", take_real, AT(repeat_penalty), 0.001, 1000 },
    { "repeat_last", take_uint, AT(repeat_last), 0, 1 << 24 },
    { "seed", take_uint, AT(seed), 0, 0x1p63 },
    { "stop", take_stop, 0, 0, 0 },
    { "n", take_uint, AT(n), 1, 64 },
    { "logprobs", take_uint, AT(logprobs), 0, 64 },
    { "logit_bias", take_bias, 0, 0, 0 },
    { "lora", take_lora, 0, 0, 0 },
    { "kv", take_kv, 0, 0, 0 },
    { "skip", take_skip, 0, 0, 0 },
    { "rag", take_bool, AT(rag), 0, 0 },
    { "rag_passages", take_uint, AT(rag_passages), 1, 64 },
    { "rag_tokens", take_uint, AT(rag_tokens), 1, 1 << 20 },
    { "context_full", take_full, AT(full_policy), 0, 0 },
    { "prefill", take_prefill, AT(prefill), 0, 0 },
    { "refresh_at", take_uint, AT(refresh_at), 0, 1 << 24 },
    { "ttft_ms", take_uint, AT(ttft_ms), 0, 0x1p40 },
    { "quality", take_real, AT(quality), 0, 1 },
    { "special", take_bool, AT(parse_special), 0, 0 },
    { "ignore_eos", take_bool, AT(ignore_eog), 0, 0 },
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

/* ---- OpenAI's names, where they differ ---- */

static err_code take_model(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v)) return err_set(e, ERR_INPUT, "\"%s\" wants a text", f->name);
    return text_adds(&r->model, json_string_value(v)) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

static err_code take_any(request *r, const field *f, const json_t *v, err *e)
{
    (void)r, (void)f, (void)v, (void)e;
    return ERR_OK;
}

/* Things that are not done here may be asked for only in the value that means "no". */
static err_code take_no(request *r, const field *f, const json_t *v, err *e)
{
    (void)r;
    const json_t *type = json_object_get(v, "type");
    bool no = json_is_false(v) || (json_is_number(v) && json_number_value(v) >= f->lo && json_number_value(v) <= f->hi)
              || (json_is_string(type) && !strcmp(json_string_value(type), "text"));
    return no ? ERR_OK : err_set(e, ERR_INPUT, "\"%s\" is not supported, only its default", f->name);
}

static err_code take_prompt_or_ids(request *r, const field *f, const json_t *v, err *e)
{
    return json_is_array(v) ? take_tokens(r, f, v, e) : take_prompt(r, f, v, e);
}

/* A number in /v1/completions; in /v1/chat/completions true, and top_logprobs says how many. */
static err_code take_logprobs(request *r, const field *f, const json_t *v, err *e)
{
    uint64_t had = r->m.submit.logprobs;
    if (json_is_boolean(v)) return r->m.submit.logprobs = json_is_true(v) ? (had ? had : 1) : 0, ERR_OK;
    err_code rc = take_uint(r, f, v, e);
    if (rc == ERR_OK && !r->m.submit.logprobs) r->m.submit.logprobs = had;
    return rc;
}

static const field openai_fields[] = {
    { "model", take_model, 0, 0, 0 },
    { "prompt", take_prompt_or_ids, 0, 0, 0 },
    { "max_completion_tokens", take_uint, AT(max_tokens), 0, 1 << 24 },
    { "logprobs", take_logprobs, AT(logprobs), 0, 64 },
    { "top_logprobs", take_logprobs, AT(logprobs), 0, 64 },
    { "stream", take_no, 0, 1, 0 },
    { "frequency_penalty", take_no, 0, 0, 0 },
    { "presence_penalty", take_no, 0, 0, 0 },
    { "best_of", take_no, 0, 1, 1 },
    { "response_format", take_no, 0, 1, 0 },
    { "user", take_any, 0, 0, 0 },
    { "metadata", take_any, 0, 0, 0 },
    { "store", take_any, 0, 0, 0 },
    { "service_tier", take_any, 0, 0, 0 },
};
enum { N_OPENAI = sizeof openai_fields / sizeof openai_fields[0] };

/* ---- a line ---- */

static err_code unknown_field(const char *name, err *e)
{
    const char *names[N_FIELDS];
    for (size_t i = 0; i < N_FIELDS; i++) names[i] = fields[i].name;
    const char *near = nearest_word(name, names, N_FIELDS);
    return err_set(e, ERR_INPUT, "unknown field \"%.60s\"%s%s%s", name, near ? " (did you mean \"" : "", near ? near : "",
                   near ? "\"?)" : "");
}

static err_code take_field(request *r, const char *name, const json_t *v, err *e)
{
    for (size_t i = 0; r->shape != SHAPE_OWN && i < N_OPENAI; i++)
        if (!strcmp(openai_fields[i].name, name)) return openai_fields[i].take(r, &openai_fields[i], v, e);
    for (size_t i = 0; i < N_FIELDS; i++)
        if (!strcmp(fields[i].name, name)) return fields[i].take(r, &fields[i], v, e);
    return unknown_field(name, e);
}

static err_code take_all(request *r, json_t *o, const json_t *but, err *e)
{
    const char *name;
    json_t *v;
    err_code rc = ERR_OK;
    json_object_foreach(o, name, v)
        if (rc == ERR_OK && v != but && !(r->shape != SHAPE_OWN && json_is_null(v))) rc = take_field(r, name, v, e);
    return rc;
}

static err_code take_url(request *r, const json_t *o, err *e)
{
    const char *url = json_string_value(json_object_get(o, "url")), *method = json_string_value(json_object_get(o, "method"));
    if (!url) return err_set(e, ERR_INPUT, "\"url\" is missing beside \"body\"");
    if (method && strcmp(method, "POST"))
        return err_set(e, ERR_INPUT, "\"method\" is \"%.20s\", only \"POST\" is possible", method);
    if (!strcmp(url, "/v1/chat/completions")) return r->shape = SHAPE_OPENAI_CHAT, ERR_OK;
    if (!strcmp(url, "/v1/completions")) return r->shape = SHAPE_OPENAI_TEXT, ERR_OK;
    return err_set(e, ERR_INPUT, "\"url\" is \"%.60s\"; /v1/chat/completions and /v1/completions are possible", url);
}

static err_code take_openai(request *r, json_t *o, err *e)
{
    static const char *const outer[] = { "custom_id", "method", "url", "body" };
    const char *name;
    json_t *v, *body = json_object_get(o, "body");
    r->shape = SHAPE_OPENAI_CHAT;                            /* a line with a bad url is answered in this shape too */
    err_code rc = take_url(r, o, e);
    json_object_foreach(o, name, v) {
        bool known = false;
        for (size_t i = 0; i < 4; i++) known |= !strcmp(name, outer[i]);
        if (rc == ERR_OK && !known) rc = err_set(e, ERR_INPUT, "unknown field \"%.60s\" beside \"body\"", name);
    }
    if (rc == ERR_OK && !json_is_object(body)) rc = err_set(e, ERR_INPUT, "\"body\" is no object");
    if (rc == ERR_OK && json_object_get(body, "custom_id"))
        rc = err_set(e, ERR_INPUT, "\"custom_id\" stands beside \"body\", not in it");
    if (rc == ERR_OK) rc = take_all(r, body, NULL, e);
    if (rc == ERR_OK && r->shape == SHAPE_OPENAI_CHAT && !r->chat.n) rc = err_set(e, ERR_INPUT, "\"messages\" is missing");
    return rc == ERR_OK && r->shape == SHAPE_OPENAI_TEXT && r->chat.n
               ? err_set(e, ERR_INPUT, "\"messages\" belong to /v1/chat/completions")
               : rc;
}

static err_code take_object(request *r, json_t *o, err *e)
{
    if (!json_is_object(o)) return err_set(e, ERR_INPUT, "the line is no JSON object");
    json_t *id = json_object_get(o, "custom_id"); /* first, so that an error can be told to the right job */
    if (!id) return err_set(e, ERR_INPUT, "\"custom_id\" is missing");
    err_code rc = take_field(r, "custom_id", id, e);
    if (rc == ERR_OK) rc = json_object_get(o, "body") ? take_openai(r, o, e) : take_all(r, o, id, e);
    if (rc != ERR_OK) return rc;
    int ways = r->has_prompt + (r->m.submit.n_tokens > 0) + (r->chat.n > 0);
    if (!ways) return err_set(e, ERR_INPUT, "\"prompt\" is missing");
    if (ways > 1) return err_set(e, ERR_INPUT, "\"prompt\" and \"%s\" exclude each other", r->chat.n ? "messages" : "tokens");
    if (r->chat.n && r->m.submit.rag) return err_set(e, ERR_INPUT, "\"messages\" and \"rag\" exclude each other");
    return ERR_OK;
}

err_code request_line(request *r, view line, err *e)
{
    json_error_t je;
    json_t *o = json_loadb(line.ptr, line.len, JSON_REJECT_DUPLICATES, &je);
    if (!o) return err_set(e, ERR_INPUT, "not JSON: %s (column %d)", je.text, je.column);
    err_code rc = take_object(r, o, e);
    json_decref(o);
    return rc;
}
