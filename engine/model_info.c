/* Builds one JSON object about a GGUF and prints it, as it is or as text. It refuses to judge whether the model can run:
 * that is model_open's word. */
#include "engine/model_info.h"
#include "engine/chat.h"
#include "engine/wtype.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_SHOWN 8                     /* elements of an array that are printed */

static const char *const kind_name[GGUF_KIND_COUNT] = { "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array",
                                                        "u64", "i64", "f64" };

/* A string as it is when it is UTF-8, else made printable. */
static json_t *string(view v)
{
    char buf[96];
    json_t *s = json_stringn(v.len ? v.ptr : "", v.len);
    return s ? s : json_string(gguf_printable(buf, v));
}

/* NaN and infinities have no JSON. */
static json_t *real(double d) { return d - d == 0 ? json_real(d) : json_null(); }

static json_t *array_value(const gguf *g, const char *key, gguf_kind elem, uint64_t n)
{
    json_t *first = json_array();
    for (uint64_t i = 0; i < n && i < ARRAY_SHOWN; i++) {
        view s;
        int64_t whole;
        double d;
        if (gguf_arr_str(g, key, i, &s)) json_array_append_new(first, string(s));
        else if (gguf_arr_i64(g, key, i, &whole)) json_array_append_new(first, json_integer(whole));
        else if (gguf_arr_f64(g, key, i, &d)) json_array_append_new(first, real(d));
    }
    return json_pack("{s:s, s:I, s:o}", "of", kind_name[elem], "n", (json_int_t)n, "first", first);
}

static json_t *key_value(const gguf *g, const char *key, gguf_kind kind)
{
    uint64_t u;
    double d;
    bool b;
    view s;
    gguf_kind elem;
    if (gguf_get_arr(g, key, &elem, &u)) return array_value(g, key, elem, u);
    if (gguf_get_bool(g, key, &b)) return json_boolean(b);
    if (gguf_get_str(g, key, &s)) return string(s);
    if (kind != GGUF_F32 && kind != GGUF_F64 && gguf_get_u64(g, key, &u) && u <= INT64_MAX) return json_integer((json_int_t)u);
    if (!gguf_get_f64(g, key, &d)) return json_null();
    return kind == GGUF_F32 || kind == GGUF_F64 ? real(d) : json_integer((json_int_t)d);
}

static json_t *all_keys(const gguf *g)
{
    json_t *keys = json_object();
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        gguf_kind kind;
        char buf[96];
        const char *key = gguf_key(g, i, &kind);
        json_t *value = key_value(g, key, kind);
        if (json_object_set(keys, key, value))           /* refused: the key is not UTF-8 */
            json_object_set(keys, gguf_printable(buf, (view){ key, strlen(key) }), value);
        json_decref(value);
    }
    return keys;
}

static uint64_t elements(const gguf_tensor *t) { return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]; }

static json_t *all_tensors(const gguf *g)
{
    json_t *list = json_array();
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        char type[16];
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer((json_int_t)t->dim[d]));
        json_t *name = string((view){ t->name, strlen(t->name) });
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I}", "name", name, "type", wtype_ggml_name(t->type, type), "shape",
                                              shape, "bytes", (json_int_t)t->bytes));
    }
    return list;
}

static void add_int(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer(json_integer_value(json_object_get(o, key)) + (json_int_t)v));
}

/* Per type: tensors, parameters, bytes. */
static json_t *types(const gguf *g, uint64_t *parameters)
{
    json_t *all = json_object();
    *parameters = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        char type[16];
        const char *name = wtype_ggml_name(t->type, type);
        json_t *row = json_object_get(all, name);
        if (!row) json_object_set_new(all, name, row = json_object());
        add_int(row, "tensors", 1);
        add_int(row, "parameters", elements(t));
        add_int(row, "bytes", t->bytes);
        *parameters += elements(t);
    }
    return all;
}

static json_t *tokenizer_info(const gguf *g)
{
    view model = { "", 0 }, pre = { "", 0 };
    gguf_kind elem;
    uint64_t n = 0;
    if (!gguf_get_str(g, "tokenizer.ggml.model", &model)) return json_null();
    (void)gguf_get_str(g, "tokenizer.ggml.pre", &pre);
    (void)gguf_get_arr(g, "tokenizer.ggml.tokens", &elem, &n);
    tokenizer *t = NULL;
    err e = { 0 };
    bool ok = tokenizer_open(&t, g, &e) == ERR_OK;
    tokenizer_close(&t);
    json_t *o =
        json_pack("{s:o, s:o, s:I, s:b}", "model", string(model), "pre", string(pre), "tokens", (json_int_t)n, "usable", ok);
    if (!ok) json_object_set_new(o, "why", string((view){ e.text, strlen(e.text) }));
    return o;
}

/* The form that the file's template is known as; null for an unknown one, and for none at all. */
static json_t *chat_info(const gguf *g)
{
    view v;
    chat_style s;
    if (!gguf_get_str(g, "tokenizer.chat_template", &v)) return json_pack("{s:b, s:n}", "stated", 0, "form");
    bool known = chat_detect(v, &s);
    return json_pack("{s:b, s:s?, s:s?}", "stated", 1, "form", known ? chat_style_name(&s) : NULL, "system",
                     known ? s.system : NULL);
}

static json_t *describe(const gguf *g)
{
    view arch = { "", 0 }, name = { "", 0 };
    (void)gguf_get_str(g, "general.architecture", &arch);
    (void)gguf_get_str(g, "general.name", &name);
    uint64_t parameters;
    json_t *by_type = types(g, &parameters), *path = string((view){ gguf_path(g), strlen(gguf_path(g)) });
    return json_pack("{s:o, s:I, s:s, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "file", path, "version",
                     (json_int_t)gguf_version(g), "digest", gguf_digest(g), "architecture", string(arch), "name", string(name),
                     "parameters", (json_int_t)parameters, "types", by_type, "tokenizer", tokenizer_info(g), "chat_template",
                     chat_info(g), "keys", all_keys(g), "tensors", all_tensors(g));
}

/* ---- text ---- */

static const char *shown(char buf[static 96], const json_t *s)
{
    return gguf_printable(buf, (view){ json_string_value(s), json_string_length(s) });
}

static void text_types(const json_t *types_, FILE *out)
{
    const char *name;
    json_t *row;
    fprintf(out, "\n%-8s %8s %16s %16s\n", "type", "tensors", "parameters", "bytes");
    json_object_foreach((json_t *)types_, name, row)
        fprintf(out, "%-8s %8" JSON_INTEGER_FORMAT " %16" JSON_INTEGER_FORMAT " %16" JSON_INTEGER_FORMAT "\n", name,
                json_integer_value(json_object_get(row, "tensors")), json_integer_value(json_object_get(row, "parameters")),
                json_integer_value(json_object_get(row, "bytes")));
}

static void text_value(const json_t *v, FILE *out)
{
    char buf[96];
    if (json_is_string(v)) {
        fprintf(out, "%s", shown(buf, v));
        return;
    }
    char *s = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(7));
    fprintf(out, "%.100s%s", s ? s : "?", s && strlen(s) > 100 ? "..." : "");
    free(s);
}

static void text_keys(const json_t *keys, FILE *out)
{
    const char *name;
    json_t *v;
    fprintf(out, "\n");
    json_object_foreach((json_t *)keys, name, v) {
        char buf[96];
        fprintf(out, "%-44s ", gguf_printable(buf, (view){ name, strlen(name) }));
        text_value(v, out);
        fprintf(out, "\n");
    }
}

static void text_tensors(const json_t *list, FILE *out)
{
    size_t i;
    json_t *t;
    fprintf(out, "\n");
    json_array_foreach((json_t *)list, i, t) {
        char buf[96];
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        fprintf(out, "%-40s %-6s %-16s %14" JSON_INTEGER_FORMAT "\n", shown(buf, json_object_get(t, "name")),
                json_string_value(json_object_get(t, "type")), shape ? shape : "?",
                json_integer_value(json_object_get(t, "bytes")));
        free(shape);
    }
}

static void text_tokenizer(const json_t *t, FILE *out)
{
    char model[96], pre[96], why[96];
    if (!json_is_object(t)) {
        fprintf(out, "tokenizer     none\n");
        return;
    }
    fprintf(out, "tokenizer     %s %s, %" JSON_INTEGER_FORMAT " tokens", shown(model, json_object_get(t, "model")),
            shown(pre, json_object_get(t, "pre")), json_integer_value(json_object_get(t, "tokens")));
    const json_t *reason = json_object_get(t, "why");
    fprintf(out, "%s%s\n", reason ? ", not usable: " : "", reason ? shown(why, reason) : "");
}

static void text_chat(const json_t *c, FILE *out)
{
    const char *form = json_string_value(json_object_get(c, "form")), *system = json_string_value(json_object_get(c, "system"));
    bool stated = json_is_true(json_object_get(c, "stated"));
    fprintf(out, "chat template %s", form ? form : stated ? "unknown (--chat-template NAME says what it is)" : "none");
    fprintf(out, "%s%s%s\n", system ? ", says \"" : "", system ? system : "", system ? "\" by itself" : "");
}

static void print_text(const json_t *o, FILE *out)
{
    static const char *const head[] = { "file", "architecture", "name", "digest" };
    char buf[96];
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        fprintf(out, "%-13s %s\n", head[i], shown(buf, json_object_get(o, head[i])));
    fprintf(out, "parameters    %" JSON_INTEGER_FORMAT "\n", json_integer_value(json_object_get(o, "parameters")));
    text_tokenizer(json_object_get(o, "tokenizer"), out);
    text_chat(json_object_get(o, "chat_template"), out);
    text_types(json_object_get(o, "types"), out);
    text_keys(json_object_get(o, "keys"), out);
    text_tensors(json_object_get(o, "tensors"), out);
}

err_code model_info_print(const char *path, bool json, FILE *out, err *e)
{
    gguf *g;
    err_code rc = gguf_open(&g, path, e);
    if (rc) return rc;
    json_t *o = describe(g);
    gguf_close(&g);
    if (!o) return err_set(e, ERR_NOMEM, "%s: out of memory for the description", path);
    bool ok = true;
    if (!json) print_text(o, out);
    else ok = json_dumpf(o, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 && fputc('\n', out) != EOF;
    json_decref(o);
    return ok && !ferror(out) && !fflush(out) ? ERR_OK : err_set(e, ERR_IO, "%s: the description cannot be written", path);
}
