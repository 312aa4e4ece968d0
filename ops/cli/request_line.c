#include "core/settings.h"
#include "ops/cli/request.h"
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
    static const char *const words[] = { "auto", "pipeline", "local" };
    return take_word(r, f, v, words, 3, e);
}

static err_code take_lora(request *r, const field *f, const json_t *v, err *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_set(e, ERR_INPUT, "\"%s\" wants a text: FILE or FILE:SCALE", f->name);
    return request_set_lora(r, json_string_value(v), e);
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
    { "rag", take_bool, AT(rag), 0, 0 },
    { "rag_passages", take_uint, AT(rag_passages), 1, 64 },
    { "rag_tokens", take_uint, AT(rag_tokens), 1, 1 << 20 },
    { "context_full", take_full, AT(full_policy), 0, 0 },
    { "prefill", take_prefill, AT(prefill), 0, 0 },
    { "special", take_bool, AT(parse_special), 0, 0 },
    { "ignore_eos", take_bool, AT(ignore_eog), 0, 0 },
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

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
    for (size_t i = 0; i < N_FIELDS; i++)
        if (!strcmp(fields[i].name, name)) return fields[i].take(r, &fields[i], v, e);
    return unknown_field(name, e);
}

static err_code take_object(request *r, json_t *o, err *e)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o)) return err_set(e, ERR_INPUT, "the line is no JSON object");
    json_t *id = json_object_get(o, "custom_id"); /* first, so that an error can be told to the right job */
    if (!id) return err_set(e, ERR_INPUT, "\"custom_id\" is missing");
    err_code rc = take_field(r, "custom_id", id, e);
    json_object_foreach(o, name, v)
        if (rc == ERR_OK && v != id) rc = take_field(r, name, v, e);
    if (rc != ERR_OK) return rc;
    if (!r->has_prompt && !r->m.submit.n_tokens) return err_set(e, ERR_INPUT, "\"prompt\" is missing");
    if (r->has_prompt && r->m.submit.n_tokens) return err_set(e, ERR_INPUT, "\"prompt\" and \"tokens\" exclude each other");
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
