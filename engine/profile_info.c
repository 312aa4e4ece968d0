/* A profile as a page or a JSON object: what is in it, and how large it is. Judges nothing. */
#include "engine/profile_priv.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint64_t tensors, bytes; } amount;

static json_t *tensors_of(const profile *p, profile_section s, amount *sum)
{
    json_t *all = json_array();
    for (uint64_t i = 0; i < gguf_n_tensors(p->g); i++) {
        const gguf_tensor *t = gguf_tensor_at(p->g, i);
        uint32_t layer;
        char buf[16];
        if (profile_owner(t->name, &layer) != s) continue;
        sum->tensors++;
        sum->bytes += t->bytes;
        json_array_append_new(all, json_pack("{s:s, s:o, s:s, s:s, s:[I, I], s:I}", "tensor", t->name, "layer",
                                             layer == PROFILE_WHOLE ? json_null() : json_integer(layer), "name",
                                             strrchr(t->name, '.') + 1, "type", wtype_ggml_name(t->type, buf), "shape",
                                             (json_int_t)t->dim[1], (json_int_t)t->dim[0], "bytes", (json_int_t)t->bytes));
    }
    return all;
}

static json_t *value_of(const profile *p, const char *key)
{
    view v;
    double d;
    uint64_t n;
    gguf_kind kind;
    char buf[96];
    if (gguf_get_str(p->g, key, &v)) return json_string(gguf_printable(buf, v));
    if (gguf_get_f64(p->g, key, &d)) return d - d == 0 ? json_real(d) : json_null();
    if (!gguf_get_arr(p->g, key, &kind, &n)) return json_null();
    json_t *a = json_array();
    for (uint64_t i = 0; i < n && gguf_arr_f64(p->g, key, i, &d); i++) json_array_append_new(a, d - d == 0 ? json_real(d) : json_null());
    return a;
}

static json_t *values_of(const profile *p, profile_section s)
{
    json_t *all = json_object();
    for (uint64_t i = 0; i < gguf_n_keys(p->g); i++) {
        gguf_kind kind;
        uint32_t layer;
        const char *key = gguf_key(p->g, i, &kind), *name = strrchr(key, '.');
        bool plain = profile_owner(key, &layer) == s && !key[strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.")];
        if (plain && strcmp(name, ".version")) json_object_set_new(all, name + 1, value_of(p, key));
    }
    return all;
}

static json_t *section_of(const profile *p, profile_section s)
{
    amount sum = { 0 };
    json_t *tensors = tensors_of(p, s, &sum);
    return json_pack("{s:s, s:I, s:b, s:I, s:I, s:o, s:o}", "section", profile_section_name(s), "version",
                     (json_int_t)profile_version(p, s), "usable", profile_has(p, s), "tensors", (json_int_t)sum.tensors, "bytes",
                     (json_int_t)sum.bytes, "values", values_of(p, s), "list", tensors);
}

static json_t *whole(const profile *p)
{
    json_t *sections = json_array();
    for (int s = 0; s < PROFILE_SECTIONS; s++)
        if (profile_version(p, (profile_section)s)) json_array_append_new(sections, section_of(p, (profile_section)s));
    char buf[96];
    json_t *file = json_string(profile_file(p));
    if (!file) file = json_string(gguf_printable(buf, (view){ profile_file(p), strlen(profile_file(p)) }));
    return json_pack("{s:s, s:o, s:s, s:s, s:s, s:s, s:I, s:o}", "schema", "sluice.profile/1", "file", file, "digest",
                     profile_digest(p), "model", p->model, "auxiliary", p->auxiliary, "path", p->path, "layers", (json_int_t)p->layers,
                     "sections", sections);
}

/* Tensors of one name, from the first of them on; later ones are in its line. */
static void print_kind(const json_t *list, size_t first, FILE *out)
{
    const json_t *t = json_array_get(list, first), *shape = json_object_get(t, "shape");
    const char *name = json_string_value(json_object_get(t, "name"));
    json_int_t layers = 0, bytes = 0;
    char where[32] = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(o, "name")), name)) continue;
        if (i < first) return;
        layers++;
        bytes += json_integer_value(json_object_get(o, "bytes"));
    }
    if (!json_is_null(json_object_get(t, "layer"))) snprintf(where, sizeof where, "%lld layers", layers);
    fprintf(out, "  %-20s %-5s %6lld x %-6lld %-11s %10lld bytes\n", name, json_string_value(json_object_get(t, "type")),
            json_integer_value(json_array_get(shape, 0)), json_integer_value(json_array_get(shape, 1)), where, bytes);
}

static void print_section(const json_t *s, FILE *out)
{
    const json_t *list = json_object_get(s, "list");
    const char *key;
    json_t *v;
    fprintf(out, "section %s: version %lld%s, %lld tensors, %lld bytes\n", json_string_value(json_object_get(s, "section")),
            json_integer_value(json_object_get(s, "version")), json_is_true(json_object_get(s, "usable")) ? "" : " (not known here)",
            json_integer_value(json_object_get(s, "tensors")), json_integer_value(json_object_get(s, "bytes")));
    json_object_foreach(json_object_get(s, "values"), key, v) {
        char *shown = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        fprintf(out, "  %s = %.100s\n", key, shown ? shown : "");
        free(shown);
    }
    for (size_t i = 0; i < json_array_size(list); i++) print_kind(list, i, out);
}

static void print_page(const json_t *o, FILE *out)
{
    const char *auxiliary = json_string_value(json_object_get(o, "auxiliary"));
    size_t i;
    json_t *s;
    fprintf(out, "%s: profile %s\n", json_string_value(json_object_get(o, "file")), json_string_value(json_object_get(o, "digest")));
    fprintf(out, "model %s, %lld layers, arithmetic %s%s%s\n", json_string_value(json_object_get(o, "model")),
            json_integer_value(json_object_get(o, "layers")), json_string_value(json_object_get(o, "path")),
            *auxiliary ? ", auxiliary " : "", auxiliary);
    json_array_foreach(json_object_get(o, "sections"), i, s) print_section(s, out);
}

err_code profile_print(const profile *p, bool json, FILE *out, err *e)
{
    json_t *o = whole(p);
    if (!o) return err_set(e, ERR_NOMEM, "%s: out of memory", profile_file(p));
    if (json) {
        json_dumpf(o, out, JSON_COMPACT);
        fputc('\n', out);
    } else {
        print_page(o, out);
    }
    json_decref(o);
    return ferror(out) ? err_set(e, ERR_IO, "cannot write the page of %s", profile_file(p)) : ERR_OK;
}
